"""Triggers that refuse a change, as each database writes them: against accidents; what finds intent is the Merkle tree."""

from __future__ import annotations

from alembic import op


def refuse(name: str, table: str, event: str, message: str, when: str | None = None) -> None:
    """Within a migration: refuse what `event` (such as DELETE, or UPDATE OF a column) would do to a row of `table`."""
    condition = "" if when is None else f"WHEN ({when}) "
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$refuse$ BEGIN RAISE EXCEPTION '{message}'; END $refuse$"
        )
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {condition}EXECUTE FUNCTION {name}()")
    else:
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {event} ON {table} {condition}BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )


def append_only(*tables: str) -> None:
    """Within a migration: let no row of these tables be changed or go."""
    for table in tables:
        for event in ("UPDATE", "DELETE"):
            refuse(f"{table}_no_{event.lower()}", table, event, f"{table} is append-only")
