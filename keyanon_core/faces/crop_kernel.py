"""The interpolation kernel that cuts an aligned crop from a picture, known exactly.

Which picture pixels have a say in a crop pixel decides what is a secret and what is not, so the kernel is written out
here and not left to a library: what is cut and what is said of it run through the same taps and weights, and a picture pixel of
weight zero contributes exactly nothing.

The picture is averaged over blocks of k x k pixels (k follows the reduction, 1 for small faces), then each crop pixel is the mean
of n x n bilinear samples spread over its area. Blocks lie on the picture's own grid.

Coordinates: the centre of pixel (row i, column j) is (x, y) = (j, i), in picture and crop alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import Affine, invert, reduction
from keyanon_core.faces.masks import PictureMask

if TYPE_CHECKING:
    from scipy import sparse

MIN_BLOCK_REDUCTION = 1.5  # blocks are averaged only as long as at least this reduction is left to the samples

Cells = npt.NDArray[np.bool_]


class CropKernel:
    """How the pixels of pictures of one shape make the pixels of one aligned crop.

    affine: (2, 3) float64, picture -> crop. side: S, of the crop in px. shape: (H, W), or a picture's (H, W, C).
    Raises PictureError ("degenerate_affine") for an affine that has no inverse.

    Block side `_k`, window of blocks `_window` (x0, y0, x1, y1), and for the four corners of every bilinear sample its flat index
    into the window's blocks and its weight, both (4, S, n, S, n): some 4 MB of a crop of 128 px.
    """

    def __init__(self, affine: Affine, side: int, shape: Sequence[int]) -> None:
        self.side, self.shape = side, (shape[0], shape[1])
        inverse, factor = invert(affine), reduction(affine)
        k = max(int(factor // MIN_BLOCK_REDUCTION), 1)
        n = max(int(np.ceil(factor / k)), 1)
        position = (np.arange(side * n) + 0.5) / n - 0.5
        u, v = position[None, :], position[:, None]
        # a block's centre (b) is the picture position k b + (k - 1) / 2
        x = (inverse[0, 0] * u + inverse[0, 1] * v + inverse[0, 2] - (k - 1) / 2) / k
        y = (inverse[1, 0] * u + inverse[1, 1] * v + inverse[1, 2] - (k - 1) / 2) / k
        # samples beyond the picture see only emptiness: bringing them to its rim bounds the window by the picture
        x = np.clip(x, -2.0, (shape[1] - 1) // k + 2.0)
        y = np.clip(y, -2.0, (shape[0] - 1) // k + 2.0)
        left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        right_share, bottom_share = x - left, y - top
        x0, y0 = int(left.min()), int(top.min())
        x1, y1 = int(left.max()) + 2, int(top.max()) + 2
        index, weight = [], []
        for down in (0, 1):
            for across in (0, 1):
                index.append((top + down - y0) * (x1 - x0) + (left + across - x0))
                weight.append(
                    (right_share if across else 1 - right_share) * (bottom_share if down else 1 - bottom_share)
                )
        grid = (4, side, n, side, n)
        self._k, self._window = k, (x0, y0, x1, y1)
        self._index, self._weight = np.stack(index).reshape(grid), np.stack(weight).reshape(grid)

    @property
    def pixel_window(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), half open: the picture px that the crop is made of; it may reach beyond the picture."""
        x0, y0, x1, y1 = self._window
        return (x0 * self._k, y0 * self._k, x1 * self._k, y1 * self._k)

    def warp(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Cut the crop: (H, W, C) integers -> (S, S, C) float64 on the same scale. What lies outside the picture is 0.

        Cost: one pass over the picture pixels under the crop, never over the whole picture. Raises ValueError for a picture of
        another shape.
        """
        if pixels.shape[:2] != self.shape:
            raise ValueError(f"a kernel for pictures of {self.shape} can not cut from one of {pixels.shape[:2]}")
        x0, y0, x1, y1 = self.pixel_window
        window = np.zeros((y1 - y0, x1 - x0, pixels.shape[2]), pixels.dtype)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, pixels.shape[1]), min(y1, pixels.shape[0])
        if left < right and top < bottom:
            window[top - y0 : bottom - y0, left - x0 : right - x0] = pixels[top:bottom, left:right]
        return self._samples(self._blocks(window))

    def footprint(self, mask: PictureMask) -> Cells:
        """(S, S) bool: crop pixels to which any pixel of the mask contributes.

        Exact: weights are never negative, so the warped mask is above zero precisely where some pixel's weight is. Raises
        FaceModelError for a mask that reaches beyond the picture.
        """
        mask.check_inside(self.shape)
        x0, y0, x1, y1 = self.pixel_window
        mx0, my0, mx1, my1 = mask.window
        if mx0 >= x1 or my0 >= y1 or mx1 <= x0 or my1 <= y0:
            return np.zeros((self.side, self.side), np.bool_)
        return self._reached(mask.crop((x0, y0, x1, y1)))

    def inner_cells(self, mask: PictureMask) -> Cells:
        """(S, S) bool: crop pixels to which pixels of the mask contribute and nothing else does."""
        return ~self._reached(~mask.crop(self.pixel_window))

    def coverage(self) -> Cells:
        """(S, S) bool: crop pixels to which nothing outside the picture contributes."""
        height, width = self.shape
        left, top, right, bottom = self.pixel_window
        if left >= 0 and top >= 0 and right <= width and bottom <= height:
            return np.ones((self.side, self.side), np.bool_)
        x0, y0, x1, y1 = self._window
        column, row = np.arange(x0, x1), np.arange(y0, y1)
        k = self._k
        whole = ((row >= 0) & ((row + 1) * k <= height))[:, None] & ((column >= 0) & ((column + 1) * k <= width))
        return np.asarray(self._samples((~whole)[..., None].astype(np.float64))[..., 0] == 0)

    def matrix(self, mask: PictureMask) -> tuple[sparse.csr_array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """`warp` of the mask's n pixels under the crop: their weights (S * S, n) float64, and their rows and columns."""
        from scipy import sparse  # half a second of a process, which most do without

        k, n, (x0, y0, x1, y1) = self._k, self._index.shape[2], self._window
        cells = self.side * self.side
        index, weight = (part.transpose(1, 3, 0, 2, 4).reshape(cells, -1) for part in (self._index, self._weight))
        crop_cells = np.repeat(np.arange(cells), index.shape[1])
        samples = (weight.ravel() / (n * n), (crop_cells, index.ravel()))
        of_blocks = sparse.csr_array(samples, shape=(cells, (x1 - x0) * (y1 - y0)))
        row, column = np.nonzero(mask.crop(self.pixel_window))
        block = (row // k) * (x1 - x0) + column // k
        shares = (np.full(len(row), 1 / (k * k)), (block, np.arange(len(row))))
        of_pixels = of_blocks @ sparse.csr_array(shares, shape=(of_blocks.shape[1], len(row)))
        of_pixels.eliminate_zeros()
        return of_pixels, row + y0 * k, column + x0 * k

    def _reached(self, bits: Cells) -> Cells:
        """Crop pixels to which a True pixel of the pixel window (h k, w k) contributes."""
        return np.asarray(self._samples(self._blocks(bits[..., None]))[..., 0] > 0)

    def _blocks(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Block means of the pixel window's values (h k, w k, C); integers are summed exactly."""
        k = self._k
        if k == 1:
            return values.astype(np.float64)
        height, width, channels = values.shape
        rows = values.reshape(height // k, k, width, channels).sum(axis=1, dtype=np.uint32)
        sums = rows.reshape(height // k, width // k, k, channels).sum(axis=2, dtype=np.uint64)
        return np.asarray(sums / float(k * k), np.float64)

    def _samples(self, blocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mean of the samples: blocks (h, w, C) of the window -> (S, S, C)."""
        flat = blocks.reshape(-1, blocks.shape[-1])
        samples = np.zeros((*self._index.shape[1:], blocks.shape[-1]))
        for index, weight in zip(self._index, self._weight, strict=True):
            corner = np.take(flat, index, axis=0)
            corner *= weight[..., None]
            samples += corner
        return np.asarray(samples.mean(axis=(1, 3)))
