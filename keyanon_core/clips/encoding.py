"""Makes published pieces of a clip: one group of pictures each, with the clip's times, shape and colours, and no other metadata.

All pieces of a clip are encoded by one encoder with one choice of options, so that they can be joined packet by packet.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from keyanon_core.clips.form import MAX_TIME, ClipForm, open_clip, pyav
from keyanon_core.clips.frames import MATRICES, Pixels, Strip, decode_published, durations_of
from keyanon_core.errors import PictureError
from keyanon_core.faces.strips import frames_of

ONE_GROUP: Final = 100_000  # frames between key frames: more than a piece has
OPTIONS: Final = {
    "libx264": {"crf": "18", "preset": "medium", "bf": "0", "sc_threshold": "0", "threads": "1"},
    "libx265": {
        "crf": "20",
        "preset": "medium",
        "x265-params": "bframes=0:scenecut=0:pools=none:frame-threads=1:log-level=none:info=0",
    },
    "libvpx": {"crf": "8", "b": "100M", "lag-in-frames": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "2"},
    "libvpx-vp9": {
        "crf": "20",
        "b": "0",
        "lag-in-frames": "0",
        "auto-alt-ref": "0",
        "deadline": "good",
        "cpu-used": "4",
        "row-mt": "0",
    },
    "libsvtav1": {"crf": "25", "preset": "8", "svtav1-params": "pred-struct=1:lp=1:scd=0"},
}
"""By the encoder: near to what the eye can not tell from the source, and no frame that is decoded before it is seen."""

WHOLE_CHROMA: Final = ("libx264", "libx265")  # halve that of an even number of pixels only


@dataclass(frozen=True)
class PieceTime:
    """Where a published piece stands in its clip: its first frame's time, in the clip's time base, and that base."""

    start: int
    time_base: Fraction

    def to_comment(self) -> str:
        """As its file's comment holds it."""
        base = [self.time_base.numerator, self.time_base.denominator]
        return json.dumps({"keyanon_piece": {"start": self.start, "time_base": base}})

    @classmethod
    def from_comment(cls, comment: str) -> "PieceTime":
        """Inverse of `to_comment`. Raises PictureError ("corrupt")."""
        try:
            said = json.loads(comment)["keyanon_piece"]
            start, base = int(said["start"]), Fraction(*map(int, said["time_base"]))
            if abs(start) > MAX_TIME or base <= 0 or max(base.as_integer_ratio()) >= 2**31:
                raise ValueError("an impossible time")
            return cls(start, base)
        except (LookupError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise PictureError("corrupt", "it does not say where in its clip it stands") from error


def encode_piece(strip: Strip, form: ClipForm, until: int) -> bytes:
    """Encode frames as one published piece, which begins at time 0. until: when the last frame's time is over.

    Raises PictureError ("unsupported") where the encoder can not make them.
    """
    av, start = pyav(), strip.times[0]
    out = io.BytesIO()
    try:
        with av.open(
            out, "w", format=form.container, options=container_options(form.container, form.time_base)
        ) as opened:
            opened.metadata["comment"] = PieceTime(start, form.time_base).to_comment()
            stream = opened.add_stream(form.encoder, options=dict(OPTIONS[form.encoder]))
            encoder = stream.codec_context
            _describe(encoder, form, strip)
            times, ends = [time - start for time in strip.times], [*strip.times[1:], until]
            durations = {time: end - start - time for time, end in zip(times, ends, strict=True)}
            start_encoding(opened)
            _mux(opened, stream, _frames(av, stream, form, strip), times, form.time_base, durations)
    except (av.FFmpegError, ValueError, KeyError) as error:
        raise PictureError("unsupported", f"it can not be encoded by {form.encoder} ({error})"[:300]) from error
    return out.getvalue()


def encode_restored(published: bytes, pixels: Pixels) -> bytes:
    """Frames of a restored piece, (n * height, W, 3) uint8, without any loss (FFV1, RFC 9043, in Matroska), at the times of the
    published one. Raises PictureError as `decode_published`.
    """
    av, out = pyav(), io.BytesIO()
    shown = decode_published(published, pixels.shape[0] * pixels.shape[1])
    with open_clip(io.BytesIO(published)) as opened:
        source = opened.streams.video[0]
        base, time = source.time_base, piece_time(opened)
        packets = [packet for packet in opened.demux(source) if packet.size]
        lasting = zip(packets, durations_of(packets, source), strict=True)
        durations = {packet.pts: shown_for for packet, shown_for in lasting}
    with av.open(out, "w", format="matroska", options=container_options("matroska", base)) as opened:
        opened.metadata["comment"] = time.to_comment()
        stream = opened.add_stream("ffv1", options={"threads": "1"})
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = pixels.shape[1], shown.height, "bgr0"
        encoder.time_base, encoder.framerate = base, Fraction(25)
        frames = (
            av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            for frame in frames_of(pixels, shown.height)
        )
        _mux(opened, stream, frames, shown.times, base, durations)
    return out.getvalue()


def start_encoding(opened: Any) -> None:
    """Open the encoders of an output container, and write its header.

    SVT-AV1 gives its threads, and the one that calls it, real-time priority where it may (as root, whom most containers run
    as). Whatever else the machine does would wait for them, and what the caller starts later would be like them.
    """
    usual = _policies()
    opened.start_encoding()
    for thread, policy in _policies().items():
        if policy != usual.get(thread, os.SCHED_OTHER):
            os.sched_setscheduler(thread, usual.get(thread, os.SCHED_OTHER), os.sched_param(0))


def _policies() -> dict[int, int]:
    """By a thread of this process: how it is scheduled (Linux, sched(7); elsewhere nothing is known)."""
    policies: dict[int, int] = {}
    if sys.platform == "linux":
        for thread in (int(each.name) for each in Path("/proc/self/task").iterdir()):
            with suppress(ProcessLookupError):  # it has ended
                policies[thread] = os.sched_getscheduler(thread)
    return policies


def container_options(container: str, base: Fraction) -> dict[str, str]:
    """With which a clip's times, in seconds of a time base, are written as they are, and nothing about who wrote them."""
    options = {"fflags": "+bitexact"}
    if container in ("mp4", "mov") and base.numerator == 1:
        options["video_track_timescale"] = str(base.denominator)
    return options


def piece_time(opened: Any) -> PieceTime:
    """Where an opened piece stands in its clip. Raises PictureError ("corrupt")."""
    said = {name.lower(): value for name, value in opened.metadata.items()}
    return PieceTime.from_comment(said.get("comment", ""))


def _describe(encoder: Any, form: ClipForm, strip: Strip) -> None:
    width, height = strip.pixels.shape[1], strip.height
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = pixel_format(form.encoder, width, height)
    encoder.time_base, encoder.framerate = form.time_base, Fraction(25)
    encoder.gop_size = ONE_GROUP
    encoder.sample_aspect_ratio = 1 / form.aspect if form.rotation % 180 else form.aspect
    colours = form.colours
    encoder.colorspace, encoder.color_range = colours.space, colours.range
    encoder.color_primaries, encoder.color_trc = colours.primaries, colours.transfer


def pixel_format(encoder: str, width: int, height: int) -> str:
    """Chroma is halved, but of an odd number of pixels only where the encoder can."""
    return "yuv444p" if encoder in WHOLE_CHROMA and (width % 2 or height % 2) else "yuv420p"


def _frames(av: Any, stream: Any, form: ClipForm, strip: Strip) -> Iterator[Any]:
    matrix = MATRICES.get(form.colours.space, "ITU601")
    spread = "JPEG" if form.colours.range == 2 else "MPEG"
    for pixels in strip.frames():
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        yield frame.reformat(format=stream.codec_context.pix_fmt, dst_colorspace=matrix, dst_color_range=spread)


def _mux(
    opened: Any, stream: Any, frames: Iterable[Any], times: Sequence[int], base: Fraction, durations: Mapping[int, int]
) -> None:
    """Write frames at their times, each shown as long as is said of its time."""
    packets = []
    for time, frame in zip(times, frames, strict=True):
        frame.pts, frame.time_base = time, base
        packets += stream.encode(frame)
    for packet in [*packets, *stream.encode(None)]:
        packet.duration = durations[packet.pts]
        opened.mux(packet)
