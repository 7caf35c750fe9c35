"""Clips of a few tiny frames, each of which tells its number and which of its corners is the upper left one."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from keyanon_core.clips.encoding import start_encoding
from keyanon_core.clips.form import CONTAINERS, Colours
from keyanon_core.clips.index import ClipIndex, index_clip
from keyanon_core.clips.piece import Piece, read_piece

Pixels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 96, 64  # px
BITS: Final = 6  # of a frame's number
TICK: Final = Fraction(1, 12_800)  # seconds
STEP: Final = 512  # ticks between frames: 25 a second
SOUND_RATE: Final = 48_000  # Hz

FAST: Final[Mapping[str, Mapping[str, str]]] = {
    "libx264": {"preset": "veryfast", "threads": "1", "bf": "2", "g": "12", "sc_threshold": "0"},
    "libx265": {
        "preset": "ultrafast",
        "x265-params": "bframes=3:b-adapt=0:keyint=12:scenecut=0:pools=none:frame-threads=1:log-level=none",
    },
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "g": "12"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "g": "12"},
    "libsvtav1": {"preset": "8", "crf": "10", "svtav1-params": "lp=1:keyint=12", "g": "12"},
}
OPEN_GROUPS: Final = {**FAST["libx264"], "x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12"}
"""Of x264: frames seen before a key frame are decoded after it, from it and what came before."""


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """(height, width, 3). The lower half shows a number in bars, the highest bit at the left; the upper left quarter is red."""
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[: height // 2, : width // 2] = (220, 30, 30)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[height // 2 :, left:right] = 230 if number >> (BITS - 1 - bit) & 1 else 25
    return frame


def number_of(frame: Pixels) -> int:
    """The number that a frame shows, however coarsely it was encoded."""
    height, width = frame.shape[:2]
    row = frame[height * 3 // 4].mean(axis=1)
    return sum((row[int((bit + 0.5) * width / BITS)] > 128) << (BITS - 1 - bit) for bit in range(BITS))


def is_upright(frame: Pixels) -> bool:
    """Whether the red quarter is the upper left one."""
    height, width = frame.shape[:2]
    red = frame[..., 0].astype(int) - frame[..., 1] > 80
    quarters = [red[: height // 2, : width // 2], red[: height // 2, width // 2 :], red[height // 2 :]]
    return bool(quarters[0].mean() > 0.8 and max(quarters[1].mean(), quarters[2].mean()) < 0.2)


def every(count: int, start: int = 0) -> list[int]:
    """So many times of frames, 25 a second."""
    return [start + STEP * number for number in range(count)]


def tiny_clip(
    path: Path,
    *,
    times: Sequence[int] = tuple(every(20)),
    tick: Fraction = TICK,
    encoder: str = "libx264",
    options: Mapping[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    aspect: Fraction | None = None,
    colours: Colours | None = None,
    sound: Sequence[str] = (),
    exact_start: bool = False,
) -> Path:
    """Write a clip whose frames are upright only once they are turned by `rotation` degrees anticlockwise. sound: encoders.
    exact_start: an MP4 tells in ticks when its tracks begin, and not in milliseconds.
    """
    container = CONTAINERS[path.suffix]
    opening = {"video_track_timescale": str(tick.denominator)} if container in ("mp4", "mov") else {}
    if exact_start:
        opening["movie_timescale"] = str(tick.denominator)
    with av.open(str(path), "w", format=container, options=opening) as opened:
        opened.metadata["title"], opened.metadata["artist"] = "a private title", "somebody"
        chosen = dict(FAST.get(encoder, {}) if options is None else options)
        if (
            encoder == "libx265" and len(times) == 1
        ):  # whose decoding time is anything where others might have come before it
            chosen["x265-params"] = chosen["x265-params"].replace("bframes=3", "bframes=0")
        stream = opened.add_stream(encoder, options=chosen)
        codec = stream.codec_context
        codec.width, codec.height, codec.pix_fmt, codec.time_base = *size, pixel_format, tick
        codec.framerate = Fraction(25)
        if aspect is not None:
            codec.sample_aspect_ratio = aspect
        if colours is not None:
            codec.colorspace, codec.color_range = colours.space, colours.range
            codec.color_primaries, codec.color_trc = colours.primaries, colours.transfer
        tracks = [opened.add_stream(name, rate=SOUND_RATE, layout="mono") for name in sound]
        if rotation:
            stream.set_display_rotation(rotation)
        start_encoding(opened)
        for packet in [*_video(stream, times, tick, size, pixel_format, rotation)]:
            opened.mux(packet)
        for pitch, track in enumerate(tracks, 1):
            opened.mux(list(_tone(track, 440.0 * pitch, float((times[-1] - times[0]) * tick))))
    return path


def _video(
    stream: Any, times: Sequence[int], tick: Fraction, size: tuple[int, int], pixel_format: str, rotation: int
) -> Iterator[Any]:
    width, height = size if rotation % 180 == 0 else size[::-1]
    for number, time in enumerate(times):
        lying = np.rot90(numbered_frame(number, width, height), -rotation // 90)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(lying), format="rgb24").reformat(format=pixel_format)
        frame.pts, frame.time_base = time, tick
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _tone(track: Any, pitch: float, seconds: float) -> Iterator[Any]:
    samples = np.sin(2 * np.pi * pitch * np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE)
    wave = (0.2 * samples)[None].astype(np.float32)
    frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
    yield from track.encode(frame)
    yield from track.encode(None)


def indexed(path: Path) -> ClipIndex:
    """As a run indexes it."""
    return index_clip(str(path), CONTAINERS[path.suffix])


def pieces_of(path: Path) -> list[Piece]:
    """All pieces of a clip, as they are read one by one."""
    return [Piece.from_bytes(read_piece(str(path), cut)) for cut in indexed(path).cuts()]


def decoded_whole(path: Path) -> dict[int, Pixels]:
    """All frames of a clip by their times, as FFmpeg decodes it from its beginning to its end, not turned."""
    with av.open(str(path)) as opened:
        opened.streams.video[0].codec_context.thread_count = 1
        return {frame.pts: frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)}
