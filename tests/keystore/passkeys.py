"""An authenticator in software: it makes passkeys and assertions as a device and a browser would, and wrong ones when asked."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.decisions import passkeys
from keystore.decisions.passkeys import Assertion, Passkey
from keystore.decisions.signatures import OwnSignature, key_id_of, own_approval_message, passkey_line
from keystore.decisions.views import RequestView

ORIGIN, RP_ID = "https://keys.example.org:8443", "keys.example.org"
PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


class Device:
    """One passkey, of ES256 or EdDSA."""

    def __init__(self, algorithm: str = "ES256", origin: str = ORIGIN, rp_id: str = RP_ID) -> None:
        self.credential_id = os.urandom(32)
        self.passkey = Passkey(_base64url(self.credential_id), origin, rp_id)
        self._ec = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else None
        self._ed = Ed25519PrivateKey.generate()
        if self._ec is not None:
            point = self._ec.public_key().public_numbers()
            numbers = {-2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")}
            self.public_key = cbor2.dumps({1: 2, 3: -7, -1: 1, **numbers})
        else:
            self.public_key = cbor2.dumps({1: 1, 3: -8, -1: 6, -2: self._ed.public_key().public_bytes_raw()})

    @property
    def key_id(self) -> str:
        return key_id_of(self.public_key)

    def raw(self, data: bytes) -> bytes:
        return self._ed.sign(data) if self._ec is None else self._ec.sign(data, ec.ECDSA(hashes.SHA256()))

    def asserted(
        self,
        message: bytes,
        *,
        flags: int = PRESENT | VERIFIED,
        count: int = 0,
        rp_id: str | None = None,
        challenge: bytes | None = None,
        **client: Any,
    ) -> tuple[Assertion, bytes]:
        """What `navigator.credentials.get` gives for a message; client: members of clientDataJSON that are to be others."""
        authenticator = hashlib.sha256((rp_id or self.passkey.rp_id).encode()).digest()
        authenticator += bytes([flags]) + count.to_bytes(4, "big")
        asked = passkeys.challenge_of(message) if challenge is None else challenge
        said = {
            "type": "webauthn.get",
            "challenge": _base64url(asked),
            "origin": self.passkey.origin,
            "crossOrigin": False,
        }
        client_data = json.dumps({**said, **client}).encode()
        return Assertion(authenticator, client_data), self.raw(authenticator + hashlib.sha256(client_data).digest())

    def made(
        self,
        asked: bytes,
        *,
        flags: int = PRESENT | VERIFIED | ATTESTED,
        rp_id: str | None = None,
        credential_id: bytes | None = None,
        **client: Any,
    ) -> tuple[bytes, bytes]:
        """What `navigator.credentials.create` gives: the attestation object, of no attestation, and clientDataJSON."""
        ident = credential_id or self.credential_id
        data = hashlib.sha256((rp_id or self.passkey.rp_id).encode()).digest() + bytes([flags]) + bytes(4 + 16)
        data += len(ident).to_bytes(2, "big") + ident + self.public_key
        said = {"type": "webauthn.create", "challenge": _base64url(asked), "origin": self.passkey.origin}
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return attestation, json.dumps({**said, "crossOrigin": False, **client}).encode()

    @property
    def line(self) -> str:
        """What it is enrolled by."""
        said = passkeys.enrolment_message(passkeys.statement(self.public_key, self.passkey))
        return passkey_line(self.public_key, self.passkey, *self.asserted(said))

    def approval(
        self, shown: RequestView, approved_at: str, grant_seconds: int | None = None, **changes: Any
    ) -> OwnSignature:
        """An approval of a request as it is shown."""
        of = (shown.keystore, shown.request_id, shown.digest, self.key_id, approved_at)
        assertion, signature = self.asserted(own_approval_message(*of, grant_seconds), **changes)
        return OwnSignature(self.key_id, approved_at, signature, assertion)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
