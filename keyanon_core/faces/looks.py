"""How a picture of any size is shown to a detection network: once, or reduced and again nearer to full size.

Networks see faces of a limited range of sizes. A picture of up to SINGLE_PASS_SIDE is looked at once (enlarged when it
is tiny). A larger one is looked at twice, reduced to COARSE_SIDE for its large faces and to `max_side` for its small
ones. Cost is bounded by `max_side`, and so is the smallest face: 16 px at the scale of the look, 1.3 % of the long side
of a picture beyond the default.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face, Pixels, box_iou

ENLARGED_SIDE = 320  # px; smaller pictures are enlarged up to this long side
MAX_ENLARGEMENT = 4.0
SINGLE_PASS_SIDE = 640  # px; pictures up to this long side are looked at once, unreduced
COARSE_SIDE = 512  # px; long side of the reduced look at larger pictures
DEFAULT_MAX_SIDE = 1280  # px; long side of the detailed look at larger pictures
MAX_FACE_PX = 450.0  # height in a detailed look above which the coarse look is the better judge
FRAGMENT_SHARE = 0.25  # parts of a face too large for the detailed look are at least this share of its height
DUPLICATE_IOU = 0.3  # boxes that overlap more are one face
MAX_CANDIDATES = 4000  # per look; a picture with more is refused


@dataclass(frozen=True)
class Candidates:
    """What a network saw: boxes (n, 4), landmarks (n, 5, 2), scores (n,), float64, in the px of what it was shown."""

    boxes: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


Network = Callable[[Pixels], Candidates]


def find_faces(pixels: Pixels, network: Network, max_side: int = DEFAULT_MAX_SIDE) -> list[Face]:
    """Faces of an (H, W, 3) uint8 picture, each once, best score first. Raises PictureError ("too_many_faces").

    A picture that seems to hold none is looked at again upside down and on its sides, reduced: that is how scans lie.
    """
    long_side = max(pixels.shape[:2])
    if min(pixels.shape[:2]) == 0:
        return []
    if long_side <= SINGLE_PASS_SIDE:
        found = _look(pixels, network, min(max(ENLARGED_SIDE / long_side, 1.0), MAX_ENLARGEMENT))
    else:
        coarse = _look(pixels, network, COARSE_SIDE / long_side)
        scale = min(max(max_side, COARSE_SIDE) / long_side, 1.0)
        found = _merge(coarse, _look(pixels, network, scale), scale)
    if not found:
        scale = min(COARSE_SIDE / long_side, 1.0)
        for turns in (2, 1, 3):
            turned = np.ascontiguousarray(np.rot90(pixels, turns))
            found += [_turned_back(face, turns, pixels.shape) for face in _look(turned, network, scale)]
    return _without_duplicates(found)


def _turned_back(face: Face, turns: int, shape: tuple[int, ...]) -> Face:
    """A face seen in `np.rot90(picture, turns)`, in the coordinates of the picture of shape (H, W, ...)."""
    corners = np.concatenate([np.reshape(face.box, (2, 2)), face.landmarks])
    for left in range(turns - 1, -1, -1):
        width = shape[1] if left % 2 == 0 else shape[0]
        corners = np.stack([width - 1 - corners[:, 1], corners[:, 0]], -1)
    (x0, y0), (x1, y1) = corners[:2].min(0), corners[:2].max(0)
    return Face((float(x0), float(y0), float(x1), float(y1)), corners[2:], face.score)


def _look(pixels: Pixels, network: Network, scale: float) -> list[Face]:
    """Show a picture at a scale; faces in picture px."""
    height, width = pixels.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shown = pixels
    if size != (width, height):
        shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    seen = network(shown)
    if len(seen.scores) > MAX_CANDIDATES:
        raise PictureError("too_many_faces", f"{len(seen.scores)} face candidates, more than {MAX_CANDIDATES}")
    # pixel centres are at whole numbers, so the scale acts about the point (-0.5, -0.5)
    ratio = np.array([width / size[0], height / size[1]])
    boxes = (seen.boxes.reshape(-1, 2, 2) + 0.5) * ratio - 0.5
    landmarks = (seen.landmarks + 0.5) * ratio - 0.5
    usable = (
        np.isfinite(boxes).all((1, 2))
        & np.isfinite(landmarks).all((1, 2))
        & (boxes[:, 1] - boxes[:, 0] >= 1).all(1)
        & (boxes[:, 1] > 0).all(1)
        & (boxes[:, 0] < [width - 1, height - 1]).all(1)
    )
    return [
        Face((float(x0), float(y0), float(x1), float(y1)), points, float(score))
        for ((x0, y0), (x1, y1)), points, score in zip(
            boxes[usable], landmarks[usable], seen.scores[usable], strict=True
        )
    ]


def _without_duplicates(faces: list[Face]) -> list[Face]:
    """Greedy non-maximum suppression: of overlapping boxes the best score stays."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, face.box)):
        if all(box_iou(face, other) < DUPLICATE_IOU for other in kept):
            kept.append(face)
    return kept


def _merge(coarse: list[Face], detailed: list[Face], scale: float) -> list[Face]:
    """Faces of both looks, without what the detailed look (at `scale`) makes of faces too large for it."""
    large = [face for face in coarse if (face.box[3] - face.box[1]) * scale > MAX_FACE_PX]

    def is_fragment(face: Face) -> bool:
        height = face.box[3] - face.box[1]
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        return any(
            other.box[0] < x < other.box[2]
            and other.box[1] < y < other.box[3]
            and height > FRAGMENT_SHARE * (other.box[3] - other.box[1])
            for other in large
        )

    return coarse + [face for face in detailed if not is_fragment(face)]
