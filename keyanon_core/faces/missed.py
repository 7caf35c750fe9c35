"""Which faces of a result nobody anonymized."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.detection import Face, same_face, without_duplicates
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.strips import moved

MIN_COVERED = 0.75  # share of a face's inner part that masks must cover for the face to be anonymized
MIN_SHARE_OF_OWN = 0.6  # what they must cover of an anonymized face seen again, in shares of what they cover of itself
MIN_INNER_SHARE = 0.1  # of the box's side: the inner face is at least this wide, whatever the landmarks say
SUBPIXEL_BITS = 4  # fixed-point bits of polygon corners in cv2.fillPoly


def missed_faces(
    found: Sequence[Face], faces: Sequence[Face], masks: Sequence[PictureMask], shape: Sequence[int]
) -> list[Face]:
    """Of the faces found in a result of shape (H, W, ...), those that nobody anonymized, each once, best score first.

    found: what `Detector.look_again` saw. faces, masks: what was anonymized. A found face is accounted for when the masks
    cover most of its inner part, the hull of its landmarks; a face behind another is not, as long as part of it shows. It is
    also accounted for when it is one of `faces` and the masks cover nearly as much of it as of that face: the regions that the
    user chose. Where they do not, that face's landmarks were wrong.
    """
    windows = np.array([mask.window for mask in masks]).reshape(-1, 4)

    def covered_share(face: Face) -> float:
        return _covered(face, masks, windows, shape)

    own = [covered_share(face) for face in faces]

    def is_missed(one: Face) -> bool:
        covered = covered_share(one)
        enough = (MIN_SHARE_OF_OWN * share for face, share in zip(faces, own, strict=True) if same_face(one, face))
        return covered < MIN_COVERED and not any(covered >= least for least in enough)

    return without_duplicates([one for one in found if is_missed(one)])


def missed_in_frames(
    found: Sequence[Face], faces: Sequence[Face], masks: Sequence[PictureMask], shape: Sequence[int], height: int
) -> list[Face]:
    """`missed_faces` of a strip of shape (n * height, W, ...), in each frame by itself."""
    if height == shape[0]:
        return missed_faces(found, faces, masks, shape)
    missed = []
    for frame in sorted({face.frame for face in found}):
        top = frame * height
        here = [at for at, face in enumerate(faces) if face.frame == frame]
        missed += [
            face.moved(top, frame)
            for face in missed_faces(
                [face.moved(-top, 0) for face in found if face.frame == frame],
                [faces[at].moved(-top, 0) for at in here],
                [moved(masks[at], -top) for at in here],
                (height, shape[1]),
            )
        ]
    return missed


def _covered(face: Face, masks: Sequence[PictureMask], windows: npt.NDArray[np.int64], shape: Sequence[int]) -> float:
    """Share in [0, 1] of a face's inner part, within the picture, that the masks cover together; 0 when none of it lies there.

    windows: the masks' windows, (n, 4); a crowd's faces are covered by few of its masks.
    """
    points = _inner(face)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, [shape[1], shape[0]])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    corners = cv2.convexHull(((points - [x0, y0]) * (1 << SUBPIXEL_BITS)).round().astype(np.int32))
    cv2.fillPoly(canvas, [corners], 1, shift=SUBPIXEL_BITS)
    inner = canvas.astype(np.bool_)
    covered = np.zeros_like(inner)
    near = (windows[:, :2] < [x1, y1]).all(1) & (windows[:, 2:] > [x0, y0]).all(1)
    for position in np.flatnonzero(near).tolist():
        covered |= masks[position].crop((int(x0), int(y0), int(x1), int(y1)))
    return float((covered & inner).sum()) / max(int(inner.sum()), 1)


def _inner(face: Face) -> npt.NDArray[np.float64]:
    """Corners (n, 2) px of the part of a face between its landmarks, and around its middle if they lie together."""
    x0, y0, x1, y1 = face.box
    reach = MIN_INNER_SHARE * np.array([x1 - x0, y1 - y0])
    around = face.landmarks.mean(0) + reach * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return np.concatenate([face.landmarks, around])
