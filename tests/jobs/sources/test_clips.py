"""Clips as a source, without Ray: each piece is a row that decodes, and what can not be used is a row with a reason."""

import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.blocks import ENCODED, FAILURE, GIVEN, ID, ROW, SUBJECT, VERSION
from jobs.errors import SourceError
from jobs.sources.clips import Clips
from jobs.sources.source import Source, open_source
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.piece import Piece
from tests.jobs.conftest import MakeConfig
from tests.jobs.seaweed import BUCKET, Seaweed
from tests.jobs.tiny_clips import HEIGHT, WIDTH, sound_alone, tiny_clip

MAX_PIXELS = 10**7
SECOND_PIECE = "000001280"  # ms at which frame 32 is seen


def read_all(source: Source, finished: frozenset[int] = frozenset(), rows: int = 2) -> list[dict[str, Any]]:
    units = source.units(finished, lambda left: rows)
    return [row for unit in units for table in unit.read() for row in table.to_pylist()]


def reasons(source: Source) -> dict[str, str]:
    return {row[ID]: (row[FAILURE] or "").split(":")[0] for row in read_all(source)}


def pieces_of(name: str) -> list[str]:
    suffix = Path(name).suffix
    return [f"{name}/{begin}{suffix}" for begin in ("000000000", SECOND_PIECE)]


def open_clips(make_config: MakeConfig, **changes: Any) -> Clips:
    config = make_config(**changes)
    source = open_source(config, config.given())
    assert isinstance(source, Clips)
    return source


@pytest.fixture(scope="session")
def one_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4")


@pytest.fixture
def clips(tmp_path: Path, one_clip: bytes) -> Path:
    """A folder of two clips, one of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.mp4").write_bytes(one_clip)
    (folder / "sub" / "a.mp4").write_bytes(one_clip)
    return folder


def test_each_piece_of_a_folder_of_clips_is_a_row_that_decodes(clips: Path, make_config: MakeConfig) -> None:
    tiny_clip(clips / "c.MKV", frames=3)
    (clips / "notes.txt").write_bytes(b"x")
    source = open_clips(make_config)
    rows = read_all(source)
    names = [*pieces_of("b.mp4"), "c.MKV/000000000.mkv", *pieces_of("sub/a.mp4")]
    assert [row[ID] for row in rows] == names == [source.ids[row] for row in range(source.total)]
    assert [row[ROW] for row in rows] == [0, 1, 2, 3, 4]
    strips = [decode_piece(Piece.from_bytes(row[ENCODED]), MAX_PIXELS) for row in rows]
    assert [strip.pixels.shape for strip in strips] == [(n * HEIGHT, WIDTH, 3) for n in (32, 8, 3, 32, 8)]
    assert [list(clip.rows) for clip in source.clips] == [[0, 1], [2], [3, 4]]
    assert [clip.name for clip in source.clips] == ["b.mp4", "c.MKV", "sub/a.mp4"]
    assert source.ignored == 1
    assert all(row[GIVEN] is None and row[SUBJECT] is None for row in rows)


def test_the_frames_of_a_clips_pieces_are_its_frames_in_their_order(clips: Path, make_config: MakeConfig) -> None:
    rows = read_all(open_clips(make_config, include=["b.mp4"]))
    strips = [decode_piece(Piece.from_bytes(row[ENCODED]), MAX_PIXELS) for row in rows]
    shades = [int(frame.mean()) for strip in strips for frame in strip.frames()]
    assert len(shades) == 40
    assert max(abs(shade - 3 * number) for number, shade in enumerate(shades)) <= 3


def test_clips_that_can_not_be_used_are_one_row_each_that_says_why(
    clips: Path, make_config: MakeConfig, one_clip: bytes
) -> None:
    (clips / "corrupt.mp4").write_bytes(b"\0" * 64 + one_clip[64:])
    (clips / "cut.mp4").write_bytes(one_clip[: len(one_clip) // 2])
    (clips / "empty.mp4").write_bytes(b"")
    sound_alone(clips / "sound.mp4")
    os.mkfifo(clips / "pipe.mp4")
    (clips / "nowhere.mp4").symlink_to(clips / "gone.mp4")
    source = open_clips(make_config)
    good = dict.fromkeys([*pieces_of("b.mp4"), *pieces_of("sub/a.mp4")], "")
    bad = dict.fromkeys(["corrupt.mp4", "cut.mp4", "empty.mp4", "sound.mp4"], "not_a_clip")
    bad |= dict.fromkeys(["nowhere.mp4", "pipe.mp4"], "unreadable")
    assert reasons(source) == good | bad
    unusable = [clip for clip in source.clips if clip.index is None]
    assert [(clip.name, len(clip.rows)) for clip in unusable] == [(name, 1) for name in sorted(bad)]
    (said,) = [row[FAILURE] for row in read_all(source) if row[ID] == "sound.mp4"]
    assert said == "not_a_clip: it has no video track"
    assert all(row[ENCODED] is None for row in read_all(source) if row[FAILURE])


def test_finished_pieces_are_not_read_again(clips: Path, make_config: MakeConfig) -> None:
    rows = read_all(open_clips(make_config), frozenset({0, 3}))
    assert [(row[ROW], row[ID]) for row in rows] == [(1, pieces_of("b.mp4")[1]), (2, pieces_of("sub/a.mp4")[0])]


def test_a_clip_is_a_source_of_its_own(clips: Path, make_config: MakeConfig) -> None:
    source = open_clips(make_config, photos=clips / "sub" / "a.mp4")
    assert [row[ID] for row in read_all(source)] == pieces_of("a.mp4")
    with pytest.raises(SourceError, match="include and exclude"):
        open_source(make_config(photos=clips / "b.mp4", include=["*.mov"]))


def test_clips_and_pictures_are_run_apart(clips: Path, make_config: MakeConfig) -> None:
    (clips / "face.png").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"both pictures and clips .*b\.mp4.*run them apart"):
        open_source(make_config())
    assert [row[ID] for row in read_all(open_clips(make_config, exclude=["*.png", "sub/*"]))] == pieces_of("b.mp4")


def test_subjects_are_said_of_clips_and_hold_for_their_pieces(clips: Path, make_config: MakeConfig) -> None:
    subjects = clips.parent / "subjects.csv"
    subjects.write_text("file,subject\nsub/a.mp4,anna\n")
    source = open_clips(make_config, subjects=subjects)
    assert [row[SUBJECT] for row in read_all(source)] == [None, None, "anna", "anna"]
    assert source.digest != open_clips(make_config).digest
    assert source.given_digest != ""


def test_subjects_of_clips_that_are_not_there_are_refused(clips: Path, make_config: MakeConfig) -> None:
    subjects = clips.parent / "subjects.csv"
    subjects.write_text("file,subject\nsub/a.mp4,anna\na.mp4,anna\n")
    with pytest.raises(SourceError, match=r"1 pictures that are not in the input \('a\.mp4'\).*'b\.mp4'"):
        open_clips(make_config, subjects=subjects)
    source = open_clips(make_config, subjects=subjects, gone="keep")
    assert [one.names for one in source.unlisted] == [["a.mp4"]], "who knows the rows that stand asks again"
    subjects.write_text(f"file,subject\n{pieces_of('b.mp4')[0]},anna\n")
    with pytest.raises(SourceError, match="not in the input"):
        open_clips(make_config, subjects=subjects)


def test_subjects_of_clips_that_are_left_out_are_no_mistake(clips: Path, make_config: MakeConfig) -> None:
    subjects = clips.parent / "subjects.csv"
    subjects.write_text("file,subject\nsub/a.mp4,anna\nb.mp4,bert\n")
    source = open_clips(make_config, subjects=subjects, exclude=["sub/*"])
    assert [row[SUBJECT] for row in read_all(source)] == ["bert", "bert"]


@pytest.mark.parametrize("which", ["boxes", "keep"])
def test_boxes_are_of_pictures(clips: Path, make_config: MakeConfig, which: str) -> None:
    boxes = clips.parent / "boxes.csv"
    boxes.write_text("file,x0,y0,x1,y1\nb.mp4,0,0,9,9\n")
    with pytest.raises(SourceError, match="boxes and keep are of pictures"):
        open_clips(make_config, **{which: boxes})


@pytest.mark.parametrize("became", ["other frames", "another file", "nothing", "fewer frames"])
def test_a_clip_that_changes_after_listing_has_rows_with_a_reason(
    clips: Path, make_config: MakeConfig, became: str
) -> None:
    source = open_clips(make_config)
    if became == "other frames":
        tiny_clip(clips / "b.mp4", begin=3, shade=100)
    elif became == "another file":
        (clips / "b.mp4").write_bytes(b"nothing of a clip")
    elif became == "fewer frames":
        tiny_clip(clips / "b.mp4", frames=5)
    else:
        (clips / "b.mp4").unlink()
    reason = {"another file": "unreadable", "nothing": "unreadable"}.get(became, "changed")
    expected = dict.fromkeys(pieces_of("b.mp4"), reason) | dict.fromkeys(pieces_of("sub/a.mp4"), "")
    assert reasons(source) == expected


def test_equal_listings_have_equal_digests_and_a_touched_file_another(clips: Path, make_config: MakeConfig) -> None:
    first, again = open_clips(make_config), open_clips(make_config)
    assert (first.digest, first.versions.tolist()) == (again.digest, again.versions.tolist())
    os.utime(clips / "b.mp4", (1, 1))
    touched = open_clips(make_config)
    assert touched.digest != first.digest
    changed = [before != after for before, after in zip(first.versions, touched.versions, strict=True)]
    assert changed == [True, True, False, False]
    versions = [row[VERSION] for row in read_all(touched)]
    assert versions == touched.versions.tolist()


@pytest.mark.parametrize("name", ["two words.mp4", "ünï 漢.mp4", "odd \n * name.mp4", f"{'n' * 251}.mp4"])
def test_clips_may_have_any_name_that_is_text(
    tmp_path: Path, make_config: MakeConfig, one_clip: bytes, name: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(one_clip)
    assert reasons(open_clips(make_config)) == dict.fromkeys(pieces_of(name), "")


def test_a_clip_whose_name_is_no_text_is_a_row_with_a_reason(
    clips: Path, make_config: MakeConfig, one_clip: bytes
) -> None:
    (clips / os.fsdecode(b"latin\xe9.mp4")).write_bytes(one_clip)
    (clips / "latin%E9.mp4").write_bytes(one_clip)
    source = open_clips(make_config)
    good = dict.fromkeys([p for name in ("b.mp4", "latin%E9.mp4", "sub/a.mp4") for p in pieces_of(name)], "")
    rows = read_all(source)
    assert {row[ID]: row[FAILURE] or "" for row in rows if not row[FAILURE]} == good
    (bad,) = [row for row in rows if row[FAILURE]]
    assert bad[ID] == "latin%E9.mp4" and bad[FAILURE].startswith("unreadable")


def test_pieces_before_time_0_have_names_of_their_own(tmp_path: Path, make_config: MakeConfig) -> None:
    tiny_clip(tmp_path / "photos" / "a.mkv", frames=70, begin=-40)
    source = open_clips(make_config)
    ids = [source.ids[row] for row in range(source.total)]
    assert len(set(ids)) == len(ids)
    assert set(reasons(source).values()) == {""}


def said(numbers: Sequence[int]) -> list[str | None]:
    return [None if number else f"of piece {number}" for number in numbers]


def test_blocks_say_who_is_in_a_piece_by_what_is_said_where_it_is_read(clips: Path, make_config: MakeConfig) -> None:
    (clips / "sub" / "bad.mp4").write_bytes(b"x")
    source = open_clips(make_config)
    source.know({"sub/a.mp4": said})
    told = {row[ID]: row[GIVEN] for row in read_all(pickle.loads(pickle.dumps(source)), rows=10)}
    first, second = pieces_of("sub/a.mp4")
    assert told == dict.fromkeys([*pieces_of("b.mp4"), second, "sub/bad.mp4"]) | {first: "of piece 0"}
    assert [row[GIVEN] for row in read_all(source, frozenset({2}), rows=10)] == [None] * 4


@pytest.fixture
def bucket(s3: Seaweed, one_clip: bytes) -> Iterator[str]:
    client, prefix = s3.client(), "clips-as-a-source"
    keys = [f"{prefix}/{name}" for name in ("b.mp4", "sub/a ü.mp4", "bad.mp4")]
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x" if key.endswith("bad.mp4") else one_clip)
    yield f"s3://{BUCKET}/{prefix}"
    for key in keys:
        client.delete_object(Bucket=BUCKET, Key=key)


def test_clips_of_a_bucket_are_read_as_those_of_a_folder(bucket: str, make_config: MakeConfig) -> None:
    source = open_clips(make_config, photos=bucket)
    good = dict.fromkeys([*pieces_of("b.mp4"), *pieces_of("sub/a ü.mp4")], "")
    assert reasons(source) == good | {"bad.mp4": "not_a_clip"}
    rows = [row for row in read_all(source) if row[ENCODED] is not None]
    assert [len(Piece.from_bytes(row[ENCODED]).times) for row in rows] == [32, 8, 32, 8]
