"""What of a clip stays in its published pieces: the container, the codec, times, shape and colours."""

import base64
import importlib
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Final

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

MAX_FRAME_SIDE: Final = 16_384  # px
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
    """container: of CONTAINERS. codec: its name. decoder, extradata: what decodes
    its packets. time_base: of all times, in seconds. width, height:
    px as they are coded. rotation: degrees, of 90, that its frames are turned anticlockwise by to be upright. aspect: of a pixel.
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
        """Inverse of `to_dict`. Raises LookupError, ValueError, TypeError for what it can not have written."""
        fractions = {name: Fraction(*map(int, said[name])) for name in ("time_base", "aspect")}
        colours = Colours(**{name: int(value) for name, value in said["colours"].items()})
        made = cls(**{**said, **fractions, "colours": colours, "extradata": base64.b64decode(said["extradata"])})
        return replace(made, width=int(made.width), height=int(made.height), rotation=int(made.rotation))


def pyav() -> Any:
    """The module `av`. Raises PictureError where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise PictureError("unsupported", "reading video needs PyAV; pip install keyanon[video]") from error
