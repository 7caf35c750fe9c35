"""A JPEG whose published picture is a JPEG again, with the coefficients of every block that no mask touches.

It is written in the source's stored orientation, and the EXIF orientation is the one thing kept of the metadata beside the
colour profile: blocks can be turned without loss only where the sides are whole blocks, and labels of either orientation fit.

Nothing is trusted that a decoder can contradict: the result is decoded, and where pixels that no renewed block reaches differ
from the source's, or a face is not nearly what it was meant to be, the picture is encoded anew as a whole. That is also what
happens to every JPEG whose coefficients can not be kept.
"""

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.errors import PictureError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.jpeg_blocks import Renewal, touched_pixels
from keyanon_core.formats.jpeg_coefficients import read_coefficients, write_coefficients
from keyanon_core.formats.jpeg_header import (
    APP0,
    APP1,
    APP2,
    CoefficientsError,
    JpegHeader,
    Segment,
    joined,
    read_header,
)
from keyanon_core.formats.published import FixedFormat, Pixels, Published, SourceFile, seen

JFIF: Final = Segment(APP0, b"JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00")  # version 1.1, square pixels, no thumbnail
ICC_NAME: Final = b"ICC_PROFILE\0"
ICC_CHUNK_BYTES: Final = 65519  # that fit into a marker segment beside name and numbers (ICC.1:2022, annex B.4)
EXIF: Final = struct.Struct("<6s2sHIHHHIIxxxx")  # one IFD with one SHORT entry (TIFF 6.0, section 2)
ORIENTATION_TAG: Final = 0x0112
MAX_ERROR: Final = 16.0  # levels of 255, rms, between a face as it was meant and as it is stored: 24 dB

# From upright to stored, by EXIF orientation: are rows and columns exchanged, and are then columns, and rows, reversed
TO_STORED: Final = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JpegSource(SourceFile):
    """encoded: the source's file. orientation: its EXIF's, 1 to 8. quality: of pictures encoded anew as a whole."""

    pixels: Pixels = field(repr=False)
    encoded: bytes = field(repr=False)
    orientation: int
    quality: int
    profile: bytes | None = field(default=None, repr=False)

    @property
    def is_exact(self) -> bool:
        return False

    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        try:
            return self._by_blocks(result, masks)
        except (CoefficientsError, PictureError) as error:
            logger.info("a JPEG is encoded anew as a whole: %s", error)
            return FixedFormat(self.pixels, "jpeg", self.quality, self.profile).publish(result, masks)

    def _by_blocks(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        header = read_header(self.encoded)
        if header.grey:
            result = np.array(Image.fromarray(result).convert("L").convert("RGB"))
        picture = to_stored(result, self.orientation)
        if picture.shape[:2] != (header.height, header.width):
            raise CoefficientsError("its header and its picture differ in size")
        blocks = read_coefficients(header)
        stored = [mask_to_stored(mask, self.orientation, self.pixels.shape) for mask in masks]
        touched = Renewal(header, picture, stored).apply(blocks)
        metadata = [JFIF, *_orientation(self.orientation), *_profile(self.profile)]
        published = joined([*metadata, *write_coefficients(header, blocks)])
        shown = seen(published)
        self._check(result, shown, masks, self._reached(header, touched))
        return Published(published, shown)

    def _reached(self, header: JpegHeader, touched: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
        """(H, W) bool, upright: pixels that may differ from the source's."""
        return to_upright(touched_pixels(header, touched), self.orientation)

    def _check(
        self, result: Pixels, shown: Pixels, masks: Sequence[PictureMask], reached: npt.NDArray[np.bool_]
    ) -> None:
        """Raise CoefficientsError where a published picture is not what was meant."""
        if shown.shape != self.pixels.shape or ((shown != self.pixels).any(axis=2) & ~reached).any():
            raise CoefficientsError("libjpeg and Pillow see it differently")
        for mask in masks:
            x0, y0, x1, y1 = mask.window
            here = slice(y0, y1), slice(x0, x1)
            meant = result[here][mask.bits].astype(np.float64)
            # not beside the source: which way a picture is encoded must say nothing of what was masked
            if mask.count and np.square(shown[here][mask.bits] - meant).mean() > MAX_ERROR**2:
                raise CoefficientsError("its tables are too coarse for the face, or its blocks went wrong")


def to_stored(upright: Array, orientation: int) -> Array:
    """An array (H, W, ...) as the file holds it; a view."""
    swap, columns, rows = TO_STORED[orientation]
    turned = upright.swapaxes(0, 1) if swap else upright
    return turned[:: -1 if rows else 1, :: -1 if columns else 1]


def to_upright(stored: Array, orientation: int) -> Array:
    """The inverse of `to_stored`."""
    swap, columns, rows = TO_STORED[orientation]
    turned = stored[:: -1 if rows else 1, :: -1 if columns else 1]
    return turned.swapaxes(0, 1) if swap else turned


def mask_to_stored(mask: PictureMask, orientation: int, shape: Sequence[int]) -> PictureMask:
    """The same pixels of the stored picture. shape: of the upright one, (H, W, ...)."""
    swap, columns, rows = TO_STORED[orientation]
    x0, y0, x1, y1 = mask.window
    height, width = shape[:2]
    if swap:
        x0, y0, x1, y1, height, width = y0, x0, y1, x1, width, height
    if columns:
        x0, x1 = width - x1, width - x0
    if rows:
        y0, y1 = height - y1, height - y0
    return PictureMask((x0, y0, x1, y1), np.ascontiguousarray(to_stored(mask.bits, orientation)))


def _orientation(orientation: int) -> list[Segment]:
    """An EXIF segment that says how a picture lies, and nothing else; none for one that lies upright."""
    if orientation == 1:
        return []
    short, one_entry = 3, 1
    body = EXIF.pack(b"Exif\0\0", b"II", 42, 8, one_entry, ORIENTATION_TAG, short, 1, orientation)
    return [Segment(APP1, body)]


def _profile(profile: bytes | None) -> list[Segment]:
    """A colour profile in as many segments as it needs."""
    if profile is None:
        return []
    chunks = [profile[at : at + ICC_CHUNK_BYTES] for at in range(0, len(profile), ICC_CHUNK_BYTES)]
    return [Segment(APP2, ICC_NAME + bytes([at + 1, len(chunks)]) + chunk) for at, chunk in enumerate(chunks)]
