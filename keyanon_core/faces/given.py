"""What a user says about the faces of a picture: where faces are, and what is to be left alone.

Given faces are added to those that a detector finds. A face that both name counts once; where the user gave no landmarks,
those of the detector serve, and where the detector sees no face in the box either, an upright face is assumed to fill it.

A face lies in a kept box when most of its landmarks do. Doubt never keeps: a given face is anonymized also where it lies in a
kept box, and so is a face of which the box holds only a part.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from keyanon_core.errors import PictureError
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, likeness
from keyanon_core.faces.detection import LANDMARK_COUNT, Detector, Face, Landmarks, Pixels, box_iou, in_order
from keyanon_core.faces.landmarks import FIVE_IN_BOX, template_in_box

FaceChoice = Literal["detect", "given", "aligned"]
FACE_CHOICES: Final = ("detect", "given", "aligned")

BAD_FACES: Final = "bad_faces"  # reason of a picture whose given faces or kept boxes can not be used
MIN_BOX_SIDE_PX: Final = 2.0  # of a given box; no face is smaller, and shares of a picture (0 to 1) are no pixels
MAX_BOX_SIDES: Final = (
    2.0  # a box's longer side, in longer sides of its picture: of a face that is cut by the border on all sides
)
LANDMARK_REACH: Final = 0.5  # of its box's sides: how far beyond its box a landmark may lie
MAX_COORDINATE_PX: Final = 1_000_000.0  # of a box or landmark, either sign
MAX_BOXES: Final = 2000  # of one picture, given and kept each
INSIDE_LANDMARKS: Final = 4  # of five, for a face to lie in a box
MIN_OVERLAP: Final = 0.25  # IoU of a given box and the box of the face that it means
REPEATED_IOU: Final = 0.9  # given boxes that overlap more are one face, named twice
MIN_LIKENESS: Final = 0.7  # of given landmarks and an upright face: a profile has 0.75, left and right swapped 0.1
SAME_LANDMARKS: Final = (
    0.4  # mean distance of two landmark sets, in spreads of the first, up to which they are one face
)
WINDOW_MARGIN: Final = 0.5  # of a given box's longer side: what is shown around it to the detector

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class GivenFace:
    """A face that the user names. box: (x0, y0, x1, y1); landmarks: (5, 2) float64 in the order of `Face`, or None. In px of
    the upright picture; checked by `check_box` and `check_landmarks`."""

    box: Box
    landmarks: Landmarks | None = None


@dataclass(frozen=True, eq=False)
class GivenFaces:
    """What is said about one picture. keep: boxes to leave alone. size: (width, height) px of the picture that the
    coordinates belong to, where it is known."""

    faces: tuple[GivenFace, ...] = ()
    keep: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None

    def to_json(self) -> str:
        """Floats survive exactly."""
        faces = [
            [*face.box, *(() if face.landmarks is None else face.landmarks.ravel().tolist())] for face in self.faces
        ]
        return json.dumps({"faces": faces, "keep": self.keep, "size": self.size}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "GivenFaces":
        """Inverse of `to_json`. Raises PictureError ("bad_faces")."""
        read = json.loads(text)
        size = read["size"] and (int(read["size"][0]), int(read["size"][1]))
        return cls(tuple(map(check_face, read["faces"])), tuple(map(check_box, read["keep"])), size)


@dataclass(frozen=True)
class ChosenFaces:
    """faces: to be anonymized, ordered by position, in an aligned crop its own face first. kept: found, and to be left
    alone."""

    faces: list[Face]
    kept: list[Face]


def check_face(numbers: Sequence[Any]) -> GivenFace:
    """A face of 4 numbers (its box) or 14 (box and five landmarks x, y). Raises PictureError ("bad_faces")."""
    if len(numbers) not in (4, 4 + 2 * LANDMARK_COUNT):
        raise PictureError(BAD_FACES, f"{len(numbers)} numbers; a face has 4 (its box), or 14 with five landmarks")
    box = check_box(numbers[:4])
    if len(numbers) == 4:
        return GivenFace(box)
    landmarks = check_landmarks(numbers[4:])
    low, high = np.reshape(box, (2, 2))
    reach = LANDMARK_REACH * (high - low)
    if not ((landmarks >= low - reach) & (landmarks <= high + reach)).all():
        raise PictureError(BAD_FACES, "its landmarks do not lie in its box")
    return GivenFace(box, landmarks)


def check_box(corners: Sequence[Any]) -> Box:
    """A box x0, y0, x1, y1 in px. Raises PictureError ("bad_faces"); the message names no coordinate, for a row's reason is
    published."""
    x0, y0, x1, y1 = _finite(corners, ("x0", "y0", "x1", "y1"))
    if x1 <= x0 or y1 <= y0:
        raise PictureError(BAD_FACES, f"{'x1' if x1 <= x0 else 'y1'} must be larger than {'x0' if x1 <= x0 else 'y0'}")
    if min(x1 - x0, y1 - y0) < MIN_BOX_SIDE_PX:
        raise PictureError(
            BAD_FACES,
            f"less than {MIN_BOX_SIDE_PX:g} px wide or high; coordinates are pixels, not shares of the picture",
        )
    return x0, y0, x1, y1


def check_landmarks(numbers: Sequence[Any]) -> Landmarks:
    """Landmarks (5, 2) of ten numbers x, y. Raises PictureError ("bad_faces") where they are none, or in another order."""
    found = np.reshape(_finite(numbers, tuple(f"landmark {at // 2} {'xy'[at % 2]}" for at in range(10))), (5, 2))
    if not likeness(found, UPRIGHT_TEMPLATE) >= MIN_LIKENESS:
        raise PictureError(
            BAD_FACES,
            "its landmarks do not show a face; their order is the eye on the left of an upright face, the other eye, the nose "
            "tip, the mouth's left and its right corner",
        )
    return found


def _finite(values: Sequence[Any], names: Sequence[str]) -> list[float]:
    if len(values) != len(names):
        raise PictureError(BAD_FACES, f"{len(values)} numbers instead of {len(names)}")
    found = []
    for value, name in zip(values, names, strict=True):
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
        if not abs(number) <= MAX_COORDINATE_PX:
            raise PictureError(BAD_FACES, f"{name} must be a number within {MAX_COORDINATE_PX:g} px")
        found.append(float(number))
    return found


def choose_faces(
    pixels: Pixels, detector: Detector, given: GivenFaces | None = None, choice: FaceChoice = "detect"
) -> ChosenFaces:
    """The faces of an (H, W, 3) uint8 picture that are to be anonymized: by `choice` those detected and given, those given
    alone, or the one of an aligned crop with any others detected beside it.

    Raises PictureError: "bad_faces" when what was given does not fit the picture, "not_square" for an aligned crop that
    is none, or what the detector raises.
    """
    given = given or GivenFaces()
    _check_fit(given, pixels.shape)
    detected = [] if choice == "given" else detector.detect(pixels)
    if choice == "aligned":
        main = _aligned_face(detected, pixels.shape)
        return ChosenFaces([main, *(face for face in detected if face is not main)], [])
    named = _named_faces(pixels, detector, given.faces, detected)
    others = [face for face in detected if not any(_one_face(one, face) for one in named)]
    kept = [face for face in others if is_kept(face, given.keep)]
    return ChosenFaces(in_order([*named, *(face for face in others if not any(face is one for one in kept))]), kept)


def is_kept(face: Face, keep: Sequence[Box], kept: Sequence[Face] = ()) -> bool:
    """True when a face lies in a box to be left alone, or is one of those kept already."""
    return any(_lies_in(face, box) for box in keep) or any(_one_face(one, face) for one in kept)


def newly_kept(found: Sequence[Face], keep: Sequence[Box], kept: Sequence[Face]) -> list[Face]:
    """Of faces found in another search, one for each kept box in which no face was known."""
    new: list[Face] = []
    for box in keep:
        if not any(_lies_in(face, box) for face in [*kept, *new]):
            new += [face for face in found if _lies_in(face, box)][:1]
    return new


def _check_fit(given: GivenFaces, shape: tuple[int, ...]) -> None:
    """Raise PictureError ("bad_faces") when what was given can not be about a picture of shape (H, W, ...)."""
    height, width = shape[:2]
    if given.size is not None and given.size != (width, height):
        raise PictureError(
            BAD_FACES,
            f"they are given for {given.size[0]} x {given.size[1]} px, and the upright picture has {width} x {height}",
        )
    for kind, boxes in (("face", [face.box for face in given.faces]), ("kept box", given.keep)):
        if len(boxes) > MAX_BOXES:
            raise PictureError(BAD_FACES, f"{len(boxes)} boxes, more than the {MAX_BOXES} allowed for a picture")
        for at, (x0, y0, x1, y1) in enumerate(boxes):
            if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
                raise PictureError(BAD_FACES, f"{kind} {at} lies outside the picture of {width} x {height} px")
            if max(x1 - x0, y1 - y0) > MAX_BOX_SIDES * max(width, height):
                raise PictureError(
                    BAD_FACES,
                    f"{kind} {at} is more than {MAX_BOX_SIDES:g} times as large as the picture of {width} x {height} px",
                )


def _named_faces(
    pixels: Pixels, detector: Detector, given: Sequence[GivenFace], detected: Sequence[Face]
) -> list[Face]:
    """The given faces with landmarks: their own, those the detector has for them, or an upright face's."""
    upright: list[Face] = []  # what fills each box that is given without landmarks
    named: list[Face] = []
    seen: list[Face] = []
    for one in given:
        face = _upright(one.box)
        if any(box_iou(face, other) > REPEATED_IOU for other in seen):
            continue
        seen.append(face)
        if one.landmarks is None:
            upright.append(face)
        else:
            named.append(Face(one.box, one.landmarks, 1.0))
    overlaps = ((_overlap(face, box), i, j) for i, box in enumerate(upright) for j, face in enumerate(detected))
    meant: dict[int, int] = {}  # the best fitting pairs first, each box and each detected face once
    for _, i, j in sorted((one for one in overlaps if one[0]), reverse=True):
        if i not in meant and j not in meant.values():
            meant[i] = j
    named += [detected[j] for j in meant.values()]
    for box in (box for i, box in enumerate(upright) if i not in meant):
        found = [
            face for face in _look_into(pixels, detector, box.box) if not any(_one_face(one, face) for one in named)
        ]
        best = max(found, key=lambda face: _overlap(face, box), default=None)
        if best is not None and _overlap(best, box):
            named.append(best)
        else:  # what the detector sees there instead may be the face that a badly drawn box means
            named += [box, *(face for face in found if _holds_middle(face, box))]
    return named


def _look_into(pixels: Pixels, detector: Detector, box: Box) -> list[Face]:
    """Faces that the detector finds when it is shown a given box and what is around it alone."""
    margin = WINDOW_MARGIN * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = max(int(box[0] - margin), 0), max(int(box[1] - margin), 0)
    x1, y1 = int(box[2] + margin) + 1, int(box[3] + margin) + 1
    found = detector.detect(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    return [
        Face(
            (face.box[0] + x0, face.box[1] + y0, face.box[2] + x0, face.box[3] + y0),
            face.landmarks + np.array([x0, y0]),
            face.score,
        )
        for face in found
    ]


def _overlap(face: Face, given: Face) -> float:
    """How well a given box fits a face that lies in it: IoU; 0 when it means another."""
    iou = box_iou(face, given)
    return iou if iou >= MIN_OVERLAP and _lies_in(face, given.box) else 0.0


def _holds_middle(face: Face, given: Face) -> bool:
    x, y = np.reshape(given.box, (2, 2)).mean(0)
    x0, y0, x1, y1 = face.box
    return bool(x0 <= x <= x1 and y0 <= y <= y1)


def _upright(box: Box) -> Face:
    return Face(box, template_in_box(box), 1.0)


def _lies_in(face: Face, box: Box) -> bool:
    x0, y0, x1, y1 = box
    x, y = face.landmarks[:, 0], face.landmarks[:, 1]
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return bool(inside.sum() >= INSIDE_LANDMARKS and x0 <= x.mean() <= x1 and y0 <= y.mean() <= y1)


def _one_face(first: Face, second: Face) -> bool:
    """True when two sets of landmarks show the same face."""
    spread = float(np.linalg.norm(first.landmarks - first.landmarks.mean(0), axis=1).mean())
    distance = float(np.linalg.norm(first.landmarks - second.landmarks, axis=1).mean())
    return distance <= SAME_LANDMARKS * spread


def _aligned_face(detected: Sequence[Face], shape: tuple[int, ...]) -> Face:
    """The face that an aligned crop of shape (H, W, ...) is of: the largest one detected in its middle, or that of the FFHQ
    template. Raises PictureError ("not_square")."""
    height, width = shape[:2]
    if height != width:
        raise PictureError("not_square", f"an aligned crop is square, and this picture has {width} x {height} px")
    middle = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    central = [face for face in detected if _lies_in(_point(face), middle)]
    if central:
        return max(central, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
    landmarks = UPRIGHT_TEMPLATE * width - 0.5
    # the box in which an upright face has these landmarks, in the least squares' sense
    (sx, x0), (sy, y0) = (np.polyfit(FIVE_IN_BOX[:, axis], landmarks[:, axis], 1) for axis in (0, 1))
    return Face((float(x0), float(y0), float(x0 + sx), float(y0 + sy)), landmarks, 1.0)


def _point(face: Face) -> Face:
    return Face(face.box, np.tile(face.landmarks.mean(0), (LANDMARK_COUNT, 1)), face.score)
