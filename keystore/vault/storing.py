"""Storing records: many in one transaction, under shred keys of epochs that the store began itself.

Who stores needs no key that was there before: it makes an epoch key, wraps new shred keys under it, and never has to unwrap one.
An owner whose records come in several epochs has a shred key in each; erasure takes them all. Records are sealed before the
transaction begins (`prepare`), so that several processes that store hold the database's one lock for its inserts only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from keystore.audit.log import LogWriter
from keystore.crypto import envelope
from keystore.crypto.canonical import timestamp
from keystore.storage import schema
from keystore.storage.bulk import insert_many
from keystore.vault import epochs
from keystore.vault.accounts import account, key_digest, record_digest
from keystore.vault.keyring import RECORDS_PURPOSE, SHRED_KIND, Epoch, Keyring
from keystore.vault.records import record_context


# There are very many of these at once: slots, and nothing that costs time with each.
@dataclass(slots=True, eq=False)
class NewRecord:
    """A record to be stored: what its row says, and its bytes, which only its shred key will open again."""

    record_id: str
    run_id: str
    dataset: str
    image_id: str
    owner: str  # keyed hash of whom it is of (vault.keyring.owner_tag)
    source_sha256: str
    sealed_sha256: str  # of the sealed record that it came in
    version: int
    plaintext: bytes = field(repr=False)


@dataclass(slots=True, eq=False)
class _ShredKey:
    """A shred key, and the columns of its row that are known before it is stored."""

    secret: bytes = field(repr=False)
    columns: dict[str, Any]
    stored: bool = False


@dataclass
class _Shelf:
    """The epoch that is being filled, and its shred keys by data set and owner."""

    epoch: Epoch
    keys: dict[tuple[str, str], _ShredKey] = field(default_factory=dict, repr=False)
    begun: bool = False  # in the database
    usable: bool = True  # not ended by somebody else, and not rolled back
    # Ids in the order of time fill the pages of the table's indexes one after the other; random ones would touch all of them.
    _ids: str = field(default_factory=lambda: f"{time.time_ns() // 1_000_000:012x}")

    def next_key_id(self) -> str:
        """Return an id that no other shred key has, 32 hexadecimal digits: time, epoch, number within it."""
        return f"{self._ids}{self.epoch.epoch_id[:16]}{len(self.keys):04x}"


@dataclass(slots=True, eq=False)
class Prepared:
    """A record sealed under a shred key that may not be stored yet."""

    record: NewRecord
    key: _ShredKey = field(repr=False)
    shelf: _Shelf = field(repr=False)
    columns: dict[str, Any] = field(repr=False)


class RecordStore:
    """Stores records for one opening of a keystore; holds the keys of the one epoch that it is filling."""

    def __init__(self, keystore_id: str, keyring: Keyring) -> None:
        self._keystore_id = keystore_id
        self._keyring = keyring
        self._shelf = _Shelf(epochs.new())
        self._touched: list[_Shelf] = []  # by the batch that is not committed yet
        self._begun: _Shelf | None = None  # the last one that is in the database

    def prepare(self, record: NewRecord) -> Prepared:
        """Seal a record under its owner's shred key of the present epoch, or of a new one where that is full."""
        shelf = self._shelf
        key = shelf.keys.get((record.dataset, record.owner))
        if key is None or not shelf.usable:
            if len(shelf.keys) >= epochs.EPOCH_KEYS or not shelf.usable:
                shelf = self._shelf = _Shelf(epochs.new())
            key = self._new_key(shelf, record)
            shelf.keys[record.dataset, record.owner] = key
        columns: dict[str, Any] = {
            "record_id": record.record_id,
            "run_id": record.run_id,
            "dataset": record.dataset,
            "image_id": record.image_id,
            "source_sha256": record.source_sha256,
            "record_version": record.version,
            "envelope_version": envelope.ENVELOPE_VERSION,
            "shred_key_id": key.columns["shred_key_id"],
            "sealed_sha256": record.sealed_sha256,
        }
        columns["envelope"] = envelope.seal(key.secret, record.plaintext, record_context(self._keystore_id, columns))
        return Prepared(record, key, shelf, columns)

    def begin(self, connection: Connection, log: LogWriter) -> Batch:
        """Begin to store what the log's next entry accounts for. `committed` must be called after the commit."""
        if self._touched:  # rolled back: what they hold is not in the database
            for shelf in self._touched:
                shelf.usable = False
            self._touched, self._begun = [], None
        return Batch(self, connection, log)

    def committed(self) -> None:
        """Go on with the same epoch: what the last batch stored is in the database."""
        self._touched = []

    def put_up(self, connection: Connection, log: LogWriter, shelf: _Shelf) -> bool:
        """Make sure that a shelf's epoch is in the database and active, once in a batch. Return whether it is."""
        if shelf.begun:
            shelf.usable = shelf.usable and epochs.is_active(connection, shelf.epoch.epoch_id)
        if not shelf.usable:  # an erasure moved its keys, or another opening ended it
            return False
        self._touched.append(shelf)
        if not shelf.begun:
            # The first ends those of openings that ended; one that goes on beside this begins another one.
            others = epochs.active_of_records(connection) if self._begun is None else [self._begun.epoch.epoch_id]
            epochs.deactivate(connection, log, others)
            epochs.begin(connection, log, self._keyring, RECORDS_PURPOSE, shelf.epoch)
            shelf.begun, self._begun = True, shelf
        return True

    def _new_key(self, shelf: _Shelf, record: NewRecord) -> _ShredKey:
        shred_key_id, secret = shelf.next_key_id(), os.urandom(envelope.KEY_BYTES)
        columns = {
            "shred_key_id": shred_key_id,
            "dataset": record.dataset,
            "owner": record.owner,
            "epoch_id": shelf.epoch.epoch_id,
            "wrapped": self._keyring.seal(shelf.epoch, secret, SHRED_KIND, shred_key_id),
        }
        return _ShredKey(secret, columns)


class Batch:
    """What is stored for one entry of the log."""

    def __init__(self, store: RecordStore, connection: Connection, log: LogWriter) -> None:
        self._store = store
        self._connection = connection
        self._log = log
        self._entry, self._now = log.size, timestamp(log.now)
        self._shelf: _Shelf | None = None  # the one that records go to
        self._rows: list[dict[str, Any]] = []
        self._keys: list[dict[str, Any]] = []
        self._record_digests: list[str] = []
        self._key_digests: dict[str, list[str]] = {}

    def add(self, prepared: Prepared, shard_name: str, shard_sha256: str) -> None:
        """Store one record, which came in this shard."""
        while prepared.shelf is not self._shelf:
            if self._store.put_up(self._connection, self._log, prepared.shelf):
                self._shelf = prepared.shelf
            else:
                prepared = self._store.prepare(prepared.record)
        if not prepared.key.stored:
            self._add_key(prepared.key)
        row = prepared.columns
        row["shard_name"], row["shard_sha256"], row["ingested_at"] = shard_name, shard_sha256, self._now
        self._record_digests.append(record_digest(row))
        row["entry"] = self._entry
        self._rows.append(row)

    def write(self) -> None:
        """Insert what was added since the last time."""
        insert_many(self._connection, schema.shred_keys, self._keys)
        insert_many(self._connection, schema.records, self._rows)
        self._keys, self._rows = [], []

    def finish(self) -> dict[str, Any]:
        """Insert the rest and return what the entry says of it: the number of keys, and the records' account."""
        self.write()
        for epoch_id, digests in self._key_digests.items():
            epochs.account_for_keys(self._log, epoch_id, digests)
        keys = sum(map(len, self._key_digests.values()))
        return {"keys": keys, "records_account": account(self._record_digests)}

    def _add_key(self, key: _ShredKey) -> None:
        row = key.columns
        row["created_at"] = self._now
        self._key_digests.setdefault(row["epoch_id"], []).append(key_digest(row))
        row["entry"] = self._entry
        self._keys.append(row)
        key.stored = True
