"""Decoded frames of a piece, one below the other: a strip, which what works on pictures works on as one of them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.form import Colours, open_clip, pyav, suffix_by_content
from keyanon_core.clips.piece import Piece
from keyanon_core.errors import PictureError
from keyanon_core.faces.strips import frames_of

Pixels = npt.NDArray[np.uint8]

MATRICES: Final = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}
"""FFmpeg's names of the matrices between RGB and YCbCr, by code point. Of others BT.601 is used, there and back."""

FOLLOWING: Final = -1  # position of the frame after a piece

CODED_MORE: Final = 256  # px a side, by which coded frames may be larger than those that are seen


@dataclass(frozen=True, eq=False)
class Strip:
    """pixels: (n * height, W, 3) uint8 RGB, n upright frames one below the other. times: of each, in the clip's time base.
    following: (height, W, 3), the frame after them, where it is known.
    """

    pixels: Pixels = field(repr=False)
    height: int
    times: tuple[int, ...]
    following: Pixels | None = field(default=None, repr=False)

    def frames(self) -> Iterator[Pixels]:
        """Each frame, a view of (height, W, 3)."""
        return frames_of(self.pixels, self.height)


def decode_piece(piece: Piece, max_pixels: int) -> Strip:
    """Decode the frames of a piece. Raises PictureError: "too_large", "corrupt" where one can not be decoded, "unsupported"."""
    av, form = pyav(), piece.form
    _check_pixels(form.width * form.height * len(piece.times), max_pixels)
    try:
        decoder = av.CodecContext.create(form.decoder, "r")
        decoder.extradata, decoder.thread_count = form.extradata or None, 1
        decoder.options = _limit((form.width + CODED_MORE) * (form.height + CODED_MORE))
        decoded = _decoded(av, decoder, piece)
        return _strip(decoded, piece.times, form.colours, form.rotation, max_pixels, piece.until)
    except (av.FFmpegError, ValueError) as error:
        raise PictureError("corrupt", f"its frames can not be decoded ({type(error).__name__})") from error


def is_published_piece(encoded: bytes) -> bool:
    """Whether the bytes of a published file are a clip's, and not a picture's."""
    return suffix_by_content(encoded) != ""


def decode_published(encoded: bytes, max_pixels: int) -> Strip:
    """Decode a published piece; its times begin at 0. Raises PictureError as `decode_piece`."""
    av = pyav()
    try:
        with open_clip(io.BytesIO(encoded)) as opened:
            stream = opened.streams.video[0]
            codec = decoder_of(stream)
            codec.thread_count, codec.options = 1, _limit(max_pixels + CODED_MORE**2)
            times = tuple(sorted(packet.pts for packet in opened.demux(stream) if packet.size))
            _check_pixels(codec.width * codec.height * len(times), max_pixels)
            opened.seek(0)
            colours = Colours(int(codec.colorspace), int(codec.color_range))
            return _strip(opened.decode(stream), times, colours, 0, max_pixels)
    except (av.FFmpegError, IndexError, ValueError, TypeError) as error:
        raise PictureError("corrupt", f"not a readable piece of a clip ({type(error).__name__})") from error


def decoder_of(stream: Any) -> Any:
    """A video track's codec context. Raises PictureError ("unsupported") where nothing decodes it."""
    if stream.codec_context is None:
        raise PictureError("unsupported", "its video track is in a codec that is not known here")
    return stream.codec_context


def durations_of(packets: Sequence[Any], stream: Any) -> list[int]:
    """How long each of a published piece's packets is shown, in its stream's time base. Where the whole stream's is told, as
    in MP4, it says when the last one ends: of VP9 FFmpeg guesses the others, or tells none.
    """
    last = packets[-1]
    end = max(stream.duration or last.pts + last.duration, last.pts)
    return [after - before for before, after in pairwise([*(packet.pts for packet in packets), end])]


def _decoded(av: Any, decoder: Any, piece: Piece) -> Iterator[Any]:
    for time, data in piece.packets:
        yield from decoder.decode(_packet(av, piece, time, data))
    with suppress(av.FFmpegError):  # what follows a piece is no part of it
        for time, data in piece.following:
            yield from decoder.decode(_packet(av, piece, time, data))
    yield from decoder.decode(None)


def _packet(av: Any, piece: Piece, time: int, data: bytes) -> Any:
    packet = av.Packet(data)
    packet.pts, packet.time_base = time, piece.form.time_base
    return packet


def _strip(
    decoded: Iterable[Any],
    times: tuple[int, ...],
    colours: Colours,
    rotation: int,
    most: int,
    until: int | None = None,
) -> Strip:
    """Those of the decoded frames that are seen at `times`, and the one at `until` if it is whole."""
    at = {time: position for position, time in enumerate(times)}
    if until is not None:
        at[until] = FOLLOWING
    found: dict[int, Pixels] = {}
    for frame in decoded:
        position = at.get(frame.pts)
        if position is None or (position == FOLLOWING and frame.is_corrupt):
            continue
        _check_pixels(frame.width * frame.height * len(times), most)
        if frame.is_corrupt:
            raise PictureError("corrupt", f"frame {position} of the piece is damaged")
        pixels = frame.to_ndarray(format="rgb24", src_colorspace=MATRICES.get(colours.space, "ITU601"))
        found[position] = np.rot90(pixels, rotation // 90)
    following = found.pop(FOLLOWING, None)
    if len(found) < len(times) or not times:
        raise PictureError(
            "corrupt", f"{len(times) - len(found)} of the piece's {len(times)} frames can not be decoded"
        )
    if len({one.shape for one in found.values()}) > 1:
        raise PictureError("unsupported", "its frames change their size")
    ordered = [found[position] for position in range(len(times))]
    if following is not None and following.shape != ordered[0].shape:
        following = None
    return Strip(np.concatenate(ordered), len(ordered[0]), times, following)


def _limit(pixels: int) -> dict[str, str]:
    """What keeps a decoder from frames that are larger than said, each of which may take a gigabyte."""
    return {"max_pixels": str(min(pixels, 2**31 - 1))}


def _check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise PictureError("too_large", f"a piece of {pixels} px; the limit is {most} px in all (max_pixels)")
