"""What a job must know of a keystore to hand keys in: the public key to seal to, and the verifier key to know receipts by.

    ingest key file = base64(ingest public key) LF vkey of the audit key LF

`keyanon keystore ingest-key` prints it, and the service publishes it. Nothing in it is secret; who can exchange it has the keys
sealed to somebody else, so the file travels as a configuration file does, or its SHA-256 does, as the pin of an address.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keystore.audit.checkpoint import parse_verifier_key
from keystore.audit.signers import ORIGIN_PREFIX
from keystore.crypto import hybrid
from keystore.crypto.canonical import sha256_hex
from keystore.errors import AuditError, InvalidRecordError, StorageError, TamperedError
from keystore.storage import durable

MAX_FILE_BYTES = 16 * 1024


@dataclass(frozen=True)
class IngestKey:
    """The two public keys of a keystore that a job is given. public_key: X-Wing, 1,216 bytes."""

    public_key: bytes
    audit_vkey: str

    @property
    def keystore_id(self) -> str:
        """Id of the keystore whose receipts the verifier key verifies."""
        return parse_verifier_key(self.audit_vkey)[0].removeprefix(ORIGIN_PREFIX)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's content in hexadecimal, as `sha256sum` prints it: the pin of an address where it is published."""
        return sha256_hex(self.text().encode())

    def text(self) -> str:
        """Return the file's content."""
        return f"{base64.b64encode(self.public_key).decode()}\n{self.audit_vkey.strip()}\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that `keyanon keystore ingest-key` printed. Raises StorageError, TamperedError."""
        try:
            data = durable.read_regular(path, MAX_FILE_BYTES)
        except OSError as error:
            raise StorageError(
                f"ingest key {path} can not be read ({error.strerror}); `keyanon keystore ingest-key KEYSTORE` prints one"
            ) from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, named: str) -> Self:
        """Return the key of a file's content. named: where it lay, for the message. Raises TamperedError."""
        try:
            encoded, vkey = data.decode("ascii").split()
            found = cls(base64.b64decode(encoded, validate=True), vkey)
            hybrid.encrypt(b"", found.public_key, b"")  # raises for what is no point or of another length
            if not parse_verifier_key(vkey)[0].startswith(ORIGIN_PREFIX):
                raise ValueError
        except (ValueError, AuditError, InvalidRecordError) as error:
            raise TamperedError(
                f"{named} is no ingest key; take it again from who keeps the keystore: "
                "`keyanon keystore ingest-key KEYSTORE` prints one"
            ) from error
        return found
