"""What approvers sign, and when a signature counts. Pure: the verifier and an approver's own machine go by the same lines.

A key of one's own is shown to others as one line, signed with the key itself: nobody enrols a key that they do not have.

    "keyanon-approver-1 ed25519 " || base64(public key) || " " || base64(signature of "keyanon approver key v1\\n" || public key)

That of a passkey is in passkeys.py.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keystore.crypto.canonical import canonical_json, parse_timestamp, sha256_hex
from keystore.decisions import passkeys
from keystore.decisions.passkeys import Assertion, Passkey
from keystore.errors import ApprovalError

SIGNED_WITHIN = timedelta(minutes=10)  # between the clock of who signs and that of the keystore, either way
_LINE_BEGINS = ("keyanon-approver-1", "ed25519")
_PASSKEY_LINE_BEGINS = ("keyanon-approver-1", "passkey")
_KEY_LABEL = b"keyanon approver key v1\n"


@dataclass(frozen=True)
class OwnSignature:
    """An approval as it was signed on the approver's machine.

    key_id: of the key; approved_at: by the clock there, or of who asked for a passkey; assertion: where it is one's.
    """

    key_id: str
    approved_at: str
    signature: bytes
    assertion: Assertion | None = None

    def in_log(self) -> dict[str, Any]:
        """Return what the log says of it beside the signature."""
        said = {} if self.assertion is None else {"assertion": self.assertion.content()}
        return {"approved_at": self.approved_at, "key": self.key_id, **said}


@dataclass(frozen=True)
class OwnKey:
    """A public key of an approver's own: 32 bytes of Ed25519, or a passkey's COSE_Key."""

    public_key: bytes
    passkey: Passkey | None = None

    def signed(self, signature: bytes, assertion: Assertion | None, message: bytes) -> bool:
        """Return whether this key signed a message; a passkey does by an assertion, and no other key has one."""
        if self.passkey is not None and assertion is not None:
            return passkeys.assertion_holds(self.public_key, self.passkey, assertion, signature, message)
        return self.passkey is None and assertion is None and signature_holds(self.public_key, signature, message)


def key_id_of(public_key: bytes) -> str:
    """Return what a key of an approver's own is called: the SHA-256 of its bytes, in hexadecimal."""
    return sha256_hex(public_key)


def approval_message(
    keystore_id: str, request_id: str, digest: str, approver: str, approved_at: str, grant_seconds: int | None = None
) -> bytes:
    """Return what the key that the keystore keeps for an approver signs. grant_seconds: where the approver chose a time."""
    of = {"approver": approver, "digest": digest, "keystore": keystore_id, "request": request_id}
    return b"keyanon approval v1\n" + canonical_json({"approved_at": approved_at, **of, **chosen(grant_seconds)})


def own_approval_message(
    keystore_id: str, request_id: str, digest: str, key_id: str, approved_at: str, grant_seconds: int | None = None
) -> bytes:
    """Return what an approver's own key signs; a passkey is challenged with its SHA-256."""
    of = {"digest": digest, "key": key_id, "keystore": keystore_id, "request": request_id}
    return b"keyanon approval v2\n" + canonical_json({"approved_at": approved_at, **of, **chosen(grant_seconds)})


def chosen(grant_seconds: int | None) -> dict[str, int]:
    """Return what is said of the time that an approver chose for the grant: nothing, where they left it to the policy."""
    return {} if grant_seconds is None else {"grant_seconds": grant_seconds}


def signature_holds(public_key: bytes | None, signature: bytes, message: bytes) -> bool:
    """Return whether an approver's signature is over this message."""
    if public_key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_in_time(approved_at: str, taken_at: datetime) -> bool:
    """Return whether an approval of this time may be taken in at `taken_at`."""
    try:
        return abs(parse_timestamp(approved_at) - taken_at) <= SIGNED_WITHIN
    except ValueError:
        return False


def public_line(key: Ed25519PrivateKey) -> str:
    """Return the line that a key is enrolled by."""
    public = key.public_key().public_bytes_raw()
    return " ".join(
        (*_LINE_BEGINS, *(base64.b64encode(one).decode() for one in (public, key.sign(_KEY_LABEL + public))))
    )


def passkey_line(public_key: bytes, passkey: Passkey, assertion: Assertion, signature: bytes) -> str:
    """Return the line that a passkey is enrolled by."""
    said = passkeys.statement(public_key, passkey)
    return " ".join((*_PASSKEY_LINE_BEGINS, *passkeys.line_words(said, assertion, signature)))


def parse_public_line(line: str) -> OwnKey:
    """Return the key of a line. Raises ApprovalError: it is none, or is not signed with its key."""
    words = line.split()
    try:
        first, second = (base64.b64decode(one, validate=True) for one in words[2:])
        if tuple(words[:2]) == _PASSKEY_LINE_BEGINS:
            return OwnKey(*passkeys.parse_words(first, second))
        if tuple(words[:2]) == _LINE_BEGINS and signature_holds(first, second, _KEY_LABEL + first):
            return OwnKey(first)
    except (ValueError, LookupError, TypeError, RecursionError):  # binascii.Error is a ValueError
        pass
    raise ApprovalError(
        "public-key",
        "this is not the whole line that `keyanon approver-key new` printed, or the console showed; copy it again",
    )
