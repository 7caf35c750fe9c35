"""The inbox: where runs leave sealed shards, and where ingest and reconcile take them away."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Connection, func, select

from keystore.audit.log import LogWriter
from keystore.audit.signers import IngestSigner
from keystore.crypto.canonical import sha256_hex
from keystore.crypto.hybrid import RecipientKey
from keystore.errors import HiddenRecordError, StorageError, TamperedError
from keystore.intake.folder import FolderInbox
from keystore.intake.ingest import ShardIntake, ShardOutcome
from keystore.intake.receipts import write_receipt
from keystore.intake.report import IngestReport, RejectedRecord
from keystore.intake.sealing import Opener
from keystore.intake.shards import SHARD_SUFFIX, read_shard_bytes, shard_file, shard_path
from keystore.storage import schema
from keystore.vault.storing import RecordStore

Transaction = Callable[[], AbstractContextManager[tuple[Connection, LogWriter]]]


class Inbox:
    """The shards of one keystore's runs."""

    def __init__(
        self,
        root: Path,
        store: RecordStore,
        index_key: bytes,
        ingest_keys: Sequence[RecipientKey],
        receipts_by: IngestSigner | None = None,
    ) -> None:
        """`receipts_by`: leave a receipt of each shard that was taken in, signed so."""
        self._folder = FolderInbox(root)
        self._store = store
        self._index_key = index_key
        self._ingest_keys = ingest_keys
        self._receipts_by = receipts_by

    def directory(self, run_id: str) -> Path:
        """Return a run's directory, created if missing. Raises InvalidRecordError, StorageError."""
        return self._folder.directory(run_id)

    def names(self, run_id: str) -> list[str]:
        """Return the base names of the shards that lie in a run's inbox, sorted."""
        return [name.removesuffix(SHARD_SUFFIX) for name in self._folder.names(run_id, SHARD_SUFFIX)]

    def ingest(self, run_id: str, names: Sequence[str] | None, transaction: Transaction) -> IngestReport:
        """Take in shards, one transaction each; a shard that can not be taken in does not stop the others."""
        directory = self.directory(run_id)
        chosen = self.names(run_id) if names is None else list(dict.fromkeys(names))
        ingested = already_present = 0
        erased: list[str] = []
        rejected: list[RejectedRecord] = []
        failed: dict[str, str] = {}
        for name in chosen:
            path = shard_path(directory, name)
            try:
                if not os.path.lexists(path):
                    already_present += self._count_taken_in(run_id, name, transaction)
                    continue
                opener, data = Opener(self._ingest_keys), read_shard_bytes(path)
                intake = ShardIntake(self._store, self._index_key, opener, run_id, path, data)
                outcome = ShardOutcome()
                with transaction() as (connection, log):
                    outcome = intake.take(connection, log)
                self._store.committed()
                if self._receipts_by is not None:
                    write_receipt(directory, intake.receipt(outcome), self._receipts_by)
                if not outcome.rejected:
                    self.remove(run_id, [name])
            except (TamperedError, StorageError) as error:
                if not isinstance(error, TamperedError | HiddenRecordError) and _is_readable(path):
                    raise  # the database, not the shard: the next shard would fare no better
                failed[name] = f"sealed shard {path}: {error}" if isinstance(error, HiddenRecordError) else str(error)
                continue
            ingested += outcome.ingested
            already_present += outcome.already_present
            erased += outcome.erased
            rejected += outcome.rejected
        return IngestReport(
            run_id=run_id,
            shards=chosen,
            ingested=ingested,
            already_present=already_present,
            rejected=rejected,
            failed_shards=failed,
            erased=erased,
        )

    def pending(self) -> dict[str, list[str]]:
        """Return the names of the shards that lie here, by run, both sorted."""
        return {run: self.names(run) for run in self._folder.runs(SHARD_SUFFIX)}

    def log_orphans(self, run_id: str, committed: Sequence[str], log: LogWriter) -> list[str]:
        """Log, and return, the shards of a run that are not committed."""
        directory = self.directory(run_id)
        orphans = sorted(set(self.names(run_id)) - set(committed))
        if orphans:
            digests = {name: sha256_hex(read_shard_bytes(shard_path(directory, name))) for name in orphans}
            log.append("reconcile", removed=digests, run=run_id)
        return orphans

    def clear_unfinished(self, run_id: str) -> None:
        """Remove what killed writers left half-written. Only when no writer of the run is alive. Raises StorageError."""
        directory = self.directory(run_id)
        try:
            for path in directory.glob(f".*{SHARD_SUFFIX}.*.tmp"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{directory} can not be cleared ({error.strerror}); mend the permissions") from error

    def remove(self, run_id: str, names: Sequence[str]) -> None:
        """Remove shards from the inbox. Raises StorageError."""
        self._folder.remove(run_id, [shard_file(name) for name in names])

    def _count_taken_in(self, run_id: str, name: str, transaction: Transaction) -> int:
        table = schema.shards
        with transaction() as (connection, _):
            query = select(func.count(), func.sum(table.c.records)).where(
                table.c.run_id == run_id, table.c.name == name
            )
            shards, records = connection.execute(query).one()
            if not shards:
                raise TamperedError(
                    f"shard {name} is neither in the inbox nor was it ever taken in; its pictures can not be "
                    f"restored, run them again"
                )
            return int(records)


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)
