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
from keyanon_core.faces.detection import Face, Pixels, same_face, without_duplicates

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
    if picture.source.shape == picture.shown.shape and np.array_equal(picture.source, picture.shown):
        return ["the published picture is the source"]
    there = faces_of(picture)
    left = [face for face in there if left_as_it_was(picture, face)]
    listed = [one.detected for one in picture.faces] if picture.listed >= len(picture.faces) else []
    of_list = sum(any(same_face(face, one) for one in listed) for face in left)
    found = []
    if of_list:
        found.append(f"{_stand(of_list)} as in the source although its list has them: nothing was put into their masks")
    if of_list < len(left):
        lacks = (
            f"its list has {picture.listed} {'face' if picture.listed == 1 else 'faces'}, and {len(there)} are there"
        )
        found.append(f"{_stand(len(left) - of_list)} as in the source, of which nobody knew: {lacks}")
    return found


def _stand(faces: int) -> str:
    return "1 of its faces stands there" if faces == 1 else f"{faces} of its faces stand there"


def faces_of(picture: PublishedPicture) -> list[Face]:
    """All faces of the source: those that are detected, and what another search is sure of."""
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
        f"{left} of {len(faces)} faces stand in the output as in the source: see to each picture that is named here."
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
