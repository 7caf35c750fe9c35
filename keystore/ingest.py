"""Ingest: sealed shards from the inbox become records in committing envelopes, one transaction and one log entry per shard.

A shard is removed from the inbox after its records are committed: the ingest key could open it as long as it lies
there, and erasure
must not have to look for it. A process killed in between finds every record already present the next time. A shard with a record
that was rejected, or that can not be read, stays for a person to look at.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Row, select

from keystore import envelope, schema
from keystore.audit.log import LogWriter
from keystore.canonical import canonical_json, sha256_hex, timestamp
from keystore.errors import InvalidRecordError, TamperedError
from keystore.hybrid import HybridPrivateKey
from keystore.keyring import SHRED_KIND, Keyring, owner_tag
from keystore.records import KeyRecord
from keystore.sealing import open_record, parse_shard, sealed_header
from keystore.views import RejectedRecord


@dataclass
class ShardOutcome:
    """What became of one shard."""

    ingested: int = 0
    already_present: int = 0
    rejected: list[RejectedRecord] = field(default_factory=list)


@dataclass(frozen=True)
class RecordVault:
    """Seals records under shred keys and opens them again; the only code that sees both."""

    keystore_id: str
    keyring: Keyring
    index_key: bytes = field(repr=False)

    def context(self, row: Row[tuple[object, ...]] | dict[str, object]) -> bytes:
        """Return the associated data of a record's envelope, from its row."""
        values = dict(row._mapping) if isinstance(row, Row) else row
        names = (
            "record_id",
            "run_id",
            "dataset",
            "image_id",
            "source_sha256",
            "record_version",
            "envelope_version",
            "shred_key_id",
        )
        return canonical_json(
            {"keystore": self.keystore_id, "type": "keyanon record v1"} | {name: values[name] for name in names}
        )

    def store(self, connection: Connection, record: KeyRecord, values: dict[str, object]) -> None:
        """Insert one record under its shred key; `values` are the columns that say where it came from."""
        shred_key_id, shred_key = self._shred_key(connection, record, str(values["ingested_at"]))
        row: dict[str, object] = values | {
            "record_id": record.record_id,
            "run_id": record.run_id,
            "dataset": record.dataset,
            "image_id": record.image_id,
            "source_sha256": record.source_sha256,
            "record_version": record.version,
            "envelope_version": envelope.ENVELOPE_VERSION,
            "shred_key_id": shred_key_id,
        }
        sealed = envelope.seal(shred_key, record.canonical_bytes(), self.context(row))
        connection.execute(schema.records.insert().values(**row, envelope=sealed))

    def open(self, connection: Connection, record_id: str) -> KeyRecord | None:
        """Return a record in clear, None when there is none. Raises TamperedError when row, key and envelope do not fit."""
        row = connection.execute(
            select(schema.records, schema.shred_keys.c.wrapped)
            .join(schema.shred_keys, schema.shred_keys.c.shred_key_id == schema.records.c.shred_key_id)
            .where(schema.records.c.record_id == record_id)
        ).first()
        if row is None:
            return None
        shred_key = self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        try:
            record = KeyRecord.from_canonical_bytes(envelope.open_envelope(shred_key, row.envelope, self.context(row)))
        except (envelope.EnvelopeError, InvalidRecordError) as error:
            raise TamperedError(
                f"record {record_id} in the database was altered ({error}); restore it from a backup"
            ) from error
        if (record.record_id, record.dataset, record.image_id) != (row.record_id, row.dataset, row.image_id):
            raise TamperedError(
                f"record {record_id} in the database is not the record its row names; restore it from a backup"
            )
        return record

    def _shred_key(self, connection: Connection, record: KeyRecord, now: str) -> tuple[str, bytes]:
        owner = owner_tag(self.index_key, record.dataset, record.subject, record.image_id)
        table = schema.shred_keys
        row = connection.execute(select(table).where(table.c.dataset == record.dataset, table.c.owner == owner)).first()
        if row is not None:
            return row.shred_key_id, self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        shred_key_id, key = os.urandom(16).hex(), os.urandom(envelope.KEY_BYTES)
        connection.execute(
            table.insert().values(
                shred_key_id=shred_key_id,
                dataset=record.dataset,
                owner=owner,
                wrapped=self.keyring.wrap(key, SHRED_KIND, shred_key_id),
                kek_version=self.keyring.kek_version,
                created_at=now,
            )
        )
        return shred_key_id, key


def ingest_shard(
    connection: Connection,
    log: LogWriter,
    vault: RecordVault,
    ingest_key: HybridPrivateKey,
    path: Path,
    run_id: str,
    data: bytes,
) -> ShardOutcome:
    """Take in one shard within a writing transaction, and log it. Raises TamperedError when the shard itself is damaged."""
    name = path.name.removesuffix(path.suffix)
    shard_sha256 = sha256_hex(data)
    outcome = ShardOutcome()
    stored = hashlib.sha256()
    for index, sealed in enumerate(parse_shard(data, str(path))):
        record_id: str | None = None
        try:
            record_id = sealed_header(sealed).record_id
            record = open_record(sealed, ingest_key)
            if record.run_id != run_id:
                raise InvalidRecordError(f"it belongs to run {record.run_id!r}, not to {run_id!r}")
            present = connection.execute(
                select(schema.records.c.sealed_sha256).where(schema.records.c.record_id == record.record_id)
            ).scalar()
            if present is not None and present != sha256_hex(sealed):
                raise InvalidRecordError(
                    "another record with this id is already stored; an id never changes its meaning"
                )
        except InvalidRecordError as error:
            outcome.rejected.append(RejectedRecord(shard=name, index=index, record_id=record_id, reason=str(error)))
            continue
        if present is not None:
            outcome.already_present += 1
            continue
        source = {
            "sealed_sha256": sha256_hex(sealed),
            "shard_name": name,
            "shard_sha256": shard_sha256,
            "ingested_at": timestamp(log.now),
        }
        vault.store(connection, record, dict(source))
        stored.update(f"{record.record_id} {source['sealed_sha256']}\n".encode())
        outcome.ingested += 1
    log.append(
        "ingest",
        already_present=outcome.already_present,
        ingested=outcome.ingested,
        records_sha256=stored.hexdigest(),
        rejected=len(outcome.rejected),
        run=run_id,
        shard=name,
        shard_sha256=shard_sha256,
    )
    _remember_shard(connection, run_id, name, shard_sha256, outcome.ingested, timestamp(log.now))
    return outcome


def _remember_shard(connection: Connection, run_id: str, name: str, sha256: str, ingested: int, now: str) -> None:
    table = schema.shards
    same = (table.c.run_id == run_id) & (table.c.name == name) & (table.c.sha256 == sha256)
    if connection.execute(select(table.c.name).where(same)).first() is None:
        connection.execute(
            table.insert().values(run_id=run_id, name=name, sha256=sha256, records=ingested, ingested_at=now)
        )
    elif ingested:
        connection.execute(table.update().where(same).values(records=table.c.records + ingested))
