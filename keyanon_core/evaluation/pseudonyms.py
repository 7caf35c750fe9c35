"""Consistent pseudonyms, measured: are one person's pictures one face, two people's two, and is none of them the source?

Likeness is the cosine of identity vectors about the mean of the sources', since recognizers put all faces on one side: 0 is what
two strangers have in the mean. Verification is by distances, at the recognizer's own threshold and where a share of pairs of two
people is verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from keyanon_core.evaluation.intervals import NOTHING, Estimate, mean_of, share_of
from keyanon_core.evaluation.verification import tar_at_far, verified
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.pseudonyms import EphemeralPseudonyms

FAR: Final = 0.01
TURNED, ENLARGED, DARKENED, SHIFTED = 4.0, 1.1, 0.85, 0.03  # degrees, times, times, of the side

Vectors = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class DataSet:
    """n pictures anonymized under pseudonyms of their own. identities: (n, d), rows of NaN for pictures that would not be
    published. keys: a face's, in the mean of those that are.
    """

    identities: Vectors
    keys: float

    @property
    def quarantined(self) -> int:
        return int(np.isnan(self.identities).any(1).sum())


def anonymized(
    prior: Prior, models: FaceModels, settings: AnonymizeSettings, tasks: Sequence[PictureTask], at_once: int = 32
) -> DataSet:
    """A data set as the job makes one, each picture with its faces given, under pseudonyms that are thrown away."""
    pseudonyms = EphemeralPseudonyms() if settings.payload_share < 1 else None
    prior.networks.physical_batch = settings.face_batch
    anonymizer = PictureAnonymizer(prior, models, settings, pseudonyms)
    results = [one for at in range(0, len(tasks), at_once) for one in anonymizer(tasks[at : at + at_once])]
    prior.networks.physical_batch = None
    rows, keys = list[Vectors | None](), list[int]()
    for task, result in zip(tasks, results, strict=True):
        if result.encoded is None or result.key is None or task.faces is None:
            rows.append(None)
            continue
        (row,) = models.recognizer.embed([(decode_picture(result.encoded), task.faces[0])])
        rows.append(row.astype(np.float64))
        keys.append(result.key.faces[0].attempt + 1)
    width = next((len(row) for row in rows if row is not None), 1)
    blank = np.full(width, np.nan)
    return DataSet(np.stack([blank if row is None else row for row in rows]), float(np.mean(keys)) if keys else np.nan)


@dataclass(frozen=True)
class Likeness:
    """same: one carrier, other photographs of a person. other: another data set's carrier, the same photograph. people: two
    people. source: a face and its source. Of each the mean cosine. tar, far: pairs of one person and of two that are verified at
    the recognizer's own threshold. tar_at_far: the former where FAR of the latter are; threshold: the distance of that. distance:
    of a face from its source, over that of strangers from this source.
    """

    same: Estimate
    other: Estimate
    people: Estimate
    source: Estimate
    tar: Estimate
    far: Estimate
    tar_at_far: Estimate
    threshold: float
    distance: Estimate


def likeness(
    sources: Vectors, first: Vectors, second: Vectors, person: Places, strangers: Vectors, same_person: float
) -> Likeness:
    """sources, first, second: (n, d), the pictures and two data sets of them, NaN for a picture that is in none. person: (n,),
    whom they show. strangers: (n,), the distance that strangers have from each source. same_person: the recognizer's threshold.
    """
    mean = sources.mean(0)
    own, again, known = (_directions(rows - mean) for rows in (first, second, sources))
    rows, columns = np.triu_indices(len(sources), 1)
    there = np.asarray(~np.isnan(first).any(1))
    both = there[rows] & there[columns]
    rows, columns = rows[both], columns[both]
    genuine = person[rows] == person[columns]
    cosines = (own[rows] * own[columns]).sum(1)
    distances = np.linalg.norm(first[rows] - first[columns], axis=1)
    mated, strange = distances[genuine], distances[~genuine]
    at_far, threshold = tar_at_far(mated, strange, FAR) if FAR * len(strange) >= 1 else (NOTHING, np.nan)
    from_source = np.linalg.norm(first - sources, axis=1) / strangers
    return Likeness(
        mean_of(cosines[genuine]),
        mean_of(_known((own * again).sum(1))),
        mean_of(cosines[~genuine]),
        mean_of(_known((own * known).sum(1))),
        share_of(verified(mated, same_person)),
        share_of(verified(strange, same_person)),
        at_far,
        threshold,
        mean_of(_known(from_source)),
    )


def another_photograph(pixels: Pixels) -> Pixels:
    """The same one shifted, turned, enlarged and darkened: where there is no other one of the person."""
    height, width = pixels.shape[:2]
    affine = np.array(cv2.getRotationMatrix2D((width / 2, height / 2), TURNED, ENLARGED))
    affine[:, 2] += (SHIFTED * width, SHIFTED * height)
    moved = cv2.warpAffine(pixels, affine, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(np.rint(moved * DARKENED), np.uint8)


def _directions(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _known(values: Vectors) -> Vectors:
    return values[~np.isnan(values)]
