"""Moving a keystore from SQLite into PostgreSQL: the same rows, the same log, and one moment from which the other is in force.

    1. the old database is locked, audited, and copied in one transaction of the new one, where each table's rows are digested
       again and the log is verified
    2. `database.uri` is published: from this rename on the directory's keystore is the new one
    3. the old database takes no entry of the log any more (a trigger), so that who still has it open can do nothing; it is put
       aside

Killed before the second step, the old one is in force as it was. Killed after it, the new one is; should somebody still have the
old one open, the witness, which both have, lets only one of the two go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, select

from keystore.errors import AuditError, StorageError
from keystore.storage import places, schema
from keystore.storage.bulk import insert_many
from keystore.storage.database import Database, check_schema
from keystore.storage.sqlite import DATABASE_NAME, SqliteDatabase
from keystore.verification.verify import log_problems, verify_audit

ROWS_AT_ONCE = 500
_CLOSED = (
    "CREATE TRIGGER log_closed BEFORE INSERT ON log BEGIN "
    "SELECT RAISE(ABORT, 'this keystore was moved to another database, open it again'); END"
)


def move(directory: Path, uri: str) -> int:
    """Move the keystore of a directory from its SQLite file into the empty PostgreSQL database `uri`; return how many rows went.

    As that database's owner. The directory stays: KEK file, published keys, witness, inbox. End the service and ingest first: who
    has the keystore open is refused from then on. Needs no KEK.
    Raises StorageError (no keystore in SQLite, a database that is not empty, somebody writes), SchemaError, AuditError (it is not
    what its log says, and stays where it is).
    """
    if not places.has_database(directory) or places.database_uri(directory) is not None:
        raise StorageError(f"{directory} has no keystore in SQLite that could be moved; check the path")
    new = places.new_copy(directory, uri)
    old = SqliteDatabase(directory / DATABASE_NAME)
    try:
        with old.write() as source:
            rows = _copy_all(source, directory, new)
            source.exec_driver_sql(_CLOSED)
            try:
                places.switch_database(directory, uri)
            except OSError as error:
                raise StorageError(
                    f"{directory} can not be written ({error.strerror}); nothing was moved. Mend it, make the new database "
                    "again, and move again"
                ) from error
        old.fold()
    finally:
        old.close()
        new.close()
    places.put_aside(directory)
    return rows


def _copy_all(source: Connection, directory: Path, new: Database) -> int:
    check_schema(source, str(directory / DATABASE_NAME))
    report = verify_audit(directory)
    if not report.ok:
        raise AuditError(f"a keystore that is not what its log says is not moved: {'; '.join(report.problems[:3])}")
    _check_empty(new)
    new.migrate()
    with new.write() as target:
        rows = sum(_copy(source, target, table) for table in schema.metadata.sorted_tables)
        vkey = str(target.execute(select(schema.identity.c.audit_vkey)).scalar_one())
        if problems := log_problems(target, vkey):
            raise AuditError(f"the copy is not what its log says ({'; '.join(problems[:3])}); nothing was moved")
    return rows


def _check_empty(new: Database) -> None:
    if not new.has_table(schema.identity.name):
        return
    with new.read() as connection:
        if connection.execute(select(func.count()).select_from(schema.identity)).scalar():
            raise StorageError(
                f"keystore database {new.name} is not empty: it has another keystore, or what a move that was cut short left. "
                "Make an empty one"
            )


@dataclass
class _Rows:
    """How many rows were seen, and the sum of their digests, whatever their order."""

    count: int = 0
    total: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.count += 1
        self.total += int.from_bytes(hashlib.sha256(repr(sorted(row.items())).encode()).digest(), "big")


def _copy(source: Connection, target: Connection, table: Table) -> int:
    sent, arrived = _Rows(), _Rows()
    query = select(table).execution_options(yield_per=ROWS_AT_ONCE)
    for some in source.execute(query).mappings().partitions():
        rows = [dict(row) for row in some]
        insert_many(target, table, rows)
        for row in rows:
            sent.add(row)
    for row in map(dict, target.execute(query).mappings()):
        arrived.add(row)
    if arrived != sent:
        raise StorageError(f"the rows of table {table.name} did not come through as they are; nothing was moved")
    return sent.count
