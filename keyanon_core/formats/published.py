"""A source's file and the picture that is published for it: what the two have in common whatever the format."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.frames import decode_published, is_published_piece
from keyanon_core.faces.masks import PictureMask
from keyanon_core.imaging import (
    DEFAULT_JPEG_QUALITY,
    DEFAULT_MAX_PIXELS,
    MAX_SIDE,
    encode_picture,
    explained,
    load_picture,
    rgb_pixels,
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Published:
    """encoded: the published file. shown: (H, W, 3) uint8, what whoever opens it sees: the pixels that are judged."""

    encoded: bytes = field(repr=False)
    shown: Pixels = field(repr=False)


class SourceFile(ABC):
    """A decoded source. pixels: (H, W, 3) uint8 RGB, upright, in the colours that the published picture will have."""

    pixels: Pixels

    @property
    def frame_height(self) -> int:
        """Px of each frame, of which `pixels` may be several, one below the other; a picture is one."""
        return len(self.pixels)

    @property
    def frame_times(self) -> npt.NDArray[np.float64]:
        """(n,) s, rising, at which each frame is seen."""
        return np.zeros(1)

    @property
    def following(self) -> Pixels | None:
        """(frame_height, W, 3), the frame after a piece of a clip, where there is one."""
        return None

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """True when the published picture shows every pixel of a result as it is."""

    @abstractmethod
    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        """The published picture of a result like `pixels`, which differs from them nowhere but in the masks.

        Raises PictureError ("unsupported") where the format can not hold it.
        """


@dataclass(frozen=True)
class FixedFormat(SourceFile):
    """A source whose picture is published in a format of the user's choice: "png", "webp" or "jpeg"."""

    pixels: Pixels = field(repr=False)
    format: str
    quality: int = DEFAULT_JPEG_QUALITY
    profile: bytes | None = field(default=None, repr=False)

    @property
    def is_exact(self) -> bool:
        return self.format != "jpeg"

    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        encoded = encode_picture(result, self.format, self.quality, self.profile)
        return Published(encoded, result if self.is_exact else seen(encoded))


class PublishedPixels(NamedTuple):
    """pixels: (H, W, 3) uint8, upright, in the numbers that the file holds. profile: that they are in, or None. frame_height: as
    of a `SourceFile`.
    """

    pixels: Pixels
    profile: bytes | None
    frame_height: int


def published_pixels(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> PublishedPixels:
    """What a published picture, or piece of a clip, shows. Raises PictureError as `decode_picture`."""
    if is_published_piece(encoded):
        strip = decode_published(encoded, max_pixels)
        return PublishedPixels(strip.pixels, None, strip.height)
    picture = load_picture(encoded, max_pixels)
    with explained(picture):
        pixels = rgb_pixels(picture, convert=False)
        return PublishedPixels(pixels, picture.info.get("icc_profile"), len(pixels))


def seen(encoded: bytes) -> Pixels:
    """How a picture that was just made looks; of any size. Raises PictureError."""
    return published_pixels(encoded, MAX_SIDE**2).pixels
