"""The packets of a few frames of a clip, and what decodes them, in one byte string: what travels to who works on it.

A container of its own would not do: Matroska rounds times to milliseconds, and MP4 holds few codecs.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO, Final

from keyanon_core.clips.form import MAX_TIME, ClipForm, open_clip, pyav
from keyanon_core.clips.index import Cut
from keyanon_core.errors import PictureError

MAGIC: Final = b"keyanon-piece/2\n"
MAX_HEADER_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Piece:
    """times: of its frames in the order in which they are seen; until: when its last one's time is over, both in the form's time
    base. packets: (time, bytes) in decoding order; the first ones may be of frames before the piece. following: those that come
    next, with which the frame at `until` may be seen, the first one after the piece; it is decoded where it can be.
    """

    form: ClipForm
    times: tuple[int, ...]
    until: int
    packets: tuple[tuple[int, bytes], ...] = field(repr=False)
    following: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    def to_bytes(self) -> bytes:
        """Inverse of `from_bytes`."""
        packets = [*self.packets, *self.following]
        header = {
            "form": self.form.to_dict(),
            "times": self.times,
            "until": self.until,
            "packets": [[time, len(data)] for time, data in packets],
            "following": len(self.following),
        }
        said = json.dumps(header).encode()
        return b"".join([MAGIC, len(said).to_bytes(8), said, *(data for _, data in packets)])

    @classmethod
    def from_bytes(cls, encoded: bytes) -> "Piece":
        """Raises PictureError ("corrupt") for bytes that are no piece."""
        at = len(MAGIC) + 8
        try:
            if not is_piece(encoded):
                raise ValueError("another beginning")
            length = int.from_bytes(encoded[len(MAGIC) : at])
            if length > min(MAX_HEADER_BYTES, len(encoded) - at):
                raise ValueError("a header beyond its end")
            header: dict[str, Any] = json.loads(encoded[at : at + length])
            at += length
            packets = []
            for time, size in header["packets"]:
                if type(size) is not int or not 0 < size <= len(encoded) - at:
                    raise ValueError("a packet beyond its end")
                packets.append((int(time), encoded[at : at + size]))
                at += size
            if at != len(encoded):
                raise ValueError("bytes after its end")
            times, until = tuple(map(int, header["times"])), int(header["until"])
            _check_times(times, until, [time for time, _ in packets])
            own = len(packets) - header["following"]
            if not 0 <= own <= len(packets):
                raise ValueError("more packets after it than there are")
            return cls(ClipForm.from_dict(header["form"]), times, until, tuple(packets[:own]), tuple(packets[own:]))
        except (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PictureError("corrupt", f"not a piece of a clip ({type(error).__name__})") from error


def _check_times(times: tuple[int, ...], until: int, packets: list[int]) -> None:
    """Raise ValueError unless times rise, end, and fit those of packets."""
    rising = [*times, until]
    if not times or any(after <= before for before, after in pairwise(rising)):
        raise ValueError("times that do not rise")
    if not all(-MAX_TIME <= time <= MAX_TIME for time in [*rising, *packets]):
        raise ValueError("impossible times")


def is_piece(encoded: bytes) -> bool:
    """Whether bytes are those of a piece, and not of a picture."""
    return encoded.startswith(MAGIC)


def read_piece(file: BinaryIO | str, cut: Cut) -> bytes:
    """Read one piece of a clip. Raises PictureError ("changed") where the clip is not as it was indexed, "unreadable"."""
    av = pyav()
    needed = [*cut.packets, *cut.following]
    wanted = [time for time, _ in needed]
    try:
        with open_clip(file) as opened:
            stream = opened.streams.video[0]
            packets = _packets(opened, stream, wanted, seek=True) or _packets(opened, stream, wanted, seek=False)
    except (av.FFmpegError, IndexError) as error:
        raise PictureError("unreadable", f"the clip can not be read any more ({type(error).__name__})") from error
    if packets is None or [len(data) for _, data in packets] != [size for _, size in needed]:
        raise PictureError("changed", "the clip is not what it was when the run listed it")
    own = len(cut.packets)
    return Piece(cut.form, cut.times, cut.until, tuple(packets[:own]), tuple(packets[own:])).to_bytes()


def _packets(opened: Any, stream: Any, wanted: list[int], *, seek: bool) -> list[tuple[int, bytes]] | None:
    """The wanted packets, one after the other; None where they are not found from where seeking leads."""
    opened.seek(wanted[0] if seek else 0, stream=stream, backward=True)
    found: list[tuple[int, bytes]] = []
    for packet in opened.demux(stream):
        if packet.size and (found or packet.pts == wanted[0]):
            if packet.pts != wanted[len(found)]:
                return None
            found.append((packet.pts, bytes(packet)))
            if len(found) == len(wanted):
                return found
    return None
