"""Faces of a clip that are painted over: a frame shows too little of them for a key to hide, or for the gate to tell.

People walk in and out of sight, so such faces are in every other clip, and a frame can not stay out of its clip as a picture
stays out of its data set. What is painted over never comes back.
"""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from keyanon_core.errors import PictureError
from keyanon_core.faces.alignment import similarity
from keyanon_core.faces.detection import Face, FaceParser, Pixels
from keyanon_core.faces.masks import PictureMask, disjoint_masks
from keyanon_core.faces.strips import outline
from keyanon_core.pictures.crops import cut_crop
from keyanon_core.priors import Prior
from keyanon_core.transforms import MIN_COORDINATES

AROUND: Final = 3  # px: the ring about a mask whose mean colour it is painted with


def paint_partly_seen(
    strips: Sequence[Pixels],
    faces: Sequence[Face],
    parser: FaceParser,
    regions: frozenset[str],
    prior: Prior,
    height: int,
) -> list[int]:
    """Paint over, in place, the faces that have too few pixels of their own, or landmarks that no face has. Returns the positions
    of the others. strips: (n * height, W, 3) each, the source first. Raises FaceModelError.
    """
    source = strips[0]
    outlines = [_outline(parser, source, face, regions, height) for face in faces]
    masks = disjoint_masks([mask or _box(source, face, height) for mask, face in zip(outlines, faces, strict=True)])
    stay = [
        at
        for at, (face, mask) in enumerate(zip(faces, masks, strict=True))
        if outlines[at] is not None and _hides(source, face, mask, prior, height)
    ]
    for mask in (mask for at, mask in enumerate(masks) if at not in set(stay) and mask.count):
        for strip in strips:
            paint_over(strip, mask)
    return stay


def paint_all(
    strips: Sequence[Pixels],
    faces: Sequence[Face],
    parser: FaceParser,
    regions: frozenset[str],
    height: int,
    *,
    boxes: bool,
) -> None:
    """Paint over, in place, all of some faces. strips: as of `paint_partly_seen`. boxes: not what the parser outlines but all of
    their boxes, where the outline did not do. Raises FaceModelError.
    """
    for face in faces:
        outlined = None if boxes else _outline(parser, strips[0], face, regions, height)
        mask = outlined or _box(strips[0], face, height)
        if mask.count:
            for strip in strips:
                paint_over(strip, mask)


def _outline(
    parser: FaceParser, source: Pixels, face: Face, regions: frozenset[str], height: int
) -> PictureMask | None:
    try:
        return outline(parser, source, face, regions, height)
    except PictureError:
        return None


def _box(source: Pixels, face: Face, height: int) -> PictureMask:
    """All of a face's box that is in its frame."""
    x0, y0, x1, y1 = (round(value) for value in face.box)
    begin, width = face.frame * height, source.shape[1]
    left, top, right, bottom = max(x0, 0), max(y0, begin), min(x1, width), min(y1, begin + height)
    if left >= right or top >= bottom:
        return PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_))
    return PictureMask((left, top, right, bottom), np.ones((bottom - top, right - left), np.bool_))


def _hides(source: Pixels, face: Face, mask: PictureMask, prior: Prior, height: int) -> bool:
    if not mask.count:
        return False
    try:
        affine = similarity(face.landmarks, prior.landmark_template)
    except PictureError:
        return False
    crop = cut_crop(source, affine, mask, (), prior.side, frame_height=height)
    return prior.geometry.coordinates(crop.mask) >= MIN_COORDINATES


def paint_over(picture: Pixels, mask: PictureMask) -> None:
    """Give a mask's pixels of a picture (H, W, 3), in place, one colour: the mean around it, grey where nothing lies there."""
    x0, y0, x1, y1 = mask.window
    left, top = max(x0 - AROUND, 0), max(y0 - AROUND, 0)
    view = picture[top : y1 + AROUND, left : x1 + AROUND]
    inside = mask.crop((left, top, left + view.shape[1], top + view.shape[0]))
    ring = (
        cv2.dilate(inside.astype(np.uint8), np.ones((2 * AROUND + 1, 2 * AROUND + 1), np.uint8)).astype(bool) & ~inside
    )
    view[inside] = np.rint(view[ring].mean(axis=0)).astype(np.uint8) if ring.any() else 128
