"""Ingest: sealed shards from the inbox become records in committing envelopes, one transaction and one log entry per shard.

A shard is removed from the inbox after its records are committed: the ingest key could open it as long as it lies there, and
erasure must not have to look for it. A process killed in between finds every record already present the next time. A copy of
a record that was erased, or that was made of an erased subject before the erasure, is not taken in again. A shard with a
record that was rejected, or that can not be read, stays for a person to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import sha256_hex, timestamp
from keystore.crypto.hybrid import HybridPrivateKey
from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake import runs
from keystore.intake.records import KeyRecord
from keystore.intake.report import RejectedRecord
from keystore.intake.sealing import open_record, parse_shard, sealed_header
from keystore.storage import schema
from keystore.vault.accounts import account
from keystore.vault.erasure import ErasureList
from keystore.vault.keyring import owner_tag
from keystore.vault.records import NewRecord, RecordVault, Stored


@dataclass
class ShardOutcome:
    """What became of one shard."""

    ingested: int = 0
    already_present: int = 0
    erased: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)


def ingest_shard(
    connection: Connection,
    log: LogWriter,
    vault: RecordVault,
    ingest_keys: Mapping[str, HybridPrivateKey],
    path: Path,
    run_id: str,
    data: bytes,
) -> ShardOutcome:
    """Take in one shard within a writing transaction, and log it. Raises TamperedError: a damaged shard, or an unknown run's."""
    name = path.name.removesuffix(path.suffix)
    shard_sha256 = sha256_hex(data)
    outcome = ShardOutcome()
    run = runs.find(connection, run_id)
    if run is None:
        raise TamperedError(
            f"shard {path} lies in the inbox of run {run_id}, which this keystore never opened one for; find out who put it there"
        )
    dataset = run.dataset
    stored, erased = Stored(log.size), ErasureList(connection, vault.index_key)
    for index, sealed in enumerate(parse_shard(data, str(path))):
        record_id: str | None = None
        try:
            header = sealed_header(sealed)
            record_id = header.record_id
            record = open_record(sealed, _key(ingest_keys, header.key_id))
            if record.run_id != run_id:
                raise InvalidRecordError(f"it belongs to run {record.run_id!r}, not to {run_id!r}")
            if record.dataset != (dataset or record.dataset):
                raise InvalidRecordError(
                    f"it names data set {record.dataset!r}, and run {run_id!r} adds to another one"
                )
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
        owner = owner_tag(vault.index_key, record.dataset, record.subject, record.image_id)
        if erased.holds(record.record_id, owner, record.created_at):
            outcome.erased.append(record.record_id)
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
        vault.store(connection, _to_store(record), dict(source), stored)
        outcome.ingested += 1
        dataset = record.dataset
    log.append(
        "ingest",
        already_present=outcome.already_present,
        erased=len(outcome.erased),
        ingested=outcome.ingested,
        keys=len(stored.keys),
        keys_account=account(stored.keys),
        records_account=account(stored.records),
        rejected=len(outcome.rejected),
        run=run_id,
        shard=name,
        shard_sha256=shard_sha256,
    )
    if dataset != run.dataset:
        runs.register(connection, log, run_id, dataset)
    _remember_shard(connection, run_id, name, shard_sha256, outcome.ingested, timestamp(log.now))
    return outcome


def _key(keys: Mapping[str, HybridPrivateKey], ident: str) -> HybridPrivateKey:
    if ident not in keys:
        raise InvalidRecordError(f"it is sealed to another ingest key ({ident[:16]}), or to one that was retired")
    return keys[ident]


def _to_store(record: KeyRecord) -> NewRecord:
    return NewRecord(
        record_id=record.record_id,
        run_id=record.run_id,
        dataset=record.dataset,
        image_id=record.image_id,
        subject=record.subject,
        source_sha256=record.source_sha256,
        version=record.version,
        plaintext=record.canonical_bytes(),
    )


def _remember_shard(connection: Connection, run_id: str, name: str, sha256: str, ingested: int, now: str) -> None:
    table = schema.shards
    same = (table.c.run_id == run_id) & (table.c.name == name) & (table.c.sha256 == sha256)
    if connection.execute(select(table.c.name).where(same)).first() is None:
        connection.execute(
            table.insert().values(run_id=run_id, name=name, sha256=sha256, records=ingested, ingested_at=now)
        )
    elif ingested:
        connection.execute(table.update().where(same).values(records=table.c.records + ingested))
