"""Durations on the command line: a whole number and a unit, such as 30m, 2h or 1d."""

import re
from datetime import timedelta
from typing import Final

from keystore.decisions.policy import MAX_LIFETIME_CEILING_SECONDS

SHORTEST_GRANT: Final = timedelta(minutes=1)  # below this a grant expires before a second person has read the request
LONGEST_GRANT: Final = timedelta(
    seconds=MAX_LIFETIME_CEILING_SECONDS
)  # no policy allows more; the keystore's may allow less

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DURATION: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def parse_duration(text: str) -> timedelta:
    """Read `30m`, `2h`, `1d` or `1w`.

    Raises:
        ValueError: not a number and a unit, or outside [`SHORTEST_GRANT`, `LONGEST_GRANT`]; the message says what is allowed.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a whole number and m, h, d or w, such as 30m, 2h or 1d")
    duration = int(match[1]) * _UNITS[match[2]]
    if not SHORTEST_GRANT <= duration <= LONGEST_GRANT:
        raise ValueError(
            f"{text!r} is out of bounds: a grant lasts from {format_duration(SHORTEST_GRANT)} "
            f"to {format_duration(LONGEST_GRANT)}"
        )
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration as `parse_duration` reads it, in the largest unit that divides it; seconds where none does."""
    for unit in ("d", "h", "m"):
        count, rest = divmod(duration, _UNITS[unit])
        if count and not rest:
            return f"{count}{unit}"
    return f"{int(duration.total_seconds())}s"
