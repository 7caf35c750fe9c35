"""Clips of a few small frames without a face, for tests of where their pieces go."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

av = pytest.importorskip("av", reason="clips take keyanon[video]")

WIDTH, HEIGHT, FRAMES = 96, 64, 40  # px, px, frames: a piece of 32 and one of 8
FPS: Final = 25
SOUND_RATE: Final = 8000  # Hz


def tiny_clip(path: Path, *, frames: int = FRAMES, begin: int = 0, shade: int = 0, sound: bool = False) -> bytes:
    """Write one in H.264 and return its bytes. begin: number of the frame at whose time it starts. shade: grey level of its
    first frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as opened:
        stream = opened.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 10
        track = opened.add_stream("aac", rate=SOUND_RATE, layout="mono") if sound else None
        for number in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), (shade + 3 * number) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = begin + number, Fraction(1, FPS)
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
        if track is not None:
            opened.mux(list(_silence(track, frames / FPS)))
    return path.read_bytes()


def sound_alone(path: Path) -> None:
    """Write a file with a sound track and no frame."""
    with av.open(str(path), "w") as opened:
        track = opened.add_stream("aac", rate=SOUND_RATE, layout="mono")
        opened.mux(list(_silence(track, 0.5)))


def _silence(track: Any, seconds: float) -> Iterator[Any]:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, round(seconds * SOUND_RATE)), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
    yield from track.encode(frame)
    yield from track.encode(None)
