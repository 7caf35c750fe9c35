"""Does the keystore hold what its log says: every record, envelope, shred key, pseudonym, owner and erasure, and nothing else?

Reads every envelope once, and opens none.
"""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, select

from keystore.intake.runs import run_digest
from keystore.storage import schema
from keystore.vault.accounts import (
    RECORD_KIND,
    REFUSED_KIND,
    account,
    epoch_digest,
    key_digest,
    pseudonym_digest,
    record_digest,
    refused_digest,
)
from keystore.vault.erasure import erasure_digest
from keystore.verification.leaves import guarded
from keystore.verification.replay_holdings import LoggedEpoch, LoggedHoldings


def holdings_problems(connection: Connection, logged: LoggedHoldings) -> list[str]:
    """Return where the stored records and keys are not those of the log: nothing, when all is well."""
    problems: list[str] = []
    for check in (_check_shards, _check_records, _check_epochs, _check_keys, _check_erasures):
        guarded(lambda check=check: check(connection, logged, problems), problems)  # type: ignore[misc]
    return problems


def _check_records(connection: Connection, logged: LoggedHoldings, problems: list[str]) -> None:
    held: defaultdict[int | None, list[str]] = defaultdict(list)
    for row in connection.execute(select(schema.records).execution_options(yield_per=100)):
        held[row.entry].append(record_digest(row._asdict()))
    for row in connection.execute(select(schema.erased).where(schema.erased.c.kind == RECORD_KIND)):
        held[row.entry].append(row.digest)
    for entry, expected in logged.records.items():
        if account(held.pop(entry, [])) != expected:
            problems.append(
                f"the records that entry {entry} stored are not those that are held: one was altered, dropped or added"
            )
    for entry_held in sorted(held, key=str):
        count = len(held[entry_held])
        problems.append(f"{count} record(s) are held that no entry of the log accounts for (it says {entry_held})")


def _check_keys(connection: Connection, logged: LoggedHoldings, problems: list[str]) -> None:
    held: defaultdict[tuple[int | None, str | None], list[str]] = defaultdict(list)
    for table, digest in ((schema.shred_keys, key_digest), (schema.pseudonyms, pseudonym_digest)):
        for row in connection.execute(select(table).execution_options(yield_per=100)):
            held[row.entry, row.epoch_id].append(digest(row._asdict()))
    for (entry, epoch_id), said in logged.keys.items():
        digests = held.pop((entry, epoch_id), [])
        if (len(digests), account(digests)) != (said.keys, said.account):
            problems.append(
                f"the keys that entry {entry} stored under epoch {epoch_id} are not those that are held: one was altered, "
                "dropped or added"
            )
    for place in sorted(held, key=str):
        problems.append(f"{len(held[place])} key(s) are held that no entry of the log accounts for (it says {place})")
    keys, records = schema.shred_keys, schema.records
    orphans = select(records.c.record_id).where(records.c.shred_key_id.not_in(select(keys.c.shred_key_id)))
    if connection.execute(orphans.limit(1)).first() is not None:
        problems.append("a record is held whose shred key is not")


def _check_epochs(connection: Connection, logged: LoggedHoldings, problems: list[str]) -> None:
    held = {
        row.epoch_id: LoggedEpoch(row.purpose, row.state, epoch_digest(row._asdict()))
        for row in connection.execute(select(schema.epoch_keys))
    }
    for ident in sorted(held.keys() | logged.epochs.keys()):
        if held.get(ident) != logged.epochs.get(ident):
            problems.append(
                f"epoch {ident} is not as the log says: its key was altered, dropped, added or brought back"
            )


def _check_erasures(connection: Connection, logged: LoggedHoldings, problems: list[str]) -> None:
    gone: defaultdict[int, list[str]] = defaultdict(list)
    refused: defaultdict[int, list[str]] = defaultdict(list)
    for row in connection.execute(select(schema.erased)):
        if row.kind == REFUSED_KIND:
            refused[row.entry].append(refused_digest(row.tag, row.entry))
            continue
        gone[row.erased_entry].append(row.digest)
        if row.kind == RECORD_KIND and row.tag is None:
            problems.append(f"a record that entry {row.erased_entry} erased would not be recognised if it came back")
    lines = {row.entry: row for row in connection.execute(select(schema.erasures))}
    for entry, said in logged.erasures.items():
        line = lines.pop(entry, None)
        if line is None or erasure_digest(line.dataset, line.owner, line.erased_at) != said.line:
            problems.append(f"the erasure of entry {entry} is not on the erasure list: what it erased could come back")
        if account(gone.pop(entry, [])) != said.account:
            problems.append(f"what entry {entry} erased is not what is marked as erased")
    for entry, expected in logged.refused.items():
        if account(refused.pop(entry, [])) != expected:
            problems.append(f"the erased records that entry {entry} refused are not those that are remembered")
    if lines or gone or refused:
        problems.append("something is marked as erased that no entry of the log erased")


def _check_shards(connection: Connection, logged: LoggedHoldings, problems: list[str]) -> None:
    table, records = schema.shards, schema.records
    stored = {(row.run_id, row.name, row.sha256): row.records for row in connection.execute(select(table))}
    if stored != logged.shards:
        problems.append("the ingested shards are not those of the log")
    runs = {row.run_id: row for row in connection.execute(select(schema.runs))}
    if {name: run_digest(name, row.dataset, row.salt) for name, row in runs.items()} != logged.runs:
        problems.append("the registered runs, or the data sets they add to, are not those of the log")
    for run_id, dataset in connection.execute(select(records.c.run_id, records.c.dataset).distinct()):
        if run_id in runs and runs[run_id].dataset not in (None, dataset):
            problems.append(f"records of data set {dataset!r} are held of run {run_id}, which adds to another one")
