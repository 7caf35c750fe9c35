"""Published pieces keep a clip's times, shape and colours, and nothing else; restored ones lose nothing."""

import io
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from keyanon_core.clips.encoding import OPTIONS, PieceTime, encode_piece, encode_restored, start_encoding
from keyanon_core.clips.form import ENCODERS, ClipForm, Colours
from keyanon_core.clips.frames import Strip, decode_published, durations_of
from keyanon_core.errors import PictureError
from tests.keyanon_core.clips.tiny_clips import HEIGHT, WIDTH, is_upright, number_of, numbered_frame

MAX_PIXELS = 10_000_000
MILLISECOND = Fraction(1, 1000)
UNEVEN = (5000, 5040, 5041, 5170, 5171, 5700, 5710)
UNTIL = 5990
FORMS = [("mp4", codec) for codec in ("h264", "hevc", "vp9", "av1", "mjpeg")]
FORMS += [("mov", "h264"), ("mov", "hevc"), ("mov", "prores")]
FORMS += [("matroska", codec) for codec in (*ENCODERS, "mjpeg")]
FORMS += [("webm", codec) for codec in ("vp8", "vp9", "av1", "theora")]
NEW_TO = {"mjpeg": "h264", "prores": "h264", "theora": "vp9"}


def form_of(container: str = "mp4", codec: str = "h264", **more: Any) -> ClipForm:
    tick = more.pop("time_base", MILLISECOND if container in ("matroska", "webm") else Fraction(1, 12_800))
    return ClipForm(container, codec, codec, b"", tick, more.pop("width", WIDTH), more.pop("height", HEIGHT), **more)


def strip_of(times: Sequence[int] = UNEVEN, width: int = WIDTH, height: int = HEIGHT) -> Strip:
    frames = [numbered_frame(number, width, height) for number in range(len(times))]
    return Strip(np.concatenate(frames), height, tuple(times))


def opened(encoded: bytes) -> Any:
    return av.open(io.BytesIO(encoded))


@pytest.mark.parametrize(("container", "codec"), FORMS)
def test_times_durations_and_frames_survive(container: str, codec: str) -> None:
    published = encode_piece(strip_of(), form_of(container, codec), UNTIL)
    with opened(published) as read:
        stream = read.streams.video[0]
        packets = [packet for packet in read.demux(stream) if packet.size]
        durations = durations_of(packets, stream)
        unit = stream.time_base / form_of(container).time_base
        assert stream.codec_context.codec.canonical_name == NEW_TO.get(codec, codec)
        assert [packet.pts * unit for packet in packets] == [time - UNEVEN[0] for time in UNEVEN]
        ends = [packet.pts * unit + shown_for * unit for packet, shown_for in zip(packets, durations, strict=True)]
        assert ends == [time - UNEVEN[0] for time in (*UNEVEN[1:], UNTIL)]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * 6, "one group of pictures"
    shown = decode_published(published, MAX_PIXELS)
    assert [number_of(frame) for frame in shown.frames()] == list(range(7))
    assert all(is_upright(frame) for frame in shown.frames())
    assert np.abs(shown.pixels.astype(int) - strip_of().pixels).mean() < 6


@pytest.mark.parametrize(("container", "codec"), FORMS)
def test_a_piece_of_one_frame(container: str, codec: str) -> None:
    published = encode_piece(strip_of([700]), form_of(container, codec), 740)
    shown = decode_published(published, MAX_PIXELS)
    assert shown.times == (0,) and number_of(shown.pixels) == 0
    with opened(published) as read:
        packets = [packet for packet in read.demux(video=0) if packet.size]
        (shown_for,) = durations_of(packets, read.streams.video[0])
        assert shown_for * read.streams.video[0].time_base == 40 * form_of(container).time_base


@pytest.mark.parametrize(("container", "codec"), [(one, codec) for one, codec in FORMS if codec != "hevc"])
def test_two_equal_pieces_give_equal_bytes(container: str, codec: str) -> None:
    """x265 makes other bytes of the same frames now and then, when the machine is busy."""
    first, second = (encode_piece(strip_of(), form_of(container, codec), UNTIL) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("container", "codec"), FORMS)
def test_nothing_is_said_but_where_the_piece_stands(container: str, codec: str) -> None:
    published = encode_piece(strip_of(), form_of(container, codec), UNTIL)
    with opened(published) as read:
        said = {name.lower(): value for name, value in read.metadata.items()}
        assert PieceTime.from_comment(said.pop("comment")) == PieceTime(5000, form_of(container).time_base)
        assert set(said) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}
        assert said.get("encoder", "Lavf") == "Lavf", "no version"
        assert {name.lower() for name in read.streams.video[0].metadata} <= {
            "language",
            "handler_name",
            "vendor_id",
            "duration",
            "encoder",
        }
        assert len(read.streams) == 1 and not read.chapters()


@pytest.mark.parametrize(
    "colours",
    [
        Colours(1, 1, 1, 1),
        Colours(1, 2, 1, 1),
        Colours(5, 1, 5, 6),
        Colours(6, 1, 6, 6),
        Colours(9, 1, 9, 14),
        Colours(),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "h264"), ("mp4", "hevc"), ("matroska", "h264"), ("mov", "h264")]
)
def test_tags_of_colours_survive(container: str, codec: str, colours: Colours) -> None:
    """And so do the colours: they are written by the matrix and in the range that the tags say."""
    published = encode_piece(strip_of(), form_of(container, codec, colours=colours), UNTIL)
    with opened(published) as read:
        codec_context = read.streams.video[0].codec_context
        read_tags = (int(codec_context.colorspace), int(codec_context.color_primaries), int(codec_context.color_trc))
        assert read_tags == (colours.space, colours.primaries, colours.transfer)
        assert int(codec_context.color_range) == colours.range or not colours.range
        frame = next(read.decode(video=0))
    red = decode_published(published, MAX_PIXELS).pixels[8:24, 8:40].reshape(-1, 3).mean(0)
    assert np.abs(red - (220, 30, 30)).max() < 8
    weight = {1: 0.2126}.get(colours.space, 0.299)  # of red in the luma: BT.709 and BT.601
    green = {1: 0.7152}.get(colours.space, 0.587)
    luma = weight * 220 + green * 30 + (1 - weight - green) * 30
    written = luma if colours.range == 2 else 16 + luma * 219 / 255
    assert abs(frame.reformat(format=frame.format.name).to_ndarray()[8:24, 8:40].mean() - written) < 4


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize(("rotation", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4)), (180, Fraction(4, 3))])
def test_the_shape_of_pixels_survives_and_turns_with_the_frame(
    container: str, rotation: int, expected: Fraction
) -> None:
    form = form_of(container, rotation=rotation, aspect=Fraction(4, 3))
    with opened(encode_piece(strip_of(), form, UNTIL)) as read:
        assert read.streams.video[0].sample_aspect_ratio == expected
        assert not next(read.decode(video=0)).rotation, "its frames are upright as they are"


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp8", "vp9", "av1"])
@pytest.mark.parametrize("size", [(97, 64), (96, 65), (97, 65), (64, 64)])
def test_frames_of_any_size_survive(codec: str, size: tuple[int, int]) -> None:
    form = form_of("matroska", codec, width=size[0], height=size[1])
    shown = decode_published(encode_piece(strip_of(UNEVEN, *size), form, UNTIL), MAX_PIXELS)
    assert shown.pixels.shape == (7 * size[1], size[0], 3) and shown.height == size[1]
    assert [number_of(frame) for frame in shown.frames()] == list(range(7))


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "h264"), ("mov", "hevc"), ("matroska", "vp8"), ("webm", "vp9")]
)
@pytest.mark.parametrize("size", [(96, 64), (97, 65)])
def test_a_restored_piece_loses_nothing(container: str, codec: str, size: tuple[int, int]) -> None:
    form = form_of(container, codec, width=size[0], height=size[1], time_base=MILLISECOND)
    published = encode_piece(strip_of(UNEVEN, *size), form, UNTIL)
    pixels = np.random.default_rng(3).integers(0, 256, (7 * size[1], size[0], 3), dtype=np.uint8)
    restored = encode_restored(published, pixels)
    assert np.array_equal(decode_published(restored, MAX_PIXELS).pixels, pixels)
    assert restored == encode_restored(published, pixels)
    with opened(restored) as read, opened(published) as shown:
        assert read.format.name == "matroska,webm"
        assert [name.lower() for name in read.metadata if "comment" in name.lower()] == ["comment"]
        said = [{name.lower(): value for name, value in one.metadata.items()}["comment"] for one in (read, shown)]
        assert said[0] == said[1]
        both = [
            [float(packet.pts * packet.time_base) for packet in one.demux(video=0) if packet.size]
            for one in (read, shown)
        ]
        assert both[0] == pytest.approx(both[1], abs=0.0006), "Matroska tells milliseconds"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="who is not root gets no real-time priority")
def test_an_encoder_of_av1_leaves_the_processors_to_others() -> None:
    with av.open(io.BytesIO(), "w", format="matroska") as out:
        stream = out.add_stream("libsvtav1", options=OPTIONS["libsvtav1"])
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        threads = len(list(Path("/proc/self/task").iterdir()))
        start_encoding(out)
        scheduled = [os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()]
    assert len(scheduled) > threads and set(scheduled) == {os.SCHED_OTHER}
    encode_piece(strip_of(), form_of("matroska", "av1"), UNTIL)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_what_an_encoder_can_not_make_is_told() -> None:
    with pytest.raises(PictureError, match="can not be encoded by libvpx") as failure:
        encode_piece(strip_of(), form_of("mp4", "vp8"), UNTIL)
    assert failure.value.reason == "unsupported"


@pytest.mark.parametrize(
    "base", [Fraction(1, 90_000), Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 1_000_000)]
)
def test_where_a_piece_stands_survives_its_comment(base: Fraction) -> None:
    for start in (0, -512, 2**50):
        assert PieceTime.from_comment(PieceTime(start, base).to_comment()) == PieceTime(start, base)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "holiday",
        "[]",
        "{}",
        '{"keyanon_piece": 1}',
        '{"keyanon_piece": {"start": 0}}',
        '{"keyanon_piece": {"start": 0, "time_base": [1, 0]}}',
        '{"keyanon_piece": {"start": 0, "time_base": [0, 1]}}',
        '{"keyanon_piece": {"start": 0, "time_base": [-1, 5]}}',
        '{"keyanon_piece": {"start": 0, "time_base": 5}}',
        '{"keyanon_piece": {"start": 1e400, "time_base": [1, 5]}}',
        '{"keyanon_piece": {"start": NaN, "time_base": [1, 5]}}',
        '{"keyanon_piece": {"start": 99999999999999999999, "time_base": [1, 5]}}',
        '{"keyanon_piece": {"start": 0, "time_base": [1, 99999999999999]}}',
        "[" * 100_000,
    ],
)
def test_a_comment_that_says_nothing_of_it_is_told(comment: str) -> None:
    with pytest.raises(PictureError) as failure:
        PieceTime.from_comment(comment)
    assert failure.value.reason == "corrupt"
