"""Crops laid over one small picture in each way that the kernel tells apart."""

import numpy as np

from keyanon_core.faces.masks import PictureMask

SIDE = 48


def make_affine(scale, degrees, x, y):
    """Crop whose centre is the picture position (x, y), `scale` picture px per crop px, turned by degrees."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    return np.hstack([linear, ((SIDE - 1) / 2 - linear @ [x, y])[:, None]])


AFFINES = {
    "small face, enlarged": make_affine(0.37, 12.0, 70.2, 61.7),
    "one to one on the grid": make_affine(1.0, 0.0, 70.5, 60.5),
    "reduced, rotated": make_affine(1.9, -37.0, 75.3, 66.1),
    "reduced in blocks": make_affine(4.3, 101.0, 80.9, 70.4),
    "cut by the border": make_affine(2.6, 25.0, 8.3, 140.2),
}

PICTURE = np.random.default_rng(7).integers(0, 256, (150, 170, 3), dtype=np.uint8)
PICTURE.setflags(write=False)
_Y, _X = np.mgrid[:150, :170]
MASK = PictureMask.from_full(((_X - 72) / 21) ** 2 + ((_Y - 64) / 17) ** 2 < 1)
