"""Faces that were left as they are: whole pictures, faces that the run's detector missed, and masks that hold nothing.

The sources are searched once more, otherwise than the run searches (`Detector.look_again` on the mirrored picture), and what
stands in the output at each face is compared with its source, pixel by pixel. It does not matter why a face is there.
"""

from typing import Final

import cv2
import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, NotTriedError, Outcome, measured
from keyanon_core.evaluation.published import PublishedPicture
from keyanon_core.evaluation.trial import Trial
from keyanon_core.faces.detection import Face, Pixels

CHANGED: Final = 6.0  # grey levels, mean over a face's inner part, from which it was changed: more than encoding does
SURE: Final = 0.5  # score of the other search from which it is a face


def left_as_it_was(picture: PublishedPicture, face: Face) -> bool:
    """Whether what is published at a face's landmarks is what the source shows there."""
    return _change(picture.source, picture.shown, face) < CHANGED


def _change(source: Pixels, shown: Pixels, face: Face) -> float:
    """Mean absolute difference over the hull of the landmarks, in grey levels; inf for pictures of two sizes."""
    if source.shape != shown.shape:
        return float("inf")
    hull = cv2.convexHull(np.rint(face.landmarks).astype(np.int32))
    inside = np.zeros(source.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, hull, 1)
    if not inside.any():
        return float("inf")
    where = inside.astype(np.bool_)
    return float(np.abs(source[where].astype(np.float64) - shown[where]).mean())


def findings(picture: PublishedPicture) -> list[str]:
    """What is wrong with a picture, in words; nothing for one whose faces were all replaced."""
    found = []
    if picture.source.shape == picture.shown.shape and np.array_equal(picture.source, picture.shown):
        found.append("the published picture is the source")
    left = [face for face in faces_of(picture) if left_as_it_was(picture, face)]
    if left:
        found.append(f"{len(left)} of its faces stand there as in the source")
    there = len(faces_of(picture))
    if left and picture.listed < there:
        found.append(f"its list has {picture.listed} faces, and {there} are there")
    return found


def faces_of(picture: PublishedPicture) -> list[Face]:
    """All faces of the source: those that are detected, and what another search is sure of."""
    from keyanon_core.faces.detection import without_duplicates

    sure = [face for face in picture.searched if face.score >= SURE]
    return without_duplicates([*(one.detected for one in picture.faces), *sure])


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    if not trial.pictures:
        raise NotTriedError("there are no published pictures, only crops")
    faces = [(picture, face) for picture in trial.pictures for face in faces_of(picture)]
    left = sum(left_as_it_was(picture, face) for picture, face in faces)
    result = measured(left, len(faces), 0.0)
    copies = [(face, picture) for picture, face in faces]
    kept = sum(_change(picture.source, picture.source, face) < CHANGED for face, picture in copies)
    gone = sum(_change(picture.source, 255 - picture.source, face) < CHANGED for face, picture in copies)
    named = {picture.image_id: "; ".join(found) for picture in trial.pictures if (found := findings(picture))}
    sentence = (
        f"{left} of {len(faces)} faces stand in the output as in the source: see the pictures named here."
        if left
        else f"None of {len(faces)} faces, searched for a second time in another way, stands in the output as in the source."
    )
    return Outcome(
        result,
        negative=measured(gone, len(faces), 0.0),
        positive=measured(kept, len(faces), 0.0),
        sentence=sentence,
        details=named,
    )


ATTACKS: Final = (Attack(16, "faces left as they were", "the published pictures", _run),)
