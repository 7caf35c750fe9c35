"""PNG and WebP sources whose published picture has their format again. It lies upright, without metadata.

Pixels outside the masks keep their values in PNG and in lossless WebP. Samples have 8 bits. Grey stays grey: of a face its
luminance is stored. A palette becomes RGB, since a face's colours are not in it.

Transparency hides colours that nobody searched. What is searched and anonymized is the picture over white, as it is seen; what is
stored are colours that give that over white, and the source's transparency, which masks make opaque. A source in which
transparency does more than cut something out is laid over white and loses it: it could show a picture of its own.

A lossy WebP is stored at the highest of a few qualities at which it is about as large as its source; changed pixels are all over
it, as in any lossy picture. Where a file does not say clearly that it is lossy, it is stored without loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.published import Pixels, Published, SourceFile, seen
from keyanon_core.imaging import encode_image, is_transparent, rgb_pixels, upright

WEBP_QUALITIES: Final = (95, 90, 85, 80, 75)
WEBP_ROOM: Final = 1.05  # times its source's bytes that a lossy WebP may have before the next lower quality is tried
MAX_TRANSLUCENT: Final = 0.05  # share of neither opaque nor invisible pixels; the edges of what is cut out have fewer
GREY_MODES: Final = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"})
OPAQUE: Final = 255

Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RasterSource(SourceFile):
    """format: "PNG" or "WEBP". lossless: is it stored without loss. size: bytes of the source's file. alpha: (H, W), or None."""

    pixels: Pixels = field(repr=False)
    format: str
    grey: bool
    lossless: bool
    size: int
    alpha: Plane | None = field(default=None, repr=False)
    profile: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, picture: Image.Image, encoded: bytes, profile: bytes | None) -> Self:
        """A loaded picture, the file it is from, and the profile that stays. profile: None converts to sRGB where it has one.

        Raises whatever Pillow raises, and PictureError.
        """
        format = "WEBP" if picture.format == "WEBP" else "PNG"
        lossless = format == "PNG" or not _is_lossy(encoded)
        pixels = rgb_pixels(picture, convert=profile is None)
        grey = picture.mode in GREY_MODES
        return cls(pixels, format, grey, lossless, len(encoded), _cut_out(picture), profile)

    @property
    def is_exact(self) -> bool:
        return self.lossless and not self.grey and self.alpha is None

    def publish(self, result: Pixels, masks: Sequence[PictureMask]) -> Published:
        picture = self._picture(result, masks)
        if not self.lossless:
            encoded = self._lossy(picture)
        elif self.format == "WEBP":
            encoded = encode_image(picture, "WEBP", lossless=True, exact=True, icc_profile=self.profile)
        else:
            encoded = encode_image(picture, "PNG", icc_profile=self.profile)
        return Published(encoded, result if self.is_exact else seen(encoded))

    def _picture(self, result: Pixels, masks: Sequence[PictureMask]) -> Image.Image:
        if self.alpha is None:
            return Image.fromarray(result).convert("L" if self.grey else "RGB")
        alpha = self.alpha.copy()
        for mask in masks:
            x0, y0, x1, y1 = mask.window
            alpha[y0:y1, x0:x1][mask.bits] = OPAQUE
        picture = Image.fromarray(_before_white(result, alpha)).convert("L" if self.grey else "RGB")
        picture.putalpha(Image.fromarray(alpha))
        return picture

    def _lossy(self, picture: Image.Image) -> bytes:
        encoded = b""
        for quality in WEBP_QUALITIES:
            encoded = encode_image(picture, "WEBP", quality=quality, icc_profile=self.profile)
            if len(encoded) <= WEBP_ROOM * self.size:
                break
        return encoded


def _cut_out(picture: Image.Image) -> Plane | None:
    """A picture's transparency (H, W), upright; None where it has none, or one that does more than cut out."""
    if not is_transparent(picture):
        return None
    alpha = np.array(upright(picture).convert("RGBA").getchannel("A"))
    translucent = (alpha > 0) & (alpha < OPAQUE)
    return None if translucent.mean() > MAX_TRANSLUCENT else alpha


def _before_white(shown: Pixels, alpha: Plane) -> Pixels:
    """The colours (H, W, 3) that give `shown` when they are laid over white with this transparency; invisible ones are white."""
    share = np.maximum(alpha, 1)[..., None] / float(OPAQUE)
    colours = OPAQUE - (OPAQUE - shown.astype(np.float64)) / share
    colours = np.where(alpha[..., None] == 0, OPAQUE, np.clip(np.rint(colours), 0, OPAQUE))
    return np.where(alpha[..., None] == OPAQUE, shown, colours).astype(np.uint8)


def _is_lossy(encoded: bytes) -> bool:
    """True for a WebP that holds a VP8 picture and no lossless one (RFC 9649, section 2.4 to 2.7)."""
    at, found = 12, set[bytes]()
    while at + 8 <= len(encoded):
        found.add(encoded[at : at + 4])
        size = int.from_bytes(encoded[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return b"VP8 " in found and b"VP8L" not in found
