"""Where a face lies: the map from a picture to an aligned crop that its landmarks ask for, and views of it for networks.

Coordinates: the centre of pixel (row i, column j) is (x, y) = (j, i), in picture and crop alike.
"""

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError

MIN_LIKENESS = 0.5  # correlation in [0, 1] of landmarks and template below which they do not show a face
MIN_SPREAD_PX = 0.5  # root mean square distance of five landmarks from their centre; below it they are one point

UPRIGHT_TEMPLATE: npt.NDArray[np.float64] = (
    np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]) / 512
)
"""(5, 2) eyes, nose, mouth corners of an upright face, image-left first, in units of the crop's side: FFHQ's alignment (Karras et
al. 2019)."""

Affine = npt.NDArray[np.float64]
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


def below(affine: Affine, top: float) -> Affine:
    """The map of a picture that begins `top` px further down, as a frame of a strip does."""
    moved = affine.copy()
    moved[:, 2] += affine[:, 1] * top
    return moved


def reduction(affine: Affine) -> float:
    """Picture pixels per crop pixel; above 1 the crop is smaller than the face."""
    return float(np.linalg.norm(invert(affine)[:, :2], 2))


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
