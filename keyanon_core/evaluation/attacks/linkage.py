"""Whose face is it? The noise of a published face against a gallery of sources, by what a transform might leave of them.

Sorted magnitudes survive sign flips and permutations; the norm survives any rotation that is not scaled; a projection survives
where few coordinates are keyed.

What is read from a picture is compared without the rim of the mask: there the pixels beside the mask, which are published as they
were, are mixed in, and link a face to its source whatever the transform is.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, linked, own_rank
from keyanon_core.evaluation.attacks.vectors import cosines, negative_distances, standardized
from keyanon_core.evaluation.trial import Bits, Stack, Trial

QUANTILES: Final = 64  # of the magnitudes; faces have different numbers of cells

Scores = Callable[[Trial, Stack, Bits], Stack]
"""(n, n) of noise (n, D), on some of its cells (n, D), against the gallery of the trial's sources."""


def by_magnitudes(trial: Trial, noise: Stack, cells: Bits) -> Stack:
    """Sorted |zT| of unit rms."""
    seen, known = (_magnitudes(rows, cells) for rows in (noise, planted.entered(trial)))
    return negative_distances(seen, known)


def by_norm(trial: Trial, noise: Stack, cells: Bits) -> Stack:
    """Rms; how far from the mean of all, so that a common factor does not matter."""
    seen, known = (standardized(_rms(rows, cells)[:, None]) for rows in (noise, planted.entered(trial)))
    return negative_distances(seen, known)


def by_projections(trial: Trial, noise: Stack, cells: Bits) -> Stack:
    """Cosine with each source."""
    whole = trial.entering.reshape(len(trial), -1)
    everywhere = np.ones_like(trial.cells) if trial.procedure.inversion == "none" else trial.cells
    return cosines(noise, cells, whole, everywhere)


def _rms(rows: Stack, cells: Bits) -> Stack:
    return np.asarray(np.sqrt(np.where(cells, np.square(rows), 0.0).sum(1) / cells.sum(1)))


def _magnitudes(rows: Stack, cells: Bits) -> Stack:
    levels = np.linspace(0, 1, QUANTILES)
    sorted_ = [np.quantile(np.abs(row[where]), levels) for row, where in zip(rows, cells, strict=True)]
    return np.stack(sorted_) / _rms(rows, cells)[:, None]


Weak = Callable[[Trial, np.random.Generator], Stack]
"""(n, D) noise that a weak way to hide the faces would have made."""


def _attack(name: str, scores: Scores, weak: Weak, leaves: str, *, sidecar: bool) -> Attack:
    """leaves: what a transform does against which it wins, for people."""
    held = "the published pictures and sidecars" if sidecar else "the published pictures without sidecars"

    def run(trial: Trial, rng: np.random.Generator) -> Outcome:
        seen, cells = (trial.published, trial.cells) if sidecar else (trial.read_back, trial.inner_cells)
        own = scores(trial, seen.noise.reshape(len(trial), -1), cells)
        result = linked(own, rng)
        found, why = ("finds", f": the keyed transform {leaves}") if result.wins else ("does not find", "")
        return Outcome(
            result,
            negative=linked(scores(trial, planted.from_sphere(trial, rng), cells), rng),
            positive=linked(scores(trial, weak(trial, rng), cells), rng),
            sentence=f"Who has a gallery of the source photographs {found} whose face it is by the {name} of the noise{why}.",
            details={"mean rank of the right face": own_rank(own)},
        )

    where = "sidecar" if sidecar else "8-bit picture"
    return Attack(1, f"gallery linkage by {name}, from the {where}", f"{held}, the prior, the source photographs", run)


ATTACKS: Final = tuple(
    _attack(name, scores, weak, leaves, sidecar=sidecar)
    for sidecar in (True, False)
    for name, scores, weak, leaves in (
        ("sorted magnitudes", by_magnitudes, planted.signs, "leaves every number its size, as flipped signs do"),
        (
            "norm",
            by_norm,
            planted.unscaled,
            "leaves the numbers of a face as large together as they were: it does not scale",
        ),
        (
            "projections",
            by_projections,
            planted.few_signs,
            "leaves most of a face as it was, as too few flipped signs do",
        ),
    )
)
