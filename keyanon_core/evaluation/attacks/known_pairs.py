"""Known pairs: who has the sources of half of the pictures learns what was done to them, and undoes it on the other half.

Under one key a rotation keeps every angle between two faces. So the angles of an unknown face's noise with those of known faces
are the angles of its source with their sources: all that known pairs give of it, whatever estimates it (least squares or
Procrustes). Sign flips keep them too.
"""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, linked, own_rank
from keyanon_core.evaluation.attacks.vectors import cosines, negative_distances
from keyanon_core.evaluation.trial import Bits, Stack, Trial


def angles(given: Stack, made: Stack, cells: Bits) -> Stack:
    """(m, m) scores of the second half's noise against the second half's sources, by their angles with the first half's.

    given, made, cells: (n, D), what the transform was given, what it made of it, and where.
    """
    half = len(given) // 2
    known, unknown = slice(0, half), slice(half, None)
    of_noise = cosines(made[unknown], cells[unknown], made[known], cells[known])
    of_sources = cosines(given[unknown], cells[unknown], given[known], cells[known])
    return negative_distances(of_noise, of_sources)


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    own = angles(planted.entered(trial), planted.noise(trial), trial.cells)
    result = linked(own, rng)
    given, made = planted.one_key(trial, rng)
    cells = np.broadcast_to(trial.cells[0], trial.cells.shape)
    known = "learns which of the other photographs is which" if result.wins else "learns nothing of the others"
    return Outcome(
        result,
        negative=linked(angles(planted.entered(trial), planted.from_sphere(trial, rng), trial.cells), rng),
        positive=linked(angles(given, made, cells), rng),
        sentence=f"Who has the source photographs of half of the pictures {known}: each picture has a key of its own. "
        "One key for all, as the positive control has it, would be found."
        if not result.wins
        else f"Who has the source photographs of half of the pictures {known}: keys are used more than once.",
        details={"mean rank of the right face": own_rank(own)},
    )


ATTACKS: Final = (
    Attack(
        2,
        "known pairs",
        "the published pictures and sidecars, the prior, the source photographs, and half of them by name",
        _run,
    ),
)
