"""Ingest: sealed shards from the inbox become records in committing envelopes, one transaction and one log entry per shard.

A shard is removed from the inbox after its records are committed: the ingest key could open it as long as it lies there, and
erasure must not have to look for it. A process killed in between finds every record already present the next time. A copy of
a record that was erased, or that was made of an erased subject before the erasure, is not taken in again. A shard with a
record that was rejected, or that can not be read, stays for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import sha256_hex, timestamp
from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake import runs
from keystore.intake.records import KeyRecord
from keystore.intake.report import RejectedRecord
from keystore.intake.sealing import Opener, parse_shard, sealed_header
from keystore.storage import schema
from keystore.vault.erasure import ErasureList
from keystore.vault.keyring import owner_tag
from keystore.vault.storing import Batch, NewRecord, RecordStore

CHUNK_RECORDS = 500  # held in clear at once, looked up and inserted by one statement each


@dataclass
class ShardOutcome:
    """What became of one shard."""

    ingested: int = 0
    already_present: int = 0
    erased: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)


@dataclass(frozen=True)
class _Opened:
    """One record of a shard, in clear."""

    index: int
    sealed_sha256: str
    owner: str
    record: KeyRecord = field(repr=False)


@dataclass
class ShardIntake:
    """Takes in one shard within a writing transaction."""

    connection: Connection
    log: LogWriter
    store: RecordStore
    index_key: bytes = field(repr=False)
    opener: Opener
    run_id: str

    def take(self, path: Path, data: bytes) -> ShardOutcome:
        """Take in the shard `path` of these bytes, and log it. Raises TamperedError: a damaged shard, or an unknown run's."""
        self._name = path.name.removesuffix(path.suffix)
        self._sha256 = sha256_hex(data)
        self._outcome = ShardOutcome()
        run = runs.find(self.connection, self.run_id)
        if run is None:
            raise TamperedError(
                f"shard {path} lies in the inbox of run {self.run_id}, which this keystore never opened one for; find out who "
                "put it there"
            )
        self._dataset = run.dataset
        erased = ErasureList(self.connection, self.index_key)
        batch = self.store.begin(self.connection, self.log)
        numbered = enumerate(parse_shard(data, str(path)))
        while chunk := list(islice(numbered, CHUNK_RECORDS)):
            self._take_some(list(self._open(chunk)), batch, erased)
        outcome = self._outcome
        self.log.append(
            "ingest",
            already_present=outcome.already_present,
            erased=len(outcome.erased),
            ingested=outcome.ingested,
            rejected=len(outcome.rejected),
            run=self.run_id,
            shard=self._name,
            shard_sha256=self._sha256,
            **batch.finish(),
        )
        if self._dataset != run.dataset:
            runs.register(self.connection, self.log, self.run_id, self._dataset)
        self._remember_shard()
        return outcome

    def _open(self, chunk: Iterable[tuple[int, bytes]]) -> Iterator[_Opened]:
        for index, sealed in chunk:
            record_id: str | None = None
            try:
                record_id = sealed_header(sealed).record_id
                record = self.opener.open(sealed)
                if record.run_id != self.run_id:
                    raise InvalidRecordError(f"it belongs to run {record.run_id!r}, not to {self.run_id!r}")
            except InvalidRecordError as error:
                self._reject(index, record_id, str(error))
                continue
            owner = owner_tag(self.index_key, record.dataset, record.subject, record.image_id)
            yield _Opened(index, sha256_hex(sealed), owner, record)

    def _take_some(self, opened: Sequence[_Opened], batch: Batch, erased: ErasureList) -> None:
        present = self._present([one.record.record_id for one in opened])
        gone = erased.among((one.record.record_id, one.owner, one.record.created_at) for one in opened)
        for one in opened:
            record = one.record
            if record.dataset != (self._dataset or record.dataset):
                reason = f"it names data set {record.dataset!r}, and run {self.run_id!r} adds to another one"
                self._reject(one.index, record.record_id, reason)
            elif present.get(record.record_id, one.sealed_sha256) != one.sealed_sha256:
                reason = "another record with this id is already stored; an id never changes its meaning"
                self._reject(one.index, record.record_id, reason)
            elif record.record_id in gone:
                self._outcome.erased.append(record.record_id)
            elif record.record_id in present:
                self._outcome.already_present += 1
            else:
                source = {
                    "sealed_sha256": one.sealed_sha256,
                    "shard_name": self._name,
                    "shard_sha256": self._sha256,
                }
                batch.add(_to_store(record, one.owner), source)
                present[record.record_id] = one.sealed_sha256
                self._outcome.ingested += 1
                self._dataset = record.dataset
        batch.write()

    def _present(self, record_ids: Sequence[str]) -> dict[str, str]:
        table = schema.records
        query = select(table.c.record_id, table.c.sealed_sha256).where(table.c.record_id.in_(record_ids))
        return {row.record_id: row.sealed_sha256 for row in self.connection.execute(query)}

    def _reject(self, index: int, record_id: str | None, reason: str) -> None:
        self._outcome.rejected.append(RejectedRecord(shard=self._name, index=index, record_id=record_id, reason=reason))

    def _remember_shard(self) -> None:
        table, ingested = schema.shards, self._outcome.ingested
        key = {"run_id": self.run_id, "name": self._name, "sha256": self._sha256}
        same = (table.c.run_id == self.run_id) & (table.c.name == self._name) & (table.c.sha256 == self._sha256)
        if self.connection.execute(select(table.c.name).where(same)).first() is None:
            self.connection.execute(table.insert().values(**key, records=ingested, ingested_at=timestamp(self.log.now)))
        elif ingested:
            self.connection.execute(table.update().where(same).values(records=table.c.records + ingested))


def _to_store(record: KeyRecord, owner: str) -> NewRecord:
    return NewRecord(
        record_id=record.record_id,
        run_id=record.run_id,
        dataset=record.dataset,
        image_id=record.image_id,
        owner=owner,
        source_sha256=record.source_sha256,
        version=record.version,
        plaintext=record.canonical_bytes(),
    )
