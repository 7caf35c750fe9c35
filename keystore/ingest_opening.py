"""The ingest opening: takes sealed shards in, and can do nothing else with the keystore.

It holds the ingest keys, the index key and a signing key of its own. Of the records' epoch keys it makes new ones and unwraps
none, so that it reads no record that is stored; of the log it writes its own entries, which the verifier tells from decisions by
who signed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from keystore import opening
from keystore.audit.log import Clock
from keystore.audit.witness import WITNESS_DIRECTORY
from keystore.crypto.canonical import utc_now
from keystore.intake import runs
from keystore.intake.folder import INBOX_NAME
from keystore.intake.inbox import Inbox
from keystore.intake.report import IngestReport, ShardsNotTakenIn
from keystore.ledger import Ledger
from keystore.storage.database import Database
from keystore.unlocking import IngestKeys, unlock_ingest
from keystore.vault import erasure
from keystore.vault.catalogue import stored_among
from keystore.vault.storing import RecordStore


class IngestOpening:
    """A keystore that is open for taking shards in. Make one with `open`; use it in a `with` statement, or `close` it."""

    def __init__(
        self, path: Path, database: Database, keys: IngestKeys, clock: Clock, inbox: Path | None, *, receipts: bool
    ) -> None:
        self.path = path
        self._database = database
        self._keys = keys
        self._ledger = Ledger(database, keys.signer, path / WITNESS_DIRECTORY, clock, None)
        store = RecordStore(keys.keystore_id, keys.keyring)
        self.inbox_root = inbox or path / INBOX_NAME
        receipts_by = keys.signer if receipts else None
        self._inbox = Inbox(self.inbox_root, store, keys.index_key, keys.ingest_keys, receipts_by)

    @classmethod
    def open(
        cls,
        path: Path | str,
        kek_uri: str | None = None,
        *,
        clock: Clock = utc_now,
        receipts: bool = False,
        inbox: Path | None = None,
    ) -> Self:
        """Open an existing keystore; the KEK is where it was at creation, unless `kek_uri` says otherwise.

        `receipts`: leave a receipt of each shard in the inbox, for a job that can not ask the keystore (keystore.door).
        `inbox`: where shards lie; the keystore's own folder by default.
        Raises WrongKekError and KekError before anything else, StorageError, SchemaError (one of an older version: the service
        must open it first), TamperedError, AuditError.
        """
        directory = Path(path)
        database = opening.existing(directory)
        try:
            kek = opening.open_matching_kek(database, directory, kek_uri)
            database.migrate()
            opened = cls(directory, database, unlock_ingest(database, kek), clock, inbox, receipts=receipts)
            opened._ledger.check_witness(None)
        except BaseException:
            database.close()
            raise
        return opened

    def inbox(self, run_id: str, dataset: str | None = None) -> Path:
        """Return the directory, created if missing, that a run's sealed shards go into, and register the run.

        A run may add records of one data set: `dataset`, or where that is not said, the one that its first record names. What
        lies in the inbox of a run that was never registered here is not taken in. Raises InvalidRecordError, StorageError,
        and ClockError before a run begins whose shards could not be taken in.
        """
        self._ledger.check_clock()
        directory = self._inbox.directory(run_id)
        with self._database.read() as connection:
            known = runs.find(connection, run_id)
        if known is None or (dataset is not None and known.dataset != dataset):
            with self._ledger.transaction("run", None, None) as (connection, log):
                runs.register(connection, log, run_id, dataset)
        return directory

    def knows(self, run_id: str) -> bool:
        """Return whether a run is registered."""
        with self._database.read() as connection:
            return runs.find(connection, run_id) is not None

    def pending(self) -> dict[str, list[str]]:
        """Return the names of the shards that lie in the inbox, by run."""
        return self._inbox.pending()

    def ingest(self, run_id: str, shard_names: Sequence[str] | None = None) -> IngestReport:
        """Take in a run's shards (all, or those named); again is harmless. Shards taken in whole are removed from the inbox.

        Single records that do not open are in the report, the others are kept. Raises ShardsNotTakenIn naming every shard
        that is damaged or missing, after the other shards were taken in; its `report` says what was done.
        """
        report = self._inbox.ingest(
            run_id, shard_names, lambda: self._ledger.transaction("ingest", None, None, witness=False)
        )
        self._ledger.remember()
        if report.failed_shards:
            raise ShardsNotTakenIn.of(report)
        return report

    def reconcile(self, run_id: str, committed: Sequence[str]) -> list[str]:
        """Remove the run's shards that are not in `committed` (no picture was published with them). Return their names."""
        with self._ledger.transaction("reconcile", None, None) as (_, log):
            removed = self._inbox.log_orphans(run_id, committed, log)
        self._inbox.remove(run_id, removed)
        self._inbox.clear_unfinished(run_id)
        return removed

    def missing(self, record_ids: Iterable[str]) -> set[str]:
        """Return those of the records that are neither stored here nor erased by right."""
        wanted = set(record_ids)
        with self._database.read() as connection:
            wanted -= stored_among(connection, wanted)
            return wanted - erasure.erased_among(connection, self._keys.index_key, wanted)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"IngestOpening({str(self.path)!r}, id {self._keys.keystore_id})"
