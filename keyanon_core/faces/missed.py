"""Which faces of a result nobody anonymized."""

from collections.abc import Sequence

from keyanon_core.faces.detection import Face, box_iou, landmarks_inside
from keyanon_core.faces.masks import PictureMask


def missed_faces(
    found: Sequence[Face], faces: Sequence[Face], masks: Sequence[PictureMask], shape: Sequence[int]
) -> list[Face]:
    """Of the faces found in a result of shape (H, W, ...), those where none of `faces`, each with its mask, was anonymized."""
    return [
        one
        for one in found
        if not any(
            landmarks_inside(one, mask, shape) > 0.5 or box_iou(one, face) > 0.5
            for face, mask in zip(faces, masks, strict=True)
        )
    ]
