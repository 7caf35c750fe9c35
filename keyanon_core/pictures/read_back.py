"""A face's pixels chosen so that its crop is read back from the 8-bit picture, for recovery that has nothing else.

The crop's cells are weighted means of pixels (`CropKernel.matrix`), so the pixels p solve `A p = crop`. Where the face is larger
than its crop there are more pixels than cells: the smallest corrections that do it are `A^T (A A^T + eps I)^-1 (crop - A p)`,
repeated since pixels end at 0 and 255. Rounding then costs a third of a grey level in each; sweeps of single moves by one, each
that lowers the squared residual, take most of it back.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import splu

from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.drawing import BACK_PROJECTIONS, paste
from keyanon_core.faces.masks import PictureMask

ROUNDS = 15  # of corrections
SWEEPS = 15  # of single moves, at most
DAMPING = 1e-4  # eps: of a face smaller than its crop the cells can not all be met
MAX_SOLVED_PIXELS = 1_000_000  # of a larger face each cell is the mean of so many pixels that rounding is not felt

Values = npt.NDArray[np.float64]


def paste_readable(
    picture: npt.NDArray[np.uint8], crop: Values, affine: Values, mask: PictureMask, cells: npt.NDArray[np.bool_]
) -> None:
    """Write a crop (S, S, 3) on the scale 0 to 255 into a picture (H, W, 3), in place and inside the mask only, so that it is
    read back (`CropKernel.warp`) in `cells` (S, S), to which no other pixels contribute.
    """
    solved = mask.count <= MAX_SOLVED_PIXELS
    paste(picture, crop, affine, mask, back_projections=0 if solved else BACK_PROJECTIONS)
    if not solved or not cells.any():
        return
    matrix, row, column = CropKernel(affine, len(crop), picture.shape).matrix(mask)
    matrix, wanted = matrix[np.flatnonzero(cells)], crop[cells]
    pixels = _corrected(matrix, wanted, picture[row, column].astype(np.float64))
    picture[row, column] = _rounded(matrix, wanted, pixels, row, column).astype(np.uint8)


def _corrected(matrix: sparse.csr_array, wanted: Values, pixels: Values) -> Values:
    """Pixels (n, 3) in 0 to 255 near to those given that make cells (m, 3)."""
    normal = splu((matrix @ matrix.T + DAMPING * sparse.eye_array(matrix.shape[0])).tocsc())
    for _ in range(ROUNDS):
        pixels = np.clip(pixels + matrix.T @ normal.solve(wanted - matrix @ pixels), 0.0, 255.0)
    return pixels


def _rounded(
    matrix: sparse.csr_array,
    wanted: Values,
    pixels: Values,
    row: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
) -> Values:
    """Whole pixels (n, 3) near to those given, moved by one where that brings cells nearer to what is wanted."""
    whole = np.rint(pixels)
    residual = wanted - matrix @ whole
    squares = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()[:, None]
    span = max(_extent(matrix, row), _extent(matrix, column)) + 1  # pixels so far apart share no cell
    classes = (row % span) * span + column % span
    parts = []
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        part = matrix[:, members]
        parts.append((members, part, part.T.tocsr()))
    for _ in range(SWEEPS):
        moved = False
        for members, part, transposed in parts:
            along = transposed @ residual
            move = np.sign(along) * (2 * np.abs(along) > squares[members])
            move *= (whole[members] + move >= 0) & (whole[members] + move <= 255)
            if move.any():
                whole[members] += move
                residual -= part @ move
                moved = True
        if not moved:
            break
    return whole


def _extent(matrix: sparse.csr_array, position: npt.NDArray[np.int64]) -> int:
    """Greatest distance between two pixels of one cell; position: (n,) rows or columns of the pixels. No cell is empty."""
    of_entries, starts = position[matrix.indices], matrix.indptr[:-1]
    return int((np.maximum.reduceat(of_entries, starts) - np.minimum.reduceat(of_entries, starts)).max())
