"""Reading a database that anyone may have edited: whatever is wrong with it is a finding, and the reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, select, true

from keystore.errors import TamperedError
from keystore.storage import schema


def guarded(check: Callable[[], None], problems: list[str]) -> None:
    """Run one check. An edited row can hold anything; what the check stumbles over is a problem, and the others go on."""
    try:
        check()
    except (TamperedError, TypeError, ValueError, AttributeError, LookupError) as error:
        problems.append(f"a table holds what this program never wrote ({error})")


def leaves_from(connection: Connection, start: int, problems: list[str]) -> Iterator[bytes]:
    """Yield the leaves of the log from entry `start` on, as far as they can be read in order."""
    table, expected = schema.log, start
    rows = select(table).where(table.c.seq >= start if start else true()).order_by(table.c.seq)
    try:
        for row in connection.execute(rows.execution_options(yield_per=1000)):
            if row.seq != expected:
                problems.append(f"the log has entry {row.seq} where entry {expected} should be")
                return
            yield row.leaf
            expected += 1
    except TamperedError as error:
        problems.append(f"entry {expected} of the log is not readable: {error}")
