"""Output for people and for programs."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.commands.printing import Output, facts, format_bytes, table, visible


def test_control_and_direction_characters_are_made_visible() -> None:
    assert visible("ok\x1b[2J") == r"ok\x1b[2J"
    assert visible("a\u202eb\u200bc\x9bd\r") == r"a\u202eb\u200bc\x9bd\r"
    assert visible("Zoë\n\tümlaut 名前") == "Zoë\n\tümlaut 名前"


def test_tables_show_cells_literally_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    record = "0" * 100
    Output().result({}, table("t", ("a", "b"), [("[bold]x[/bold]", record)]), facts("f", {"name": "\x1b]0;evil\x07"}))
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert record in out
    assert "\x1b" not in out
    assert "\x07" not in out


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.as_json = True
    output.note("for people")
    when = datetime(2026, 1, 2, tzinfo=UTC)
    output.result({"when": when, "where": Path("a/b"), "set": frozenset({"b", "a"})}, "never shown")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"when": "2026-01-02T00:00:00+00:00", "where": "a/b", "set": ["a", "b"]}
    assert captured.err == "for people\n"


def test_an_unknown_type_in_a_document_is_refused_rather_than_printed() -> None:
    output = Output()
    output.as_json = True
    with pytest.raises(TypeError, match="no JSON form"):
        output.result({"key": object()})


def test_sizes_are_readable() -> None:
    assert [format_bytes(n) for n in (0, 812, 1536, 5 * 2**20, 3 * 2**40, 2**60)] == [
        "0 B",
        "812 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
        "1048576.0 TiB",
    ]
