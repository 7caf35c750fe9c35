"""Frames come out of a piece as out of the whole clip: the right ones, upright, in order, to the bit."""

import io
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keyanon_core.clips import index
from keyanon_core.clips.encoding import encode_piece
from keyanon_core.clips.frames import decode_piece, decode_published, is_published_piece
from keyanon_core.errors import PictureError
from tests.keyanon_core.clips.tiny_clips import (
    OPEN_GROUPS,
    TICK,
    decoded_whole,
    every,
    is_upright,
    number_of,
    pieces_of,
    tiny_clip,
)

MAX_PIXELS = 10_000_000
MILLISECOND = Fraction(1, 1000)
UNEVEN = [0, 40, 41, 170, 171, 700, 710, 740, 745, 900, 1400, 1401, 3000]
HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5", "b": "200k"}
"""Of VP8 and VP9: frames that are decoded and never seen."""

FORMS = {
    ".mp4": ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "mjpeg"),
    ".mov": ("libx264", "libx265", "mjpeg"),
    ".mkv": ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1", "mjpeg"),
    ".webm": ("libvpx", "libvpx-vp9", "libsvtav1"),
}


@pytest.fixture(autouse=True)
def pieces_of_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that pieces begin and end everywhere in groups of pictures."""
    monkeypatch.setattr(index, "PIECE_FRAMES", 7)


def assert_pieces_are_the_clip(path: Path, count: int) -> None:
    """Each piece alone decodes to the frames of the whole clip, upright and in order."""
    whole, numbers, times = decoded_whole(path), [], []
    for piece in pieces_of(path):
        strip = decode_piece(piece, MAX_PIXELS)
        for time, frame in zip(strip.times, strip.frames(), strict=True):
            assert is_upright(frame)
            assert np.array_equal(frame, np.rot90(whole[time], piece.form.rotation // 90))
            numbers.append(number_of(frame))
            times.append(time)
        after = whole.get(piece.until)
        assert (strip.following is None) == (after is None)
        if strip.following is not None:
            assert np.array_equal(strip.following, np.rot90(after, piece.form.rotation // 90))
    assert numbers == list(range(count)) and times == sorted(whole)


@pytest.mark.parametrize(
    ("suffix", "encoder"), [(suffix, encoder) for suffix, encoders in FORMS.items() for encoder in encoders]
)
def test_each_piece_decodes_alone(tmp_path: Path, suffix: str, encoder: str) -> None:
    fine = suffix in (".mp4", ".mov")
    path = tiny_clip(
        tmp_path / f"a{suffix}",
        encoder=encoder,
        times=every(30) if fine else range(0, 1200, 40),
        tick=TICK if fine else MILLISECOND,
        pixel_format="yuvj420p" if encoder == "mjpeg" else "yuv420p",
    )
    assert_pieces_are_the_clip(path, 30)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_open_groups_of_pictures(tmp_path: Path, suffix: str) -> None:
    path = tiny_clip(tmp_path / f"a{suffix}", times=range(0, 2000, 40), tick=MILLISECOND, options=OPEN_GROUPS)
    assert_pieces_are_the_clip(path, 50)


@pytest.mark.parametrize("encoder", ["libvpx", "libvpx-vp9"])
def test_frames_that_are_never_seen(tmp_path: Path, encoder: str) -> None:
    path = tiny_clip(tmp_path / "a.webm", encoder=encoder, times=range(0, 2000, 40), tick=MILLISECOND, options=HIDDEN)
    assert_pieces_are_the_clip(path, 50)


@pytest.mark.parametrize("times", [UNEVEN, [5000 + time for time in UNEVEN], [0], [5000]], ids=len)
@pytest.mark.parametrize(("suffix", "encoder"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9")])
def test_uneven_late_and_single_frames(tmp_path: Path, suffix: str, encoder: str, times: list[int]) -> None:
    path = tiny_clip(tmp_path / f"a{suffix}", encoder=encoder, times=times, tick=MILLISECOND)
    assert_pieces_are_the_clip(path, len(times))


@pytest.mark.parametrize(
    ("name", "encoder", "pixel_format"),
    [
        ("a.mp4", "libx264", "yuv444p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mkv", "libvpx", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
    ],
)
def test_frames_of_odd_sides(tmp_path: Path, name: str, encoder: str, pixel_format: str) -> None:
    path = tiny_clip(
        tmp_path / name,
        encoder=encoder,
        pixel_format=pixel_format,
        size=(97, 65),
        times=range(0, 400, 40),
        tick=MILLISECOND,
    )
    assert_pieces_are_the_clip(path, 10)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_turned_upright(tmp_path: Path, suffix: str, rotation: int) -> None:
    path = tiny_clip(tmp_path / f"a{suffix}", times=range(0, 400, 40), tick=MILLISECOND, rotation=rotation)
    assert_pieces_are_the_clip(path, 10)
    strip = decode_piece(pieces_of(path)[0], MAX_PIXELS)
    assert (strip.pixels.shape[1], strip.height) == ((64, 96) if rotation % 180 else (96, 64))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_upright_is_what_the_matrix_of_the_track_makes_of_a_frame(tmp_path: Path, rotation: int) -> None:
    """ISO/IEC 14496-12, 6.2.2: (p, q) = (a x + c y, b x + d y) but for a shift, x to the right and y down."""
    path = tiny_clip(tmp_path / "a.mp4", rotation=rotation)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4
    a, b, _, c, d = struct.unpack_from(">5i", data, at + (52 if data[at] else 40))  # version 1 has longer times
    steps = [(round(p / 65536), round(q / 65536)) for p, q in ((a, b), (c, d))]  # where x and y lead, as it is seen
    lying = next(iter(decoded_whole(path).values()))
    turned = lying if steps[0][0] else lying.transpose(1, 0, 2)  # x of the file is then the y that is seen
    across, down = (steps[0][0], steps[1][1]) if steps[0][0] else (steps[1][0], steps[0][1])
    turned = turned[::down, ::across]
    assert is_upright(turned)
    assert np.array_equal(next(decode_piece(pieces_of(path)[0], MAX_PIXELS).frames()), turned)


def test_a_damaged_packet_is_told(tmp_path: Path) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    time, data = piece.packets[0]
    broken = replace(piece, packets=((time, data[:8] + bytes(len(data) - 8)), *piece.packets[1:]))
    with pytest.raises(PictureError) as failure:
        decode_piece(broken, MAX_PIXELS)
    assert failure.value.reason == "corrupt"


def test_a_missing_packet_is_told(tmp_path: Path) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    with pytest.raises(PictureError, match="of the piece's 7 frames") as failure:
        decode_piece(replace(piece, packets=piece.packets[:-1]), MAX_PIXELS)
    assert failure.value.reason == "corrupt"


@pytest.mark.parametrize("data", [b"", bytes(40), b"\xff" * 900], ids=["gone", "zeros", "noise"])
def test_what_follows_a_piece_costs_it_nothing(tmp_path: Path, data: bytes) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    whole = decode_piece(piece, MAX_PIXELS)
    assert whole.following is not None
    broken = decode_piece(replace(piece, following=((piece.until, data),) if data else ()), MAX_PIXELS)
    assert np.array_equal(broken.pixels, whole.pixels)
    assert broken.following is None or not np.array_equal(broken.following, whole.following)


@pytest.mark.parametrize("decoder", ["", "no such decoder", "aac", "libx264"])
def test_a_decoder_that_is_none_is_told(tmp_path: Path, decoder: str) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    with pytest.raises(PictureError) as failure:
        decode_piece(replace(piece, form=replace(piece.form, decoder=decoder)), MAX_PIXELS)
    assert failure.value.reason == "corrupt"


def test_more_pixels_than_may_be_are_told_before_they_are_decoded(tmp_path: Path) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    assert decode_piece(piece, 7 * 96 * 64).height == 64
    with pytest.raises(PictureError, match="max_pixels") as failure:
        decode_piece(piece, 7 * 96 * 64 - 1)
    assert failure.value.reason == "too_large"
    published = encode_piece(decode_piece(piece, MAX_PIXELS), piece.form, piece.until)
    with pytest.raises(PictureError, match="max_pixels"):
        decode_published(published, 7 * 96 * 64 - 1)


@pytest.mark.parametrize(("size", "reason"), [((96, 64), "too_large"), ((640, 480), "corrupt")])
def test_a_piece_whose_frames_are_larger_than_it_says_is_told(
    tmp_path: Path, size: tuple[int, int], reason: str
) -> None:
    """Or a few bytes would take all the memory that there is. Much larger ones are not even decoded."""
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4", size=size))[0]
    with pytest.raises(PictureError) as failure:
        decode_piece(replace(piece, form=replace(piece.form, width=2, height=2)), 1000)
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    "data", [b"", b"text" * 10, b"\x1a\x45\xdf\xa3" + bytes(90), b"\0\0\0\x20ftypisom" + bytes(90)]
)
def test_what_is_no_published_piece_is_told(data: bytes) -> None:
    with pytest.raises(PictureError) as failure:
        decode_published(data, MAX_PIXELS)
    assert failure.value.reason == "corrupt"


def test_clips_are_told_from_pictures(tmp_path: Path) -> None:
    for name, encoder in (("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")):
        path = tiny_clip(tmp_path / name, encoder=encoder, tick=MILLISECOND, times=[0, 40])
        assert is_published_piece(path.read_bytes())
    for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        out = io.BytesIO()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(out, kind)
        assert not is_published_piece(out.getvalue())
    assert not is_published_piece(b"")


def test_a_piece_without_frames_or_packets_is_told(tmp_path: Path) -> None:
    piece = pieces_of(tiny_clip(tmp_path / "a.mp4"))[0]
    for nothing in (replace(piece, times=()), replace(piece, packets=())):
        with pytest.raises(PictureError) as failure:
            decode_piece(nothing, MAX_PIXELS)
        assert failure.value.reason == "corrupt"
