"""Passkeys (WebAuthn Level 3): what makes one, and when its assertion is a signature over a message. Pure, as signatures.py.

What a passkey signs is authenticatorData || SHA-256(clientDataJSON). The first names the site (rpIdHash) and says that the person
was there and known to the device (flags UP, UV); the second names the origin, and holds the challenge. The challenge is SHA-256
of the message that is signed, so that who has message, assertion and public key needs nothing else.

A passkey is enrolled by one line too (signatures.py says how of others), with an assertion over itself:

    "keyanon-approver-1 passkey " || base64(CJ(statement)) || " " || base64(CJ({authenticator_data, client_data, signature}))
    statement = {credential, origin, public_key, rp_id}; its message is "keyanon approver passkey v1\\n" || CJ(statement)

public_key is a COSE_Key (RFC 9053) of ES256 or EdDSA, as the authenticator wrote it; bytes are base64, the credential's id
base64url.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from keystore.crypto.canonical import canonical_json
from keystore.errors import ApprovalError

ALGORITHMS: Final = (-7, -8)  # ES256, EdDSA: IANA's COSE numbers
MAX_CREDENTIAL_CHARACTERS = 1400  # base64url of 1,023 bytes, the most that an id may have
MAX_PART_BYTES = 4096  # of an assertion's parts, each
_KINDS: Final = ((2, ALGORITHMS[0], 1), (1, ALGORITHMS[1], 6))  # kty, alg, crv: EC2 on P-256, OKP on Ed25519
_KEY_LABEL = b"keyanon approver passkey v1\n"
_MALFORMED: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)  # of what anyone sent
_MAP_OF_4_OR_5: Final = (0xA4, 0xA5)  # how the CBOR of a COSE_Key begins


@dataclass(frozen=True)
class Passkey:
    """What is known of a passkey beside its public key. credential: its id; origin, rp_id: where alone it signs."""

    credential: str
    origin: str
    rp_id: str

    def content(self) -> dict[str, str]:
        """Return it as JSON knows it."""
        return asdict(self)

    @classmethod
    def of(cls, said: Mapping[str, Any] | None) -> Self | None:
        """Inverse of `content`; None of None. Raises LookupError, TypeError."""
        if said is None:
            return None
        return cls(str(said["credential"]), str(said["origin"]), str(said["rp_id"]))


@dataclass(frozen=True)
class Assertion:
    """What a passkey signed beside the message."""

    authenticator_data: bytes
    client_data: bytes

    def content(self) -> dict[str, str]:
        """Return it as JSON knows it."""
        return {name: base64.b64encode(part).decode() for name, part in vars(self).items()}

    @classmethod
    def of(cls, said: Mapping[str, Any] | None) -> Self | None:
        """Inverse of `content`; None of None. Raises LookupError, TypeError, ValueError."""
        if said is None:
            return None
        return cls(*(base64.b64decode(said[name], validate=True) for name in ("authenticator_data", "client_data")))


def challenge_of(message: bytes) -> bytes:
    """Return what a passkey is challenged with so that it signs a message."""
    return hashlib.sha256(message).digest()


def assertion_holds(
    public_key: bytes, passkey: Passkey, assertion: Assertion, signature: bytes, message: bytes
) -> bool:
    """Return whether an assertion is one of this passkey, of its person, at its origin, over this message."""
    # Here, for it brings pyOpenSSL along, and few need it.
    from webauthn import verify_authentication_response
    from webauthn.helpers import base64url_to_bytes, parse_client_data_json
    from webauthn.helpers.exceptions import WebAuthnException
    from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

    if not is_usable(public_key):
        return False
    try:
        raw_id = base64url_to_bytes(passkey.credential)
        response = AuthenticatorAssertionResponse(assertion.client_data, assertion.authenticator_data, signature)
        verify_authentication_response(
            credential=AuthenticationCredential(passkey.credential, raw_id, response),
            expected_challenge=challenge_of(message),
            expected_rp_id=passkey.rp_id,
            expected_origin=passkey.origin,
            credential_public_key=public_key,
            credential_current_sign_count=0,  # synced passkeys do not count; what is signed is signed once
            require_user_verification=True,
        )
        return not parse_client_data_json(assertion.client_data).cross_origin
    except (WebAuthnException, *_MALFORMED):
        return False


def is_usable(public_key: bytes) -> bool:
    """Return whether bytes are the COSE_Key of ES256 on P-256 or EdDSA on Ed25519, and nothing else."""
    from webauthn.helpers import decode_credential_public_key, encode_cbor, parse_cbor
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        if public_key[0] not in _MAP_OF_4_OR_5 or encode_cbor(parse_cbor(public_key)) != public_key:
            return False
        key = decode_credential_public_key(public_key)
    except (WebAuthnException, *_MALFORMED):
        return False
    return (key.kty, key.alg, getattr(key, "crv", None)) in _KINDS


def statement(public_key: bytes, passkey: Passkey) -> bytes:
    """Return what a line says of a passkey."""
    return canonical_json({**passkey.content(), "public_key": base64.b64encode(public_key).decode()})


def enrolment_message(said: bytes) -> bytes:
    """Return what a passkey signs to be enrolled. said: its statement."""
    return _KEY_LABEL + said


def line_words(said: bytes, assertion: Assertion, signature: bytes) -> tuple[str, str]:
    """Return the words of a line that say a statement and prove it."""
    proof = canonical_json({**assertion.content(), "signature": base64.b64encode(signature).decode()})
    return base64.b64encode(said).decode(), base64.b64encode(proof).decode()


def parse_words(said: bytes, proof: bytes) -> tuple[bytes, Passkey]:
    """Return the public key and the passkey that a line states and proves. Raises ValueError, LookupError, TypeError."""
    told, proved = json.loads(said), json.loads(proof)
    passkey, assertion = Passkey.of(told), Assertion.of(proved)
    public_key, signature = (base64.b64decode(one, validate=True) for one in (told["public_key"], proved["signature"]))
    if passkey is None or assertion is None or statement(public_key, passkey) != said:
        raise ValueError("more, or less, than a statement")
    if not assertion_holds(public_key, passkey, assertion, signature, enrolment_message(said)):
        raise ValueError("not signed by the passkey itself")
    return public_key, passkey


def created(
    attestation: bytes, client_data: bytes, credential: str, challenge: bytes, rp_id: str, origin: str
) -> bytes:
    """Return the public key of a passkey that a browser just made. Raises ApprovalError: it can not be used here."""
    from webauthn import verify_registration_response
    from webauthn.helpers import base64url_to_bytes
    from webauthn.helpers.cose import COSEAlgorithmIdentifier
    from webauthn.helpers.exceptions import WebAuthnException
    from webauthn.helpers.structs import AuthenticatorAttestationResponse, RegistrationCredential

    try:
        response = AuthenticatorAttestationResponse(client_data, attestation)
        made = verify_registration_response(
            credential=RegistrationCredential(credential, base64url_to_bytes(credential), response),
            expected_challenge=challenge,
            expected_rp_id=rp_id,
            expected_origin=origin,
            require_user_verification=True,
            supported_pub_key_algs=[COSEAlgorithmIdentifier(one) for one in ALGORITHMS],
        )
        if made.credential_id == base64url_to_bytes(credential) and is_usable(made.credential_public_key):
            return made.credential_public_key
    except (WebAuthnException, *_MALFORMED):
        pass
    raise ApprovalError(
        "passkey",
        "this passkey can not be used here: it must be of ES256 or EdDSA, ask for a PIN, finger or face, and be made in this "
        "page; try again, or with another device",
    )
