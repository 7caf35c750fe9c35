"""Inserting many rows: SQLAlchemy compiles the statement, the driver binds the values, and nothing is done per row in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table


def insert_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the columns of the first. Values go to the driver as they are: texts, whole numbers, bytes."""
    if rows:
        statement, names = _statement(table, tuple(rows[0]), connection.dialect)
        connection.exec_driver_sql(statement, [tuple(row[name] for name in names) for row in rows])


@lru_cache(maxsize=64)
def _statement(table: Table, names: tuple[str, ...], dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    compiled = table.insert().compile(dialect=dialect, column_keys=list(names))
    if compiled.positiontup is None:
        raise NotImplementedError(f"dialect {dialect.name} does not bind by position")
    return str(compiled), tuple(compiled.positiontup)
