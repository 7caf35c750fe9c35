"""The recovery job's side of a release: the one place outside of the vault where granted records are in clear."""

from __future__ import annotations

import base64
import json

from keystore.crypto import hybrid
from keystore.decisions.release import HEADER_LENGTH, RELEASE_INFO, RELEASE_MAGIC
from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake.records import KeyRecord


class Recipient:
    """An X-Wing key pair that lives in memory for one release and is never stored."""

    def __init__(self, key: hybrid.HybridPrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Recipient:
        """Return a recipient with a fresh key pair."""
        return cls(hybrid.HybridPrivateKey.generate())

    @property
    def public_key(self) -> bytes:
        """The 1,216 bytes to hand to `Keystore.release`."""
        return self._key.public_bytes

    def open(self, sealed: bytes, request_id: str | None = None) -> list[KeyRecord]:
        """Open a release; with `request_id`, only one made for that request. Raises TamperedError."""
        start = len(RELEASE_MAGIC) + HEADER_LENGTH.size
        refused = TamperedError("the release is not for this recipient, or was altered on its way; make a new request")
        if len(sealed) < start or not sealed.startswith(RELEASE_MAGIC):
            raise refused
        (length,) = HEADER_LENGTH.unpack_from(sealed, len(RELEASE_MAGIC))
        head, ciphertext = sealed[start : start + length], sealed[start + length :]
        plaintext = self._key.open(ciphertext, RELEASE_INFO + head)
        if plaintext is None:
            raise refused
        try:
            header, document = json.loads(head), json.loads(plaintext)
            records = [
                KeyRecord.from_canonical_bytes(base64.b64decode(one, validate=True)) for one in document["records"]
            ]
            if document["header"] != header:
                raise refused
        except (ValueError, KeyError, TypeError, InvalidRecordError):
            raise refused from None
        if request_id is not None and header.get("request") != request_id:
            raise TamperedError(f"the release is for another request than {request_id}; ask for the release again")
        return records

    def __repr__(self) -> str:
        return f"Recipient({hybrid.key_id(self.public_key)[:16]})"
