"""From a picture to an aligned crop and back, with an interpolation kernel that is known exactly.

Which picture pixels have a say in a crop pixel decides what is a secret and what is not, so the kernel is written out
here and not left to a library: `warp` and `footprint` run through the same taps and weights, and a picture pixel of
weight zero contributes exactly nothing.

Kernel of `warp`: the picture is averaged over blocks of k x k pixels (k follows the reduction, 1 for small faces), then
each crop pixel is the mean of n x n bilinear samples spread over its area. Blocks lie on the picture's own grid.

Coordinates: the centre of pixel (row i, column j) is (x, y) = (j, i), in picture and crop alike.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy import sparse

from keyanon_core.errors import PictureError
from keyanon_core.faces.masks import PictureMask

MIN_LIKENESS = 0.5  # correlation in [0, 1] of landmarks and template below which they do not show a face
MIN_SPREAD_PX = 0.5  # root mean square distance of five landmarks from their centre; below it they are one point
MIN_BLOCK_REDUCTION = 1.5  # blocks are averaged only as long as at least this reduction is left to the samples
MAX_DRAWN_PIXELS = (
    16_000_000  # masked pixels drawn for one face, over all back-projections; beyond it rounds are left out
)
BACK_PROJECTIONS = 3  # corrections after which a pasted crop reads back as itself to about a grey level

Affine = npt.NDArray[np.float64]
Crop = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def likeness(landmarks: npt.NDArray[np.float64], template: npt.NDArray[np.float64]) -> float:
    """Correlation in [0, 1] of two (5, 2) point sets under the best similarity without reflection; 0 if either is a
    point.
    """
    points, target = _centred(landmarks), _centred(template)
    size = float(np.linalg.norm(points) * np.linalg.norm(target))
    return float(abs(np.vdot(points, target))) / size if size > 0 and np.isfinite(size) else 0.0


def similarity(landmarks: npt.NDArray[np.float64], template: npt.NDArray[np.float64]) -> Affine:
    """The rotation, scale and shift (2, 3) float64, picture -> crop, that bring landmarks nearest to the template.

    landmarks: (5, 2) px of the picture; template: (5, 2) px of the crop. Least squares without reflection: Umeyama,
    IEEE TPAMI 13(4), 1991, eq. 40-42; in the plane, with points as complex numbers, it is a linear fit. Raises
    PictureError ("degenerate_landmarks") when the points coincide, are not finite, or do not resemble the template.
    """
    points, target = _centred(landmarks), _centred(template)
    spread = float(np.sqrt(np.mean(np.abs(points) ** 2)))
    if not np.isfinite(spread) or spread < MIN_SPREAD_PX or likeness(landmarks, template) < MIN_LIKENESS:
        raise PictureError("degenerate_landmarks", f"five landmarks of spread {spread:.2f} px do not show a face")
    factor = np.vdot(points, target) / np.vdot(points, points).real
    shift = complex(*np.mean(template, axis=0)) - factor * complex(*np.mean(landmarks, axis=0))
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def invert(affine: Affine) -> Affine:
    """The (2, 3) affine of the opposite direction. Raises PictureError ("degenerate_affine") when there is none."""
    linear = affine[:, :2]
    if affine.shape != (2, 3) or not np.isfinite(affine).all() or abs(np.linalg.det(linear)) < np.finfo(float).eps:
        raise PictureError("degenerate_affine", "the face's affine map can not be inverted")
    inverse = np.linalg.inv(linear)
    return np.hstack([inverse, -inverse @ affine[:, 2:]])


def reduction(affine: Affine) -> float:
    """Picture pixels per crop pixel; above 1 the crop is smaller than the face."""
    return float(np.linalg.norm(invert(affine)[:, :2], 2))


@dataclass(frozen=True)
class _Taps:
    """The kernel of one crop: block side k, window of blocks (x0, y0, x1, y1), and for the four corners of every
    bilinear sample its flat index into the window's blocks and its weight, both (4, S, n, S, n).
    """

    k: int
    window: tuple[int, int, int, int]
    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    def apply(self, blocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mean of the samples: blocks (h, w, C) of the window -> (S, S, C)."""
        flat = blocks.reshape(-1, blocks.shape[-1])
        samples = np.zeros((*self.index.shape[1:], blocks.shape[-1]))
        for index, weight in zip(self.index, self.weight, strict=True):
            corner = np.take(flat, index, axis=0)
            corner *= weight[..., None]
            samples += corner
        return np.asarray(samples.mean(axis=(1, 3)))

    def pixel_window(self) -> tuple[int, int, int, int]:
        """The window in picture px; it may reach beyond the picture."""
        x0, y0, x1, y1 = self.window
        return (x0 * self.k, y0 * self.k, x1 * self.k, y1 * self.k)

    def blocks(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Block means of the pixel window's values (h k, w k, C); integers are summed exactly."""
        k = self.k
        if k == 1:
            return values.astype(np.float64)
        height, width, channels = values.shape
        rows = values.reshape(height // k, k, width, channels).sum(axis=1, dtype=np.uint32)
        sums = rows.reshape(height // k, width // k, k, channels).sum(axis=2, dtype=np.uint64)
        return np.asarray(sums / float(k * k), np.float64)


def _taps(affine: Affine, side: int, shape: tuple[int, ...]) -> _Taps:
    """The kernel of a (2, 3) affine for pictures of shape (H, W, ...)."""
    return _latest_taps(tuple(float(value) for value in affine.ravel()), side, shape[:2])


@lru_cache(maxsize=1)  # a face is warped, and its footprints and coverage are taken, one after the other
def _latest_taps(coefficients: tuple[float, ...], side: int, shape: tuple[int, ...]) -> _Taps:
    affine = np.reshape(coefficients, (2, 3))
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
            weight.append((right_share if across else 1 - right_share) * (bottom_share if down else 1 - bottom_share))
    grid = (4, side, n, side, n)
    return _Taps(k, (x0, y0, x1, y1), np.stack(index).reshape(grid), np.stack(weight).reshape(grid))


def warp(pixels: npt.NDArray[np.generic], affine: Affine, side: int) -> Crop:
    """Cut an aligned crop: (H, W, C) integers -> (side, side, C) float64 on the same scale. What lies outside the
    picture is 0.

    Cost: one pass over the picture pixels under the crop, never over the whole picture.
    """
    taps = _taps(affine, side, pixels.shape)
    x0, y0, x1, y1 = taps.pixel_window()
    window = np.zeros((y1 - y0, x1 - x0, pixels.shape[2]), pixels.dtype)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, pixels.shape[1]), min(y1, pixels.shape[0])
    if left < right and top < bottom:
        window[top - y0 : bottom - y0, left - x0 : right - x0] = pixels[top:bottom, left:right]
    return taps.apply(taps.blocks(window))


def footprint(mask: PictureMask, affine: Affine, side: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(side, side) bool: crop pixels of `warp` to which any pixel of the mask contributes. shape: the picture's (H, W,
    ...).

    Exact: weights are never negative, so the warped mask is above zero precisely where some pixel's weight is.
    """
    mask.check_inside(shape)
    taps = _taps(affine, side, shape)
    x0, y0, x1, y1 = taps.pixel_window()
    mx0, my0, mx1, my1 = mask.window
    if mx0 >= x1 or my0 >= y1 or mx1 <= x0 or my1 <= y0:
        return np.zeros((side, side), np.bool_)
    bits = mask.crop((x0, y0, x1, y1))[..., None]
    return np.asarray(taps.apply(taps.blocks(bits))[..., 0] > 0)


def inner_cells(mask: PictureMask, affine: Affine, side: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(side, side) bool: crop pixels of `warp` to which pixels of the mask contribute and nothing else does. shape: the picture's
    (H, W, ...).
    """
    taps = _taps(affine, side, shape)
    others = ~mask.crop(taps.pixel_window())
    return np.asarray(taps.apply(taps.blocks(others[..., None]))[..., 0] == 0)


def kernel(
    mask: PictureMask, affine: Affine, side: int, shape: tuple[int, ...]
) -> tuple[sparse.csr_array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`warp` as a matrix: (side * side, n) float64 weights of the mask's n pixels under the crop, and their rows and columns in a
    picture of shape (H, W, ...).
    """
    taps = _taps(affine, side, shape)
    k, n, (x0, y0, x1, y1) = taps.k, taps.index.shape[2], taps.window
    index, weight = (part.transpose(1, 3, 0, 2, 4).reshape(side * side, -1) for part in (taps.index, taps.weight))
    crop_cells = np.repeat(np.arange(side * side), index.shape[1])
    samples = (weight.ravel() / (n * n), (crop_cells, index.ravel()))
    of_blocks = sparse.csr_array(samples, shape=(side * side, (x1 - x0) * (y1 - y0)))
    row, column = np.nonzero(mask.crop(taps.pixel_window()))
    block = (row // k) * (x1 - x0) + column // k
    shares = (np.full(len(row), 1 / (k * k)), (block, np.arange(len(row))))
    of_pixels = of_blocks @ sparse.csr_array(shares, shape=(of_blocks.shape[1], len(row)))
    of_pixels.eliminate_zeros()
    return of_pixels, row + y0 * k, column + x0 * k


def coverage(affine: Affine, side: int, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(side, side) bool: crop pixels of `warp` to which nothing outside the picture (H, W, ...) contributes."""
    taps = _taps(affine, side, shape)
    left, top, right, bottom = taps.pixel_window()
    if left >= 0 and top >= 0 and right <= shape[1] and bottom <= shape[0]:
        return np.ones((side, side), np.bool_)
    x0, y0, x1, y1 = taps.window
    column, row = np.arange(x0, x1), np.arange(y0, y1)
    k = taps.k
    whole = ((row >= 0) & ((row + 1) * k <= shape[0]))[:, None] & ((column >= 0) & ((column + 1) * k <= shape[1]))
    return np.asarray(taps.apply((~whole)[..., None].astype(np.float64))[..., 0] == 0)


def reachable(mask: PictureMask, affine: Affine, side: int) -> PictureMask:
    """The part of a mask that lies under the crop: pixel centres within the crop's outline."""
    x0, y0, x1, y1 = mask.window
    x, y = np.arange(x0, x1)[None, :], np.arange(y0, y1)[:, None]
    u = affine[0, 0] * x + affine[0, 1] * y + affine[0, 2]
    v = affine[1, 0] * x + affine[1, 1] * y + affine[1, 2]
    return PictureMask(mask.window, mask.bits & _within(u, side) & _within(v, side)).trimmed()


def _within(position: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.bool_]:
    return (position >= -0.5) & (position <= side - 0.5)


def paste(
    picture: Pixels, crop: Crop, affine: Affine, mask: PictureMask, *, back_projections: int = BACK_PROJECTIONS
) -> None:
    """Write a crop into a picture, in place, inside the mask only; every other pixel keeps its bits.

    picture: (H, W, 3) uint8. crop: (S, S, 3) on the scale 0 to 255. Enlarging is bicubic, reducing averages. A masked
    pixel that the crop does not reach takes the value of the crop's nearest rim, so no masked pixel keeps its source.
    There is no feathering with the source, which would leave a share of the face in the result (see `blending`).

    back_projections: rounds of iterative back-projection (Irani and Peleg, CVGIP 53(3), 1991), which correct the crop
    by the difference to what `warp` reads back, so that recovery from the picture alone starts nearer to the anonymized
    crop.
    """
    mask.check_inside(picture.shape)
    side = crop.shape[0]
    drawn = crop
    _draw(picture, drawn, affine, mask)
    rounds = min(back_projections, MAX_DRAWN_PIXELS // max(mask.count, 1) - 1)
    if rounds <= 0:
        return
    inside = footprint(mask, affine, side, picture.shape)[..., None]
    for _ in range(rounds):
        drawn = drawn + (crop - warp(picture, affine, side)) * inside
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


def chip(pixels: Pixels, to_chip: npt.NDArray[np.float64], side: int) -> Pixels:
    """A (side, side, 3) uint8 view of a face for a network, black outside the picture. Cost follows the face: the
    window under the chip is cut first, and reduced before it is warped.
    """
    back = invert(to_chip)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64) @ back[:, :2].T + back[:, 2]
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 3, pixels.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return np.zeros((side, side, 3), np.uint8)
    window, scale = pixels[y0:y1, x0:x1], float(np.linalg.norm(to_chip[:, :2], 2))
    ratio = np.ones(2)
    if scale < 1:
        size = (max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1))
        window = cv2.resize(window, size, interpolation=cv2.INTER_AREA)
        ratio = np.array([(x1 - x0) / size[0], (y1 - y0) / size[1]])
    linear = to_chip[:, :2] * ratio
    shift = to_chip[:, 2] + to_chip[:, :2] @ (np.array([x0, y0]) + (ratio - 1) / 2)
    matrix = np.hstack([linear, shift[:, None]])
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(window), matrix, (side, side), flags=cv2.INTER_LINEAR), np.uint8
    )


def _centred(points: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    z = np.asarray(points, np.float64)[:, 0] + 1j * np.asarray(points, np.float64)[:, 1]
    return np.asarray(z - z.mean())
