"""The keyring: every secret of the keystore wrapped under the KEK, each bound to the keystore and to what it is.

Contexts are canonical JSON, so that a wrapped key moved to another row, or to another keystore, does not open.
"""

from __future__ import annotations

import hashlib
import hmac

from keystore.crypto.canonical import canonical_json
from keystore.kek.provider import KeyEncryptionKey

# The kinds of secret that are wrapped.
AUDIT_KIND = "audit-signing"
INDEX_KIND = "subject-index"
INGEST_KIND = "ingest"
APPROVER_KIND = "approver"
SHRED_KIND = "shred"


class Keyring:
    """Wraps and unwraps the secrets of one keystore under its present KEK version."""

    def __init__(self, kek: KeyEncryptionKey, keystore_id: str, kek_version: int) -> None:
        self._kek = kek
        self._keystore_id = keystore_id
        self.kek_version = kek_version

    def wrap(self, secret: bytes, kind: str, name: str) -> bytes:
        """Return `secret` wrapped as the secret `kind`/`name` of this keystore."""
        return self._kek.wrap(secret, self._context(kind, name))

    def unwrap(self, wrapped: bytes, kind: str, name: str) -> bytes:
        """Inverse of `wrap`. Raises TamperedError."""
        return self._kek.unwrap(wrapped, self._context(kind, name))

    def _context(self, kind: str, name: str) -> bytes:
        return canonical_json(
            {"keystore": self._keystore_id, "kind": kind, "name": name, "type": "keyanon wrapped key v1"}
        )


def owner_tag(index_key: bytes, dataset: str, subject: str | None, image_id: str) -> str:
    """Return under what a shred key is filed: a keyed hash, so that the database alone does not list its subjects."""
    owner = {"dataset": dataset, "image": image_id} if subject is None else {"dataset": dataset, "subject": subject}
    return hmac.new(index_key, canonical_json(owner), hashlib.sha256).hexdigest()
