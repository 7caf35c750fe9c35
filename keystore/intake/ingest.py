"""Ingest: sealed shards from the inbox become records in committing envelopes, one transaction and one log entry per shard.

A shard is removed from the inbox after its records are committed: the ingest key could open it as long as it lies there, and
erasure must not have to look for it. A process killed in between finds every record already present the next time. A copy of
a record that was erased, or that was made of an erased subject before the erasure, is not taken in again. A shard with a
record that was rejected, or that can not be read, stays for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import sha256_hex, timestamp
from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake import runs
from keystore.intake.receipts import Receipt
from keystore.intake.report import RejectedRecord
from keystore.intake.sealing import Opener, named_record
from keystore.intake.shards import Parts, shard_parts
from keystore.storage import schema
from keystore.vault.erasure import ErasureList, remember_refused
from keystore.vault.keyring import owner_tag
from keystore.vault.parts import whole_id
from keystore.vault.storing import Batch, NewRecord, Prepared, RecordStore

CHUNK_RECORDS = 500  # looked up and inserted by one statement each
RECORDS_AHEAD = 10_000  # of a shard, opened and sealed again before the transaction begins; the others within it


@dataclass
class ShardOutcome:
    """What became of one shard."""

    ingested: int = 0
    already_present: int = 0
    stored: list[str] = field(default_factory=list)  # ids of both
    erased: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Opened:
    """One record of a shard, opened, and sealed again under its shred key."""

    index: int
    made_at: datetime
    prepared: Prepared


class ShardIntake:
    """Takes in one shard: opens it, then stores it within a writing transaction. Raises TamperedError: a damaged shard."""

    def __init__(
        self, store: RecordStore, index_key: bytes, opener: Opener, run_id: str, path: Path, data: bytes
    ) -> None:
        self._store, self._index_key, self._opener = store, index_key, opener
        self._run_id, self._path = run_id, path
        self._name = path.name.removesuffix(path.suffix)
        self._sha256 = sha256_hex(data)
        self._outcome = ShardOutcome()
        records = self._open(enumerate(shard_parts(data, str(path))))
        self._records = chain(list(islice(records, RECORDS_AHEAD)), records)

    def take(self, connection: Connection, log: LogWriter) -> ShardOutcome:
        """Take in the shard, and log it. Raises TamperedError: it is an unknown run's."""
        run = runs.find(connection, self._run_id)
        if run is None:
            raise TamperedError(
                f"shard {self._path} lies in the inbox of run {self._run_id}, which this keystore never opened one for; "
                "find out who put it there"
            )
        self._dataset = run.dataset
        erased = ErasureList(connection, self._index_key)
        batch = self._store.begin(connection, log)
        while chunk := list(islice(self._records, CHUNK_RECORDS)):
            self._take_some(connection, chunk, batch, erased)
        outcome = self._outcome
        outcome.rejected.sort(key=lambda one: one.index)
        refused = remember_refused(connection, log, self._index_key, outcome.erased)
        log.append(
            "ingest",
            already_present=outcome.already_present,
            erased=len(outcome.erased),
            ingested=outcome.ingested,
            refused_account=refused,
            rejected=len(outcome.rejected),
            run=self._run_id,
            shard=self._name,
            shard_sha256=self._sha256,
            **batch.finish(),
        )
        if self._dataset != run.dataset:
            runs.register(connection, log, self._run_id, self._dataset)
        self._remember_shard(connection, timestamp(log.now))
        return outcome

    def receipt(self, outcome: ShardOutcome) -> Receipt:
        """Return what whoever left the shard may know of it, once it is committed."""
        return Receipt(
            run_id=self._run_id,
            shard=self._name,
            shard_sha256=self._sha256,
            stored=outcome.stored,
            erased=outcome.erased,
            rejected=outcome.rejected,
        )

    def _open(self, numbered: Iterable[tuple[int, Parts]]) -> Iterator[_Opened]:
        for index, (head, rest) in numbered:
            try:
                record, plaintext = self._opener.open(head, rest)
                if record.run_id != self._run_id:
                    raise InvalidRecordError(f"it belongs to run {record.run_id!r}, not to {self._run_id!r}")
            except InvalidRecordError as error:
                self._reject(index, named_record(head, rest), str(error))
                continue
            new = NewRecord(
                record_id=record.record_id,
                run_id=record.run_id,
                dataset=record.dataset,
                image_id=record.image_id,
                owner=owner_tag(self._index_key, record.dataset, record.subject, record.image_id),
                source_sha256=record.source_sha256,
                sealed_sha256=self._opener.sha256_hex(head, rest),
                version=record.version,
                plaintext=plaintext,
            )
            yield _Opened(index, record.created_at, self._store.prepare(new))

    def _take_some(self, connection: Connection, opened: Sequence[_Opened], batch: Batch, erased: ErasureList) -> None:
        present = self._present(connection, [one.prepared.record.record_id for one in opened])
        gone = erased.among(
            (one.prepared.record.record_id, owner, one.made_at)
            for one in opened
            for owner in self._owners(one.prepared.record)
        )
        outcome = self._outcome
        for one in opened:
            record = one.prepared.record
            record_id, sealed_sha256 = record.record_id, record.sealed_sha256
            if record.dataset != (self._dataset or record.dataset):
                reason = f"it names data set {record.dataset!r}, and run {self._run_id!r} adds to another one"
                self._reject(one.index, record_id, reason)
            elif present.get(record_id, sealed_sha256) != sealed_sha256:
                reason = "another record with this id is already stored; an id never changes its meaning"
                self._reject(one.index, record_id, reason)
            elif record_id in gone:
                outcome.erased.append(record_id)
            elif record_id in present:
                outcome.already_present += 1
                outcome.stored.append(record_id)
            else:
                batch.add(one.prepared, self._name, self._sha256)
                present[record_id] = sealed_sha256
                outcome.ingested += 1
                outcome.stored.append(record_id)
                self._dataset = record.dataset
        batch.write()

    def _owners(self, record: NewRecord) -> Iterator[str]:
        """As whose a record is erased: its own, and its whole image's where it is of a part of one, and of no subject."""
        yield record.owner
        whole = whole_id(record.image_id)
        if whole is not None and record.owner == owner_tag(self._index_key, record.dataset, None, record.image_id):
            yield owner_tag(self._index_key, record.dataset, None, whole)

    def _present(self, connection: Connection, record_ids: Sequence[str]) -> dict[str, str]:
        table = schema.records
        query = select(table.c.record_id, table.c.sealed_sha256).where(table.c.record_id.in_(record_ids))
        return {row.record_id: row.sealed_sha256 for row in connection.execute(query)}

    def _reject(self, index: int, record_id: str | None, reason: str) -> None:
        self._outcome.rejected.append(RejectedRecord(shard=self._name, index=index, record_id=record_id, reason=reason))

    def _remember_shard(self, connection: Connection, now: str) -> None:
        table, ingested = schema.shards, self._outcome.ingested
        key = {"run_id": self._run_id, "name": self._name, "sha256": self._sha256}
        same = (table.c.run_id == self._run_id) & (table.c.name == self._name) & (table.c.sha256 == self._sha256)
        if connection.execute(select(table.c.name).where(same)).first() is None:
            connection.execute(table.insert().values(**key, records=ingested, ingested_at=now))
        elif ingested:
            connection.execute(table.update().where(same).values(records=table.c.records + ingested))
