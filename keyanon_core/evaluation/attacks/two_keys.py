"""The same photograph twice, under two keys: does the one say which is the other?

Its surroundings do, which are published as they are; so does what a prior that sees the surroundings makes of them inside the
mask. The noise must not.
"""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, linked, mislabelled, own_rank
from keyanon_core.evaluation.attacks.vectors import cosines
from keyanon_core.evaluation.trial import Stack, Trial


def _noise(trial: Trial, rng: np.random.Generator) -> Outcome:
    again = trial.practice.seen.noise.reshape(len(trial), -1)

    def against(rows: Stack) -> Stack:
        return cosines(rows, trial.cells, again, trial.cells)

    own = against(planted.noise(trial))
    result = linked(own, rng)
    links = "links" if result.wins else "does not link"
    return Outcome(
        result,
        negative=linked(against(planted.from_sphere(trial, rng)), rng),
        positive=linked(against(again + rng.normal(scale=trial.target_rms / 2, size=again.shape)), rng),
        sentence=f"The noise of a face {links} it to the same photograph anonymized a second time under another key.",
        details={"mean rank of the right face": own_rank(own)},
    )


def _faces(trial: Trial, rng: np.random.Generator) -> Outcome:
    first, second = (
        np.where(trial.masks[:, None], crops, 0.0).reshape(len(trial), -1)
        for crops in (trial.published.crops, trial.practice.seen.crops)
    )
    cells = np.broadcast_to(trial.masks[:, None], trial.sources.shape).reshape(len(trial), -1)
    mean = np.where(cells, second, 0.0).sum(0) / np.maximum(cells.sum(0), 1)
    own = cosines(first - mean, cells, second - mean, cells)
    result = linked(own, rng)
    links = "can be linked" if result.wins else "can not be linked"
    return Outcome(
        result,
        negative=mislabelled(own, rng),
        positive=linked(cosines(second - mean, cells, second - mean, cells), rng),
        sentence=f"Two anonymized faces of one photograph {links} by their pixels alone: a prior makes a face that fits its "
        "surroundings, in tone and light. The surroundings themselves, published unchanged, link them in any case.",
        details={"mean rank of the right face": own_rank(own)},
    )


ATTACKS: Final = (
    Attack(13, "two keys, by the noise", "the same photographs published twice, the prior", _noise),
    Attack(13, "two keys, by the faces' pixels", "the same photographs published twice", _faces, promised=False),
)
