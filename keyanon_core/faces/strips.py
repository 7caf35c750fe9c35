"""Strips: pictures that are frames of a clip, one below the other. What looks at faces looks at each frame alone.

A plain picture is a strip of one frame.
"""

from collections.abc import Callable, Iterator

import numpy as np

from keyanon_core.faces.detection import Face, FaceParser, Pixels
from keyanon_core.faces.masks import PictureMask


def frames_of(pixels: Pixels, height: int) -> Iterator[Pixels]:
    """Each frame of a strip (n * height, W, 3), a view of (height, W, 3)."""
    for top in range(0, len(pixels), height):
        yield pixels[top : top + height]


def look_at_frames(look: Callable[[Pixels], list[Face]], pixels: Pixels, height: int) -> list[Face]:
    """What a detector finds in each frame of a strip (n * height, W, 3), in px of the strip. Raises as the detector does."""
    if height == len(pixels):
        return look(pixels)
    found = enumerate(look(np.ascontiguousarray(frame)) for frame in frames_of(pixels, height))
    return [face.moved(number * height, number) for number, faces in found for face in faces]


def in_frame(pixels: Pixels, face: Face, height: int) -> tuple[Pixels, Face]:
    """The frame of a strip (n * height, W, 3) that a face lies in, as a picture of its own, and the face in it."""
    if height == len(pixels):
        return pixels, face
    top = face.frame * height
    return pixels[top : top + height], face.moved(-top, 0)


def outline(parser: FaceParser, pixels: Pixels, face: Face, regions: frozenset[str], height: int) -> PictureMask:
    """The mask of a face in its frame of a strip (n * height, W, 3), in px of the strip. Raises as the parser does."""
    if height == len(pixels):
        return parser.mask(pixels, face, regions)
    top = face.frame * height
    inside = parser.mask(pixels[top : top + height], face.moved(-top, 0), regions)
    return moved(inside, top)


def moved(mask: PictureMask, down: int) -> PictureMask:
    """The same mask some px further down; an empty one stays where it is."""
    x0, y0, x1, y1 = mask.window
    return PictureMask((x0, y0 + down, x1, y1 + down), mask.bits) if mask.bits.size else mask
