"""The faces of a clip hold still: what each frame shows of somebody is the mean of what the frames around it would.

From frame to frame the prior sees other surroundings, and every frame has a key of its own. What comes of it flickers several
times as much as the source. The sidecar brings each face back whatever the frames show.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.pasting import paste_face

FRAMES: Final = 16.0  # sigma of the Gaussian that frames are weighted by


def hold_still(picture: OpenedPicture) -> None:
    """Write the faces of a piece of a clip that stand for somebody into its result again, each as the mean about its frame."""
    people: dict[str, list[FaceAtWork]] = {}
    for face in picture.faces:
        if face.subject is not None and face.shown is not None and not face.is_painted:
            people.setdefault(face.subject, []).append(face)
    for faces in people.values():
        if len(faces) > 1:
            for face, crop in zip(faces, _means(faces), strict=True):
                paste_face(face, crop, exactly=False)


def _means(faces: list[FaceAtWork]) -> npt.NDArray[np.float64]:
    """(n, 3, S, S). Nothing outside of a mask, which is the source's, has a part in another frame's face."""
    frames = np.array([face.detected.frame for face in faces], np.float64)
    weights = np.exp(-0.5 * np.square((frames[:, None] - frames) / FRAMES))
    masks = np.stack([face.crop.mask for face in faces]).astype(np.float64)
    crops = np.stack([face.shown for face in faces if face.shown is not None]).astype(np.float64)
    sums = np.tensordot(weights, crops * masks[:, None], axes=1)
    counts = np.tensordot(weights, masks, axes=1)[:, None]
    return np.where(masks[:, None] > 0, sums / np.maximum(counts, 1e-9), crops)
