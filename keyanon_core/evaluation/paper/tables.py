"""The protocol's tables: from what was measured of each picture to the paper's figures, and published ones beside them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.inception import Inception
from keyanon_core.evaluation.intervals import Estimate, mean_of, proportion, share_of
from keyanon_core.evaluation.paper.versions import CLEAN, FEATURES, OTHER, PAPER, recovered_of
from keyanon_core.evaluation.people import People
from keyanon_core.evaluation.quality import frechet_distance
from keyanon_core.evaluation.summary import FaceTable, Figure
from keyanon_core.evaluation.verification import MAX_DISTANCES, false_accepts, verified

DataSet = Literal["lfw", "celeba-hq"]
CELEBA_PART: Final = 2_500  # pictures of CelebA-HQ in one of its 12 parts, over which a FID is taken
FALSE_ACCEPT_RATE: Final = 0.001
FARTHEST: Final = 2.0  # cosine distance; that of a face in which a recognizer sees none
TAR: Final = {"lfw": "other_photo_tar_far_01", "celeba-hq": "tar_far_01"}
"""By the data set: LFW has another picture of each person to hold a face against, CelebA-HQ only its own source."""

Values = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Published:
    """A number that others published of a data set. recognizer: as they call it, "" where it is of none. source: where it
    stands."""

    data_set: DataSet
    version: str
    metric: str
    recognizer: str
    value: float
    source: str


AUTHORS: Final = "Labarbarie, Itier, Puech: results stored with their code, unconditional FFHQ prior, 1,600 pairs"
COPIES: Final = (
    "results stored with their code, 1,000 pairs; its plot of them is of their variant guided by a ControlNet"
)
RIVALS: Final = "about so much in a notebook of the same code, not told by the method's own authors"
FACENET, CASIA, ARCFACE, ADAFACE = "FaceNet VGGFace2", "FaceNet CASIA-WebFace", "ArcFace R50", "AdaFace ViT"
_BACK: Final = recovered_of(PAPER)
_OF_RECOGNIZERS: Final = {
    (PAPER, "cosine"): (0.0781, 0.0925, 0.0293, 0.0492),
    (_BACK, "cosine"): (0.7447, 0.7427, 0.6921, 0.7065),
    (CLEAN, TAR["lfw"]): (0.9515, 0.9096, 0.9906, 0.9962),
    (PAPER, TAR["lfw"]): (0.0063, 0.0028, 0.0056, 0.0049),
    (_BACK, TAR["lfw"]): (0.4256, 0.3876, 0.7053, 0.7022),
    (CLEAN, "threshold_far_01"): (0.556, 0.512, 0.246, 0.249),
}
_OF_PICTURES: Final = {
    (PAPER, "picture_fid"): 55.2,
    (_BACK, "picture_fid"): 33.2,
    (PAPER, "detected"): 1.0,
    (_BACK, "detected"): 0.9994,
    (PAPER, "mask_iou"): 0.9198,
    (PAPER, "mask_dice"): 0.9557,
    (_BACK, "psnr_picture"): 20.7,
    (_BACK, "ssim_picture"): 0.857,
    (_BACK, "mae_picture"): 0.107,
}
_OF_COPIES: Final = {100: 0.62, 90: 0.52, 75: 0.33, 50: 0.13}  # where the float picture gives 0.69
_OF_RIVALS: Final = {"riddle": 0.30, "g2face": 0.60, "ifadit": 0.01}

PUBLISHED: Final = (
    *(
        Published("lfw", version, metric, recognizer, value, AUTHORS)
        for (version, metric), values in _OF_RECOGNIZERS.items()
        for recognizer, value in zip((FACENET, CASIA, ARCFACE, ADAFACE), values, strict=True)
    ),
    *(Published("lfw", version, metric, "", value, AUTHORS) for (version, metric), value in _OF_PICTURES.items()),
    *(
        Published("lfw", recovered_of(PAPER, quality), TAR["lfw"], ARCFACE, value, COPIES)
        for quality, value in _OF_COPIES.items()
    ),
    *(
        Published("lfw", f"{method}-recovered", TAR["lfw"], ARCFACE, value, RIVALS)
        for method, value in _OF_RIVALS.items()
    ),
)


def paper_figures(
    table: FaceTable,
    part: npt.NDArray[np.int64],
    data_set: DataSet,
    person: npt.NDArray[np.int64] | None = None,
) -> list[Figure]:
    """The paper's figures: those of clean pictures first, then of every version, in the order of the table. Deterministic.

    table: what `PaperProtocol` measured, each picture under a number of its own. part: (n,), of each row of the table, the part
    of the data set that its picture is in; all 0 where there is one. person: (n,), of each row, who is seen, below 0 where that
    is not known: pairs of one person are no impostors. None takes the table's own people, by default every picture for another
    person's, which LFW's pairs are not. Raises EvaluationError for pictures of LFW without the person's other one.
    """
    sources, others = table.of(SOURCE), table.of(OTHER)
    if data_set == "lfw" and not np.array_equal(sources.face, others.face):
        raise EvaluationError(
            f"{len(sources.face)} pictures of LFW, and {len(others.face)} other ones of their people: the protocol takes pairs"
        )
    whose = table.people.person if person is None else person
    at = np.flatnonzero(table.version == SOURCE)
    rows = at[np.argsort(table.face[at], kind="stable")]  # those of the sources
    clean = _Clean(sources, others if data_set == "lfw" else sources, whose[rows], data_set)
    figures = list(clean.figures())
    for version in table.versions:
        if version != OTHER:
            figures += _of_version(table.of(version), clean, part[rows], version)
    return figures


class _Clean:
    """What clean pictures say, in order of their numbers: sources; and what those are held against, of the same people."""

    def __init__(
        self, sources: FaceTable, references: FaceTable, person: npt.NDArray[np.int64], data_set: DataSet
    ) -> None:
        self.sources, self.references, self.tar = sources, references, TAR[data_set]
        self.recognizers = sorted(name for name in sources.vectors if not name.startswith(FEATURES))
        self._paired = references is not sources
        first = second = np.arange(len(person))
        if self._paired:  # all pairs of one person are genuine, not only those of the list
            same = (person[:, None] == person) & (person >= 0)
            first, second = np.nonzero(same | (first[:, None] == first))
        self._genuine = first, second
        people = People(person, np.ones(len(person), np.bool_))
        self._strangers = {
            name: strangers(sources.vectors[name], references.vectors[name], people) for name in self.recognizers
        }

    def figures(self) -> Iterator[Figure]:
        for name in self.recognizers:
            _, threshold = self._strangers[name]
            if not math.isnan(threshold):
                cosine = Estimate(1 - threshold, -math.inf, math.inf, len(self.sources.face))
                yield Figure(CLEAN, "threshold_far_01", cosine, name)
            if self._paired:
                yield from self.identity(self.sources, CLEAN, name)

    def identity(self, faces: FaceTable, version: str, recognizer: str) -> Iterator[Figure]:
        """Of faces of some of the sources: against these, of CLEAN against the people's other pictures."""
        at = np.searchsorted(self.sources.face, faces.face)
        seen, (mean, threshold) = faces.vectors[recognizer], self._strangers[recognizer]
        against = self.references.vectors[recognizer]
        cosines = 1 - cosine_distances(seen, against[at] if version == CLEAN else self.sources.vectors[recognizer][at])
        if len(known := cosines[~np.isnan(cosines)]):
            yield Figure(version, "cosine", mean_of(known), recognizer, chance=None if math.isnan(mean) else mean)
        place = np.full(len(self.sources.face), -1)
        place[at] = np.arange(len(at))
        first, second = self._genuine
        told = (place[first] >= 0) & ~np.isnan(against[second]).any(1)
        if told.any() and not math.isnan(threshold):
            mated = cosine_distances(seen[place[first[told]]], against[second[told]])
            accepted = share_of(verified(np.where(np.isnan(mated), FARTHEST, mated), threshold))
            yield Figure(version, self.tar, accepted, recognizer, chance=FALSE_ACCEPT_RATE)


def _of_version(faces: FaceTable, clean: _Clean, part: npt.NDArray[np.int64], version: str) -> Iterator[Figure]:
    """part: (n,), of each of the clean sources."""
    for name in clean.recognizers:
        yield from clean.identity(faces, version, name)
    statistics: dict[str, Callable[[Values], Estimate]] = {
        **dict.fromkeys(("detected", "found", "solved"), _share),
        **dict.fromkeys(("mask_iou", "mask_dice", "psnr_picture", "ssim_picture", "mae_picture"), mean_of),
    }
    for metric, statistic in statistics.items():
        values = faces.values.get(metric, np.zeros(0))
        if len(known := values[~np.isnan(values)]):
            yield Figure(version, metric, statistic(known))
    at = np.searchsorted(clean.sources.face, faces.face)
    for name in sorted(faces.vectors):
        if name.startswith(FEATURES):
            yield from _of_pictures(
                faces.vectors[name], clean.sources.vectors[name][at], part[at], version, name.removeprefix(FEATURES)
            )


def _of_pictures(
    shown: Vectors, sources: Vectors, part: npt.NDArray[np.int64], version: str, features: str
) -> Iterator[Figure]:
    """Mean over the parts of the distance between a part's pictures and their sources; a part of one picture has none."""
    both = ~np.isnan(shown).any(1) & ~np.isnan(sources).any(1)
    parts = [both & (part == one) for one in np.unique(part)]
    distances = [frechet_distance(shown[rows], sources[rows]) for rows in parts if rows.sum() >= 2]
    if distances:
        inceptions = features == Inception.name
        yield Figure(
            version,
            "picture_fid" if inceptions else "picture_distance",
            mean_of(distances),
            "" if inceptions else features,
        )


def _share(values: Values) -> Estimate:
    return proportion(int(values.sum()), len(values))


def cosine_distances(first: Vectors, second: Vectors) -> Values:
    """Row by row of (n, d) and (n, d); NaN where a row is."""
    return np.asarray(1 - (_unit(first) * _unit(second)).sum(1))


def strangers(
    sources: Vectors, references: Vectors, people: People, far: float = FALSE_ACCEPT_RATE
) -> tuple[float, float]:
    """Of all pairs of a source and a reference of two people: their mean cosine, and the cosine distance below which a share
    `far` < 1 of them lies, as in `verification.threshold_at_far`.

    sources, references: (n, d), row by row of pictures of the same n people, or the same twice. NaN without pairs, the distance
    also where they are too few to show such a share. No more than MAX_DISTANCES are held beside the nearest.
    """
    known = np.flatnonzero(~np.isnan(sources).any(1)), np.flatnonzero(~np.isnan(references).any(1))
    a, b = _unit(sources[known[0]]), _unit(references[known[1]])
    rows, kept = max(MAX_DISTANCES // max(len(b), 1), 1), math.ceil(far * len(a) * len(b)) + 1
    count, total, nearest = 0, 0.0, np.zeros(0)
    for start in range(0, len(a), rows):
        at, beside = known[0][start : start + rows, None], known[1][None]
        distances = (1 - a[start : start + rows] @ b.T)[people.apart(at, beside) & (at != beside)]
        count, total = count + len(distances), total + float(distances.sum())
        nearest = np.concatenate([nearest, distances])
        if len(nearest) > kept:
            nearest = np.partition(nearest, kept)[:kept]
    if count == 0:
        return math.nan, math.nan
    try:
        allowed = false_accepts(far, count)
    except EvaluationError:
        return 1 - total / count, math.nan
    return 1 - total / count, float(np.partition(nearest, allowed)[allowed])


def _unit(vectors: Vectors) -> Values:
    held = vectors.astype(np.float64)
    return np.asarray(held / np.maximum(np.linalg.norm(held, axis=1, keepdims=True), 1e-12))
