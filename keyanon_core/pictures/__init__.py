"""Whole pictures: faces found, anonymized together, gated, pasted back; and one picture restored from its key."""

from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import FaceGeometry, PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask

__all__ = [
    "AnonymizeSettings",
    "FaceGeometry",
    "PictureAnonymizer",
    "PictureKey",
    "PictureRecoverer",
    "PictureResult",
    "PictureTask",
    "RecoveredPicture",
]
