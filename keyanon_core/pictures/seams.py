"""Where one piece of a clip ends and the next begins, both show the same.

Pieces are made apart from each other, and what a carrier comes to has another light in each. The first frame of a piece is known
to the piece before it too. Both make of it what the carrier comes to by itself, which is the same whatever their keys: the one
piece slides to it, and the other from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.clips.association import overlaps
from keyanon_core.errors import PictureError
from keyanon_core.faces.blending import inner_weights
from keyanon_core.faces.detection import Face, FaceParser
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.opened import OpenedPicture, Seams
from keyanon_core.pictures.own_faces import OwnFaces
from keyanon_core.priors import Prior

Crops = npt.NDArray[np.float64]

SOFT: Final = 0.04  # of the crop's side: over which what a seam shows gives way to what the piece does
LEAST_OVERLAP: Final = 0.2  # IoU of somebody's boxes in two frames in a row of one scene


def seams_of(picture: OpenedPicture, parser: FaceParser, regions: frozenset[str], prior: Prior) -> dict[str, Seams]:
    """By whom the faces of a piece of a clip stand for. Faces of the frame after it that can not be outlined have none there."""
    height, subjects = picture.file.frame_height, picture.task.subjects or ()
    people = [(face, subject) for face, subject in zip(picture.faces, subjects, strict=True) if subject is not None]
    first = {subject: face.crop for face, subject in people if face.detected.frame == 0}
    frames = len(picture.source) // height
    last = {subject: face.detected for face, subject in people if face.detected.frame == frames - 1}
    following = _following(picture, parser, regions, prior)
    there = {
        subject: crop
        for subject, crop in following.items()
        if subject in last and _goes_on(last[subject], picture.task.following[subject], (frames - 1) * height)
    }
    return {subject: Seams(first.get(subject), there.get(subject)) for _, subject in people}


def _following(picture: OpenedPicture, parser: FaceParser, regions: frozenset[str], prior: Prior) -> dict[str, Crop]:
    pixels, faces = picture.file.following, picture.task.following
    if pixels is None or not faces:
        return {}
    try:
        aligned = align_faces(pixels, list(faces.values()), parser, regions, prior)
    except PictureError:
        return {}
    return {subject: one.crop for subject, one in zip(faces, aligned, strict=True) if one.crop.mask.any()}


def _goes_on(last: Face, following: Face, top: int) -> bool:
    """Whether somebody is in one scene in the last frame of a strip, which begins at `top`, and in the frame after it."""
    boxes = [np.array(face.box, np.float64).reshape(1, 2, 2) for face in (last.moved(-top, 0), following)]
    return float(overlaps(*boxes)[0, 0]) >= LEAST_OVERLAP


@dataclass(frozen=True, eq=False)
class Slide:
    """What somebody's frames in a piece slide from and to. first, following: (3, S, S) crops in [-1, 1], and (S, S) how much of
    them is shown where they are shown alone; None where there is none.
    """

    first: tuple[Crops, Crops] | None
    following: tuple[Crops, Crops] | None

    def slid(self, crop: Crops, share: float) -> Crops:
        """A crop (3, S, S) of a frame. share: in [0, 1], of the way from the first frame to the one after the piece."""
        ends = [(self.first, 1 - share), (self.following, share)]
        there = [(*end, weight) for end, weight in ends if end is not None]
        result = crop.copy()
        for shown, inside, weight in there:
            result += (weight if len(there) > 1 else 1.0) * inside * (shown - crop)
        return result


def slides(seams: Mapping[str, Seams], carriers: Mapping[str, bytes], own_faces: OwnFaces) -> dict[str, Slide]:
    """By whom they stand for. carriers: keys of those who have one."""
    ends = {
        (subject, end): crop
        for subject, of in seams.items()
        if subject in carriers
        for end, crop in (("first", of.first), ("following", of.following))
        if crop is not None
    }
    if not ends:
        return {}
    values, masks = (np.stack(some) for some in zip(*((crop.values, crop.mask) for crop in ends.values()), strict=True))
    shown = own_faces.among([carriers[subject] for subject, _ in ends], values, masks)
    made = {
        end: (one, inner_weights(mask, SOFT * len(mask)))
        for end, one, mask in zip(ends, shown, masks, strict=True)
        if np.isfinite(one).all()
    }
    people = dict.fromkeys(subject for subject, _ in ends)
    return {one: Slide(made.get((one, "first")), made.get((one, "following"))) for one in people}
