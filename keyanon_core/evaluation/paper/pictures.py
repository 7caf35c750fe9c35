"""How the protocol's pictures are cut, 256 x 256 px without alignment, and how they are copied through JPEG.

Sizes, their order and the filter are the authors': torchvision's `Resize` of a Pillow picture, which is Pillow's bilinear
filter. It averages where it reduces (antialiasing) and rounds to 8 bits after each step. Refusing other sizes is ours.
"""

from typing import Final

import numpy as np
from PIL import Image

from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import decode_picture, encode_image

SIDE: Final = 256  # px of the protocol's pictures
LFW_SIDE: Final = 250  # px of the data set's
LFW_CROP: Final = 200  # px of the middle of an LFW picture of SIDE px


def lfw_view(pixels: Pixels) -> Pixels:
    """A picture of LFW (250, 250, 3) uint8 as the protocol sees it, (256, 256, 3) uint8: resized to 256, its middle 200 x 200,
    resized to 256. Raises PictureError ("other_size") for one of another size, which would be cut elsewhere.
    """
    if _square(pixels) != LFW_SIDE:
        raise PictureError("other_size", f"a picture of LFW is {LFW_SIDE} x {LFW_SIDE} px, not {_said(pixels)}")
    margin = (SIDE - LFW_CROP) // 2
    middle = _resized(pixels)[margin : margin + LFW_CROP, margin : margin + LFW_CROP]
    return _resized(middle)


def celeba_view(pixels: Pixels) -> Pixels:
    """A picture of CelebA-HQ (s, s, 3) uint8, s from 256 px, as the protocol sees it, (256, 256, 3) uint8: resized, nothing cut.
    Raises PictureError ("other_size") for one that is not square, or smaller.
    """
    if _square(pixels) < SIDE:
        raise PictureError(
            "other_size", f"a picture of CelebA-HQ is square, {SIDE} px a side or more, not {_said(pixels)}"
        )
    return _resized(pixels)


def jpeg_copy(pixels: Pixels, quality: int) -> Pixels:
    """A picture (H, W, 3) uint8 through a JPEG of that quality, colour at half the resolution: as Pillow writes it unless told
    otherwise, and as the authors' torchvision does.
    """
    return decode_picture(encode_image(Image.fromarray(pixels), "JPEG", quality=quality))


def _square(pixels: Pixels) -> int:
    """The side in px of a square picture, 0 of another one."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pictures are (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    return pixels.shape[0] if pixels.shape[0] == pixels.shape[1] else 0


def _said(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} px"


def _resized(pixels: Pixels) -> Pixels:
    if pixels.shape[:2] == (SIDE, SIDE):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.uint8)
