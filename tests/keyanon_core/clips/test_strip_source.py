"""A piece of a clip is opened and published like a picture."""

from pathlib import Path

import numpy as np
import pytest

from keyanon_core.clips import index
from keyanon_core.clips.frames import decode_piece, decode_published
from keyanon_core.clips.piece import Piece
from keyanon_core.clips.strip_source import StripSource
from keyanon_core.errors import PictureError
from keyanon_core.formats.opening import open_source
from tests.keyanon_core.clips.tiny_clips import number_of, pieces_of, tiny_clip

MAX_PIXELS = 10_000_000


@pytest.fixture(scope="module", params=["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def piece(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Piece:
    return pieces_of(tiny_clip(tmp_path_factory.mktemp("clip") / "a.mp4", encoder=request.param, rotation=90))[0]


@pytest.mark.parametrize("output_format", ["same", "png", "jpeg"])
def test_a_piece_stays_a_piece_whatever_pictures_become(piece: Piece, output_format: str) -> None:
    source = open_source(piece.to_bytes(), output_format, 95, MAX_PIXELS)
    assert isinstance(source, StripSource) and not source.is_exact
    assert source.frame_height == 96 and source.pixels.shape == (20 * 96, 64, 3)
    assert np.array_equal(source.pixels, decode_piece(piece, MAX_PIXELS).pixels)
    assert source.following is None, "the clip ends with it"


def test_the_frame_after_a_piece_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PIECE_FRAMES", 7)
    first, second, *_ = pieces_of(tiny_clip(tmp_path / "a.mp4"))
    source = open_source(first.to_bytes(), "same", 95, MAX_PIXELS)
    assert source.following is not None and number_of(source.following) == 7
    assert np.array_equal(source.following, next(decode_piece(second, MAX_PIXELS).frames()))


def test_what_is_published_is_what_its_file_shows(piece: Piece) -> None:
    source = StripSource.of(piece.to_bytes(), MAX_PIXELS)
    changed = source.pixels.copy()
    changed[96 : 2 * 96] = 255 - changed[96 : 2 * 96]  # the second frame
    published = source.publish(changed, [])
    shown = decode_published(published.encoded, MAX_PIXELS)
    assert np.array_equal(shown.pixels, published.shown) and shown.height == 96
    assert np.abs(published.shown.astype(int) - changed).mean() < 6
    assert [number_of(frame) for at, frame in enumerate(shown.frames()) if at != 1] == [0, *range(2, 20)]
    if piece.form.encoder != "libx265":  # which makes other bytes of the same frames now and then
        assert source.publish(changed, []).encoded == published.encoded


def test_more_pixels_than_may_be_are_refused(piece: Piece, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="max_pixels"):
        StripSource.of(piece.to_bytes(), 20 * 96 * 64 - 1)
