"""Restored pieces of clips: what they are called, and that they are joined where that can be."""

import logging
from pathlib import Path, PurePosixPath

import pytest

from jobs.output.reader import Row
from jobs.recovery import PictureReport, _join_restored, restored_name
from keyanon_core.clips.encoding import encode_piece, encode_restored
from keyanon_core.clips.frames import decode_piece
from keyanon_core.clips.index import index_clip
from keyanon_core.clips.piece import Piece, read_piece
from tests.jobs.tiny_clips import av, tiny_clip


def row_of(image_id: str, output: str | None) -> Row:
    return Row(image_id, "anonymized", "", "r", output, None, 1, 0, False, "latent", "rows/a.parquet", 0)


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    """The restored pieces of two clips of 40 frames."""
    tiny_clip(tmp_path / "source.mp4")
    for cut in index_clip(str(tmp_path / "source.mp4"), "mp4").cuts():
        piece = Piece.from_bytes(read_piece(str(tmp_path / "source.mp4"), cut))
        strip = decode_piece(piece, 10**7)
        content = encode_restored(encode_piece(strip, piece.form, piece.until), strip.pixels)
        for name in ("a.mp4", "sub/b.mp4"):
            path = tmp_path / "restored" / name / f"{cut.times[0]:09d}.mp4.mkv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return tmp_path / "restored"


def reports(restored: Path) -> list[PictureReport]:
    files = sorted(path.relative_to(restored) for path in restored.rglob("*.mp4.mkv"))
    failed = PictureReport("c.mp4/000000000.mp4", reason="it is damaged")
    return [*(PictureReport(str(file.with_suffix("")), status="recovered", output=str(file)) for file in files), failed]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as opened:
        return sum(1 for _ in opened.decode(video=0))


def test_a_piece_is_restored_as_matroska_and_a_picture_of_parquet_never_is() -> None:
    piece = row_of("a.mp4/000000000.mp4", "images/a.mp4/000000000.mp4")
    assert restored_name(piece) == PurePosixPath("a.mp4/000000000.mp4.mkv")
    assert restored_name(row_of("of clip 7.mp4", None)) == PurePosixPath("of clip 7.mp4.png")


def test_the_restored_pieces_of_each_clip_are_joined_for_their_owner_only(restored: Path) -> None:
    assert _join_restored(restored, reports(restored)) == ["a.mp4.mkv", "sub/b.mp4.mkv"]
    for name in ("a.mp4.mkv", "sub/b.mp4.mkv"):
        assert frames_of(restored / name) == 40
        assert (restored / name).stat().st_mode & 0o777 == 0o600


def test_pieces_that_can_not_be_joined_stay_apart_and_the_others_are_joined(
    restored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first, *_) = sorted((restored / "a.mp4").iterdir())
    first.write_bytes(b"nothing of a clip")
    before = {path for path in restored.rglob("*") if path.is_file()}
    with caplog.at_level(logging.WARNING):
        assert _join_restored(restored, reports(restored)) == ["sub/b.mp4.mkv"]
    assert "a.mp4.mkv was restored in pieces that can not be joined: its pieces can not be joined" in caplog.text
    assert {path for path in restored.rglob("*") if path.is_file()} == before | {restored / "sub" / "b.mp4.mkv"}


def test_what_lies_between_restored_pieces_is_left_out(restored: Path) -> None:
    (_, second) = sorted((restored / "a.mp4").iterdir())
    second.unlink()
    assert "a.mp4.mkv" in _join_restored(restored, reports(restored))
    assert frames_of(restored / "a.mp4.mkv") == 32
