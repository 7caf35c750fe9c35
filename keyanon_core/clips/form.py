"""What of a clip stays in its published pieces: the container, the codec, times, shape and colours."""

import base64
import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from keyanon_core.errors import PictureError

CONTAINERS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""By a clip's suffix: the format that its published pieces are written in."""

DEFAULT_ENCODER: Final = "libx264"
ENCODERS: Final = {
    "h264": DEFAULT_ENCODER,
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}
"""By a clip's codec: what encodes its published frames. Clips in other codecs become H.264, in a WebM VP9."""

READABLE: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""FFmpeg's names of what reads these. Others are not asked: a file that is a list of files, whatever its suffix, would be read
as what it names.
"""

_EBML: Final = b"\x1a\x45\xdf\xa3"  # Matroska and WebM (RFC 8794, 11.2.1)
_HEAD: Final = 64  # bytes, in which the header of Matroska names its document type
_BEFORE_FTYP: Final = frozenset({b"moov", b"mdat", b"wide"})  # that a QuickTime file began with before there was `ftyp`
_PICTURES: Final = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
"""Brands of ISO/IEC 14496-12 files that are pictures."""

MAX_FRAME_SIDE: Final = 16_384  # px
MAX_TIME: Final = 2**62  # of times in a time base's units, either way; FFmpeg adds to them in 64 bits
UNSPECIFIED: Final = 2  # ITU-T H.273, of all code points


@dataclass(frozen=True)
class Colours:
    """Code points of ITU-T H.273 that a clip is tagged with, and FFmpeg's number of its range (1 limited, 2 full, 0 unsaid)."""

    space: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class ClipForm:
    """container: of CONTAINERS. codec: its name. decoder, extradata: what decodes its packets. time_base: of all times, in
    seconds. width, height: px as they are coded. rotation: degrees, of 90, that its frames are turned anticlockwise by to be
    upright. aspect: of a pixel.
    """

    container: str
    codec: str
    decoder: str
    extradata: bytes
    time_base: Fraction
    width: int
    height: int
    rotation: int = 0
    aspect: Fraction = Fraction(1)
    colours: Colours = Colours()

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) px of a frame as it is seen."""
        return (self.height, self.width) if self.rotation % 180 else (self.width, self.height)

    @property
    def encoder(self) -> str:
        """The name of what encodes its published frames."""
        return ENCODERS.get(self.codec, "libvpx-vp9" if self.container == "webm" else DEFAULT_ENCODER)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        said = asdict(self)
        for name in ("time_base", "aspect"):
            said[name] = [said[name].numerator, said[name].denominator]
        return said | {"extradata": base64.b64encode(self.extradata).decode()}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> "ClipForm":
        """Inverse of `to_dict`. Raises LookupError, ArithmeticError, ValueError, TypeError, AttributeError for what it can not
        have written.
        """
        fractions = {name: Fraction(*map(int, said[name])) for name in ("time_base", "aspect")}
        colours = Colours(**{name: int(value) for name, value in said["colours"].items()})
        made = cls(**{**said, **fractions, "colours": colours, "extradata": base64.b64decode(said["extradata"])})
        made = replace(made, width=int(made.width), height=int(made.height), rotation=int(made.rotation))
        made._check()
        return made

    def _check(self) -> None:
        if self.container not in CONTAINERS.values() or not all(
            isinstance(name, str) and name.isprintable() for name in (self.codec, self.decoder)
        ):
            raise ValueError("an unknown container, codec or decoder")
        if min(self.width, self.height) < 1 or max(self.width, self.height) > MAX_FRAME_SIDE or self.rotation % 90:
            raise ValueError("frames of an impossible size or rotation")
        numbers = [number for one in (self.time_base, self.aspect) for number in one.as_integer_ratio()]
        if min(numbers) < 1 or max(numbers) >= 2**31:
            raise ValueError("an impossible time base or aspect")
        if not all(0 <= value < 256 for value in asdict(self.colours).values()):
            raise ValueError("impossible colours")


def suffix_by_content(begin: bytes) -> str:
    """The suffix of CONTAINERS that fits a file's first bytes; "" where they are no clip's."""
    if begin.startswith(_EBML):
        return ".webm" if b"webm" in begin[:_HEAD] else ".mkv"
    box, brand = begin[4:8], begin[8:12]
    if box in _BEFORE_FTYP or (box == b"ftyp" and brand == b"qt  "):
        return ".mov"
    return ".mp4" if box == b"ftyp" and brand not in _PICTURES else ""


def open_clip(file: BinaryIO | str, options: Mapping[str, str] = MappingProxyType({})) -> Any:
    """A file of CONTAINERS, opened by PyAV for reading from its begin. options: of its reader. Raises av.FFmpegError for any
    other; PictureError where PyAV is not installed.
    """
    if not isinstance(file, str):
        file.seek(0)
    return pyav().open(file, options={"format_whitelist": READABLE, **options})


def pyav() -> Any:
    """The module `av`. Raises PictureError where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise PictureError("unsupported", "reading video needs PyAV; pip install keyanon[video]") from error
