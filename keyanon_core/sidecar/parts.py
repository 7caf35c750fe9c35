"""Pictures that stand in a sidecar for a part of a face."""

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError, SidecarError
from keyanon_core.imaging import decode_picture


def decode_part(encoded: bytes, height: int, width: int, what: str) -> npt.NDArray[np.uint8]:
    """The (height, width, 3) pixels that untrusted bytes show. what: whose they are, for messages. Raises SidecarError."""
    try:
        pixels = decode_picture(encoded, max_pixels=height * width)
    except PictureError as error:
        raise SidecarError(f"{what} are not readable: {error}") from error
    if pixels.shape != (height, width, 3):
        raise SidecarError(f"{what} are not {width} x {height} px")
    return pixels
