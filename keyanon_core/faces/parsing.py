"""The embedded parser: face regions from 68 landmarks, without a segmentation network.

Regions are polygons through the landmarks. What 68 points do not show is drawn from face geometry: the forehead as half
an ellipse one facial third above the brows (the classical thirds: hairline to brow, brow to nose base, nose base to
chin are equal), glasses as the band from brow to cheekbone, ears as ellipses beside the jaw. A mask covers all it
should rather than fit tightly: what it misses would stay in the picture.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.landmarks import ShapePredictor, with_usable_landmarks
from keyanon_core.faces.masks import PictureMask, disjoint_masks

__all__ = ["DEFAULT_REGIONS", "LandmarkParser", "PictureMask", "check_regions", "disjoint_masks"]

REGIONS = ("skin", "brows", "eyes", "glasses", "nose", "mouth", "lips", "ears")
DEFAULT_REGIONS = frozenset(REGIONS)

Points = npt.NDArray[np.float64]
BROWS, EYES, LIPS = (slice(17, 22), slice(22, 27)), (slice(36, 42), slice(42, 48)), slice(48, 60)
FOREHEAD_THIRDS = 0.95  # height of the forehead above the brows, in facial thirds
MARGIN = 0.04  # of the face's size: how far the face mask reaches beyond the jaw line, where skin still shows
PART_MARGIN = 0.03  # of the face's size: the same for brows, eyes, nose and mouth
LANDMARK_MARGIN = 0.3  # of the five landmarks' spread: covers eyes and lips, of which they are the middle
EAR_WIDTH = 0.16  # of the face's width, from the jaw line outwards
ARC_POINTS = 24  # corners of a drawn half ellipse
SUBPIXEL_BITS = 4  # fixed-point bits of polygon corners in cv2.fillPoly


def check_regions(regions: frozenset[str]) -> None:
    """Raise FaceModelError unless regions is a non-empty choice of REGIONS."""
    unknown = sorted(regions - DEFAULT_REGIONS)
    if unknown or not regions:
        raise FaceModelError(f"unknown face regions {unknown}; choose one or more of {', '.join(REGIONS)}")


class LandmarkParser:
    """Masks from dlib's 68 points. Every region is available; "ears", "glasses" and the forehead are approximations."""

    name = "landmarks68"

    def __init__(self, predictor: ShapePredictor | None = None) -> None:
        self._predictor = predictor or ShapePredictor()
        self.digest = self._predictor.digest

    def mask(self, pixels: Pixels, face: Face, regions: frozenset[str]) -> PictureMask:
        """The named regions of one face, at least one pixel, cut at the picture's border.

        pixels: (H, W, 3) uint8. "skin" is the whole face with all that lies on it. Raises FaceModelError for an unknown
        region, PictureError ("face_outside") for a face that does not touch the picture.
        """
        check_regions(regions)
        face = with_usable_landmarks(face)
        shape = self._predictor.points(pixels, face)
        polygons = region_polygons(shape, regions)
        if "skin" in regions:
            polygons.append(landmark_hull(face))
        return fill_polygons(polygons, pixels.shape)


def region_polygons(shape: Points, regions: frozenset[str]) -> list[Points]:
    """Outlines (n, 2) in px of the named regions of a face with the landmarks (68, 2)."""
    return [polygon for region in REGIONS if region in regions for polygon in _POLYGONS[region](shape)]


def landmark_hull(face: Face) -> Points:
    """The part of a face between its five landmarks, (n, 2) px with a margin: no face mask is right without it."""
    spread = float(np.linalg.norm(face.landmarks - face.landmarks.mean(0), axis=1).max())
    return _grown(_hull(face.landmarks), LANDMARK_MARGIN * spread)


def fill_polygons(polygons: list[Points], shape: tuple[int, ...]) -> PictureMask:
    """Union of filled polygons (n, 2) in px, within a picture of shape (H, W, ...); a polygon smaller than a pixel
    fills the one it lies in. Raises PictureError ("face_outside") when nothing of it lies in the picture.
    """
    corners = np.concatenate(polygons)
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, [shape[1], shape[0]])
    if x0 >= x1 or y0 >= y1:
        raise PictureError("face_outside", "a detected face lies outside the picture")
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for polygon in polygons:
        fixed = np.rint((polygon - [x0, y0]) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 1, shift=SUBPIXEL_BITS)
    mask = PictureMask((int(x0), int(y0), int(x1), int(y1)), canvas.astype(np.bool_)).trimmed()
    if mask.count == 0:
        raise PictureError("face_outside", "a detected face lies outside the picture")
    return mask


def face_outline(shape: Points) -> Points:
    """Hull of the 68 points and the forehead, (n, 2)."""
    brows = shape[17:27]
    up = (shape[17:27].mean(0) + shape[36:48].mean(0)) / 2 - shape[48:60].mean(0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    third = max(float((brows.mean(0) - shape[33]) @ up), 0.0)
    middle, half = (shape[0] + shape[16]) / 2, (shape[16] - shape[0]) / 2
    height = max(float((brows - middle).dot(up).max()), 0.0) + FOREHEAD_THIRDS * third
    angle = np.linspace(0.0, np.pi, ARC_POINTS)[:, None]
    # a superellipse of exponent 2.5: foreheads are broader than an ellipse
    across = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.8
    arc = middle + across * half + np.sin(angle) ** 0.8 * height * up
    return _grown(_hull(np.concatenate([shape, arc])), MARGIN * _size(shape))


def _brows(shape: Points) -> list[Points]:
    return [_grown(_hull(shape[part]), PART_MARGIN * _size(shape)) for part in BROWS]


def _eyes(shape: Points) -> list[Points]:
    return [_grown(_hull(shape[part]), PART_MARGIN * _size(shape)) for part in EYES]


def _glasses(shape: Points) -> list[Points]:
    """The band that frames cover: from the brows to the middle of the nose, across to the temples."""
    down = shape[30] - shape[27]
    cheeks = shape[[36, 39, 42, 45, 41, 46]] + 0.75 * down
    return [_grown(_hull(np.concatenate([shape[17:27], shape[[0, 16]], cheeks])), PART_MARGIN * _size(shape))]


def _nose(shape: Points) -> list[Points]:
    wings = shape[[31, 35]] + 0.35 * (shape[[31, 35]] - shape[33])
    return [_grown(_hull(np.concatenate([shape[27:36], wings])), PART_MARGIN * _size(shape))]


def _mouth(shape: Points) -> list[Points]:
    return [_grown(_hull(shape[60:68]), PART_MARGIN * _size(shape))]


def _lips(shape: Points) -> list[Points]:
    return [_grown(_hull(shape[LIPS]), PART_MARGIN * _size(shape))]


def _ears(shape: Points) -> list[Points]:
    """Ellipses beside the jaw from brow to lobe; the one on the far side of a turned head shrinks with that side."""
    sides = []
    for ends, outward in (((0, 1, 2), shape[0] - shape[16]), ((16, 15, 14), shape[16] - shape[0])):
        top, middle, lobe = shape[list(ends)]
        near = float(np.linalg.norm(shape[ends[0]] - shape[30])) / max(float(np.linalg.norm(outward)), 1e-9)
        axis = outward * EAR_WIDTH * min(2 * near, 1.0)
        centre, half = middle + 0.25 * axis, (lobe - top) * 0.95
        angle = np.linspace(0.0, 2 * np.pi, 2 * ARC_POINTS)[:, None]
        sides.append(centre + np.cos(angle) * axis * 0.75 + np.sin(angle) * half)
    return sides


_POLYGONS: dict[str, Callable[[Points], list[Points]]] = {
    "skin": lambda shape: [face_outline(shape)],
    "brows": _brows,
    "eyes": _eyes,
    "glasses": _glasses,
    "nose": _nose,
    "mouth": _mouth,
    "lips": _lips,
    "ears": _ears,
}


def _size(shape: Points) -> float:
    """The face's size in px: the mean of jaw width and brow-to-chin height, so that a profile keeps its margin."""
    width = np.linalg.norm(shape[16] - shape[0])
    height = np.linalg.norm(shape[17:27].mean(0) - shape[8])
    return float(width + height) / 2


def _hull(points: Points) -> Points:
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float64)


def _grown(hull: Points, margin: float) -> Points:
    """The hull of discs of radius `margin` px around a hull's corners."""
    angle = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
    disc = margin * np.stack([np.cos(angle), np.sin(angle)], -1)
    return _hull((hull[:, None] + disc).reshape(-1, 2))
