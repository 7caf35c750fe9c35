"""How good the faces are that a prior makes: seams, distance of two sets of faces, nearest neighbours, tone of skin.

Colours are compared in CIELAB under D65 (CIE 1976), in which a Euclidean distance of about 2 is just seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from scipy import stats

from keyanon_core.evaluation.intervals import CONFIDENCE, Estimate, finite
from keyanon_core.faces.detection import Face, Landmarks, Pixels
from keyanon_core.faces.masks import Bits, PictureMask

SECTORS: Final = 24  # pieces of a mask's edge, by direction from its centre
SOBEL_SCALE: Final = 1 / 8  # makes the 3 x 3 kernels differences per px
MIN_BAND_PIXELS: Final = 4  # on either side; a piece with fewer says nothing
SEAM_SHARE: Final = 0.03  # width of the bands, of the square root of the mask's pixels
MIN_SEAM_WIDTH: Final = 2  # px
CHEEK_RADIUS: Final = 0.13  # of the distance between the eyes
MIN_CHROMA: Final = 5.0  # CIELAB units; skin below it is a grey photograph's, and has no typology angle
MAX_DISTANCES: Final = 4_000_000  # held at once by `nearest`: 8 bytes each
KERNEL_GROUPS: Final = 20  # of rows, one of which `kernel_distance` leaves out at a time
_LIGHT_FROM, _DARK_TO = 41.0, 10.0  # degrees; Chardon's very light and light; brown and dark

Features = npt.NDArray[np.floating]


@dataclass(frozen=True)
class EdgeContrast:
    """What is seen along the edge of a mask, in CIELAB units; NaN when no edge of the mask lies in the picture.

    colour: distance of the mean colours of the bands just inside and just outside, mean over the edge's pieces.
    gradient: magnitude of the gradient (Sobel's, all three channels, per px), mean over the pixels that touch the edge.
    step: distance of neighbouring pixels on either side of the edge, mean over all such pairs. A clean cut shows here first:
    the gradient sees half of it, and the pattern along the edge beside it.
    """

    colour: float
    gradient: float
    step: float


def edge_contrast(pixels: Pixels, mask: PictureMask | Bits, width: int) -> EdgeContrast:
    """How much a picture changes across the edge of a mask.

    pixels: (H, W, 3) uint8 RGB. mask: of the picture, or (H, W) bool. width: px of the bands on either side. The colour is
    compared piece by piece, over SECTORS directions from the mask's centre, so that light from one side is no contrast. The
    picture's own border is no edge. Raises ValueError for a width below 1 or a mask of another size, FaceModelError for a
    mask that reaches beyond the picture.
    """
    if isinstance(mask, PictureMask):
        mask.check_inside(pixels.shape)
    elif mask.shape != pixels.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit a picture of {pixels.shape[:2]}")
    else:
        mask = PictureMask.from_full(mask)
    if width < 1:
        raise ValueError(f"a band has at least 1 px, not {width}")
    if mask.count == 0:
        return EdgeContrast(math.nan, math.nan, math.nan)
    x0, y0, x1, y1 = mask.window
    window = (max(x0 - width - 1, 0), max(y0 - width - 1, 0), x1 + width + 1, y1 + width + 1)
    window = (*window[:2], min(window[2], pixels.shape[1]), min(window[3], pixels.shape[0]))
    inside = mask.crop(window)
    if inside.all():
        return EdgeContrast(math.nan, math.nan, math.nan)
    lab = cielab(pixels[window[1] : window[3], window[0] : window[2]])
    return EdgeContrast(_colour_contrast(lab, inside, width), *_gradient_and_step(lab, inside))


def _colour_contrast(lab: npt.NDArray[np.float32], inside: Bits, width: int) -> float:
    """Mean over the pieces of an edge of the distance between the mean colours on its sides."""
    rows, columns = np.nonzero(inside)
    y, x = np.indices(inside.shape)
    angle = np.arctan2(y - rows.mean(), x - columns.mean())
    sector = np.floor((angle + np.pi) / (2 * np.pi) * SECTORS).astype(np.int64) % SECTORS
    means, enough = [], np.ones(SECTORS, np.bool_)
    for side in (inside, ~inside):
        depth = cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        band = side & (depth <= width)
        count = np.bincount(sector[band], minlength=SECTORS)
        sums = [np.bincount(sector[band], lab[..., channel][band], SECTORS) for channel in range(3)]
        means.append(np.stack(sums) / np.maximum(count, 1))
        enough &= count >= MIN_BAND_PIXELS
    distances = np.linalg.norm(means[0] - means[1], axis=0)[enough]
    return float(distances.mean()) if len(distances) else math.nan


def _gradient_and_step(lab: npt.NDArray[np.float32], inside: Bits) -> tuple[float, float]:
    """Mean gradient magnitude at the pixels with a neighbour on the other side, and mean distance of those neighbours.
    Neighbours are side by side or one above the other.
    """
    across, down = inside[:, 1:] != inside[:, :-1], inside[1:] != inside[:-1]
    touching = np.zeros_like(inside)
    for shifted, pairs in ((touching.T, across.T), (touching, down)):
        shifted[1:] |= pairs
        shifted[:-1] |= pairs
    dx, dy = (cv2.Sobel(lab, cv2.CV_32F, *order, scale=SOBEL_SCALE)[touching] for order in ((1, 0), (0, 1)))
    gradient = np.sqrt((dx**2 + dy**2).sum(1))
    steps = [np.linalg.norm(np.diff(lab, axis=axis), axis=2)[pairs] for axis, pairs in ((1, across), (0, down))]
    return float(gradient.mean()), float(np.concatenate(steps).mean())


def seam_width(mask: PictureMask) -> int:
    """px of the bands along an edge that fit a face of this size: SEAM_SHARE of the root of its pixels."""
    return max(MIN_SEAM_WIDTH, round(SEAM_SHARE * math.sqrt(mask.count)))


def landmarks_inside(face: Face, mask: PictureMask, shape: Sequence[int]) -> float:
    """Share of a face's five landmarks that fall on a pixel of the mask, in [0, 1]. shape: the picture's (H, W, ...).

    Landmarks beyond the picture's border are moved onto it first.
    """
    x0, y0, x1, y1 = mask.window
    columns = np.clip(np.rint(face.landmarks[:, 0]), 0, shape[1] - 1).astype(np.int64)
    rows = np.clip(np.rint(face.landmarks[:, 1]), 0, shape[0] - 1).astype(np.int64)
    inside = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
    return float(mask.bits[rows[inside] - y0, columns[inside] - x0].sum()) / len(inside)


def cielab(pixels: Pixels) -> npt.NDArray[np.float32]:
    """CIELAB (H, W, 3) float32 of sRGB (H, W, 3) uint8: L in [0, 100], a and b about [-100, 100]."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features, (n, d) and (m, d), at least two rows each.

    `|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2)`: Dowson and Landau, J. Multivariate Analysis 12(3), 1982;
    used on features of pictures by Heusel et al., NeurIPS 2017. It falls as n grows: compare at the same n, and only in the
    same features. Raises ValueError for sets that do not fit together.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"two sets (n, d) of two rows or more are needed, got {first.shape} and {second.shape}")
    a, b = first.astype(np.float64), second.astype(np.float64)
    covariance_a, covariance_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = _square_root(covariance_a)
    # The trace of a square root is the sum of the roots of the eigenvalues; rounding makes zeros of them slightly negative.
    eigenvalues = np.linalg.eigvalsh(root @ covariance_b @ root)
    shared = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    return max(float(mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * shared), 0.0)


@dataclass(frozen=True)
class FrechetDistances:
    """Squared Frechet distances of results to the sources they were made of.

    whole: of all to all. halves: of each half's results to the other half's sources, mean of both ways, so that no result meets
    its own source. floor: of the sources' two halves, which no method is expected to stay below.
    """

    whole: float
    halves: float
    floor: float


def frechet_distances(results: Features, sources: Features) -> FrechetDistances:
    """Both (n, d), row by row of the same faces, n >= 4. The halves are the even and the odd rows. Raises ValueError."""
    if results.shape != sources.shape or len(results) < 4:
        raise ValueError(
            f"four results or more and the source of each are needed, got {results.shape}, {sources.shape}"
        )
    crossed = [frechet_distance(results[half::2], sources[1 - half :: 2]) for half in (0, 1)]
    floor = frechet_distance(sources[::2], sources[1::2])
    return FrechetDistances(frechet_distance(results, sources), sum(crossed) / 2, floor)


def _square_root(symmetric: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def kernel_distance(first: Features, second: Features, *, paired: bool = False) -> Estimate:
    """Squared maximum mean discrepancy of two sets of features, (n, d) and (m, d), under the kernel (x . y / d + 1)^3.

    The unbiased estimate of Binkowski et al., ICLR 2018, eq. 4, on all rows at once: near 0 for sets of one kind, below it by
    chance, and as large for few rows as for many, unlike `frechet_distance`. It is their KID where the features are Inception's
    2048 alone. paired: rows of one number belong together, as a face and what became of it, and are then not compared, which
    would take the likeness of one face for the likeness of two sets; the sets are of one size.

    The interval is Student's over KERNEL_GROUPS leave-one-group-out estimates, of neighbouring rows: too wide rather than too
    narrow where the sets are alike (Efron and Stein, Annals of Statistics 9(3), 1981). n: rows of the smaller set; below 4 there
    is no interval. Raises ValueError for sets that do not fit together, EvaluationError for what is no number.
    """
    a, b = finite(first, rows=True), finite(second, rows=True)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"two sets (n, d) of two rows or more are needed, got {a.shape} and {b.shape}")
    if paired and len(a) != len(b):
        raise ValueError(f"sets in pairs are of one size, not {len(a)} and {len(b)}")
    n = min(len(a), len(b))
    groups = min(KERNEL_GROUPS, n)
    sums = [_kernel_sums(a, a, groups, True), _kernel_sums(b, b, groups, True), _kernel_sums(a, b, groups, paired)]
    sizes = [np.diff(_starts(len(one), groups), append=len(one)).astype(np.float64) for one in (a, b)]

    def discrepancy(kept: Bits) -> float:
        inside_a, inside_b, across = (float(one[np.ix_(kept, kept)].sum()) for one in sums)
        rows_a, rows_b = (float(one[kept].sum()) for one in sizes)
        pairs = rows_a * rows_b - (rows_a if paired else 0)
        return inside_a / (rows_a * (rows_a - 1)) + inside_b / (rows_b * (rows_b - 1)) - 2 * across / pairs

    every = np.ones(groups, np.bool_)
    value = discrepancy(every)
    if n < 4:
        return Estimate(value, -math.inf, math.inf, n)
    without = np.array([discrepancy(every & (np.arange(groups) != group)) for group in range(groups)])
    error = math.sqrt((groups - 1) / groups * float(np.square(without - without.mean()).sum()))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * error
    return Estimate(value, value - reach, value + reach, n)


def _kernel_sums(a: Features, b: Features, groups: int, without_own: bool) -> npt.NDArray[np.float64]:
    """(g, g) sums of the kernel over rows in g groups of a and of b; without_own: row i of a and row i of b are not compared."""
    by_row = np.zeros((len(a), groups))
    rows = max(MAX_DISTANCES // len(b), 1)
    for start in range(0, len(a), rows):
        values = (a[start : start + rows] @ b.T / a.shape[1] + 1) ** 3
        by_row[start : start + rows] = np.add.reduceat(values, _starts(len(b), groups), axis=1)
    sums = np.add.reduceat(by_row, _starts(len(a), groups), axis=0)
    if without_own:
        own = ((a * b).sum(1) / a.shape[1] + 1) ** 3
        sums -= np.diag(np.add.reduceat(own, _starts(len(a), groups)))
    return np.asarray(sums)


def _starts(rows: int, groups: int) -> npt.NDArray[np.int64]:
    """Where each of g groups of neighbouring rows begins, of sizes that differ by one at most."""
    return np.arange(groups) * rows // groups


def nearest(queries: Features, references: Features) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The nearest reference of each query and its Euclidean distance: (n,) int64, (n,) float64.

    queries: (n, d); references: (m, d), m >= 1. Of equally near ones one is taken. For "is this face one of the training
    set's": with a recognizer's vectors, or with reduced pixels in rows. Raises ValueError for sets that do not fit together.
    """
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1] or len(references) == 0:
        raise ValueError(f"sets (n, d) and (m, d) with m >= 1 are needed, got {queries.shape} and {references.shape}")
    known = references.astype(np.float64)
    squares = np.square(known).sum(1)
    index, distance = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.float64)
    rows = max(MAX_DISTANCES // len(known), 1)
    for start in range(0, len(queries), rows):
        asked = queries[start : start + rows].astype(np.float64)
        found = (squares - 2 * (asked @ known.T)).argmin(1)
        index[start : start + rows] = found
        # The expanded square loses small distances to rounding, so the chosen ones are measured themselves.
        distance[start : start + rows] = np.linalg.norm(asked - known[found], axis=1)
    return index, distance


def cheek_typology_angle(pixels: Pixels, landmarks: Landmarks) -> float:
    """Individual typology angle of the cheeks, degrees in (-180, 180]: `arctan((L - 50) / b)`; lighter skin has a larger one.

    Chardon, Cretois and Hourseau, Int. J. Cosmetic Science 13(4), 1991. pixels: (H, W, 3) uint8 RGB; landmarks: (5, 2) px as
    in `Face`. Medians over discs halfway between each eye and its corner of the mouth. A photograph's light is in it: good
    for groups, not for one person. NaN when the cheeks are out of the picture or have no colour.
    """
    eyes, mouth = landmarks[:2], landmarks[3:5]
    radius = max(CHEEK_RADIUS * float(np.linalg.norm(eyes[1] - eyes[0])), 1.0)
    samples = [_disc(pixels, centre, radius) for centre in (eyes + mouth) / 2]
    skin = np.concatenate(samples)
    if len(skin) == 0:
        return math.nan
    lightness, a, b = np.median(cielab(skin[None])[0].astype(np.float64), axis=0)
    if math.hypot(a, b) < MIN_CHROMA:
        return math.nan
    return math.degrees(math.atan2(lightness - 50, b))


def _disc(pixels: Pixels, centre: npt.NDArray[np.float64], radius: float) -> Pixels:
    """The pixels (n, 3) of a disc, as far as it lies in the picture."""
    x0, y0 = np.maximum(np.floor(centre - radius).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(centre + radius).astype(int) + 1, pixels.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return np.zeros((0, 3), np.uint8)
    y, x = np.ogrid[y0:y1, x0:x1]
    return np.asarray(pixels[y0:y1, x0:x1][np.hypot(x - centre[0], y - centre[1]) <= radius], np.uint8)


def skin_tone(angle: float) -> str:
    """ "light", "intermediate" or "dark": Chardon's six classes by twos (very light and light above 41 degrees; intermediate and
    tan; brown and dark to 10 degrees); "grey" for NaN.
    """
    if math.isnan(angle):
        return "grey"
    return "light" if angle > _LIGHT_FROM else "intermediate" if angle > _DARK_TO else "dark"
