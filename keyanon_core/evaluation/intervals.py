"""Figures with what chance leaves open: every estimate has a 95 % confidence interval and the number of values behind it.

The values are taken as independent. Pairs that share a picture are not: their intervals are narrower than they should be.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from keyanon_core.errors import EvaluationError

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1000  # of a bootstrap
SEED: Final = 17  # of a bootstrap, so that the same values give the same interval

Values = npt.ArrayLike
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds the true one 95 times in 100.

    n: independent values behind it. With n = 0 there is no figure: value, low and high are NaN. Where so few values bound
    nothing, low and high are -inf and inf.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if self.n < 0 or (self.n == 0) != math.isnan(self.value) or math.isinf(self.value):
            raise ValueError(f"a figure of {self.n} values can not be {self.value}")
        if math.isnan(self.low) != math.isnan(self.value) or math.isnan(self.high) != math.isnan(self.value):
            raise ValueError(f"the interval [{self.low}, {self.high}] does not fit a figure of {self.value}")

    def __str__(self) -> str:
        if self.n == 0:
            return "none (n = 0)"
        if not self.bounded:
            return f"{self.value:.4g} (n = {self.n}, too few for an interval)"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"

    @property
    def bounded(self) -> bool:
        """Whether there is an interval: both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON, which has neither NaN nor infinity: what is no number is None."""
        figures = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: one if math.isfinite(one) else None for name, one in figures.items()}, "n": self.n}

    def times(self, factor: float) -> "Estimate":
        """In another unit: the figure and its interval times a factor > 0."""
        if not 0 < factor < math.inf:
            raise ValueError(f"a unit is a finite factor above 0, not {factor}")
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.n)


NOTHING: Final = Estimate(math.nan, math.nan, math.nan, 0)


def proportion(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """successes / n, with the interval of Clopper and Pearson, Biometrika 26(4), 1934: never too narrow, at 0 and n too.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    if n == 0:
        return NOTHING
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(confidence, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), int(n))


def share_of(outcomes: npt.NDArray[np.bool_] | Sequence[bool]) -> Estimate:
    """Share of the True among n outcomes (n,)."""
    held = np.asarray(outcomes)
    if held.ndim != 1 or (held.size and held.dtype != np.bool_):
        raise ValueError(f"outcomes are (n,) bool, not {held.shape} {held.dtype}")
    return proportion(int(held.sum()), len(held))


def mean_of(values: Values) -> Estimate:
    """Mean of (n,) with Student's interval; one value bounds nothing. Raises EvaluationError for a value that is no number."""
    held = finite(values)
    if len(held) == 0:
        return NOTHING
    mean = float(held.mean())
    if len(held) == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(held) - 1) * held.std(ddof=1) / math.sqrt(len(held)))
    return Estimate(mean, mean - reach, mean + reach, len(held))


def median_of(values: Values) -> Estimate:
    """Median of (n,), between two of the values themselves, whatever their distribution.

    The interval runs from the k-th smallest to the k-th largest value with the largest k that misses at most 2.5 times in 100 on
    either side (Conover, Practical Nonparametric Statistics, 3rd edition, 3.2). Below 6 values there is none. Raises
    EvaluationError for a value that is no number.
    """
    held = np.sort(finite(values))
    if len(held) == 0:
        return NOTHING
    # P(fewer than k of n values lie below the median) <= (1 - CONFIDENCE) / 2
    missed = stats.binom.cdf(np.arange(len(held)), len(held), 0.5) <= (1 - CONFIDENCE) / 2
    k = int(missed.sum())
    low, high = (float(held[k - 1]), float(held[-k])) if k else (-math.inf, math.inf)
    return Estimate(float(np.median(held)), low, high, len(held))


def quantity(values: Values, statistic: Callable[[Rows], float]) -> Estimate:
    """Any statistic of n rows (n, ...), which are drawn together, so that what is paired stays paired.

    Percentile interval of RESAMPLES bootstrap samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3), the
    same each time; one row bounds nothing. A statistic that chance alone drives up, such as a distance of distributions, has no
    honest interval of this kind. Raises EvaluationError for a value, or a result of the statistic, that is no number.
    """
    held = finite(values, rows=True)
    if len(held) == 0:
        return NOTHING

    def of_rows(index: npt.NDArray[np.int64]) -> float:
        result = float(statistic(held[index]))
        if not math.isfinite(result):
            raise EvaluationError(f"the statistic of {len(index)} rows is {result}, not a number")
        return result

    whole = np.arange(len(held))
    value = of_rows(whole)
    if len(held) == 1:
        return Estimate(value, -math.inf, math.inf, 1)
    drawn = stats.bootstrap(
        (whole,),
        of_rows,
        n_resamples=RESAMPLES,
        batch=1,
        vectorized=False,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(value, float(drawn.low), float(drawn.high), len(held))


def finite(values: Values, rows: bool = False) -> Rows:
    """(n,), or (n, ...) with `rows`, as float64. Raises EvaluationError for NaN or infinity, ValueError for another shape."""
    held = np.asarray(values, np.float64)
    if held.ndim == 0 or (held.ndim != 1 and not rows):
        raise ValueError(f"values are {'(n, ...)' if rows else '(n,)'}, not {held.shape}")
    if not np.isfinite(held).all():
        first = int(np.argwhere(~np.isfinite(held))[0][0])
        count = int((~np.isfinite(held)).sum())
        raise EvaluationError(
            f"{count} of {held.size} values are not finite, the first in row {first}: leave them out by a rule"
        )
    return held
