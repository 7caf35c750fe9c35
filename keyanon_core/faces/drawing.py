"""Writing a crop into a picture, inside a mask only."""

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import Affine, reduction
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.masks import PictureMask

MAX_DRAWN_PIXELS = (
    16_000_000  # masked pixels drawn for one face, over all back-projections; beyond it rounds are left out
)
BACK_PROJECTIONS = 3  # corrections after which a pasted crop reads back as itself to about a grey level

Crop = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def paste(
    picture: Pixels, crop: Crop, affine: Affine, mask: PictureMask, *, back_projections: int = BACK_PROJECTIONS
) -> None:
    """Write a crop into a picture, in place, inside the mask only; every other pixel keeps its bits.

    picture: (H, W, 3) uint8. crop: (S, S, 3) on the scale 0 to 255. Enlarging is bicubic, reducing averages. A masked
    pixel that the crop does not reach takes the value of the crop's nearest rim, so no masked pixel keeps its source.
    There is no feathering with the source, which would leave a share of the face in the result (see `blending`).

    back_projections: rounds of iterative back-projection (Irani and Peleg, CVGIP 53(3), 1991), which correct the crop
    by the difference to what is read back, so that recovery from the picture alone starts nearer to the anonymized
    crop.
    """
    mask.check_inside(picture.shape)
    drawn = crop
    _draw(picture, drawn, affine, mask)
    rounds = min(back_projections, MAX_DRAWN_PIXELS // max(mask.count, 1) - 1)
    if rounds <= 0:
        return
    kernel = CropKernel(affine, crop.shape[0], picture.shape)
    inside = kernel.footprint(mask)[..., None]
    for _ in range(rounds):
        drawn = drawn + (crop - kernel.warp(picture)) * inside
        _draw(picture, drawn, affine, mask)


def _draw(picture: Pixels, crop: Crop, affine: Affine, mask: PictureMask) -> None:
    """`paste` without corrections, tile by tile; tiles without a masked pixel cost nothing."""
    image = crop.astype(np.float32)
    n = max(int(np.ceil(1.0 / reduction(affine) - 1e-9)), 1)
    offsets = (np.arange(n) + 0.5) / n - 0.5
    for tile in mask.tiles():
        left, top, right, bottom = tile.window
        total = np.zeros((bottom - top, right - left, 3), np.float32)
        for dy in offsets:
            for dx in offsets:
                from_tile = affine.copy()
                from_tile[:, 2] += affine[:, :2] @ np.array([left + dx, top + dy])
                total += cv2.warpAffine(
                    image,
                    from_tile,
                    (right - left, bottom - top),
                    flags=(cv2.INTER_CUBIC if n == 1 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
        values = np.clip(np.rint(total / (n * n)), 0, 255).astype(np.uint8)
        picture[top:bottom, left:right][tile.bits] = values[tile.bits]
