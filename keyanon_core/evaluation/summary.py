"""From what was measured of each face to the figures of a report."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.evaluation.faces import FEATURES, GEOMETRY, INCEPTION, SOURCE, TEXTURE
from keyanon_core.evaluation.groups import MIN_FACES, UNKNOWN
from keyanon_core.evaluation.intervals import NOTHING, Estimate, mean_of, median_of, proportion, share_of
from keyanon_core.evaluation.linkability import MIN_SCORES, linkability
from keyanon_core.evaluation.metrics import BY_NAME, MIN_FID_FACES, NOISE_REJECTED, RECOVERED
from keyanon_core.evaluation.people import People
from keyanon_core.evaluation.quality import frechet_distance, kernel_distance
from keyanon_core.evaluation.rehearsal import OTHER_KEY, REHEARSAL
from keyanon_core.evaluation.verification import (
    equal_error_rate,
    identification,
    tar_at_far,
    threshold_at_far,
    verified,
)

BETWEEN_KEYS: Final = "between-keys"  # version of figures that compare two anonymizations of a face
UNTOUCHED_BELOW: Final = 0.1  # share of a face's pixels that changed
MAX_PAIRS: Final = 2_000_000  # of different people, drawn without replacement where there are more
DRAWS: Final = 50  # for somebody else's face where the first one drawn is of the same person
AT_ONCE: Final = 100_000  # pairs whose vectors are held
REJECTED_BELOW: Final = 0.01  # p-value of noise that is taken for none
FALSE_ACCEPT_RATES: Final = {"tar_far_1": 0.01, "tar_far_01": 0.001}
MEDIANS: Final = (*GEOMETRY.values(), "psnr_face", "ssim_face", "mae_face", "lpips_face", "psnr_picture", "seam_colour")
DISTANCES: Final = {
    TEXTURE: ("texture_distance", "texture_kernel_distance", 2),
    INCEPTION: ("fid", "kid", MIN_FID_FACES),
}
"""Of two sets of features, by these: the Frechet distance, the kernel distance, and the faces that the former takes."""

GROUPED: Final = ("untouched", "accepted", "found", "psnr_face")  # and rank1

Vectors = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FaceTable:
    """Rows of faces in versions, column by column.

    face: (n,) int64, the same number for one face in all its versions. version, tone: (n,) of text. values: (n,) float64 by
    metric, NaN where unknown. vectors: (n, d) float32 by recognizer, rows of NaN where it saw no face. people: whom the n faces
    show, by default nobody that is known. traits: (n,) of text by the name of each, the group that is said of a face, UNKNOWN
    where none is.
    """

    face: npt.NDArray[np.int64]
    version: npt.NDArray[np.str_]
    tone: npt.NDArray[np.str_]
    values: Mapping[str, Values]
    vectors: Mapping[str, Vectors]
    people: People = field(default_factory=lambda: People.unknown(0))
    traits: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.people.person):
            object.__setattr__(self, "people", People.unknown(len(self.face)))
        if len(self.people.person) != len(self.face):
            raise ValueError(f"people of {len(self.people.person)} faces, and {len(self.face)} faces")

    def of(self, version: str) -> "FaceTable":
        """The rows of one version, in the order of their faces."""
        rows = np.flatnonzero(self.version == version)
        return self.rows(rows[np.argsort(self.face[rows], kind="stable")])

    def rows(self, which: npt.NDArray[Any]) -> "FaceTable":
        """Some rows, by index or by a mask."""
        return FaceTable(
            self.face[which],
            self.version[which],
            self.tone[which],
            {name: column[which] for name, column in self.values.items()},
            {name: column[which] for name, column in self.vectors.items()},
            self.people.rows(which),
            {name: column[which] for name, column in self.traits.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence["FaceTable"]) -> "FaceTable":
        """The rows of all parts, NaN in the columns that a part lacks; without traits."""

        def column(name: str, of: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[Any]:
            like = next(columns[name] for columns in of if name in columns)
            return np.concatenate(
                [
                    columns[name] if name in columns else np.full((len(part.face), *like.shape[1:]), np.nan, like.dtype)
                    for columns, part in zip(of, parts, strict=True)
                ]
            )

        values, vectors = [part.values for part in parts], [part.vectors for part in parts]
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(part.face for part in parts)]),
            np.concatenate([np.zeros(0, np.str_), *(part.version for part in parts)]),
            np.concatenate([np.zeros(0, np.str_), *(part.tone for part in parts)]),
            {name: column(name, values) for name in sorted(set().union(*values))},
            {name: column(name, vectors) for name in sorted(set().union(*vectors))},
            People.joined([part.people for part in parts]),
        )

    @property
    def versions(self) -> list[str]:
        """All but the source, in the order in which they first stand."""
        names, first = np.unique(self.version, return_index=True)
        return [str(name) for name in names[np.argsort(first)] if name != SOURCE]


@dataclass(frozen=True)
class Figure:
    """One number of a report. metric: a name of METRICS. recognizer, group: "" where it is of none. chance: what a method that
    leaves nothing would show, where that is known."""

    version: str
    metric: str
    estimate: Estimate
    recognizer: str = ""
    group: str = ""
    chance: float | None = None

    @property
    def key(self) -> str:
        """As `--fail-under` names it: `anonymized.rank1.dlib-resnet-v1`, `recovered.psnr_face[dark]`, `...[gender=f]`."""
        recognizer = f".{self.recognizer}" if self.recognizer else ""
        return f"{self.version}.{self.metric}{recognizer}{f'[{self.group}]' if self.group else ''}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types; numbers that are none are null."""
        return {
            "key": self.key,
            "version": self.version,
            "metric": self.metric,
            "recognizer": self.recognizer or None,
            "group": self.group or None,
            **self.estimate.to_dict(),
            "chance": self.chance,
            "unit": BY_NAME[self.metric].unit,
            "better": BY_NAME[self.metric].better_for(self.version),
        }


def summarize(table: FaceTable) -> list[Figure]:
    """Every figure that the table gives, version by version; what other photographs of people tell of the sources first.
    Deterministic."""
    sources = table.of(SOURCE)
    strangers = {name: stranger_distances(table, name) for name in sorted(sources.vectors) if name not in FEATURES}
    unprotected = [
        figure
        for name, distances in strangers.items()
        for figure in _by_other_photos(_seen(sources, name), _seen(sources, name), distances, SOURCE, name)
    ]
    return unprotected + [
        figure
        for version in table.versions
        for figure in _of_version(table.of(version), sources, strangers, table, version)
    ]


def _of_version(
    faces: FaceTable, sources: FaceTable, strangers: Mapping[str, Values], table: FaceTable, version: str
) -> Iterator[Figure]:
    own = sources.rows(np.searchsorted(sources.face, faces.face))
    yield from _of_values(faces, version)
    for group, members in _groups(faces):
        told = (one for one in _of_values(faces.rows(members), version, group) if one.metric in GROUPED)
        yield from (one for one in told if one.estimate.n >= MIN_FACES)
    for recognizer in sorted(sources.vectors):
        if recognizer in DISTANCES:
            yield from _of_features(faces, own, version, recognizer)
        else:
            yield from _of_identity(faces, sources, strangers[recognizer], version, recognizer)
    if version == OTHER_KEY:
        first = table.of(REHEARSAL)
        for recognizer in sorted(set(sources.vectors) - {*FEATURES}):
            yield from _between_keys(faces, first, recognizer)


def _groups(faces: FaceTable) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """The label of each group that is not all of the faces, and which of them are in it (n,)."""
    for trait, labels in {"": faces.tone, **faces.traits}.items():
        for label in np.unique(labels).tolist():
            members = labels == label
            if label != UNKNOWN and not members.all():
                yield f"{trait}={label}" if trait else label, members


def _of_values(faces: FaceTable, version: str, group: str = "") -> Iterator[Figure]:
    """What needs no other face."""
    statistics: dict[str, tuple[str, Callable[[Values], Estimate]]] = {
        "untouched": ("changed_face", lambda known: proportion(int((known < UNTOUCHED_BELOW).sum()), len(known))),
        "found": ("found", lambda known: proportion(int(known.sum()), len(known))),
        "same_outside": ("same_outside", mean_of),
        NOISE_REJECTED: ("noise_p", lambda known: proportion(int((known < REJECTED_BELOW).sum()), len(known))),
    }
    for metric in MEDIANS:
        statistics[metric] = (metric, median_of)
    for metric, (column, statistic) in statistics.items():
        values = faces.values.get(column, np.zeros(0))  # some are told where they are asked for
        known = values[~np.isnan(values)]
        if len(known):
            chance = REJECTED_BELOW if metric == NOISE_REJECTED else None
            yield Figure(version, metric, statistic(known), group=group, chance=chance)
    for column, values in faces.values.items():
        kind, _, recognizer = column.partition(":")
        known = values[~np.isnan(values)]
        if kind == "accepted" and len(known):
            yield Figure(version, kind, proportion(int(known.sum()), len(known)), recognizer, group)


def _of_identity(
    faces: FaceTable, sources: FaceTable, strangers: Values, version: str, recognizer: str
) -> Iterator[Figure]:
    seen, gallery = _seen(faces, recognizer), _seen(sources, recognizer)
    seen = seen.rows(np.isin(seen.face, gallery.face))
    if not len(seen.face) or len(gallery.face) < 2:
        return
    probes, known = seen.vectors[recognizer], gallery.vectors[recognizer]
    own = np.searchsorted(gallery.face, seen.face)
    cosines = (_unit(probes) * _unit(known[own])).sum(1)
    yield Figure(version, "cosine", mean_of(cosines), recognizer, chance=_mean_cosine(known, gallery.people))
    found = identification(probes, known, own, gallery.people)
    yield Figure(version, "rank1", found.rank1, recognizer, chance=found.chance)
    for group, members in _groups(seen):
        if members.sum() >= MIN_FACES:
            among = identification(probes[members], known, own[members], gallery.people)
            yield Figure(version, "rank1", among.rank1, recognizer, group, among.chance)
    yield Figure(version, "mean_rank", found.mean_rank_over_middle, recognizer, chance=1.0)
    mated = _distances(probes, known[own])
    yield from _accepted(mated, strangers, version, recognizer)
    yield Figure(version, "eer", equal_error_rate(mated, strangers), recognizer, chance=0.5)
    yield from _linked(version, recognizer, probes, gallery, own)
    yield from _by_other_photos(seen, gallery, strangers, version, recognizer)
    if not version.endswith(RECOVERED):
        yield from _as_pseudonyms(seen, strangers, version, recognizer)


def _accepted(mated: Values, strangers: Values, version: str, recognizer: str, of: str = "") -> Iterator[Figure]:
    """How many pairs of one person are nearer than all but a share of those of strangers, where there are enough of these."""
    for metric, rate in FALSE_ACCEPT_RATES.items():
        if rate * len(strangers) >= 1:
            estimate, _ = tar_at_far(mated, strangers, rate)
            yield Figure(version, of + metric, estimate, recognizer, chance=rate)


def _by_other_photos(
    faces: FaceTable, gallery: FaceTable, strangers: Values, version: str, recognizer: str
) -> Iterator[Figure]:
    """Faces against other photographs of their people, each of whose own sources is in the gallery."""
    own = np.searchsorted(gallery.face, faces.face)
    other = gallery.people.others()[own]
    some = np.flatnonzero(other >= 0)
    if not len(some):
        return
    probes, known, own, other = faces.vectors[recognizer][some], gallery.vectors[recognizer], own[some], other[some]
    found = identification(probes, known, own, gallery.people, by_others=True)
    yield Figure(version, "other_photo_rank1", found.rank1, recognizer, chance=found.chance)
    yield from _accepted(_distances(probes, known[other]), strangers, version, recognizer, "other_photo_")


def _as_pseudonyms(faces: FaceTable, strangers: Values, version: str, recognizer: str) -> Iterator[Figure]:
    """Faces of a version against those of other pictures of their people, and against somebody else's, as the sources' strangers
    are told apart."""
    following, rate, vectors = faces.people.others(), FALSE_ACCEPT_RATES["tar_far_1"], faces.vectors[recognizer]
    some = np.flatnonzero(following >= 0)
    if not len(some) or rate * len(strangers) < 1:
        return
    pairs = np.unique(np.sort([some, following[some]], axis=0), axis=1)  # of two pictures each is the other's next
    every = np.arange(len(faces.face))
    other = _somebody_else(faces.people, every)
    apart = faces.people.apart(every, other)
    limit = threshold_at_far(strangers, rate)
    same = verified(_distances(vectors[pairs[0]], vectors[pairs[1]]), limit)
    different = share_of(verified(_distances(vectors[apart], vectors[other[apart]]), limit))
    yield Figure(version, "same_pseudonym", share_of(same), recognizer, chance=different.value if different.n else None)
    yield Figure(version, "other_pseudonym", different, recognizer, chance=rate)


def _between_keys(faces: FaceTable, first: FaceTable, recognizer: str) -> Iterator[Figure]:
    """Two anonymizations of one face under two keys, against those of different faces."""
    one, other = _seen(first, recognizer), _seen(faces, recognizer)
    other = other.rows(np.isin(other.face, one.face))
    own = np.searchsorted(one.face, other.face)
    yield from _linked(BETWEEN_KEYS, recognizer, other.vectors[recognizer], one, own)


def _linked(
    version: str, recognizer: str, probes: Vectors, gallery: FaceTable, own: npt.NDArray[np.int64]
) -> Iterator[Figure]:
    """Of each probe one mated and one other distance, to somebody else's face: scores that share a face are not independent."""
    if len(probes) < MIN_SCORES:
        return
    known, other = gallery.vectors[recognizer], _somebody_else(gallery.people, own)
    apart = gallery.people.apart(own, other)
    if apart.sum() >= MIN_SCORES:
        found = linkability(_distances(probes, known[own]), _distances(probes[apart], known[other[apart]]))
        yield Figure(version, "linkability", found.d_sys, recognizer, chance=0.0)


def _somebody_else(people: People, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(k,): for each of k faces, by their places among n, 2 or more, another one; of another person where DRAWS find one."""
    rng, n = np.random.default_rng(0), len(people.person)
    other = (own + rng.integers(1, n, len(own))) % n
    for _ in range(DRAWS):
        again = np.flatnonzero(~people.apart(own, other))
        other[again] = (own[again] + rng.integers(1, n, len(again))) % n
    return other


def _of_features(faces: FaceTable, own: FaceTable, version: str, space: str) -> Iterator[Figure]:
    """How far the faces of a version are, all together, from their sources; no figure where too few are known."""
    frechet, kernel, least = DISTANCES[space]
    both = ~np.isnan(faces.vectors[space]).any(1) & ~np.isnan(own.vectors[space]).any(1)
    count, results, originals = int(both.sum()), faces.vectors[space][both], own.vectors[space][both]
    if count >= 2:
        enough = count >= least
        value = frechet_distance(results, originals) if enough else math.nan
        yield Figure(version, frechet, Estimate(value, -math.inf, math.inf, count) if enough else NOTHING)
        yield Figure(version, kernel, kernel_distance(results, originals, paired=True), chance=0.0)


def _seen(faces: FaceTable, recognizer: str) -> FaceTable:
    return faces.rows(np.flatnonzero(~np.isnan(faces.vectors[recognizer]).any(1)))


def _unit(vectors: Vectors) -> Values:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float64)


def _mean_cosine(vectors: Vectors, people: People) -> float | None:
    """Of all pairs of two people, (n, d); None without one."""
    unit = _unit(vectors)
    persons, of = np.unique(people.person, return_inverse=True)
    sums = np.zeros((len(persons), unit.shape[1]))
    np.add.at(sums, of, unit)
    within, counts = np.square(sums).sum(1), np.bincount(of)
    pairs = np.where(persons < 0, counts, counts**2)  # of one person, a face with itself among them
    within[persons < 0] = counts[persons < 0]
    apart = len(unit) ** 2 - int(pairs.sum())
    return float((np.square(unit.sum(0)).sum() - within.sum()) / apart) if apart else None


def _distances(first: Vectors, second: Vectors) -> Values:
    return np.asarray(np.linalg.norm(first.astype(np.float64) - second.astype(np.float64), axis=1), np.float64)


def stranger_distances(table: FaceTable, recognizer: str) -> Values:
    """Distances between sources of different people, as many as MAX_PAIRS at most."""
    seen = _seen(table.of(SOURCE), recognizer)
    known, n = seen.vectors[recognizer], len(seen.face)
    every = n * n <= MAX_PAIRS
    pairs = np.arange(n * n) if every else np.unique(np.random.default_rng(0).integers(0, n * n, MAX_PAIRS))
    rows, columns = np.divmod(pairs, n)
    apart = (rows != columns) & seen.people.apart(rows, columns)
    rows, columns = rows[apart], columns[apart]
    parts = max(len(rows) // AT_ONCE, 1)
    pairs_of = zip(np.array_split(rows, parts), np.array_split(columns, parts), strict=True)
    return np.concatenate([_distances(known[first], known[second]) for first, second in pairs_of])


def beyond_limits(
    values: Mapping[str, float | None], under: Mapping[str, float], over: Mapping[str, float]
) -> list[str]:
    """What is said of each figure that lies below its limit in `under`, or above that in `over`; without a value it does.

    values: of the figures by their keys, those of the limits among them.
    """
    said = []
    for limits, word, sign in ((under, "under", 1), (over, "over", -1)):
        for name, limit in limits.items():
            value = values[name]
            if value is None or not sign * value >= sign * limit:
                said.append(f"{name} is {'unknown' if value is None else format(value, '.4g')}, {word} {limit:g}")
    return said
