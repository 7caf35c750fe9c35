"""What an attack comes to, and when it has won.

Every attack is a number of tries that each succeed or fail, beside what guessing would reach. It wins when guessing would hardly
ever have reached as much: when the exact binomial test against chance rejects at FALSE_ALARMS / LOOKS (Bonferroni). The 95 %
interval beside a figure is Clopper and Pearson's, and is for reading; it is not what decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from keyanon_core.evaluation.intervals import Estimate, proportion

if TYPE_CHECKING:
    from keyanon_core.evaluation.trial import Trial

FALSE_ALARMS: Final = 0.01  # probability that a whole suite finds a winner where nobody can do better than guess
LOOKS: Final = 100  # comparisons with chance in one suite, at most: each attack and its two controls


@dataclass(frozen=True)
class Measured:
    """How often something succeeded, what guessing reaches (both in [0, 1]), and whether that is more than guessing."""

    success: Estimate
    chance: float
    wins: bool

    @property
    def doubtful(self) -> bool:
        """Not won, but with chance below the interval: it may be the one time in forty, or a weak effect that more tries show."""
        return not self.wins and self.success.low > self.chance

    def __str__(self) -> str:
        low, high = 100 * self.success.low, 100 * self.success.high
        return f"{100 * self.success.value:.1f} % [{low:.1f}, {high:.1f}], chance {100 * self.chance:.1f} %"

    def to_dict(self) -> dict[str, Any]:
        return {"success": self.success.to_dict(), "chance": self.chance, "wins": self.wins}


def measured(successes: int, tries: int, chance: float, looks: int = 1) -> Measured:
    """successes of so many tries, each of which guessing gets right with probability `chance`; the best of so many looks."""
    by_luck = float(stats.binom.sf(successes - 1, tries, chance)) if tries else 1.0
    return Measured(proportion(successes, tries), chance, by_luck * looks < FALSE_ALARMS / LOOKS)


@dataclass(frozen=True)
class Outcome:
    """One attack's result, and its controls'. negative: where nothing can be found. positive: on a weakness made for it.

    sentence: what it means, for people. details: further figures by name.
    """

    measured: Measured
    negative: Measured
    positive: Measured
    sentence: str
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def conclusive(self) -> bool:
        """Whether the attack would have found something, and finds nothing where nothing is."""
        return self.positive.wins and not self.negative.wins


class NotTriedError(Exception):
    """An attack has nothing to be tried on here; says why."""


Run = Callable[["Trial", np.random.Generator], Outcome]


@dataclass(frozen=True)
class Attack:
    """number: the family's in the list of docs/attacks.md. holds: what its attacker has. promised: keyanon is made to withstand
    it; False for what is known to be seen, and measured to be told.
    """

    number: int
    name: str
    holds: str
    run: Run
    promised: bool = True


def linked(
    scores: npt.NDArray[np.float64], rng: np.random.Generator, *, anyway: float = 0.0, looks: int = 1
) -> Measured:
    """How often the best of a row's m scores is its own, column i of row i; among equals one is drawn. scores: (n, m), n <= m.

    anyway: share that is found without what is attacked; chance where that is more. looks: this is the best of so many.
    """
    best = scores == scores.max(axis=1, keepdims=True)
    chosen = np.where(best, rng.random(scores.shape), -1.0).argmax(1)
    hits = int((chosen == np.arange(len(scores))).sum())
    return measured(hits, len(scores), max(1 / scores.shape[1], anyway), looks)


def own_rank(scores: npt.NDArray[np.float64]) -> str:
    """The mean rank of the own column, for `Outcome.details`."""
    own = scores[np.arange(len(scores)), np.arange(len(scores))][:, None]
    ranks = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return f"{ranks.mean():.1f} of {scores.shape[1]} (guessing: {(scores.shape[1] + 1) / 2:.1f})"


def mislabelled(scores: npt.NDArray[np.float64], rng: np.random.Generator) -> Measured:
    """The same with the columns' names lost: what an attack reaches that knows nothing."""
    return linked(scores[:, rng.permutation(scores.shape[1])], rng)
