"""The keyring: every secret of the keystore under an epoch key, every epoch key under the KEK, each bound to what it is.

    KEK -> epoch key (of one purpose) -> audit key, index key, ingest key, approver's key, or shred key -> record

Only epoch keys meet a KEK, wherever that lives; all else is local. Contexts are canonical JSON, so that a wrapped key moved to
another row, purpose or keystore does not open. What an epoch key is and how it ends is in epochs.py.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from keystore.crypto import envelope
from keystore.crypto.canonical import canonical_sorted
from keystore.errors import TamperedError, WrongKekError
from keystore.kek.provider import KeyEncryptionKey
from keystore.storage import schema

# The kinds of secret that are wrapped.
AUDIT_KIND = "audit-signing"
INDEX_KIND = "subject-index"
INGEST_KIND = "ingest"
INGEST_LOG_KIND = "ingest-log-signing"
APPROVER_KIND = "approver"
SHRED_KIND = "shred"
PSEUDONYM_KIND = "pseudonym"
# What an epoch key is for: an opening of the keystore asks the KEK for those of its own purposes only.
AUDIT_PURPOSE = "audit"
INDEX_PURPOSE = "index"
INGEST_PURPOSE = "ingest"
PEOPLE_PURPOSE = "people"
RECORDS_PURPOSE = "records"
PSEUDONYMS_PURPOSE = "pseudonyms"
PURPOSE_OF = {
    AUDIT_KIND: AUDIT_PURPOSE,
    INDEX_KIND: INDEX_PURPOSE,
    INGEST_KIND: INGEST_PURPOSE,
    INGEST_LOG_KIND: INGEST_PURPOSE,
    APPROVER_KIND: PEOPLE_PURPOSE,
    SHRED_KIND: RECORDS_PURPOSE,
    PSEUDONYM_KIND: PSEUDONYMS_PURPOSE,
}
ALL_PURPOSES = frozenset(PURPOSE_OF.values())
SERVICE_PURPOSES = ALL_PURPOSES - {INGEST_PURPOSE}  # decides and releases
INGEST_PURPOSES = frozenset({INGEST_PURPOSE, INDEX_PURPOSE})  # takes in, and unwraps no record
NAMING_PURPOSES = INGEST_PURPOSES | {PSEUDONYMS_PURPOSE}  # beside a run's ingest: hands pseudonyms to the run
OWN_SECRET = "self"  # noqa: S105  # the name under which the keystore's single secrets are wrapped
EPOCH_KEYS_IN_MEMORY = 32


@dataclass(frozen=True)
class Epoch:
    """An epoch key in memory; its repr shows its id only."""

    epoch_id: str
    key: bytes = field(repr=False)


class Keyring:
    """Wraps and unwraps the secrets of one keystore; keeps the epoch keys that it used last.

    `purposes` bounds which epoch keys it asks the KEK to unwrap.
    """

    def __init__(
        self,
        kek: KeyEncryptionKey,
        keystore_id: str,
        kek_version: int,
        purposes: frozenset[str] = ALL_PURPOSES,
    ) -> None:
        self._kek = kek
        self._keystore_id = keystore_id
        self.kek_version = kek_version
        self.purposes = purposes
        self._recent: OrderedDict[tuple[str, bytes], Epoch] = OrderedDict()

    def wrap_epoch(self, key: bytes, purpose: str, epoch_id: str) -> bytes:
        """Return an epoch key wrapped under the KEK. Every purpose may be wrapped: who wraps has made the key."""
        return self._kek.wrap(key, self._context(f"epoch {purpose}", epoch_id))

    def epoch(self, connection: Connection, epoch_id: str, purpose: str) -> Epoch:
        """Return an epoch key that is not destroyed.

        Raises TamperedError, also for a purpose that is not this keyring's; WrongKekError: the KEK was changed meanwhile.
        """
        table = schema.epoch_keys
        row = connection.execute(
            select(table.c.wrapped, table.c.kek_version).where(table.c.epoch_id == epoch_id, table.c.purpose == purpose)
        ).first()
        if row is None or not row.wrapped or purpose not in self.purposes:
            raise TamperedError(
                f"a key lies under epoch {epoch_id}, which is destroyed or of another purpose; restore the database"
            )
        if row.kek_version != self.kek_version:
            raise kek_was_changed()
        known = (epoch_id, bytes(row.wrapped))
        epoch = self._recent.pop(known, None)
        if epoch is None:
            epoch = Epoch(epoch_id, self._kek.unwrap(row.wrapped, self._context(f"epoch {purpose}", epoch_id)))
        self._recent[known] = epoch
        while len(self._recent) > EPOCH_KEYS_IN_MEMORY:
            self._recent.popitem(last=False)
        return epoch

    def seal(self, epoch: Epoch, secret: bytes, kind: str, name: str) -> bytes:
        """Return `secret` wrapped under an epoch key as the secret `kind`/`name` of this keystore."""
        return envelope.seal(epoch.key, secret, self._context(kind, name))

    def unseal(self, epoch: Epoch, wrapped: bytes, kind: str, name: str) -> bytes:
        """Inverse of `seal`. Raises TamperedError."""
        try:
            return envelope.open_envelope(epoch.key, wrapped, self._context(kind, name))
        except envelope.EnvelopeError as error:
            raise TamperedError(
                "a wrapped key in the database does not open under its epoch key: the row was altered or moved; "
                "restore the database from a backup"
            ) from error

    def unwrap(self, connection: Connection, epoch_id: str | None, wrapped: bytes, kind: str, name: str) -> bytes:
        """Return the secret of a row. Without an epoch it is of an older schema, and lies under the KEK itself.

        Raises TamperedError.
        """
        if epoch_id is None:
            if PURPOSE_OF[kind] not in self.purposes:
                raise TamperedError(f"a key of kind {kind} is not this opening's to unwrap")
            return self._kek.unwrap(wrapped, self._context(kind, name))
        return self.unseal(self.epoch(connection, epoch_id, PURPOSE_OF[kind]), wrapped, kind, name)

    def under(self, kek: KeyEncryptionKey, kek_version: int) -> Keyring:
        """Return the keyring of the same keystore under another KEK."""
        return Keyring(kek, self._keystore_id, kek_version, self.purposes)

    def for_purposes(self, purposes: frozenset[str]) -> Keyring:
        """Return the keyring of the same keystore for other purposes."""
        return Keyring(self._kek, self._keystore_id, self.kek_version, purposes)

    def _context(self, kind: str, name: str) -> bytes:
        return canonical_sorted(
            {"keystore": self._keystore_id, "kind": kind, "name": name, "type": "keyanon wrapped key v1"}
        )


def kek_was_changed() -> WrongKekError:
    """Return the error of an opening that outlived its KEK."""
    return WrongKekError("the KEK of this keystore was changed while it was open here; open it again")


def owner_tag(index_key: bytes, dataset: str, subject: str | None, image_id: str) -> str:
    """Return under what a shred key is filed: a keyed hash, so that the database alone does not list its subjects."""
    owner = {"dataset": dataset, "image": image_id} if subject is None else {"dataset": dataset, "subject": subject}
    return hmac.digest(index_key, canonical_sorted(owner), "sha256").hex()
