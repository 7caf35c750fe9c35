"""Where the frames of a clip lie, and how it is cut into pieces. Packets are read, and but for the first frame none decoded.

A piece is a few frames in a row in the order in which they are seen. Its packets begin with the last key frame that is not seen
after it, so that a piece decodes whatever the clip's groups of pictures are like, open or closed, short or long.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.form import MAX_FRAME_SIDE, ClipForm, Colours, open_clip, pyav
from keyanon_core.clips.matroska import missing_bytes
from keyanon_core.errors import PictureError

PIECE_FRAMES: Final = 32  # at most; each piece begins with a key frame, which costs bytes
PIECE_PIXELS: Final = 32_000_000  # of all frames of a piece, which are held decoded: 1080p in pieces of 15
MAX_STRIP_HEIGHT: Final = 65_000  # px, of frames one below the other (`imaging.MAX_SIDE`)
MAX_SECONDS: Final = 1_000_000  # the names of pieces, in milliseconds, have nine digits and stand in order
MAX_FRAMES: Final = 10_000_000

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """A piece of a clip, and where its packets lie. times: of its frames in the order in which they are seen; until: when its
    last one's time is over. packets: (time, bytes) of those that it needs, in decoding order. following: of those that come
    next, up to the frame at `until`; none where the clip ends.
    """

    form: ClipForm
    times: tuple[int, ...]
    until: int
    packets: tuple[tuple[int, int], ...] = field(repr=False)
    following: tuple[tuple[int, int], ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of its packets."""
        return sum(size for _, size in self.packets)


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """form: what stays of the clip. times: (n,) rising, of the frames as they are seen, in units of the form's time base.
    packets: (n,) the same times in the order in which they are decoded. is_key: (n,) bool. sizes: (n,) bytes. last: how long
    the last frame is shown. audio: how many sound tracks it has. is_hidden: (n,) bool, packets that others need, and whose frames
    nobody sees.
    """

    form: ClipForm
    times: Numbers
    packets: Numbers = field(repr=False)
    is_key: npt.NDArray[np.bool_] = field(repr=False)
    sizes: Numbers = field(repr=False)
    last: int
    audio: int
    is_hidden: npt.NDArray[np.bool_] = field(repr=False)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """(n,) of the frames' times."""
        return np.asarray(self.times * float(self.form.time_base), np.float64)

    def cuts(self) -> Iterator[Cut]:
        """The clip's pieces: the same ones whenever it is asked."""
        return map(self.cut, range(-(-len(self.times) // frames_of_piece(self.form))))

    def cut(self, number: int) -> Cut:
        """The piece of a number, from 0."""
        frames = frames_of_piece(self.form)
        begin, end = number * frames, min((number + 1) * frames, len(self.times))
        where, keys = self._positions[begin:end], self._keys
        before = keys[(keys <= where.min()) & (self.packets[keys] <= self.times[begin])]
        first, last = int(before[-1]) if len(before) else 0, int(where.max()) + 1
        further, until = last, int(self.times[-1] + self.last)
        if end < len(self.times):
            further, until = max(last, int(self._positions[end]) + 1), int(self.times[end])
        times = tuple(self.times[begin:end].tolist())
        return Cut(self.form, times, until, self._between(first, last), self._between(last, further))

    def _between(self, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """(time, bytes) of the packets from the first to before the last."""
        return tuple(zip(self.packets[first:last].tolist(), self.sizes[first:last].tolist(), strict=True))

    @cached_property
    def _positions(self) -> Numbers:
        """Where the packet of each frame lies."""
        shown = np.flatnonzero(~self.is_hidden)
        return np.asarray(shown[np.argsort(self.packets[shown], kind="stable")])

    @cached_property
    def _keys(self) -> Numbers:
        return np.flatnonzero(self.is_key)


def frames_of_piece(form: ClipForm) -> int:
    """How many frames a piece has, but for the last one."""
    height = form.upright_size[1]
    return max(min(PIECE_FRAMES, PIECE_PIXELS // (form.width * form.height), MAX_STRIP_HEIGHT // height), 1)


def index_clip(file: BinaryIO | str, container: str) -> ClipIndex:
    """Index the first video track of a clip. container: of `form.CONTAINERS`.

    Raises PictureError: "not_a_clip", "truncated", "corrupt", or "unsupported" where frames have no times of their own.
    """
    av = pyav()
    try:
        with open_clip(file) as opened:
            if not opened.streams.video:
                raise PictureError("not_a_clip", "it has no video track")
            stream = opened.streams.video[0]
            if stream.codec_context is None:
                raise PictureError("unsupported", "its video track is in a codec that is not known here")
            promised = int(stream.frames or 0)
            found = [
                (
                    packet.pts,
                    packet.is_keyframe,
                    packet.size,
                    packet.duration or 0,
                    packet.is_corrupt,
                    packet.is_discard,
                )
                for packet in opened.demux(stream)
                if packet.size
            ]
            ends = stream.duration and stream.duration + (stream.start_time or 0)
            _check_whole(file, found, promised)
            audio = len(opened.streams.audio)
            opened.seek(0)
            form = _form(stream, next(opened.decode(stream)), container)
    except StopIteration:
        raise PictureError("corrupt", "no frame of it can be decoded") from None
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise PictureError("not_a_clip", f"it can not be read as a video ({_words(error)})") from error
    return _index(form, found, int(ends or 0), audio)


def _check_whole(file: BinaryIO | str, found: list[tuple[Any, ...]], promised: int) -> None:
    """Raise PictureError ("truncated") where packets are missing or cut."""
    missing = missing_bytes(file)
    if missing:
        raise PictureError("truncated", f"its last {missing} bytes are missing")
    whole = sum(not one[4] for one in found)
    if whole == len(found) < promised:  # an edit list may hide some, as of a clip that a phone has cut
        whole = _stored(file)
    if whole < max(promised, len(found)):
        raise PictureError("truncated", f"it has {whole} of the {max(promised, len(found))} frames that it says it has")


def _stored(file: BinaryIO | str) -> int:
    """How many whole frames a clip has, those among them that its edit list hides."""
    with open_clip(file, {"ignore_editlist": "1"}) as opened:
        packets = opened.demux(opened.streams.video[0])
        return sum(1 for packet in packets if packet.size and not packet.is_corrupt)


def _index(form: ClipForm, found: list[tuple[Any, ...]], ends: int, audio: int) -> ClipIndex:
    if any(one[0] is None for one in found):
        raise PictureError(
            "unsupported", "its frames have no times of their own; put it into an MP4 or Matroska file first"
        )
    if not 0 < len(found) <= MAX_FRAMES:
        raise PictureError("unsupported", f"it has {len(found)} frames; a clip has 1 to {MAX_FRAMES}")
    packets = np.array([one[0] for one in found], np.int64)
    is_hidden = np.array([one[5] for one in found], np.bool_)
    times = np.sort(packets[~is_hidden])
    if not len(times):
        raise PictureError("unsupported", "its edit list hides all its frames")
    if times[-1] * form.time_base >= MAX_SECONDS:
        raise PictureError("unsupported", f"its times reach beyond {MAX_SECONDS} s; let them begin at 0")
    if len(times) > 1 and np.diff(times).min() <= 0:
        raise PictureError("unsupported", "two of its frames have one time")
    typical = int(np.median(np.diff(times))) if len(times) > 1 else round(Fraction(1, 25) / form.time_base)
    return ClipIndex(
        form,
        times,
        packets,
        np.array([one[1] for one in found], np.bool_),
        np.array([one[2] for one in found], np.int64),
        int(found[int(np.flatnonzero(packets == times[-1])[0])][3]) or max(ends - int(times[-1]), 0) or typical,
        audio,
        is_hidden,
    )


def _form(stream: Any, frame: Any, container: str) -> ClipForm:
    codec = stream.codec_context
    width, height = int(frame.width), int(frame.height)
    if max(width, height) > MAX_FRAME_SIDE:
        raise PictureError("too_large", f"frames of {width} x {height} px; the limit is {MAX_FRAME_SIDE} px a side")
    colours = Colours(int(codec.colorspace), int(codec.color_range), int(codec.color_primaries), int(codec.color_trc))
    return ClipForm(
        container=container,
        codec=codec.codec.canonical_name,
        decoder=codec.codec.name,
        extradata=bytes(codec.extradata or b""),
        time_base=Fraction(stream.time_base),
        width=width,
        height=height,
        rotation=round(float(frame.rotation or 0) / 90) * 90 % 360,
        aspect=Fraction(stream.sample_aspect_ratio or 1),
        colours=colours,
    )


def _words(error: Exception) -> str:
    """What FFmpeg says, without the file's name."""
    return str(getattr(error, "strerror", None) or error)[:200]
