"""The anonymity gate: a recognizer compares a face with its source, and lets it pass only where strangers are.

How far away strangers are depends on the face: from one that looks like many others they are near. So the bound is a share of
the distance that the recognizer expects of strangers from this very source.

The gate fails closed: anything but a finite distance at or above the bound is a failure. It also looks at faces that are not
done yet, and what it says of them can only ever cost a key, never let a face pass.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.faces.detection import Face, Pixels, Recognizer
from keyanon_core.faces.strips import in_frame
from keyanon_core.pictures.opened import FaceAtWork

EARLY_CHECKS = {"none": ((1 / 2, 0.070), (3 / 4, 0.021)), "ddim": ((5 / 12, 0.095), (2 / 3, 0.045))}
"""By the inversion: after which share of Phi's steps a face is looked at, and how far below the threshold it is given up.
Measured with the embedded prior at default steps, so that nineteen in twenty keys that would pass go on at each look; without
inversion no set of looks makes a published face cheaper, evaluations and embeddings counted (`benchmarks/gate.py`)."""

LOOKED_AT = 0.5
"""Share of a face's keys that are looked at early. The others are taken to the end, so that a prior whose first steps say little
costs evaluations and no picture."""

EASED = 0.79
"""Share of the threshold that the last key of a face is asked for; from the first key to it, the share falls evenly. Some faces
look like their source under nearly every key: the first keys hold out for a stranger, the last take what comes nearest to one.
It never falls to what the recognizer takes for the same person."""

Embedding = npt.NDArray[np.float32]


def asked_distance(threshold: float, key: int, max_attempts: int, strangers: float, same_person: float) -> float:
    """The least distance from its source with which key number `key` of a face, counted from 0, passes.

    threshold: share of `strangers`, their distance from this source, that the first key is asked for. same_person: the
    recognizer's own bound, below which no key is eased.
    """
    eased = threshold * (1 - (1 - EASED) * key / max(max_attempts - 1, 1)) * strangers
    return max(eased, min(same_person, threshold * strangers))


class AnonymityGate:
    """Measures how far faces are from their sources, and judges them. Keeps nothing of a face."""

    def __init__(self, recognizer: Recognizer, threshold: float, max_attempts: int) -> None:
        """threshold: share of the strangers' expected distance that a face's first key must reach. max_attempts: keys for one."""
        self.recognizer, self.threshold, self.max_attempts = recognizer, threshold, max_attempts

    def passes(self, face: FaceAtWork) -> bool:
        """True for a finite distance at or above the face's bound, and for nothing else."""
        return math.isfinite(face.distance) and face.distance >= self._bound(face)

    def looks_early(self, face: FaceAtWork) -> bool:
        """True for a face whose present key may be given up before the end."""
        return face.keys_tried <= LOOKED_AT * self.max_attempts

    def measure(self, faces: Sequence[FaceAtWork]) -> None:
        """Set each face's distance from its source as its picture now shows it, the published one where that is being judged; NaN
        where it can not be told."""
        self._know_sources(faces)
        pictures = [face.picture for face in faces]
        views = [picture.result if picture.shown is None else picture.shown for picture in pictures]
        after = self._embed([_seen(view, face) for view, face in zip(views, faces, strict=True)])
        for face, embedding in zip(faces, after, strict=True):
            face.distance = self._distance(face, embedding)

    def hopeless(self, faces: Sequence[FaceAtWork], crops: npt.NDArray[np.float64], margin: float) -> list[bool]:
        """True for faces that the prior's predictions already show nearer to their source than the bound less `margin`.

        crops: (n, 3, S, S) float64 in [-1, 1], the predictions. margin: as `threshold`. What can not be measured goes on: the
        end decides.
        """
        self._know_sources(faces)
        seen = self._embed_crops(faces, crops)
        return [
            self._distance(face, embedding) < self._bound(face, margin)
            for face, embedding in zip(faces, seen, strict=True)
        ]

    def _know_sources(self, faces: Sequence[FaceAtWork]) -> None:
        fresh = [face for face in faces if face.source_embedding is None]
        embeddings = self._embed([_seen(face.picture.source, face) for face in fresh])
        for face, embedding in zip(fresh, embeddings, strict=True):
            face.source_embedding = embedding

    def _embed(self, views: list[tuple[Pixels, Face]], *, coarse: bool = False) -> list[Embedding | None]:
        """An embedding for each view, None for one whose landmarks show the recognizer no face."""
        if not views:
            return []
        try:
            embeddings: list[Embedding | None] = list(self.recognizer.embed(views, coarse=coarse))
        except PictureError:
            return [None] if len(views) == 1 else [self._embed([view], coarse=coarse)[0] for view in views]
        return embeddings

    def _embed_crops(self, faces: Sequence[FaceAtWork], crops: npt.NDArray[np.float64]) -> list[Embedding | None]:
        return self._embed([_in_crop(face, crop) for face, crop in zip(faces, crops, strict=True)], coarse=True)

    def _bound(self, face: FaceAtWork, margin: float = 0.0) -> float:
        """The least distance from its source that lets a face pass; NaN, which nothing reaches, for an unknown source."""
        if face.source_embedding is None:
            return math.nan
        strangers = self.recognizer.stranger_distance(face.source_embedding)
        # The carrier decides nine tenths of how a distance varies: under one that is settled no key holds out for a stranger.
        key = self.max_attempts - 1 if face.is_settled else face.keys_tried - 1
        same_person = self.recognizer.threshold
        return asked_distance(self.threshold, key, self.max_attempts, strangers, same_person) - margin * strangers

    def _distance(self, face: FaceAtWork, embedding: Embedding | None) -> float:
        if face.source_embedding is None or embedding is None:
            return math.nan
        return self.recognizer.distance(face.source_embedding, embedding)


def _seen(view: Pixels, face: FaceAtWork) -> tuple[Pixels, Face]:
    """What the recognizer is shown of a view of a face's picture: the face's own frame."""
    return in_frame(view, face.detected, face.picture.file.frame_height)


def _in_crop(face: FaceAtWork, crop: npt.NDArray[np.float64]) -> tuple[Pixels, Face]:
    """A crop (3, S, S) in [-1, 1] as a picture of its own, and the face in it."""
    pixels = np.clip(np.rint((crop.transpose(1, 2, 0) + 1.0) * 127.5), 0, 255).astype(np.uint8)
    landmarks = face.detected.landmarks @ face.affine[:, :2].T + face.affine[:, 2]
    side = float(crop.shape[-1])
    return pixels, Face((0.0, 0.0, side, side), landmarks, face.detected.score)
