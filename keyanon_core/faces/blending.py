"""The edge of a pasted face, softened from inside: a face runs into pixels that are published anyway, and never into a source."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.masks import PictureMask

EDGE_SHARE = 0.3  # of the face in the outermost pixels of its mask; the rest is the surroundings' colour


def inner_weights(inside: npt.NDArray[np.bool_], sigma: float) -> npt.NDArray[np.float64]:
    """(S, S) in [0, 1]: 1 well inside of a mask (S, S), and 0 from its edge on. sigma: px of the Gaussian that softens it."""
    softened = cv2.GaussianBlur(inside.astype(np.float64), (0, 0), sigma)
    return np.asarray(np.clip(2 * softened - 1, 0, 1), np.float64)


def feather(picture: npt.NDArray[np.uint8], mask: PictureMask, hidden: Sequence[PictureMask], width: float) -> None:
    """Blend the rim of a pasted face with the colours around it, in place, inside the mask only.

    picture: (H, W, 3) uint8, the face already pasted. hidden: the masks of all other faces; their pixels, which may still be a
    source, have no say, and no edge is softened towards them. width: px of the rim, at least 1. The colour around is
    the mean of the pixels within `width` of a rim pixel that lie in no mask. Raises FaceModelError for a mask that reaches beyond
    the picture.
    """
    mask.check_inside(picture.shape)
    reach = math.ceil(width) + 1
    for tile in mask.tiles():
        left, top, right, bottom = tile.window
        around = (
            max(left - reach, 0),
            max(top - reach, 0),
            min(right + reach, picture.shape[1]),
            min(bottom + reach, picture.shape[0]),
        )
        blended = _blended(picture, mask, hidden, width, around)
        part = blended[top - around[1] : bottom - around[1], left - around[0] : right - around[0]]
        picture[top:bottom, left:right][tile.bits] = part[tile.bits]


def _blended(
    picture: npt.NDArray[np.uint8],
    mask: PictureMask,
    hidden: Sequence[PictureMask],
    width: float,
    window: tuple[int, int, int, int],
) -> npt.NDArray[np.uint8]:
    """The window (x0, y0, x1, y1) of the picture with the rim blended; only what `mask` covers means anything."""
    pixels = picture[window[1] : window[3], window[0] : window[2]]
    inside = mask.crop(window)
    open_ = ~inside
    for other in hidden:
        open_ &= ~other.crop(window)
    if not open_.any():
        return pixels
    depth = cv2.distanceTransform((~open_).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rim = inside & (depth < width + 0.5)
    side = (2 * math.ceil(width) + 1,) * 2
    weight = open_.astype(np.float32)
    sums = cv2.boxFilter(pixels * weight[..., None], -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    counts = cv2.boxFilter(weight, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    share = EDGE_SHARE + (1 - EDGE_SHARE) * np.clip((depth[rim] - 0.5) / width, 0, 1)[:, None]
    surroundings = sums[rim] / counts[rim][:, None]
    result = pixels.copy()
    result[rim] = np.clip(np.rint(share * pixels[rim] + (1 - share) * surroundings), 0, 255).astype(np.uint8)
    return result
