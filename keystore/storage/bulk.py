"""Inserting many rows: SQLAlchemy compiles the statement, the driver binds the values, and nothing is done per row in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table


def insert_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the columns of the first. Values go to the driver as they are: texts, whole numbers, bytes."""
    if rows:
        statement, names = _statement(table, tuple(rows[0]), connection.dialect)
        if names is None:
            connection.exec_driver_sql(statement, [dict(row) for row in rows])
        else:
            connection.exec_driver_sql(statement, list(map(itemgetter(*names), rows)))


@lru_cache(maxsize=64)
def _statement(table: Table, names: tuple[str, ...], dialect: Dialect) -> tuple[str, tuple[str, ...] | None]:
    """The statement, and the order of its values where they are bound by position and not by name."""
    compiled = table.insert().compile(dialect=dialect, column_keys=list(names))
    return str(compiled), None if compiled.positiontup is None else tuple(compiled.positiontup)
