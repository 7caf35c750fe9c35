"""Storing records: many in one transaction, under shred keys of epochs that the store began itself.

Who stores needs no key that was there before: it makes an epoch key, wraps new shred keys under it, and never has to unwrap one.
An owner whose records come in several epochs has a shred key in each; erasure takes them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from keystore.audit.log import LogWriter
from keystore.crypto import envelope
from keystore.crypto.canonical import timestamp
from keystore.storage import schema
from keystore.vault import epochs
from keystore.vault.accounts import account, key_digest, record_digest
from keystore.vault.keyring import RECORDS_PURPOSE, SHRED_KIND, Epoch, Keyring
from keystore.vault.records import record_context

SHRED_KEY_ID_BYTES = 16


@dataclass(frozen=True)
class NewRecord:
    """A record to be stored: what its row says, and its bytes, which only its shred key will open again."""

    record_id: str
    run_id: str
    dataset: str
    image_id: str
    owner: str  # keyed hash of whom it is of (vault.keyring.owner_tag)
    source_sha256: str
    version: int
    plaintext: bytes = field(repr=False)


@dataclass
class _Shelf:
    """The epoch that is being filled, and its shred keys by data set and owner."""

    epoch: Epoch
    keys: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict, repr=False)


class RecordStore:
    """Stores records for one opening of a keystore; holds the keys of the one epoch that it is filling."""

    def __init__(self, keystore_id: str, keyring: Keyring) -> None:
        self._keystore_id = keystore_id
        self._keyring = keyring
        self._shelf: _Shelf | None = None
        self._committed = True
        self._was_here = False

    def begin(self, connection: Connection, log: LogWriter) -> Batch:
        """Begin to store what the log's next entry accounts for. `committed` must be called after the commit."""
        if not self._committed or (
            self._shelf is not None and not epochs.is_active(connection, self._shelf.epoch.epoch_id)
        ):
            self._shelf = None  # what it holds may have been rolled back, or moved by an erasure
        self._committed = False
        return Batch(self, connection, log)

    def committed(self) -> None:
        """Go on with the same epoch: what the last batch stored is in the database."""
        self._committed = True

    def shelf(self, connection: Connection, log: LogWriter, owner: tuple[str, str]) -> _Shelf:
        """Return the epoch to store a record of an owner under, a new one where there is none or the last one is full."""
        if self._shelf is not None and owner in self._shelf.keys:
            return self._shelf
        if self._shelf is not None and len(self._shelf.keys) >= epochs.EPOCH_SHRED_KEYS:
            epochs.deactivate(connection, log, [self._shelf.epoch.epoch_id])
            self._shelf = None
        if self._shelf is None:
            if not self._was_here:  # of openings that ended; one that goes on beside this begins another one
                epochs.deactivate(connection, log, epochs.active_of_records(connection))
                self._was_here = True
            self._shelf = _Shelf(epochs.begin(connection, log, self._keyring, RECORDS_PURPOSE))
        return self._shelf

    def seal_key(self, epoch: Epoch, key: bytes, shred_key_id: str) -> bytes:
        """Return a shred key wrapped under its epoch key."""
        return self._keyring.seal(epoch, key, SHRED_KIND, shred_key_id)

    def seal_record(self, key: bytes, plaintext: bytes, row: Mapping[str, Any]) -> bytes:
        """Return the envelope of a record, bound to its row."""
        return envelope.seal(key, plaintext, record_context(self._keystore_id, row))


class Batch:
    """What is stored for one entry of the log."""

    def __init__(self, store: RecordStore, connection: Connection, log: LogWriter) -> None:
        self._store = store
        self._connection = connection
        self._log = log
        self._entry, self._now = log.size, timestamp(log.now)
        self._rows: list[dict[str, Any]] = []
        self._keys: list[dict[str, Any]] = []
        self._record_digests: list[str] = []
        self._key_digests: dict[str, list[str]] = {}

    def add(self, record: NewRecord, source: Mapping[str, Any]) -> None:
        """Seal one record under its owner's shred key; `source` are the columns that say where it came from."""
        shred_key_id, key = self._shred_key(record.dataset, record.owner)
        row: dict[str, Any] = {
            **source,
            "record_id": record.record_id,
            "run_id": record.run_id,
            "dataset": record.dataset,
            "image_id": record.image_id,
            "source_sha256": record.source_sha256,
            "record_version": record.version,
            "envelope_version": envelope.ENVELOPE_VERSION,
            "shred_key_id": shred_key_id,
            "ingested_at": self._now,
        }
        row["envelope"] = self._store.seal_record(key, record.plaintext, row)
        self._record_digests.append(record_digest(row))
        row["entry"] = self._entry
        self._rows.append(row)

    def write(self) -> None:
        """Insert what was added since the last time."""
        if self._keys:
            self._connection.execute(schema.shred_keys.insert(), self._keys)
        if self._rows:
            self._connection.execute(schema.records.insert(), self._rows)
        self._keys, self._rows = [], []

    def finish(self) -> dict[str, Any]:
        """Insert the rest and return what the entry says of it: the number of keys, and the records' account."""
        self.write()
        for epoch_id, digests in self._key_digests.items():
            epochs.account_for_keys(self._log, epoch_id, digests)
        keys = sum(map(len, self._key_digests.values()))
        return {"keys": keys, "records_account": account(self._record_digests)}

    def _shred_key(self, dataset: str, owner: str) -> tuple[str, bytes]:
        shelf = self._store.shelf(self._connection, self._log, (dataset, owner))
        known = shelf.keys.get((dataset, owner))
        if known is not None:
            return known
        shred_key_id, key = os.urandom(SHRED_KEY_ID_BYTES).hex(), os.urandom(envelope.KEY_BYTES)
        epoch_id = shelf.epoch.epoch_id
        row: dict[str, Any] = {
            "shred_key_id": shred_key_id,
            "dataset": dataset,
            "owner": owner,
            "epoch_id": epoch_id,
            "wrapped": self._store.seal_key(shelf.epoch, key, shred_key_id),
            "created_at": self._now,
        }
        self._key_digests.setdefault(epoch_id, []).append(key_digest(row))
        row["entry"] = self._entry
        self._keys.append(row)
        shelf.keys[dataset, owner] = shred_key_id, key
        return shred_key_id, key
