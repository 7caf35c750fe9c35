"""Does the keystore hold what its log says: every record, envelope, shred key, owner and erasure, and nothing else?

Reads every envelope once, and opens none.
"""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, select

from keystore.intake.runs import run_digest
from keystore.storage import schema
from keystore.vault.accounts import KEY_KIND, RECORD_KIND, account, key_digest, record_digest
from keystore.vault.erasure import erasure_digest
from keystore.verification.leaves import guarded
from keystore.verification.replay import LoggedState


def holdings_problems(connection: Connection, logged: LoggedState) -> list[str]:
    """Return where the stored records and keys are not those of the log: nothing, when all is well."""
    problems: list[str] = []
    for check in (_check_shards, _check_accounts, _check_erasures):
        guarded(lambda check=check: check(connection, logged, problems), problems)  # type: ignore[misc]
    return problems


def _check_accounts(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
    held: defaultdict[tuple[str, int | None], list[str]] = defaultdict(list)
    for row in connection.execute(select(schema.records).execution_options(yield_per=100)):
        held[RECORD_KIND, row.entry].append(record_digest(row._asdict()))
    for row in connection.execute(select(schema.shred_keys)):
        held[KEY_KIND, row.entry].append(key_digest(row._asdict()))
    for row in connection.execute(select(schema.erased)):
        held[row.kind, row.entry].append(row.digest)
    for entry, said in logged.accounts.items():
        for kind, expected in ((RECORD_KIND, said.records), (KEY_KIND, said.keys)):
            if account(held.pop((kind, entry), [])) != expected:
                problems.append(
                    f"the {kind}s that entry {entry} stored are not those that are held: one was altered, dropped or added"
                )
    for kind, entry_held in sorted(held, key=str):
        count = len(held[kind, entry_held])
        problems.append(f"{count} {kind}(s) are held that no entry of the log accounts for (it says {entry_held})")


def _check_erasures(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
    gone: defaultdict[int, list[str]] = defaultdict(list)
    for row in connection.execute(select(schema.erased)):
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
    if lines or gone:
        problems.append("something is marked as erased that no entry of the log erased")


def _check_shards(connection: Connection, logged: LoggedState, problems: list[str]) -> None:
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
