"""Whether two protected faces can be told to be one person's: D_sys, and maximal linkability as a cross-check.

ISO/IEC 24745 asks that they can not (unlinkability). Mated scores compare two faces of one person, protected under two keys;
non-mated scores those of two people. Whether large or small scores speak for one person does not matter here.

M. Gomez-Barrero, J. Galbally, C. Rathgeb, C. Busch, "General framework to evaluate unlinkability in biometric template protection
systems", IEEE Trans. Information Forensics and Security 13(6), 2018. H. Otroshi Shahreza, Y. Y. Shkel, S. Marcel, "Measuring
linkability of protected biometric templates using maximal leakage", the same journal 18, 2023.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.intervals import CONFIDENCE, RESAMPLES, SEED, Estimate, Values, finite, proportion

MIN_SCORES: Final = 20  # of either kind
ROUNDING: Final = 1e-9  # values of D_sys nearer than this are equal

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Linkability:
    """How far mated scores are told from non-mated ones, and what chance alone makes of as many scores.

    d_sys: 0 when they are distributed alike, 1 when no score is both kinds'. maximal: bits that a score tells of mated or not, 0
    to 1. Both are corrected for what chance adds; plain_d_sys and plain_maximal are not, as the papers define them.
    chance_d_sys: mean plain_d_sys of as many scores when nothing links. p_value: how often it is as large then as it was
    found; where that is above 2.5 %, both intervals begin at 0. edges: (B + 1,) of the bins, in scores, ascending; an empty bin
    has no width. local: (B,), D(s) in each.
    """

    d_sys: Estimate
    maximal: Estimate
    plain_d_sys: float
    plain_maximal: float
    chance_d_sys: float
    p_value: float
    edges: npt.NDArray[np.float64]
    local: Shares


def linkability(mated: Values, non_mated: Values) -> Linkability:
    """D_sys and maximal linkability of scores (n,) and (m,), at a prior ratio omega of 1.

    Bins: the paper leaves them open. Here a score is first replaced by its share in (F_mated + F_non_mated) / 2, F being the
    distributions found, and that range, 0 to 1, is cut into 2 k^(1/3) bins of one width, k = min(n, m) (Rice's rule, made even).
    So one outlier can not push all others into one bin and hide a link, the unit of a score does not matter, and two kinds
    that do not overlap never share a bin. Equal scores stay together. The authors' min(k / 10, 100) bins over the range of
    the scores let chance add 0.1 to D_sys, whatever k up to 1000; these add 0.13 at k = 60, 0.06 at 500, 0.03 at 2000.

    Correction and intervals: twice the value found less the mean, and less the percentiles, of RESAMPLES bootstrap samples of
    either kind, bins kept (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 10.2 and 13.4), and at least as wide at
    0 and 1 as k scores leave a proportion. Chance: as many permutations of the labels. Both are the same each time. Of two
    normal distributions the true D_sys lay in its interval in 88 to 100 cases of 100, from no link to a full one, that of
    `maximal` in 84 to 100: they are somewhat narrow. Scores are taken as independent. Raises EvaluationError for fewer than
    MIN_SCORES of either kind, or a score that is not finite.
    """
    kinds = finite(mated), finite(non_mated)
    sizes = len(kinds[0]), len(kinds[1])
    if min(sizes) < MIN_SCORES:
        raise EvaluationError(
            f"linkability takes {MIN_SCORES} mated and {MIN_SCORES} non-mated scores or more, not {sizes[0]} and {sizes[1]}"
        )
    edges, counts = _binned(*kinds)
    rng = np.random.default_rng(SEED)
    again = [rng.multinomial(size, one / size, RESAMPLES) / size for one, size in zip(counts, sizes, strict=True)]
    pooled = counts[0] + counts[1]
    drawn = rng.multivariate_hypergeometric(pooled, sizes[0], RESAMPLES, method="marginals")
    chance = drawn / sizes[0], (pooled - drawn) / sizes[1]
    found = counts[0] / sizes[0], counts[1] / sizes[1]
    value, by_chance = float(d_sys(*found)), d_sys(*chance)
    p_value = float((1 + (by_chance >= value - ROUNDING).sum()) / (1 + RESAMPLES))
    linked, maximal = p_value <= (1 - CONFIDENCE) / 2, float(maximal_linkability(*found))
    most, least = proportion(0, min(sizes)).high, proportion(min(sizes), min(sizes)).low  # of total variation
    return Linkability(
        _estimate(value, d_sys(*again), linked, min(sizes), least, most),
        _estimate(maximal, maximal_linkability(*again), linked, min(sizes), math.log2(1 + least), math.log2(1 + most)),
        value,
        maximal,
        float(by_chance.mean()),
        p_value,
        edges,
        local(*found),
    )


def local(mated: Shares, non_mated: Shares) -> Shares:
    """D(s) by bin: `p(mated | s) - p(non-mated | s)` where it is above 0, else 0; with omega = 1, `2 LR / (1 + LR) - 1` of the
    likelihood ratio LR = p(s | mated) / p(s | non-mated) (Gomez-Barrero et al., section IV). Shares (..., B) of each kind.
    """
    both = mated + non_mated
    return np.asarray(np.maximum(mated - non_mated, 0) / np.where(both > 0, both, 1))


def d_sys(mated: Shares, non_mated: Shares) -> Shares:
    """Mean D(s) of the mated scores (Gomez-Barrero et al., section IV): (...,) of shares (..., B) by bin."""
    return np.asarray((mated * local(mated, non_mated)).sum(-1))


def maximal_linkability(mated: Shares, non_mated: Shares) -> Shares:
    """Maximal leakage from mated or not to the score, `log2 sum max(p(s | mated), p(s | non-mated))` bits (Otroshi Shahreza et
    al., 2023): (...,) of shares (..., B) by bin. It is log2(1 + T) of the total variation T, and T / 2 <= D_sys <= T.
    """
    return np.asarray(np.log2(np.maximum(mated, non_mated).sum(-1)))


def _estimate(value: float, drawn: Shares, linked: bool, n: int, least: float, most: float) -> Estimate:
    """Of n scores, with what bootstrap samples drew. least: highest that the interval may begin; most: lowest that it may end."""
    below, above = (2 * value - float(one) for one in np.quantile(drawn, [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2]))
    low = min(max(below, 0.0), least) if linked else 0.0
    return Estimate(min(max(2 * value - float(drawn.mean()), low), 1.0), low, max(min(above, 1.0), most), n)


def _binned(
    mated: npt.NDArray[np.float64], non_mated: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Edges (B + 1,) in scores, and how many scores of each kind (B,) lie between them."""
    bins = _bins(min(len(mated), len(non_mated)))
    scores = np.unique(np.concatenate([mated, non_mated]))
    weight = sum(_found(scores, one) / len(one) for one in (mated, non_mated)) / 2
    share = np.cumsum(weight) - weight / 2  # of a score, in the middle of its step
    index = np.minimum((share * bins).astype(np.int64), bins - 1)
    counts = [np.bincount(index, _found(scores, one), bins).astype(np.int64) for one in (mated, non_mated)]
    first = np.searchsorted(index, np.arange(1, bins))  # of each bin's scores; an empty bin has no width
    upper = np.minimum(first, len(scores) - 1)
    inner = (scores[np.maximum(first - 1, 0)] + scores[upper]) / 2
    return np.concatenate([scores[:1], inner, scores[-1:]]), (counts[0], counts[1])


def _found(scores: npt.NDArray[np.float64], of: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How often each of the scores, ascending, is among others."""
    return np.bincount(np.searchsorted(scores, of), minlength=len(scores))


def _bins(scores: int) -> int:
    """Even, so that the middle is an edge: scores that do not overlap lie on either side of it."""
    return 2 * round(float(np.cbrt(scores)))
