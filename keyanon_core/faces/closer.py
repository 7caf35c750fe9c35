"""A closer look at what a network doubts: small, turned, blurred or half hidden faces.

Where a face is too small for a network, or turned, the network still answers a little, and more than on most of what is
no face. Such a place is cut out, enlarged to a size that the network knows well, and shown in several turns; the best is
turned upright and shown at several sizes and mirrored. It is a face if all of them show one. That costs in proportion to the
doubts instead of four more looks at the whole picture. Where a picture is cluttered the doubts are many and faces few, so that
their number is limited; where it shows a crowd, looking goes on as long as it finds faces.

What is half hidden or half cut off looks like a face in no view that has it in the middle. Less is asked of it where something
else speaks for it: that it lies beside a face of its size or across the border, or that in the picture the network was nearly
sure. Two small faces, one before the other, are one candidate: each small face's surroundings are shown enlarged, too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import chip, invert
from keyanon_core.faces.detection import (
    SAME_SIZE,
    Face,
    Pixels,
    is_among,
    measures,
    mirrored,
    same_face,
    without_duplicates,
)
from keyanon_core.faces.landmarks import roll_degrees
from keyanon_core.faces.looks import Candidates, Network, Search, Seen

TURNED_SIDE = 64  # px of the views of a doubt in several turns
FACE_SHARE = 0.5  # of a view's side that the doubted face takes
PROMISE = 0.1  # score in every view below which it is not worth another
HALF_PROMISE = 0.05  # score below which a view of what is half hidden shows nothing
SMALL_SHARE = 0.85  # of the smallest face that is searched for: what is doubted and smaller is a button, a knot, a leaf
PATIENCE = 20  # closer looks in a tile that may fail one after the other before its spare doubts are left
HALF_SEEN_DOUBT = 0.3  # score from which a doubt beside a face is no neck and no collar
STRONG_DOUBT = 0.6  # score from which a doubt speaks for itself
AROUND_SIDE, AROUND_SHARE = (
    192,
    0.25,
)  # px of the view of a small face's surroundings, and the share of it that the face takes
AROUND_PX = 36  # px; larger faces are told apart without
BESIDE_SIDES = 0.75  # of both sides together: faces whose middles are nearer than this lie beside each other
CENTRE_SHARE = 0.3  # of the view's side: what lies further from its middle is another face


def confirmed(pixels: Pixels, network: Network, search: Search, seen: Sequence[Seen], min_face: int) -> list[Face]:
    """The sure candidates, and the doubts that a closer look confirms; several of one face are left as they are.

    min_face: px, height of the smallest face that is searched for.
    """
    sure = [one.face for one in seen if one.face.score >= search.sure]
    doubts = [one for one in seen if one.face.score < search.sure]
    faces = list(sure)
    failed: Counter[int] = Counter()  # by tile, since the last face there
    for doubt in _outside(doubts, sure):
        if doubt.spare and failed[doubt.tile] >= PATIENCE:
            continue
        face = _judged(pixels, network, search, doubt.face, faces, min_face)
        if face is not None:
            faces.append(face)
            failed[doubt.tile] = 0
        else:
            failed[doubt.tile] += 1
    known = measures(faces)
    for face in without_duplicates(faces):
        for other in _around(pixels, network, face):
            if is_among(other, known):
                continue
            beside = _judged(pixels, network, search, other, faces, min_face)
            if beside is not None:
                faces.append(beside)
                known = np.concatenate([known, measures([beside])])
    return faces


def _judged(
    pixels: Pixels, network: Network, search: Search, doubt: Face, faces: Sequence[Face], min_face: int
) -> Face | None:
    """The face that a doubt is, None for none. faces: those that are known."""
    face = _closer(pixels, network, search, doubt)
    if face is None and search.hinted is not None and _is_hinted(doubt, faces, pixels.shape):
        face = _as_it_stands(pixels, network, search.views, doubt, search.hinted)
    if face is None:
        return None
    # of a face across the border a view may outline what is in sight alone
    side = max(_side(face), _side(doubt)) if _is_cut(doubt, pixels.shape) else _side(face)
    return face if side >= SMALL_SHARE * min_face else None


def _around(pixels: Pixels, network: Network, face: Face) -> list[Face]:
    """What the network doubts beside a small face in an enlarged view of its surroundings, best first."""
    if _side(face) > AROUND_PX:
        return []
    seen = _seen_in_view(pixels, network, face, 0.0, AROUND_SIDE, AROUND_SHARE, HALF_SEEN_DOUBT)
    return sorted((one for one in seen if _is_beside(one, [face])), key=lambda one: -one.score)


def _side(face: Face) -> float:
    """px, the longer side of a face's box."""
    x0, y0, x1, y1 = face.box
    return max(x1 - x0, y1 - y0)


def _outside(doubts: Iterable[Seen], sure: Sequence[Face]) -> list[Seen]:
    """Doubts whose centres lie between no sure face's landmarks: what lies there is anonymized with that face."""
    hulls = [cv2.convexHull(face.landmarks.astype(np.float32)) for face in sure]
    boxes = np.array([face.box for face in sure]).reshape(-1, 4)
    outside = []
    for doubt in doubts:
        x0, y0, x1, y1 = doubt.face.box
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        near = np.flatnonzero((boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3]))
        if not any(cv2.pointPolygonTest(hulls[i], (x, y), False) >= 0 for i in near):
            outside.append(doubt)
    return outside


def _is_hinted(doubt: Face, faces: Sequence[Face], shape: Sequence[int]) -> bool:
    """Whether something speaks for a doubt but the closer looks; shape: the picture's (H, W, ...)."""
    half_seen = _is_cut(doubt, shape) or _is_beside(doubt, faces)
    return doubt.score >= STRONG_DOUBT or (doubt.score >= HALF_SEEN_DOUBT and half_seen)


def _is_cut(doubt: Face, shape: Sequence[int]) -> bool:
    """Whether a doubt reaches beyond the picture."""
    x0, y0, x1, y1 = doubt.box
    return x0 < 0 or y0 < 0 or x1 > shape[1] - 1 or y1 > shape[0] - 1


def _is_beside(doubt: Face, faces: Sequence[Face]) -> bool:
    """Whether a doubt lies beside one of the faces, of about its size, and is not that face."""
    if not faces:
        return False
    boxes = np.array([face.box for face in (doubt, *faces)]).reshape(-1, 2, 2)
    sides, middles = (boxes[:, 1] - boxes[:, 0]).max(1), boxes.mean(1)
    alike = np.maximum(sides, sides[0]) <= SAME_SIZE * np.minimum(sides, sides[0])
    near = np.linalg.norm(middles - middles[0], axis=1) < BESIDE_SIDES * (sides + sides[0])
    beside = np.flatnonzero(alike[1:] & near[1:]).tolist()
    return bool(beside) and not any(same_face(doubt, faces[position]) for position in beside)


def _closer(pixels: Pixels, network: Network, search: Search, doubt: Face) -> Face | None:
    """The face at a doubt's place as the best view shows it, its score the mean of the upright views; None where they do not
    agree on one.
    """
    best = doubt
    if search.turns:
        turned = [view(pixels, network, doubt, angle, TURNED_SIDE, PROMISE) for angle in search.turns]
        seen = [face for face in turned if face is not None]
        if not seen:
            return None
        best = max(seen, key=lambda face: face.score)
    scores: list[float] = []
    for side, mirror in search.views:
        face = view(pixels, network, best, roll_degrees(best.landmarks), side, PROMISE, mirror=mirror)
        if face is None:
            return None
        scores.append(face.score)
        best = face if face.score >= max(scores) else best
    score = float(np.mean(scores))
    return Face(best.box, best.landmarks, score) if score >= search.confirmed else None


def _as_it_stands(
    pixels: Pixels, network: Network, views: Sequence[tuple[int, bool]], doubt: Face, least: float
) -> Face | None:
    """The face at a doubt's place as the best of the views shows it, none of which moves to where it sees more; its score is
    their mean, a view that shows nothing counted as 0. None where that is below `least`.
    """
    roll = roll_degrees(doubt.landmarks)
    seen = [view(pixels, network, doubt, roll, side, HALF_PROMISE, mirror=mirror) for side, mirror in views]
    faces = [face for face in seen if face is not None]
    score = sum(face.score for face in faces) / len(seen)
    if score < least:
        return None
    best = max(faces, key=lambda face: face.score)
    return Face(best.box, best.landmarks, score)


def view(
    pixels: Pixels, network: Network, face: Face, angle: float, side: int, lowest: float, *, mirror: bool = False
) -> Face | None:
    """What the network sees at the middle of an upright view of (side, side) px of a face that is rolled by `angle` degrees,
    in picture px; None where that is nothing of the score `lowest`. mirror: the view is shown mirrored.
    """
    reach = CENTRE_SHARE / FACE_SHARE * _side(face)
    faces, distances = [], []
    for one in _seen_in_view(pixels, network, face, angle, side, FACE_SHARE, lowest, mirror=mirror):
        if (distance := float(np.linalg.norm(_middle(one) - _middle(face)))) <= reach:
            faces.append(one)
            distances.append(distance / _side(face))
    if not faces:
        return None
    # the face itself, not a better one beside it or in front of it
    ranks = [(same_face(one, face), one.score - distance) for one, distance in zip(faces, distances, strict=True)]
    return faces[max(range(len(faces)), key=ranks.__getitem__)]


def _seen_in_view(
    pixels: Pixels,
    network: Network,
    face: Face,
    angle: float,
    side: int,
    share: float,
    lowest: float,
    *,
    mirror: bool = False,
) -> list[Face]:
    """All that the network sees, in picture px, in an upright view of (side, side) px of which the face takes a share."""
    scale = side * share / _side(face)
    to_view = _turn(angle, scale, _middle(face), (side - 1) / 2)
    shown = chip(pixels, to_view, side)
    seen = network(np.ascontiguousarray(shown[:, ::-1]) if mirror else shown, lowest)
    back = invert(to_view)
    return [_in_picture(seen, index, side, angle, scale, back, mirror) for index in range(len(seen.scores))]


def _middle(face: Face) -> npt.NDArray[np.float64]:
    """(x, y) px of the middle of a face's box."""
    middle: npt.NDArray[np.float64] = np.array(face.box).reshape(2, 2).mean(0)
    return middle


def _in_picture(
    seen: Candidates,
    index: int,
    side: int,
    angle: float,
    scale: float,
    back: npt.NDArray[np.float64],
    mirror: bool,
) -> Face:
    """One of a view's candidates in picture px. back: the affine (2, 3), view -> picture."""
    box, landmarks = seen.boxes[index].reshape(2, 2), seen.landmarks[index]
    if mirror:
        box, landmarks = mirrored(box, landmarks, side)
    width, height = (box[1] - box[0]) / scale
    if 45.0 < angle % 180.0 < 135.0:
        width, height = height, width
    x, y = box.mean(0) @ back[:, :2].T + back[:, 2]
    corners = (float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2))
    return Face(corners, landmarks @ back[:, :2].T + back[:, 2], float(seen.scores[index]))


def _turn(angle: float, scale: float, centre: npt.NDArray[np.float64], middle: float) -> npt.NDArray[np.float64]:
    """The affine (2, 3), picture -> view, that turns back by `angle` degrees and brings `centre` to the view's middle."""
    cosine, sine = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.hstack([linear, (middle - linear @ centre)[:, None]])
