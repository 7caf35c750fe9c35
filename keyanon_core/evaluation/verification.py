"""Whether a recognizer takes two faces for one person: error rates of verification and ranks of identification.

Names as in ISO/IEC 19795-1 and NIST's FRVT. Distances: smaller is more alike. A genuine pair shows one person twice, an impostor
pair two people. A pair is verified when its distance lies below the threshold. FAR: share of impostor pairs verified; TAR: share
of genuine pairs verified; over all pairs they are false and true match rates. Intervals take pairs for independent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.intervals import (
    CONFIDENCE,
    NOTHING,
    Estimate,
    Values,
    finite,
    mean_of,
    proportion,
    share_of,
)
from keyanon_core.evaluation.people import People

MAX_DISTANCES: Final = 4_000_000  # held at once by `identification`: 8 bytes each, a few times over
ROUNDING: Final = 1e-12  # of squared lengths; squared distances nearer than this are equal

Vectors = npt.NDArray[np.floating]


def verified(distances: Values, threshold: float) -> npt.NDArray[np.bool_]:
    """Which pairs (n,) are taken for one person: those strictly below the threshold."""
    return np.asarray(finite(distances) < threshold)


def threshold_at_far(impostor: Values, far: float) -> float:
    """The largest threshold that verifies at most a share `far` of the impostor pairs (m,); infinite for a FAR of 1.

    It is the distance of one of them, itself not verified. Raises EvaluationError for a FAR below 1 / m: no pair of so few can
    show it, and a threshold below all of them would pass for one.
    """
    distances = np.sort(finite(impostor))
    allowed = false_accepts(far, len(distances))
    return math.inf if allowed == len(distances) else float(distances[allowed])


def false_accepts(far: float, pairs: int) -> int:
    """How many of so many impostor pairs are a share `far` of them at most. Raises EvaluationError where that is none."""
    if not 0 < far <= 1:
        raise ValueError(f"a FAR is a share above 0 and at most 1, not {far}")
    allowed = math.floor(far * pairs * (1 + 1e-9))  # 0.29 * 100 is below 29 in floating point
    if allowed < 1:
        raise EvaluationError(
            f"a FAR of {far:g} can not be measured with {pairs} impostor pairs:"
            f" it takes {math.ceil(1 / far * (1 - 1e-9))} or more, or a FAR of {1 / max(pairs, 1):.2g} or above"
        )
    return allowed


def tar_at_far(genuine: Values, impostor: Values, far: float) -> tuple[Estimate, float]:
    """Share of the genuine pairs (n,) verified at the threshold where a share `far` of the impostor pairs (m,) is; and that
    threshold.

    For anonymized or recovered faces, impostor pairs are those of the clean pictures, so that the threshold is the one that the
    recognizer is used with. The interval is of the genuine pairs alone, at this threshold. Raises EvaluationError for a FAR
    below 1 / m.
    """
    threshold = threshold_at_far(impostor, far)
    return share_of(verified(genuine, threshold)), threshold


def equal_error_rate(genuine: Values, impostor: Values) -> Estimate:
    """Where as large a share of the genuine pairs (n,) is rejected as of the impostor pairs (m,) is verified; 0.5 is chance.

    Between the two thresholds where the rates cross, both go along straight lines. The interval is Clopper and Pearson's for
    the smaller of n and m, 97.5 % for one rate so that it holds for both. Without pairs of either kind there is none.
    """
    accepted, refused = np.sort(finite(genuine)), np.sort(finite(impostor))
    n = min(len(accepted), len(refused))
    if n == 0:
        return NOTHING
    thresholds = np.append(np.unique(np.concatenate([accepted, refused])), np.inf)
    rejected = 1 - np.searchsorted(accepted, thresholds, side="left") / len(accepted)
    false = np.searchsorted(refused, thresholds, side="left") / len(refused)
    after = int(np.argmax(rejected <= false))  # the first threshold rejects everything, the last nothing
    gap_before, gap_after = rejected[after - 1] - false[after - 1], false[after] - rejected[after]
    way = gap_before / (gap_before + gap_after)
    value = float((1 - way) * false[after - 1] + way * false[after])
    confidence = (1 + CONFIDENCE) / 2
    below, above = (proportion(int(errors), n, confidence) for errors in (math.floor(value * n), math.ceil(value * n)))
    return Estimate(value, below.low, above.high, n)


@dataclass(frozen=True, eq=False)
class Identification:
    """Where the own person of each probe stands among all of a gallery, in order of distance.

    ranks: (n,) float64, of the nearest picture of the own person among those of others, 1 is the nearest; equally near ones share
    the mean of their ranks. rank1: share of probes whose own person is alone the nearest; chance: what that is by chance, 1 / m
    where each person has one of m pictures. mean_rank_over_middle: mean of the ranks, each over what it is by chance, which is
    (m + 1) / 2 then.
    """

    rank1: Estimate
    mean_rank_over_middle: Estimate
    ranks: npt.NDArray[np.float64]
    chance: float


def identification(
    probes: Vectors,
    gallery: Vectors,
    own: npt.NDArray[np.integer],
    people: People | None = None,
    *,
    by_others: bool = False,
) -> Identification:
    """Search each probe in a gallery (closed set).

    probes: (n, d); gallery: (m, d), m >= 1; own: (n,), the row of the gallery that shows the probe's person. people: whom the m
    rows show; None for m people. A row that may be of the probe's person or not is passed over. by_others: that row is taken out,
    and the person found by other rows only. Distances are Euclidean: of vectors of one length, in the order of their cosines.
    Raises ValueError for sets that do not fit together or, with by_others, a probe whose person has no other row,
    EvaluationError for vectors that are not finite.
    """
    if probes.ndim != 2 or gallery.ndim != 2 or probes.shape[1] != gallery.shape[1] or len(gallery) == 0:
        raise ValueError(f"sets (n, d) and (m, d) with m >= 1 are needed, got {probes.shape} and {gallery.shape}")
    if own.shape != (len(probes),) or own.dtype.kind not in "iu":
        raise ValueError(f"of {len(probes)} probes the own rows are (n,) integers, not {own.shape} {own.dtype}")
    if len(own) and not 0 <= own.min() <= own.max() < len(gallery):
        raise ValueError(f"own rows are those of the gallery, 0 to {len(gallery) - 1}, not {own.min()} to {own.max()}")
    shown = People.unknown(len(gallery)) if people is None else people
    found = list(_ranks(finite(probes, rows=True), finite(gallery, rows=True), own, shown, by_others))
    ranks, mine, others = np.concatenate(found, axis=1) if found else np.zeros((3, 0))
    rank1 = proportion(int((ranks == 1).sum()), len(ranks))
    middle = (mine + others + 1) / (mine + 1)
    chance = float((mine / (mine + others)).mean()) if len(ranks) else math.nan
    return Identification(rank1, mean_of(ranks / middle), ranks, chance)


def _ranks(
    probes: npt.NDArray[np.float64],
    gallery: npt.NDArray[np.float64],
    own: npt.NDArray[np.integer],
    people: People,
    by_others: bool,
) -> Iterator[npt.NDArray[np.float64]]:
    """(3, k): ranks, and how many rows show the own person and others; so many probes at a time that their distances are no more
    than MAX_DISTANCES."""
    squares = np.square(gallery).sum(1)
    rows = max(MAX_DISTANCES // len(gallery), 1)
    for start in range(0, len(probes), rows):
        asked, places = probes[start : start + rows], own[start : start + rows]
        mine, others = people.related(places)
        if by_others:
            mine[np.arange(len(asked)), places] = False
            if not mine.any(1).all():
                raise ValueError("a probe's person has no other row in the gallery")
        # The probe's own square is the same for all of the gallery. What is left loses small differences to rounding.
        distances = squares - 2 * (asked @ gallery.T)
        distances -= np.where(mine, distances, np.inf).min(1, keepdims=True)
        tolerance = ROUNDING * (np.square(asked).sum(1) + squares.max())[:, None]
        nearer, equal = ((distances < -tolerance) & others).sum(1), ((np.abs(distances) <= tolerance) & others).sum(1)
        yield np.stack([1 + nearer + equal / 2, mine.sum(1), others.sum(1)])
