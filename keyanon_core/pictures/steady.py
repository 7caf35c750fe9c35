"""The faces of a clip hold still: what each frame shows of somebody is the mean of what the frames around it would.

From frame to frame the prior sees other surroundings, and every frame has a key of its own. What comes of it flickers several
times as much as the source. The sidecar brings each face back whatever the frames show.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.registration import steadied
from keyanon_core.faces.alignment import Affine, below
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.own_faces import OwnFaces
from keyanon_core.pictures.pasting import paste_face
from keyanon_core.pictures.seams import slides

FRAMES: Final = 16.0  # sigma of the Gaussian that frames are weighted by


def hold_still(picture: OpenedPicture, own_faces: OwnFaces | None) -> None:
    """Write the faces of a piece of a clip that stand for somebody into its result again: each as the mean about its frame, which
    slides from what the piece before shows to what the one after it does, and where its pixels say that it lies.
    """
    people: dict[str, list[FaceAtWork]] = {}
    for face in picture.faces:
        if face.subject is not None and face.shown is not None and not face.is_painted:
            people.setdefault(face.subject, []).append(face)
    carriers = {who: key for who, faces in people.items() if (key := faces[0].carrier_key) is not None}
    ends = {} if own_faces is None else slides(picture.seams, carriers, own_faces)
    frames = len(picture.source) // picture.file.frame_height
    for subject, faces in people.items():
        crops = _means(faces)
        if subject in ends:
            shares = [face.detected.frame / frames for face in faces]
            crops = np.stack([ends[subject].slid(crop, share) for crop, share in zip(crops, shares, strict=True)])
        if len(faces) > 1 or subject in ends:
            for face, crop, affine in zip(faces, crops, _placed(picture, faces), strict=True):
                paste_face(face, crop, exactly=False, affine=affine)


def _placed(picture: OpenedPicture, faces: list[FaceAtWork]) -> list[Affine]:
    """The maps of one person's faces into their crops, without trembling."""
    height, numbers = picture.file.frame_height, [face.detected.frame for face in faces]
    pixels = [picture.source[number * height : (number + 1) * height] for number in numbers]
    inside = [below(face.affine, number * height) for face, number in zip(faces, numbers, strict=True)]
    steady = steadied(pixels, inside, [face.crop.mask for face in faces], numbers)
    return [below(affine, -number * height) for affine, number in zip(steady, numbers, strict=True)]


def _means(faces: list[FaceAtWork]) -> npt.NDArray[np.float64]:
    """(n, 3, S, S). Nothing outside of a mask, which is the source's, has a part in another frame's face."""
    frames = np.array([face.detected.frame for face in faces], np.float64)
    weights = np.exp(-0.5 * np.square((frames[:, None] - frames) / FRAMES))
    masks = np.stack([face.crop.mask for face in faces]).astype(np.float64)
    crops = np.stack([face.shown for face in faces if face.shown is not None]).astype(np.float64)
    sums = np.tensordot(weights, crops * masks[:, None], axes=1)
    counts = np.tensordot(weights, masks, axes=1)[:, None]
    return np.where(masks[:, None] > 0, sums / np.maximum(counts, 1e-9), crops)
