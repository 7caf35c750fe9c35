"""Recognizers: the plain one, one enrolled with faces that its owner anonymized himself (a parrot), and one that sees what stays.

The crops that are recognized are the prior's: the face and some hair. Their surroundings are the source's, bit for bit, and say
who it is to anybody who has the photograph; where that is not the question they are blanked.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, linked, mislabelled, own_rank
from keyanon_core.evaluation.attacks.vectors import negative_distances
from keyanon_core.evaluation.recovery import Crops
from keyanon_core.evaluation.trial import Bits, Stack, Trial

FAINT: Final = 0.05  # standard deviation of the noise that the positive controls hide a face under: none to speak of


def inside_only(crops: Crops, masks: Bits) -> Crops:
    """Surroundings grey."""
    return np.where(masks[:, None], crops, 0.0)


def outside_only(crops: Crops, masks: Bits) -> Crops:
    """Faces grey."""
    return np.where(masks[:, None], 0.0, crops)


def _mirrored(crops: Crops) -> Crops:
    return np.ascontiguousarray(crops[..., ::-1])


def faintly_hidden(trial: Trial, rng: np.random.Generator) -> Crops:
    noise = rng.normal(scale=FAINT, size=trial.sources.shape)
    return np.where(trial.masks[:, None], trial.sources + noise, trial.sources)


Views = Callable[[Trial, Crops], Stack]
"""Identity vectors of anonymized crops, or of the gallery's, as an attack looks at them."""


def _whole(trial: Trial, crops: Crops) -> Stack:
    return trial.embedded(crops)


def _face(trial: Trial, crops: Crops) -> Stack:
    return trial.embedded(inside_only(crops, trial.masks))


def _surroundings(trial: Trial, crops: Crops) -> Stack:
    return trial.embedded(outside_only(crops, trial.masks))


def _attack(
    number: int,
    name: str,
    holds: str,
    views: Views,
    gallery: Callable[[Trial], Stack],
    sentences: tuple[str, str],
    *,
    promised: bool,
) -> Attack:
    """sentences: where it wins, and where not. The positive control shows the sources under FAINT noise, against themselves."""

    def run(trial: Trial, rng: np.random.Generator) -> Outcome:
        own = negative_distances(views(trial, trial.published.crops), gallery(trial))
        result = linked(own, rng)
        plain = negative_distances(_whole(trial, faintly_hidden(trial, rng)), trial.identities["sources"])
        return Outcome(
            result,
            negative=mislabelled(own, rng),
            positive=linked(plain, rng),
            sentence=sentences[0] if result.wins else sentences[1],
            details={"mean rank of the right face": own_rank(own)},
        )

    return Attack(number, name, holds, run, promised)


ATTACKS: Final = (
    _attack(
        6,
        "parrot recognition, of the face alone",
        "the published pictures, the prior, the source photographs anonymized once more under keys of his own",
        _face,
        lambda trial: _face(trial, trial.practice.seen.crops),
        (
            "Faces that are made in the same surroundings look alike under different keys: a recognizer that is enrolled with "
            "faces anonymized anew from the same photographs tells them apart.",
            "A recognizer that is enrolled with faces anonymized anew from the same photographs does not find the person.",
        ),
        promised=False,
    ),
    _attack(
        6,
        "plain recognition, of the face alone",
        "the published pictures, the source photographs, a recognizer",
        _face,
        lambda trial: _face(trial, trial.sources),
        (
            "A recognizer finds the person by the anonymized face.",
            "A recognizer does not find the person by the anonymized face.",
        ),
        promised=True,
    ),
    _attack(
        10,
        "identity from what stays visible",
        "the published pictures with the masks blanked, the source photographs (mirrored), a recognizer",
        _surroundings,
        lambda trial: trial.embedded(_mirrored(trial.sources)),
        (
            "Hair and background are published as they were: a recognizer finds the person by them in a gallery.",
            "A recognizer does not find the person by what is published unchanged around the face; people who know the "
            "photograph do.",
        ),
        promised=False,
    ),
)
