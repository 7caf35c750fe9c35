"""Aligned crops in which no source pixel of any face stands outside the mask being anonymized.

Every crop pixel is one of three kinds: in the face's own mask; known, when nothing but unmasked picture pixels contribute to it;
or void, when another face or the world outside the picture contributes. Void pixels take the mean colour of the known ones, so
neither a neighbour's face nor a smeared border ever enters a sidecar. Where recovery has the picture alone, what the mask's rim
mixes with its surroundings can not be read back from it, and is void too. The kinds follow from the interpolation kernel itself
(`CropKernel`), so no margin has to be guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import below, similarity
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.detection import Face, FaceParser
from keyanon_core.faces.masks import PictureMask, disjoint_masks
from keyanon_core.faces.strips import moved, outline
from keyanon_core.priors import Prior

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """One aligned crop.

    values: (3, S, S) float64 in [-1, 1]. mask: (S, S) bool, True where the face is anonymized. rim: (S, S) bool, void cells to
    which masked pixels contribute as well as others; none unless the crop was cut `inner`.
    """

    values: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    rim: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AlignedFace:
    """A detected face, where it lies in the prior's square, its own pixels of the picture, and its crop."""

    detected: Face
    affine: Affine
    mask: PictureMask
    crop: Crop


def align_faces(
    pixels: npt.NDArray[np.uint8],
    faces: Sequence[Face],
    parser: FaceParser,
    regions: frozenset[str],
    prior: Prior,
    *,
    aligned_crop: bool = False,
    inner: bool = False,
    frame_height: int | None = None,
) -> list[AlignedFace]:
    """Outline all faces of a picture, disjointly, and cut their crops.

    pixels: (H, W, 3) uint8. aligned_crop: the picture is itself the crop of its first face. inner, frame_height: see `cut_crop`.
    Raises PictureError for landmarks that are no face's.
    """
    height = frame_height or len(pixels)
    masks = disjoint_masks([outline(parser, pixels, face, regions, height) for face in faces])
    aligned = []
    for index, (face, mask) in enumerate(zip(faces, masks, strict=True)):
        whole = aligned_crop and index == 0
        affine = scaling(pixels.shape[0], prior.side) if whole else similarity(face.landmarks, prior.landmark_template)
        others = masks[:index] + masks[index + 1 :]
        crop = cut_crop(pixels, affine, mask, others, prior.side, inner=inner, frame_height=height)
        aligned.append(AlignedFace(face, affine, mask, crop))
    return aligned


def scaling(picture_side: int, side: int) -> Affine:
    """The (2, 3) float64 map of a square picture onto a square crop, outline onto outline; sides in px."""
    factor = side / picture_side
    shift = (factor - 1) / 2  # pixel centres are at whole numbers
    return np.array([[factor, 0.0, shift], [0.0, factor, shift]])


def cut_crop(
    pixels: npt.NDArray[np.uint8],
    affine: Affine,
    own: PictureMask,
    others: Sequence[PictureMask],
    side: int,
    *,
    inner: bool = False,
    frame_height: int | None = None,
) -> Crop:
    """Warp a face to the prior's square.

    pixels: (H, W, 3) uint8. affine: (2, 3) picture -> crop. Inside `mask` the values are the picture's; outside they depend on
    no pixel of any mask. inner: the mask are the cells that `own` pixels alone contribute to. frame_height: px, of each frame of
    a strip, beyond which the world of a face ends.
    """
    if frame_height is not None and frame_height != len(pixels):
        pixels, affine, own, others = _frame(pixels, affine, own, others, frame_height)
    kernel = CropKernel(affine, side, pixels.shape)
    values = kernel.warp(pixels).transpose(2, 0, 1) / 127.5 - 1.0
    mask, void = kernel.footprint(own), ~kernel.coverage()
    for other in others:
        void |= kernel.footprint(other)
    rim = np.zeros_like(mask)
    if inner:
        rim = mask & ~kernel.inner_cells(own)
        mask, void = mask & ~rim, void | rim
    void &= ~mask
    known = ~mask & ~void
    fill = values[:, known].mean(axis=1) if known.any() else np.zeros(3)
    values[:, void] = fill[:, None]
    return Crop(np.clip(values, -1.0, 1.0), mask, rim)


def _frame(
    pixels: npt.NDArray[np.uint8], affine: Affine, own: PictureMask, others: Sequence[PictureMask], height: int
) -> tuple[npt.NDArray[np.uint8], Affine, PictureMask, list[PictureMask]]:
    """The frame of a strip in which a mask lies, as a picture of its own, and what of the strip is in it."""
    top = own.window[1] // height * height
    beside = [moved(other, -top) for other in others if top <= other.window[1] < top + height and other.bits.size]
    return pixels[top : top + height], below(affine, top), moved(own, -top), beside
