"""Whole clips: joined once every piece is there, left as they are while nothing changes, and made anew where something did."""

import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from jobs.blocks import ENCODED, FACE_COUNT, FAILURE, FIDELITY, ID, OUTPUT, RECORD_ID, ROW, SEALED, SIDECAR, STATUS
from jobs.output.clip_tracks import read_tracks, write_tracks
from jobs.output.joined import CLIPS, Audio, Joined, join_clips
from jobs.output.layout import OutputLayout
from jobs.sources.clips import Clips
from jobs.sources.source import open_source
from keyanon_core.clips.encoding import encode_piece
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from tests.jobs.conftest import MakeConfig
from tests.jobs.publishing import Place, before_operation, block, quarantined
from tests.jobs.tiny_clips import tiny_clip

av = pytest.importorskip("av", reason="clips take keyanon[video]")
FRAMES = 40


@pytest.fixture(scope="session")
def heard_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4", sound=True)


@pytest.fixture
def source(tmp_path: Path, heard_clip: bytes, make_config: MakeConfig) -> Clips:
    """Two clips of two pieces each."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.mp4", "sub/b ü.mp4"):
        (tmp_path / "photos" / name).write_bytes(heard_clip)
    return listed(make_config)


def listed(make_config: MakeConfig) -> Clips:
    source = open_source(make_config())
    assert isinstance(source, Clips)
    return source


@pytest.fixture
def out(place: Place) -> Place:
    place.layout = OutputLayout(place.out, "same")
    return place


def published(encoded: bytes) -> bytes:
    """A piece as a run would publish it, of faces or none."""
    piece = Piece.from_bytes(encoded)
    return encode_piece(decode_piece(piece, 10**7), piece.form, piece.until)


def results(place: Place, source: Clips, missing: dict[int, str] | None = None) -> list[dict[str, Any]]:
    """Rows of all pieces. missing: reasons why some are quarantined."""
    rows = []
    for unit in source.units((), lambda left: 10):
        for read in (row for table in unit.read() for row in table.to_pylist()):
            reason = (missing or {}).get(read[ROW]) or read[FAILURE]
            made = quarantined(read[ROW], read[ID], reason) if reason else None
            rows.append(made or place.result(read[ROW], read[ID], published(read[ENCODED])))
    return rows


def run(place: Place, source: Clips, missing: dict[int, str] | None = None) -> None:
    with place.attempt() as attempt:
        attempt.run([results(place, source, missing)], source.total)


def join(place: Place, source: Clips, audio: Audio = "drop") -> Joined:
    return join_clips(place.layout.store, source, audio)


def of_clips(place: Place) -> set[str]:
    folder = place.out / CLIPS
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def tracks_of(path: Path) -> tuple[int, int]:
    """Frames, and sound tracks."""
    with av.open(str(path)) as opened:
        return sum(1 for _ in opened.decode(video=0)), len(opened.streams.audio)


def stamps(place: Place) -> dict[str, tuple[int, int]]:
    seen = {name: (place.out / CLIPS / name).stat() for name in of_clips(place)}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in seen.items()}


BOTH = {"a.mp4", "a.mp4.json", "sub/b ü.mp4", "sub/b ü.mp4.json"}


def test_a_clip_is_joined_of_all_its_pieces_without_sound(out: Place, source: Clips) -> None:
    run(out, source)
    assert join(out, source) == Joined(["a.mp4", "sub/b ü.mp4"], {})
    assert of_clips(out) == BOTH
    assert [tracks_of(out.out / CLIPS / name) for name in ("a.mp4", "sub/b ü.mp4")] == [(FRAMES, 0)] * 2


def test_a_clip_of_which_a_piece_is_quarantined_is_not_joined(out: Place, source: Clips) -> None:
    run(out, source, {1: "corrupt: x"})
    assert join(out, source) == Joined(["sub/b ü.mp4"], {"a.mp4": "corrupt: x"})
    assert of_clips(out) == {"sub/b ü.mp4", "sub/b ü.mp4.json"}


def test_a_clip_of_which_a_piece_has_no_row_yet_says_so(out: Place, source: Clips) -> None:
    with out.attempt() as attempt:
        publisher = attempt.publisher([0])
        publisher.open()
        attempt.sink().stage(block(results(out, source)[1:]))
        publisher.publish_complete()
    assert join(out, source).missing == {"a.mp4": "incomplete: a piece of it has no row yet"}


def test_a_clip_that_could_not_be_read_says_why(
    tmp_path: Path, out: Place, source: Clips, make_config: MakeConfig
) -> None:
    (tmp_path / "photos" / "bad.mp4").write_bytes(b"x")
    with_bad = listed(make_config)
    run(out, with_bad)
    found = join(out, with_bad)
    assert found.clips == ["a.mp4", "sub/b ü.mp4"]
    assert found.missing["bad.mp4"].startswith("not_a_clip: ")


def test_joined_clips_stay_while_nothing_changes(out: Place, source: Clips) -> None:
    run(out, source)
    first, before = join(out, source), stamps(out)
    assert join(out, source) == first
    assert stamps(out) == before


def elsewhere(tmp_path: Path, place: Place) -> Place:
    """Another output, of the same keystore, with the clips of the first one, as if it had joined them."""
    other = Place(tmp_path / "other", place.keystore)
    other.layout = OutputLayout(other.out, "same")
    shutil.copytree(place.out / CLIPS, other.out / CLIPS)
    return other


def test_a_clip_is_made_anew_where_a_piece_has_another_record(tmp_path: Path, out: Place, source: Clips) -> None:
    run(out, source)
    join(out, source)
    before, other = stamps(out), elsewhere(tmp_path, out)
    run(other, source)
    join(other, source)
    facts = [(place.out / CLIPS / "a.mp4.json").read_bytes() for place in (out, other)]
    assert facts[0] != facts[1]
    assert of_clips(other) == BOTH and stamps(out) == before


def test_a_clip_without_anybody_is_made_anew_where_a_piece_shows_something_else(
    tmp_path: Path, out: Place, source: Clips, make_config: MakeConfig
) -> None:
    def without_anybody(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nobody = {STATUS: "no_face", FACE_COUNT: 0, RECORD_ID: None, SEALED: None, SIDECAR: None, FIDELITY: None}
        return [{**row, **nobody} for row in rows]

    with out.attempt() as attempt:
        attempt.run([without_anybody(results(out, source))], source.total)
    join(out, source)
    other = elsewhere(tmp_path, out)
    tiny_clip(tmp_path / "photos" / "a.mp4", shade=90)
    changed = listed(make_config)
    with other.attempt() as attempt:
        attempt.run([without_anybody(results(other, changed))], changed.total)
    join(other, changed)
    with av.open(str(other.out / CLIPS / "a.mp4")) as opened:
        first = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert abs(float(first.mean()) - 90) < 5


def test_sound_comes_and_goes_with_its_setting(out: Place, source: Clips) -> None:
    run(out, source)
    for audio, sounds in (("keep", 1), ("drop", 0), ("keep", 1)):
        join(out, source, audio)
        assert tracks_of(out.out / CLIPS / "a.mp4") == (FRAMES, sounds)


@pytest.mark.parametrize("afterwards", ["drop", "keep"])
def test_a_join_that_was_killed_at_any_operation_is_made_good(
    tmp_path: Path,
    out: Place,
    source: Clips,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    afterwards: Audio,
) -> None:
    """Killed while the sound of an earlier join is taken away or brought back: what then is asked for is what lies there."""
    shutil.rmtree(tmp_path / "photos" / "sub")
    tiny_clip(tmp_path / "photos" / "a.mp4", frames=2, sound=True)
    source = listed(make_config)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    run(out, source)
    earlier: Audio = "drop"
    for number in count():
        join(out, source, earlier)
        meanwhile: Audio = "keep" if earlier == "drop" else "drop"
        with before_operation(number) as was_killed:
            join(out, source, meanwhile)
        if not was_killed():
            assert number > 5
            break
        assert join(out, source, afterwards) == Joined(["a.mp4"], {})
        assert tracks_of(out.out / CLIPS / "a.mp4") == (2, afterwards == "keep"), number
        assert {"a.mp4", "a.mp4.json"} == {name for name in of_clips(out) if not name.endswith(".tmp")}, number
        earlier = afterwards


def test_pieces_that_are_not_of_one_clip_are_not_joined(out: Place, source: Clips) -> None:
    rows = results(out, source)
    rows[1] = out.result(1, rows[1][ID], rows[0][OUTPUT])  # its first piece twice
    with out.attempt() as attempt:
        attempt.run([rows], source.total)
    found = join(out, source)
    assert found.clips == ["sub/b ü.mp4"]
    assert found.missing["a.mp4"].startswith("corrupt: two of its pieces overlap in time")
    assert of_clips(out) == {"sub/b ü.mp4", "sub/b ü.mp4.json"}


def test_a_clip_with_the_longest_name_there_is_can_be_joined(
    tmp_path: Path, out: Place, heard_clip: bytes, make_config: MakeConfig
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"{'n' * 251}.mp4").write_bytes(heard_clip)
    source = listed(make_config)
    run(out, source)
    assert join(out, source).clips == [f"{'n' * 251}.mp4"]
    clip, facts = sorted(of_clips(out))
    assert clip.endswith(".mp4") and facts == f"{clip}.json"
    write_tracks(out.layout.store, {f"{'n' * 251}.mp4": []})
    assert read_tracks(out.layout.store, f"{'n' * 251}.mp4") == []
