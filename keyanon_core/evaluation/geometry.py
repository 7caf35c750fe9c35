"""What of a face's geometry an anonymized picture keeps: where its landmarks are, how the head is held, which pixels are face.

Both are read from pictures by the same networks, so their own scatter is in every figure: a picture against itself saved as JPEG
says how large that is.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.faces.alignment import MIN_SPREAD_PX
from keyanon_core.faces.detection import LANDMARK_COUNT, Face, FaceParser, Pixels
from keyanon_core.faces.landmarks import Points, ShapePredictor, spread
from keyanon_core.faces.masks import PictureMask

SHAPE_COUNT: Final = 68
OUTER_CORNERS: Final = (36, 45)  # of the eyes, among the 68 points
HEAD: Final[npt.NDArray[np.float64]] = np.array(
    [
        [0, 0, 0],  # sellion, between the eyes
        [-65.5, 5, 20],  # outer corner of the eye that stands left
        [65.5, 5, 20],
        [-77.5, 6, 100],  # where the jaw's line begins, before the ear that stands left
        [77.5, 6, 100],
        [0, 48, -21],  # tip of the nose
        [0, 75, -10],  # stomion, where the lips meet
        [0, 133, 0],  # menton, the chin
    ]
)
"""(8, 3) mm of an adult's head that faces the camera: x to the right, y down, z away from the camera. Measures of men's heads, as
in Lemaignan et al., "From real-time attention assessment to 'with-me-ness'", HRI 2016 (gazr)."""
CAMERA_DISTANCE: Final = (
    10.0  # in units of the face's reach: far away, as the focal length of a cropped picture is unknown
)

Rotation = npt.NDArray[np.float64]
View = tuple[Pixels, Face]


@dataclass(frozen=True)
class HeadPose:
    """How a head is held, degrees; (0, 0, 0) looks into the camera. yaw: in (-180, 180], positive towards the picture's right.
    pitch: in [-90, 90], positive upwards. roll: in (-180, 180], about the axis of sight, positive clockwise as seen.
    """

    yaw: float
    pitch: float
    roll: float

    @classmethod
    def of(cls, rotation: Rotation) -> "HeadPose":
        """Of a rotation (3, 3) from HEAD's axes to the camera's."""
        return cls(
            math.degrees(math.atan2(-rotation[0, 2], rotation[2, 2])),
            math.degrees(math.asin(min(max(rotation[1, 2], -1.0), 1.0))),
            math.degrees(math.atan2(rotation[1, 0], rotation[1, 1])),
        )

    def apart(self, other: "HeadPose") -> tuple[float, float, float]:
        """Absolute differences of yaw, pitch, roll, degrees in [0, 180]."""
        pairs = ((self.yaw, other.yaw), (self.pitch, other.pitch), (self.roll, other.roll))
        yaw, pitch, roll = (abs((a - b + 180) % 360 - 180) for a, b in pairs)
        return yaw, pitch, roll


def head_pose(shape: Points) -> HeadPose:
    """From the 68 points (68, 2) of a face, px: the pose under which HEAD's eight points come nearest to theirs (OpenCV's
    solvePnP, SQPnP: Terzakis and Lourakis, ECCV 2020). Where a face stands and how large it is does not matter.

    Heads differ: zero is some degrees off for each of them. Compare poses of one person. Raises PictureError
    ("degenerate_landmarks") when the points coincide or are not finite, ValueError when they are not 68.
    """
    _check(shape, SHAPE_COUNT)
    points = np.stack(
        [shape[27], shape[36], shape[45], shape[0], shape[16], shape[30], (shape[62] + shape[66]) / 2, shape[8]]
    )
    centred = points - points.mean(0)
    reach = float(np.linalg.norm(centred, axis=1).max())
    camera = np.diag([CAMERA_DISTANCE, CAMERA_DISTANCE, 1.0])
    found, turn, _ = cv2.solvePnP(HEAD, centred / reach, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        raise PictureError("degenerate_landmarks", "no pose of a head gives the 68 landmarks")
    return HeadPose.of(np.asarray(cv2.Rodrigues(turn)[0], np.float64))


def landmark_error(before: Points, after: Points) -> float:
    """Mean distance of the landmarks of a face before and after, over the distance of its eyes before: 0.05 is hardly seen.

    Of 68 points over the outer corners of the eyes, which is 300-W's measure (Sagonas et al., ICCV Workshops 2013); of a
    detector's five over the middles of the eyes, which lie nearer together: the two do not compare. Both (68, 2) or (5, 2), px of
    pictures of one size. Raises PictureError ("degenerate_landmarks") for points that coincide or are not finite, ValueError for
    another number of them.
    """
    count = SHAPE_COUNT if len(before) == SHAPE_COUNT else LANDMARK_COUNT
    _check(before, count)
    _check(after, count)
    left, right = OUTER_CORNERS if count == SHAPE_COUNT else (0, 1)
    eyes = float(np.linalg.norm(before[left] - before[right]))
    if eyes < MIN_SPREAD_PX:
        raise PictureError("degenerate_landmarks", f"the eyes are {eyes:.2f} px apart")
    return float(np.linalg.norm(before - after, axis=1).mean()) / eyes


@dataclass(frozen=True)
class MaskOverlap:
    """Of masks A and B: iou, their intersection over their union; dice, 2 |A and B| / (|A| + |B|); NaN for two empty ones."""

    iou: float
    dice: float


def mask_overlap(first: PictureMask, second: PictureMask) -> MaskOverlap:
    """Masks of pictures of one size."""
    shared = int((first.crop(second.window) & second.bits).sum())
    both = first.count + second.count
    return MaskOverlap(shared / (both - shared), 2 * shared / both) if both else MaskOverlap(math.nan, math.nan)


@dataclass(frozen=True)
class FaceChange:
    """A face before and after. landmarks_5, landmarks_68: `landmark_error`. yaw, pitch, roll: degrees, absolute. iou, dice: of
    the face's masks.
    """

    landmarks_5: float
    landmarks_68: float
    yaw: float
    pitch: float
    roll: float
    iou: float
    dice: float


def face_change(
    before: View, after: View, predictor: ShapePredictor, parser: FaceParser, regions: frozenset[str]
) -> FaceChange:
    """What became of one face. Each view is a picture (H, W, 3) uint8, of one size, and the face that a detector found in that
    very picture: with the source's face for both, landmarks_5 would be 0 whatever was published. The 68 points are the mean shape
    where the predictor does not believe its own (`ShapePredictor.points`). Raises PictureError ("degenerate_landmarks").
    """
    if before[0].shape != after[0].shape:
        raise ValueError(f"pictures of {before[0].shape} and {after[0].shape}: a face's change is measured at one size")
    shapes = [predictor.points(*view) for view in (before, after)]
    overlap = mask_overlap(*(parser.mask(pixels, face, regions) for pixels, face in (before, after)))
    turned = head_pose(shapes[0]).apart(head_pose(shapes[1]))
    five = landmark_error(before[1].landmarks, after[1].landmarks)
    return FaceChange(five, landmark_error(*shapes), *turned, overlap.iou, overlap.dice)


def _check(points: Points, count: int) -> None:
    if points.shape != (count, 2):
        raise ValueError(f"({count}, 2) landmarks are needed, got {points.shape}")
    if not float(spread(points)) >= MIN_SPREAD_PX:
        raise PictureError("degenerate_landmarks", "the landmarks coincide, or are not numbers")
