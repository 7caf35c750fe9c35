"""Who signs the log: the service with the audit key, and ingest with a key of its own that the audit key vouches for.

An ingest that was taken over can then write what an ingest writes, and no decision: a checkpoint that it signed counts only for
entries of its types (`INGEST_ENTRIES`), which the verifier checks one by one. Its key is certified by a signature of the audit
key, so that whoever knows the audit key needs nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.audit.checkpoint import Checkpoint, open_checkpoint, parse_verifier_key, sign_checkpoint, verifier_key
from keystore.audit.merkle import Frontier
from keystore.errors import AuditError

if TYPE_CHECKING:
    from sqlalchemy import Connection

ORIGIN_PREFIX = "keyanon.keystore/"
INGEST_SUFFIX = "/ingest"
INGEST_ENTRIES = frozenset({"run", "ingest", "pseudonyms", "reconcile", "refused"})
_CERTIFICATE_LABEL = b"keyanon ingest signer v1\n"


def origin_of(keystore_id: str) -> str:
    """Return the log's origin, which is also the name of its signer."""
    return ORIGIN_PREFIX + keystore_id


class LogSigner:
    """The audit signing key of one keystore. `vkeys`: whose checkpoints count in its log, its own first."""

    entries: frozenset[str] | None = None  # the types of entry that it may write; None: every one

    def __init__(self, keystore_id: str, key: Ed25519PrivateKey, more: tuple[str, ...] = ()) -> None:
        self._key = key
        self.origin = origin_of(keystore_id)
        self.vkey = verifier_key(self.origin, key.public_key())
        self.vkeys: tuple[str, ...] = (self.vkey, *more)

    def sign_message(self, message: bytes) -> bytes:
        """Sign something else than a checkpoint; its first bytes must say what, and never look like an origin."""
        return self._key.sign(message)

    def sign(self, frontier: Frontier) -> str:
        """Return the signed checkpoint of a tree."""
        return sign_checkpoint(Checkpoint(self.origin, frontier.size, frontier.root()), self._key)

    def countersign(self, note: str) -> str:
        """Return a checkpoint of this log with this key's signature too, where it has another one's only. Raises AuditError."""
        checkpoint = open_checkpoint(note, *self.vkeys)
        try:
            open_checkpoint(note, self.vkey)
        except AuditError:
            return note + sign_checkpoint(checkpoint, self._key).removeprefix(checkpoint.text() + "\n")
        return note


class IngestSigner(LogSigner):
    """The key that an ingest signs its own entries with."""

    entries = INGEST_ENTRIES

    def __init__(self, keystore_id: str, key: Ed25519PrivateKey, audit_vkey: str, certificate: bytes = b"") -> None:
        super().__init__(keystore_id, key)
        self.certificate = certificate
        self._name = self.origin + INGEST_SUFFIX
        self.vkey = verifier_key(self._name, key.public_key())
        self.vkeys = (audit_vkey, self.vkey)

    def sign(self, frontier: Frontier) -> str:
        """Return the checkpoint of a tree, signed under a name of its own."""
        return sign_checkpoint(Checkpoint(self.origin, frontier.size, frontier.root()), self._key, self._name)


def certificate_message(ingest_vkey: str) -> bytes:
    """Return what the audit key signs to vouch for an ingest's key."""
    return _CERTIFICATE_LABEL + ingest_vkey.encode()


def certified_ingest_vkey(connection: Connection, audit_vkey: str) -> str | None:
    """Return the key that ingest signs with, None in a keystore of an older schema.

    Raises AuditError: the audit key does not vouch for the one in the database.
    """
    from sqlalchemy import select  # a run's processes know receipts and need no database

    from keystore.storage import schema

    row = connection.execute(select(schema.identity.c.ingest_vkey, schema.identity.c.ingest_certificate)).first()
    if row is None or row.ingest_vkey is None:
        return None
    name, key = parse_verifier_key(audit_vkey)
    try:
        key.verify(row.ingest_certificate or b"", certificate_message(row.ingest_vkey))
    except InvalidSignature:
        raise AuditError(
            "the audit key does not vouch for the key that ingest signs with: it was exchanged; restore the database"
        ) from None
    if parse_verifier_key(row.ingest_vkey)[0] != name + INGEST_SUFFIX:
        raise AuditError("the key that ingest signs with is of another log; restore the database")
    return str(row.ingest_vkey)
