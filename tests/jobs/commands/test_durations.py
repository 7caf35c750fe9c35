"""Durations on the command line: whole numbers with a unit, inside bounds."""

from datetime import timedelta

import pytest

from jobs.commands.durations import LONGEST_GRANT, SHORTEST_GRANT, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        (" 1d ", timedelta(days=1)),
        ("1w", timedelta(weeks=1)),
        ("1m", SHORTEST_GRANT),
    ],
)
def test_a_number_and_a_unit_are_read(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2 h", "-2h", "+2h", "1.5h", "2H", "2hours", "2h30m", "²h", "0x2h", "9" * 40 + "d"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 30m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0m", "0d", "367d", "999999w"])
def test_out_of_bounds_is_refused_with_the_bounds(text: str) -> None:
    with pytest.raises(ValueError, match="from 1m to 366d"):
        parse_duration(text)


@pytest.mark.parametrize("duration", [SHORTEST_GRANT, timedelta(hours=2), timedelta(minutes=90), LONGEST_GRANT])
def test_what_is_written_can_be_read_again(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
