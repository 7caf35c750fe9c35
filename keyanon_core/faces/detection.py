"""What a face in a picture is, and the interfaces that detectors, parsers and recognizers keep to.

Coordinates: x to the right, y down, in picture pixels; the centre of the pixel in column j and row i is (j, i), as in
the landmark templates of the priors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.masks import PictureMask

Pixels = npt.NDArray[np.uint8]
Landmarks = npt.NDArray[np.float64]
LANDMARK_COUNT = 5
OTHER_SIDE = (1, 0, 2, 4, 3)  # each landmark's counterpart in a mirrored face
SAME_CENTRE = 0.16  # of the mean side of two boxes: centres nearer than this are one face's
SAME_SIZE = 2.0  # ratio of two boxes' sides beyond which they are not


@dataclass(frozen=True)
class Face:
    """One detected face.

    box: (x0, y0, x1, y1) float64 in picture px; may reach beyond the picture when the face is cut by its border.
    landmarks: (5, 2) float64 in picture px: the eye that stands left when the face is upright, the right eye, nose tip,
    left mouth corner, right mouth corner. score: the detector's confidence in [0, 1]. frame: number of the frame that it lies in,
    where a picture is a strip of frames one below the other.
    """

    box: tuple[float, float, float, float]
    landmarks: Landmarks
    score: float
    frame: int = 0

    @property
    def area(self) -> float:
        """Of its box, in square pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; floats survive exactly."""
        said = {"box": list(self.box), "landmarks": self.landmarks.tolist(), "score": self.score}
        return said | ({"frame": self.frame} if self.frame else {})

    def moved(self, down: float, frame: int) -> "Face":
        """The same face some px further down, in the frame of a number."""
        x0, y0, x1, y1 = self.box
        return Face((x0, y0 + down, x1, y1 + down), self.landmarks + np.array([0.0, down]), self.score, frame)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Face":
        """Inverse of `to_dict`. Raises FaceModelError when the data is no face."""
        try:
            x0, y0, x1, y1 = (float(value) for value in data["box"])
            landmarks = np.asarray(data["landmarks"], dtype=np.float64)
            score, frame = float(data["score"]), int(data.get("frame", 0))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FaceModelError(f"not a face: {error}; expected box, landmarks and score") from error
        numbers = np.concatenate([[x0, y0, x1, y1, score], landmarks.ravel()])
        if landmarks.shape != (LANDMARK_COUNT, 2) or not np.isfinite(numbers).all() or x1 <= x0 or y1 <= y0:
            raise FaceModelError("not a face: box must be x0 < x1, y0 < y1, landmarks 5 x 2, all numbers finite")
        return cls((x0, y0, x1, y1), landmarks, score, frame)


class Detector(Protocol):
    """Finds faces. `digest` is the sha256 over the weights and `name` carries the settings that change results."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def detect(self, pixels: Pixels) -> list[Face]:
        """All faces of an (H, W, 3) uint8 RGB picture, ordered by position, whatever the number of threads."""
        ...

    def look_again(self, pixels: Pixels) -> list[Face]:
        """What may be a face in an anonymized (H, W, 3) uint8 RGB picture, searched otherwise than `detect` does and for less
        certain faces; before suppression, so one face may be there several times.
        """
        ...


class FaceParser(Protocol):
    """Says which pixels belong to a face."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def mask(self, pixels: Pixels, face: Face, regions: frozenset[str]) -> PictureMask:
        """The pixels of the named regions of one face. Raises FaceModelError for a region the parser does not know."""
        ...


class Embedder(Protocol):
    """Makes vectors of faces, the nearer the more the faces look like one person's. `name` and `digest` as a detector's."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def embed(self, views: Sequence[tuple[Pixels, Face]]) -> npt.NDArray[np.float32]:
        """(n, d) float32 identity vectors of n faces, each given with its picture. Neighbours matter by rounding at most."""
        ...

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        """Distance of two identity vectors (d,), in this embedder's own units."""
        ...


class Recognizer(Embedder, Protocol):
    """Tells whether two faces are the same person's; `threshold` is the distance below which they are."""

    @property
    def threshold(self) -> float: ...

    def embed(self, views: Sequence[tuple[Pixels, Face]], *, coarse: bool = False) -> npt.NDArray[np.float32]:
        """(n, d) float32 identity vectors of n faces, each given with its picture. coarse: a hundredth of strangers' distance
        does not matter.
        """
        ...

    def stranger_distance(self, embedding: npt.NDArray[np.float32]) -> float:
        """The distance that strangers are expected to have from a face of this identity vector (d,)."""
        ...


def in_order(faces: Sequence[Face]) -> list[Face]:
    """Faces sorted by their box centre, left to right within whole pixels from the top: a stable order for face
    indices.
    """
    return sorted(
        faces, key=lambda face: (round(face.box[1] + face.box[3]), round(face.box[0] + face.box[2]), face.box)
    )


def box_iou(first: Face, second: Face) -> float:
    """Intersection over union of two faces' boxes, in [0, 1]."""
    a, b = first.box, second.box
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def same_face(first: Face, second: Face) -> bool:
    """Whether two detections show one face, not one behind the other.

    Boxes alone do not tell: those of two people, one behind the other, overlap as much as two looks at one face that is cut or
    turned. But the looks agree about where the middle of a face is, by its box or by its landmarks.
    """
    return is_among(first, measures([second]))


def is_among(face: Face, others: npt.NDArray[np.float64]) -> bool:
    """Whether a detection shows one of the faces of these `measures`, see `same_face`: in a crowd many are asked about many."""
    return bool(_same(measures([face])[0], others).any())


def without_duplicates(faces: Sequence[Face]) -> list[Face]:
    """Each face once, best score first: greedy suppression by `same_face`."""
    ordered = sorted(faces, key=lambda face: (-face.score, face.box))
    measured, open_ = measures(ordered), np.ones(len(ordered), np.bool_)
    kept = []
    for position, face in enumerate(ordered):
        if open_[position]:  # then one pass over arrays: thousands of faces take seconds, not minutes
            kept.append(face)
            open_ &= ~_same(measured[position], measured)
    return kept


def measures(faces: Sequence[Face]) -> npt.NDArray[np.float64]:
    """(n, 5): middle x, y of each face's box, middle x, y of its landmarks, and its side in px."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 2, 2)
    landmarks = np.array([face.landmarks for face in faces]).reshape(-1, LANDMARK_COUNT, 2)
    sides = np.sqrt(np.prod(boxes[:, 1] - boxes[:, 0], axis=1))
    return np.concatenate([boxes.mean(1), landmarks.mean(1), sides[:, None]], 1)


def _same(first: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """`same_face` of one face's measures and those of others, (n,)."""
    side, sides = first[..., 4], others[:, 4]
    by_box = np.linalg.norm(others[:, :2] - first[..., :2], axis=1)
    by_landmarks = np.linalg.norm(others[:, 2:4] - first[..., 2:4], axis=1)
    alike = np.maximum(side, sides) <= SAME_SIZE * np.minimum(side, sides)
    return np.asarray(alike & (np.minimum(by_box, by_landmarks) < SAME_CENTRE * (side + sides) / 2))


def mirrored(box: Landmarks, landmarks: Landmarks, width: int) -> tuple[Landmarks, Landmarks]:
    """A box (2, 2) and landmarks (5, 2) seen in a mirrored picture of so many px, in the coordinates of the picture."""
    corners = np.stack([width - 1 - box[::-1, 0], box[:, 1]], -1)
    points = np.stack([width - 1 - landmarks[:, 0], landmarks[:, 1]], -1)
    return corners, points[list(OTHER_SIDE)]
