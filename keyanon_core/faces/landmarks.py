"""Landmarks: the five of a detector, the 68 of dlib's shape predictor, and the upright chip on which the latter are
found.

The 68 points are the iBUG 300-W scheme: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67. The predictor is an
ensemble of regression trees (Kazemi and Sullivan, CVPR 2014) that expects an upright face in a box, so a face is first
turned upright by its five landmarks; that makes the result independent of roll and size.
"""

import dlib
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, chip, invert, similarity
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.dlib_models import SHA256, SHAPE_PREDICTOR, dlib_model

Points = npt.NDArray[np.float64]

CHIP_SIDE = 256  # px
# Mean box of dlib's frontal detector, for which the predictor was trained, in units of the FFHQ crop's side
PREDICTOR_BOX = (0.231, 0.334, 0.760, 0.864)
FIVE_IN_BOX: Points = np.array(
    [[0.26, 0.40], [0.74, 0.40], [0.50, 0.59], [0.295, 0.73], [0.705, 0.73]]
)  # mean of 150 portraits
MAX_SPREAD = (
    1.5  # ratio of landmarks' extent and that of a face which fills their box, beyond which they are not believed
)
MAX_DISAGREEMENT = 0.35  # mean distance of both landmark sets, in eye distances, beyond which the 68 are not believed
# Mean of the 68 points over 150 portraits, made symmetric, in units of the FFHQ crop's side
# fmt: off
MEAN_SHAPE: Points = np.array(
    [
        [0.241, 0.489], [0.244, 0.557], [0.250, 0.624], [0.259, 0.691], [0.281, 0.755], [0.320, 0.811],
        [0.372, 0.857], [0.432, 0.894], [0.501, 0.904], [0.571, 0.894], [0.631, 0.857], [0.683, 0.811],
        [0.722, 0.755], [0.744, 0.691], [0.753, 0.624], [0.759, 0.557], [0.762, 0.489], [0.291, 0.444],
        [0.321, 0.412], [0.366, 0.402], [0.413, 0.407], [0.458, 0.424], [0.545, 0.424], [0.590, 0.407],
        [0.637, 0.402], [0.682, 0.412], [0.712, 0.444], [0.501, 0.471], [0.501, 0.515], [0.501, 0.560],
        [0.501, 0.607], [0.445, 0.632], [0.472, 0.641], [0.501, 0.650], [0.531, 0.641], [0.558, 0.632],
        [0.344, 0.480], [0.371, 0.464], [0.403, 0.464], [0.432, 0.484], [0.401, 0.489], [0.370, 0.489],
        [0.571, 0.484], [0.600, 0.464], [0.632, 0.464], [0.659, 0.480], [0.633, 0.489], [0.602, 0.489],
        [0.383, 0.707], [0.426, 0.698], [0.469, 0.694], [0.501, 0.701], [0.534, 0.694], [0.577, 0.698],
        [0.620, 0.707], [0.579, 0.747], [0.536, 0.765], [0.501, 0.769], [0.467, 0.765], [0.424, 0.747],
        [0.398, 0.711], [0.469, 0.712], [0.501, 0.716], [0.534, 0.712], [0.605, 0.711], [0.535, 0.736],
        [0.501, 0.740], [0.468, 0.736],
    ]
)
# fmt: on


def roll_degrees(landmarks: Points) -> float:
    """How far a face is turned in the picture's plane, in (-180, 180], clockwise as seen; 0 is upright. landmarks: (5,
    2).
    """
    points = landmarks[:, 0] + 1j * landmarks[:, 1]
    template = UPRIGHT_TEMPLATE[:, 0] + 1j * UPRIGHT_TEMPLATE[:, 1]
    return float(np.degrees(np.angle(np.vdot(template - template.mean(), points - points.mean()))))


def template_in_box(box: tuple[float, float, float, float]) -> Points:
    """(5, 2) landmarks of an upright face that would fill a detector's box."""
    x0, y0, x1, y1 = box
    return np.asarray(FIVE_IN_BOX * [x1 - x0, y1 - y0] + [x0, y0])


def spread(landmarks: Points) -> npt.NDArray[np.float64]:
    """How far landmarks (..., 5, 2) lie from their middle, px (rms)."""
    offsets = landmarks - landmarks.mean(-2, keepdims=True)
    return np.asarray(np.sqrt(np.square(offsets).sum(-1).mean(-1)))


def with_usable_landmarks(face: Face) -> Face:
    """The face itself, or with landmarks placed in its box when its own are degenerate: its mask must not depend on
    them.
    """
    try:
        similarity(face.landmarks, UPRIGHT_TEMPLATE)
    except PictureError:
        return Face(face.box, template_in_box(face.box), face.score)
    return face


def mean_shape_at(face: Face) -> Points:
    """(68, 2) mean landmarks in picture px, placed by a face's five. Raises PictureError ("degenerate_landmarks")."""
    back = invert(similarity(face.landmarks, UPRIGHT_TEMPLATE))
    return np.asarray(MEAN_SHAPE @ back[:, :2].T + back[:, 2])


def five_of(shape: Points) -> Points:
    """The (5, 2) landmarks that (68, 2) points contain: eye centres, nose tip, mouth corners."""
    return np.stack([shape[36:42].mean(0), shape[42:48].mean(0), shape[30], shape[48], shape[54]])


class ShapePredictor:
    """dlib's 68-point predictor on upright chips; about 4 ms per face."""

    def __init__(self) -> None:
        self._predictor = dlib.shape_predictor(str(dlib_model(SHAPE_PREDICTOR)))
        self.digest = SHA256[SHAPE_PREDICTOR]

    def on_chip(self, pixels: Pixels, face: Face) -> tuple[Pixels, npt.NDArray[np.float64], dlib.full_object_detection]:
        """The upright chip (CHIP_SIDE, CHIP_SIDE, 3), its affine (picture -> chip), and the 68 points in whole chip px.

        Raises PictureError ("degenerate_landmarks").
        """
        affine = similarity(face.landmarks, UPRIGHT_TEMPLATE * CHIP_SIDE)
        view = chip(pixels, affine, CHIP_SIDE)
        left, top, right, bottom = (round(value * CHIP_SIDE) for value in PREDICTOR_BOX)
        return view, affine, self._predictor(view, dlib.rectangle(left, top, right, bottom))

    def points(self, pixels: Pixels, face: Face) -> Points:
        """(68, 2) float64 landmarks in picture px; the mean shape, placed by the five landmarks, where the predictor
        and the detector disagree. Raises PictureError ("degenerate_landmarks").
        """
        _, affine, found = self.on_chip(pixels, face)
        shape = np.array([(point.x, point.y) for point in found.parts()], np.float64)
        expected = face.landmarks @ affine[:, :2].T + affine[:, 2]
        eye_distance = float(np.linalg.norm(UPRIGHT_TEMPLATE[1] - UPRIGHT_TEMPLATE[0])) * CHIP_SIDE
        disagreement = float(np.linalg.norm(five_of(shape) - expected, axis=1).mean()) / eye_distance
        if not disagreement <= MAX_DISAGREEMENT:
            return mean_shape_at(face)
        back = invert(affine)
        return np.asarray(shape @ back[:, :2].T + back[:, 2])
