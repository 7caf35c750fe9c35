"""An anonymized crop goes into its picture: inside the face's mask only, its rim blended with the surroundings."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.alignment import Affine, reduction
from keyanon_core.faces.blending import feather
from keyanon_core.faces.drawing import paste
from keyanon_core.faces.masks import PictureMask
from keyanon_core.pictures.opened import FaceAtWork

RIM_REACH = 2  # cells around a void one that it takes its colour from
RIM = 2.0  # crop px of a face's rim that are blended with its surroundings


def paste_face(
    face: FaceAtWork, decoded: npt.NDArray[np.float64], *, exactly: bool, affine: Affine | None = None
) -> None:
    """Write a decoded crop (3, S, S) in [-1, 1] into the picture, inside the mask only.

    exactly: make the picture read back as the crop, which only recovery from the picture alone needs. Otherwise the rim is
    blended with its surroundings. affine: (2, 3) picture -> crop, where it is not the face's.
    """
    picture = face.picture
    crop = with_rim((decoded.transpose(1, 2, 0) + 1.0) * 127.5, face.crop.rim)
    if exactly:
        from keyanon_core.pictures.read_back import paste_readable  # and with it scipy, which most runs do without

        paste_readable(picture.result, crop, face.affine, face.mask, face.crop.mask)
        return
    paste(picture.result, crop, face.affine if affine is None else affine, face.mask, back_projections=0)
    others = [other.mask for other in picture.faces if other is not face]
    feather(picture.result, face.mask, others, _rim(face))


def with_rim(crop: npt.NDArray[np.float64], rim: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """A crop (S, S, 3) whose void rim cells (S, S) take the mean of the cells around them that are none."""
    if not rim.any():
        return crop
    sides = (2 * RIM_REACH + 1,) * 2
    solid = (~rim).astype(np.float64)
    near = cv2.boxFilter(crop * solid[..., None], -1, sides, normalize=False)
    count = cv2.boxFilter(solid, -1, sides, normalize=False)[..., None]
    return np.where(rim[..., None] & (count > 0), near / np.maximum(count, 1.0), crop)


def touches(face: FaceAtWork, mask: PictureMask) -> bool:
    """True when a face's softened rim may have taken colours from pixels of the mask."""
    reach = math.ceil(_rim(face)) + 1
    x0, y0, x1, y1 = face.mask.window
    return bool(mask.crop((x0 - reach, y0 - reach, x1 + reach, y1 + reach)).any())


def _rim(face: FaceAtWork) -> float:
    """Width in picture px of the rim that is blended with its surroundings."""
    return max(RIM * reduction(face.affine), 1.0)
