"""Reading a database that anyone may have edited: whatever is wrong with it is a finding, and the reading goes on."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from keystore.errors import TamperedError
from keystore.storage import schema


def guarded(check: Callable[[], None], problems: list[str]) -> None:
    """Run one check. An edited row can hold anything; what the check stumbles over is a problem, and the others go on."""
    try:
        check()
    except (TamperedError, TypeError, ValueError, AttributeError, LookupError) as error:
        problems.append(f"a table holds what this program never wrote ({error})")


def read_leaves(connection: Connection, problems: list[str]) -> list[bytes]:
    """Return the leaves of the log, as far as they can be read in order."""
    leaves: list[bytes] = []
    try:
        for expected, row in enumerate(connection.execute(select(schema.log).order_by(schema.log.c.seq))):
            if row.seq != expected:
                problems.append(f"the log has entry {row.seq} where entry {expected} should be")
                break
            leaves.append(row.leaf)
    except TamperedError as error:
        problems.append(f"entry {len(leaves)} of the log is not readable: {error}")
    return leaves
