"""What an anonymized face says of the person: the tone of the skin, by groups.

A prior that sees the surroundings makes a face that fits them, so that groups show; and what is not replaced (hair, clothes) says
more than any face. This is measured to be told, not promised away.
"""

from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, Measured, NotTriedError, Outcome, measured
from keyanon_core.evaluation.attacks.recognition import faintly_hidden
from keyanon_core.evaluation.quality import cheek_typology_angle, skin_tone
from keyanon_core.evaluation.recovery import Crops
from keyanon_core.evaluation.trial import Trial, pictures_of


def skin_tones(trial: Trial, crops: Crops) -> list[str]:
    """The group of each face's skin by Chardon's typology angle."""
    return [skin_tone(cheek_typology_angle(pixels, trial.standing.landmarks)) for pixels in pictures_of(crops)]


def _agreeing(said: list[str], true: list[str]) -> Measured:
    """Chance: what two draws from what is said and what is true agree in."""
    groups = set(said) | set(true)
    chance = sum(said.count(group) * true.count(group) for group in groups) / len(true) ** 2
    return measured(sum(a == b for a, b in zip(said, true, strict=True)), len(true), chance)


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    true = skin_tones(trial, trial.sources)
    if len(set(true)) < 2:
        raise NotTriedError(f"all faces are of one group ({true[0]})")
    said = skin_tones(trial, trial.published.crops)
    result = _agreeing(said, true)
    shuffled = [said[at] for at in rng.permutation(len(said))]
    tells = "tells" if result.wins else "does not tell"
    return Outcome(
        result,
        negative=_agreeing(shuffled, true),
        positive=_agreeing(skin_tones(trial, faintly_hidden(trial, rng)), true),
        sentence=f"An anonymized face {tells} whether the person's skin is light, intermediate or dark.",
        details={
            group: f"{true.count(group)} people, {said.count(group)} anonymized faces" for group in sorted(set(true))
        },
    )


ATTACKS: Final = (Attack(11, "skin tone, by groups", "the published pictures", _run, promised=False),)
