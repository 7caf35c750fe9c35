"""An approver's own key, on the approver's machine: made there, kept there, and signing nothing but what was shown.

    keyanon-approver-key-1 LF plain LF base64(private key, 32) LF
    keyanon-approver-key-1 LF scrypt 17 8 1 base64(salt, 16) LF base64(envelope of it under scrypt(passphrase, salt)) LF

The envelope (crypto.envelope) is bound to the first two lines. Mode 0600, and refused where others may do anything with it.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keystore.audit.checkpoint import parse_verifier_key
from keystore.audit.signers import origin_of
from keystore.crypto.canonical import timestamp
from keystore.crypto.envelope import KEY_BYTES, EnvelopeError, open_envelope, seal
from keystore.decisions.changes import check_name_of_key
from keystore.decisions.content import shown_digest
from keystore.decisions.signatures import OwnSignature, key_id_of, own_approval_message, public_line
from keystore.decisions.views import RequestView
from keystore.errors import ApprovalError, StorageError, TamperedError
from keystore.storage import durable

FIRST_LINE = "keyanon-approver-key-1"
PLAIN = "plain"
MIN_PASSPHRASE_CHARACTERS = 8
MAX_BYTES = 4096
MODE = 0o600
_SALT_BYTES = 16
_SCRYPT = (17, 8, 1)  # log2 of n, r, p: 128 MiB and about half a second


class ApproverKey:
    """An Ed25519 private key. Make one with `generate` or `read`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def key_id(self) -> str:
        """What it is called where it is enrolled."""
        return key_id_of(self._key.public_key().public_bytes_raw())

    @property
    def public_line(self) -> str:
        """The line to enrol it by; nothing in it is secret."""
        return public_line(self._key)

    def sign(self, shown: RequestView, vkey: str, now: datetime, grant_seconds: int | None = None) -> OwnSignature:
        """Approve a request as it is shown by the keystore that is known by `vkey`, its grant for `grant_seconds` at most.

        Raises TamperedError: its digest is that of something else, it is another keystore's, or a change to put a key on the list
        that has another id than is shown.
        """
        name, _ = parse_verifier_key(vkey)
        if name != origin_of(shown.keystore):
            raise TamperedError(
                f"request {shown.request_id} is not one of this keystore but of another. Nothing was signed; tell the keystore's "
                "operator and auditor"
            )
        digest = shown_digest(shown)
        if digest != shown.digest:
            raise TamperedError(
                f"request {shown.request_id} is not what its digest stands for: whoever showed it altered one of the two. "
                "Nothing was signed; tell the keystore's operator and auditor"
            )
        check_name_of_key(shown.change)
        approved_at = timestamp(now)
        message = own_approval_message(
            shown.keystore, shown.request_id, digest, self.key_id, approved_at, grant_seconds
        )
        return OwnSignature(self.key_id, approved_at, self._key.sign(message))

    def write(self, path: Path, passphrase: str | None = None) -> None:
        """Write the key to a new file. Raises StorageError, ApprovalError (a passphrase that is too short)."""
        secret, head = self._key.private_bytes_raw(), f"{FIRST_LINE}\n{PLAIN}\n"
        if passphrase is not None:
            if len(passphrase) < MIN_PASSPHRASE_CHARACTERS:
                raise ApprovalError(
                    "passphrase",
                    f"a passphrase has {MIN_PASSPHRASE_CHARACTERS} characters or more; choose a longer one",
                )
            salt = os.urandom(_SALT_BYTES)
            head = f"{FIRST_LINE}\nscrypt {' '.join(map(str, _SCRYPT))} {base64.b64encode(salt).decode()}\n"
            secret = seal(_stretched(passphrase, salt), secret, head.encode())
        try:
            durable.write_new(path, head.encode() + base64.b64encode(secret) + b"\n", MODE)
        except OSError as error:
            raise StorageError(
                f"approver key {path} can not be written ({error.strerror}); name a new file on a disk with room"
            ) from error

    @classmethod
    def read(cls, path: Path, ask: Callable[[], str]) -> Self:
        """Read a key. ask: returns the passphrase, where there is one. Raises StorageError; ApprovalError: it is another's."""
        try:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise StorageError(
                    f"approver key {path} is open to others; have it removed from the list, and make a new one"
                )
            text = durable.read_regular(path, MAX_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise StorageError(f"approver key {path} can not be read ({error.strerror})") from error
        try:
            first, how, kept = text.splitlines()
            secret = base64.b64decode(kept, validate=True)
            if how != PLAIN:
                kind, *cost, salt = how.split(" ")
                if (kind, *cost) != ("scrypt", *map(str, _SCRYPT)):
                    raise ValueError(how)
                key = _stretched(ask(), base64.b64decode(salt, validate=True))
                secret = open_envelope(key, secret, f"{first}\n{how}\n".encode())
            if first != FIRST_LINE:
                raise ValueError(first)
            return cls(Ed25519PrivateKey.from_private_bytes(secret))
        except EnvelopeError:
            raise ApprovalError("passphrase", f"approver key {path} does not open by this passphrase") from None
        except (ValueError, binascii.Error):
            raise StorageError(f"{path} is no approver key; `keyanon approver-key new` makes one") from None

    def __repr__(self) -> str:
        return f"ApproverKey({self.key_id[:12]})"


def _stretched(passphrase: str, salt: bytes) -> bytes:
    log2_n, r, p = _SCRYPT
    return Scrypt(salt=salt, length=KEY_BYTES, n=2**log2_n, r=r, p=p).derive(passphrase.encode())
