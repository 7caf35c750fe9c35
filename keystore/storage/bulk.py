"""Many rows at once: found by the values of a column, or how these begin, and inserted.

To insert, SQLAlchemy compiles the statement, the driver binds the values, and nothing is done per row in between.

PostgreSQL gets many rows as a binary array for each column: half the work of a statement for each row, here and there. COPY would
be less still; it is refused where there are rules for rows, as there are for ingest (infra/postgresql/roles.sql).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Dialect, Row, Select, Table, or_

VALUES_PER_QUERY = 500
BEGINS_PER_QUERY = 100


def rows_with(
    connection: Connection, query: Select[Any], column: Column[str], values: Sequence[str] | None
) -> list[Row[Any]]:
    """Return the rows of a query that have one of these values in a column; all, if None."""
    if values is None:
        return list(connection.execute(query))
    parts = [values[start : start + VALUES_PER_QUERY] for start in range(0, len(values), VALUES_PER_QUERY)]
    return [row for part in parts for row in connection.execute(query.where(column.in_(part)))]


def rows_beginning(
    connection: Connection, query: Select[Any], column: Column[str], begins: Sequence[str]
) -> list[Row[Any]]:
    """Return the rows of a query whose texts in a column begin with one of these, which end in ASCII; a row may come twice.

    An index by the column finds them; in PostgreSQL one of `varchar_pattern_ops`, byte by byte, whatever the database's order.
    """
    found: list[Row[Any]] = []
    for start in range(0, len(begins), BEGINS_PER_QUERY):
        each = (_begins(connection, column, one) for one in begins[start : start + BEGINS_PER_QUERY])
        found += connection.execute(query.where(or_(*each)))
    return found


def _begins(connection: Connection, column: Column[str], begin: str) -> ColumnElement[bool]:
    beyond = begin[:-1] + chr(ord(begin[-1]) + 1)
    if connection.dialect.name == "postgresql":
        return column.bool_op("~>=~")(begin) & column.bool_op("~<~")(beyond)
    return (column >= begin) & (column < beyond)


def insert_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the columns of the first. Values go to the driver as they are: texts, whole numbers, bytes."""
    if not rows:
        return
    names = tuple(rows[0])
    if connection.dialect.name == "postgresql" and len(rows) > 1:
        columns = [[row[name] for row in rows] for name in names]
        # Of a column with nothing in it the driver can not tell what it is an array of.
        if all(column.count(None) < len(column) for column in columns):
            connection.exec_driver_sql(_by_columns(table, names, connection.dialect), tuple(columns))
            return
    statement, order = _statement(table, names, connection.dialect)
    if order is None:
        connection.exec_driver_sql(statement, [dict(row) for row in rows])
    else:
        connection.exec_driver_sql(statement, list(map(itemgetter(*order), rows)))


@lru_cache(maxsize=64)
def _by_columns(table: Table, names: tuple[str, ...], dialect: Dialect) -> str:
    """The statement, with a place for an array of each column's values (psycopg's `%b`: in binary)."""
    quoted = dialect.identifier_preparer
    into = ", ".join(quoted.format_column(table.c[name]) for name in names)
    arrays = ", ".join(f"%b::{table.c[name].type.compile(dialect=dialect)}[]" for name in names)
    return f"INSERT INTO {quoted.format_table(table)} ({into}) SELECT * FROM unnest({arrays})"  # noqa: S608  # names of our own tables


@lru_cache(maxsize=64)
def _statement(table: Table, names: tuple[str, ...], dialect: Dialect) -> tuple[str, tuple[str, ...] | None]:
    """The statement, and the order of its values where they are bound by position and not by name."""
    compiled = table.insert().compile(dialect=dialect, column_keys=list(names))
    return str(compiled), None if compiled.positiontup is None else tuple(compiled.positiontup)
