"""Fidelity `auto`: whether a picture alone brings its faces back, or their latents go into its sidecar.

A picture is tried alone where its file will show every pixel as it is and all its faces are large enough; what is about to be
published is then read back. Solving for a face costs 40 evaluations; how far its crop is read from what it was made as costs
none, and says as much: what recovery amplifies is this error. One face that is not carried sends its picture's faces to the
sidecar: they are made anew, since other surroundings and another outline stand in a sidecar than in a picture.
"""

from typing import Final

import numpy as np

from keyanon_core.faces.alignment import reduction
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.formats.published import Pixels, SourceFile
from keyanon_core.pictures.crops import AlignedFace
from keyanon_core.pictures.opened import FaceAtWork
from keyanon_core.priors import Prior
from keyanon_core.transforms import MIN_COORDINATES

CARRIED_PSNR: Final = 45.0  # dB inside the mask that a carried face comes back at

CARRIED_ERROR: Final = {"none": 0.06, "ddim": 0.15}
"""By the inversion: grey levels, rms, to which a crop must be read back. Faces of the embedded prior came back at
K - 20 log10(error) dB, whatever the error came from: little room, or cells beyond black and white. Without inversion K was 21.5
to 24.6 (36 faces: 8 photographs in five sizes, errors of 0.02 to 1.3), so that the worst face needs 0.067 for 45 dB, and
0.06 leave 0.9 dB for a worse one; with `ddim`, both transforms, K was 32 to 45 (24 faces), and 0.15 leave 3 dB."""

CARRIED_REDUCTION: Final = {"none": 1.6, "ddim": 1.0}
"""By the inversion: picture px per crop px, from which a picture is tried alone. Of smaller faces none was read back so well."""

HELD_ERROR: Final = 0.25
"""Grey levels, rms, to which a face is read back that its picture holds, some 34 dB at the least. What is worse is a face too
small, or with many cells beyond black and white."""


def may_be_carried(file: SourceFile, prior: Prior) -> bool:
    """Whether a picture is worth trying alone. No autoencoder reads a latent from a crop as exactly as is needed."""
    return file.is_exact and prior.geometry.in_pixels


def has_room(face: AlignedFace, prior: Prior, inversion: str) -> bool:
    """Whether a face is large enough for what recovery reads from it, and its part that nothing else mixes with hides it."""
    large = reduction(face.affine) >= CARRIED_REDUCTION[inversion]
    return large and prior.geometry.coordinates(face.crop.mask) >= MIN_COORDINATES


def is_carried(face: FaceAtWork, shown: Pixels, inversion: str) -> bool:
    """Whether a face that was made to be read from its picture alone comes back from the published pixels, (H, W, 3) uint8, at
    CARRIED_PSNR. False where it was not made. Of a prior in pixels.
    """
    return read_error(face, shown) <= CARRIED_ERROR[inversion]


def read_error(face: FaceAtWork, shown: Pixels) -> float:
    """How far a face is read from what it was made as: rms over its crop's mask in grey levels; NaN where it was not made."""
    if face.latent is None:
        return float("nan")
    kernel = CropKernel(face.affine, len(face.crop.mask), shown.shape)
    read = kernel.warp(shown).transpose(2, 0, 1) / 127.5 - 1.0
    return float(127.5 * np.sqrt(np.square(read - face.latent)[:, face.crop.mask].mean()))
