"""Makes one clip of its published pieces, packet by packet, with the source's sound where it is kept."""

import errno
import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

from keyanon_core.clips.encoding import container_options, piece_time
from keyanon_core.clips.form import open_clip, pyav
from keyanon_core.clips.frames import decoder_of, durations_of
from keyanon_core.errors import PictureError

MACHINES_FAULTS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


def join_pieces(pieces: Iterable[bytes], out: Path, container: str, sound: BinaryIO | str | None = None) -> None:
    """Write a clip of published pieces in their order. container: of `form.CONTAINERS`. sound: a clip whose sound tracks are
    copied packet by packet; None leaves it silent.

    Raises PictureError ("corrupt") for pieces that are not of one clip; OSError where it can not be written.
    """
    av, coming = pyav(), iter(pieces)
    first = next(coming, None)
    if first is None:
        raise PictureError("corrupt", "a clip has at least one piece")
    try:
        with open_clip(io.BytesIO(first)) as opened:
            template, base = opened.streams.video[0], piece_time(opened).time_base
            with av.open(str(out), "w", format=container, options=_options(container, base)) as joined:
                video = joined.add_stream_from_template(template, opaque=True)  # some decoders are no encoders
                if sound is None:
                    joined.mux(_packets(av, chain([first], coming), video, template))
                    return
                with open_clip(sound) as heard:
                    tracks = {
                        track.index: joined.add_stream_from_template(track, opaque=True)
                        for track in heard.streams.audio
                    }
                    both = merge(
                        _packets(av, chain([first], coming), video, template), _sound(heard, tracks), key=_when
                    )
                    for packet in both:
                        joined.mux(packet)
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in MACHINES_FAULTS:
            raise
        raise PictureError("corrupt", f"its pieces can not be joined ({error})"[:300]) from error


def _packets(av: Any, pieces: Iterable[bytes], stream: Any, template: Any) -> Iterator[Any]:
    """The packets of pieces at their places in the clip. The last one is shown as long as in its piece."""
    like = _encoding(template)
    end: Fraction | None = None
    for piece in pieces:
        with open_clip(io.BytesIO(piece)) as opened:
            source, time = opened.streams.video[0], piece_time(opened)
            if _encoding(source) != like:
                raise PictureError("corrupt", "two of its pieces were encoded otherwise, and can not be joined")
            if end is not None and time.start * time.time_base < end:
                raise PictureError("corrupt", "two of its pieces overlap in time, or are out of order")
            packets, unit = (
                [packet for packet in opened.demux(source) if packet.size],
                source.time_base / time.time_base,
            )
            if not packets:
                raise PictureError("corrupt", "one of its pieces has no frames")
            for packet, shown_for in zip(packets, durations_of(packets, source), strict=True):
                at = round(packet.pts * unit) + time.start
                packet.duration = round(shown_for * unit)
                packet.pts = packet.dts = at
                packet.time_base, packet.stream = time.time_base, stream
                end = (at + 1) * time.time_base
                yield packet


def _encoding(stream: Any) -> tuple[str, bytes | None]:
    codec = decoder_of(stream)
    return codec.codec.name, codec.extradata


def _sound(heard: Any, tracks: dict[int, Any]) -> Iterator[Any]:
    if not tracks:  # or all tracks would be read
        return
    for packet in heard.demux(*heard.streams.audio):
        if packet.size:
            packet.stream = tracks[packet.stream.index]
            yield packet


def _when(packet: Any) -> Fraction:
    at: Fraction = Fraction(packet.dts if packet.dts is not None else packet.pts) * packet.time_base
    return at


def _options(container: str, base: Fraction) -> dict[str, str]:
    options = container_options(container, base)
    if container in ("mp4", "mov"):
        options["movflags"] = "+faststart"
    if "video_track_timescale" in options:  # by which a track's beginning is told, too
        options["movie_timescale"] = options["video_track_timescale"]
    return options
