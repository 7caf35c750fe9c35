"""The anonymity gate as an oracle: it takes keys until a face is far from its source, so the source may be who is farthest away.

How many keys were tried stands in the sealed key record alone; what is published of a face is the last one's.
"""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, linked, mislabelled, own_rank
from keyanon_core.evaluation.attacks.vectors import negative_distances
from keyanon_core.evaluation.trial import Trial


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    sources, shown = trial.identities["sources"], trial.identities["published"]
    own = -negative_distances(shown, sources)
    result = linked(own, rng)
    opposite = 2 * sources.mean(0) - sources
    gives = "gives" if result.wins else "does not give"
    return Outcome(
        result,
        negative=mislabelled(own, rng),
        positive=linked(-negative_distances(opposite, sources), rng),
        sentence=f"That the gate keeps faces away from their sources {gives} the source away as the person who is least alike.",
        details={
            "mean rank of the right face": own_rank(own),
            "positive control": "faces made opposite to their sources",
        },
    )


ATTACKS: Final = (
    Attack(15, "the gate as an oracle", "the published pictures, the source photographs, the gate's recognizer", _run),
)
