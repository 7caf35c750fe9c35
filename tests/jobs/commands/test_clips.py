"""`keyanon clips`, on an output whose rows are written by hand."""

import json
from pathlib import Path

import pytest

from jobs.commands.cli import main
from jobs.commands.clips import _seconds
from jobs.output.clip_tracks import ClipTrack, read_tracks, write_tracks
from jobs.storage.opening import open_store


@pytest.mark.parametrize(("text", "seconds"), [("75", 75.0), ("1:15", 75.0), ("0:01:15.5", 75.5), (" 2 ", 2.0)])
def test_times_are_seconds_or_have_colons(text: str, seconds: float) -> None:
    assert _seconds(text, "--from") == seconds


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4", "-1", "1h"])
def test_what_is_no_time_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", str(tmp_path), "a.mp4", "--from", text]) != 0
    assert capsys.readouterr().err


def test_times_and_ids_are_of_one_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", str(tmp_path), "--ids"]) == 2
    assert "--from, --to, --track, --ids and --page" in capsys.readouterr().err


def test_what_is_no_output_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", str(tmp_path / "none"), "--json"]) != 0
    assert "is not the output of a keyanon run" in json.loads(capsys.readouterr().out)["message"]


def test_tracks_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    track = ClipTrack(0, 0.0, 1.5, 30, 2, ((0, 20), (30, 38)), 4, (1, 2, 30, 40))
    write_tracks(store, {"a/b.mp4": [track]})
    assert read_tracks(store, "a/b.mp4") == [track] and read_tracks(store, "b.mp4") == []
    write_tracks(store, {"a/b.mp4": []})
    assert read_tracks(store, "a/b.mp4") == []
