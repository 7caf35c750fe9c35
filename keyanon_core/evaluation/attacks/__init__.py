"""Attacks on what a run publishes, family by family as in docs/attacks.md."""

from typing import Final

from keyanon_core.evaluation.attacks import (
    attributes,
    brute_force,
    carriers,
    climbing,
    detection,
    fields,
    gate,
    known_pairs,
    learned,
    linkage,
    missed,
    near_keys,
    oracles,
    recognition,
    tampering,
    two_keys,
)
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, NotTriedError, Outcome

__all__ = ["ATTACKS", "NOT_COVERED", "Attack", "Measured", "NotTriedError", "Outcome"]

_FAMILIES: Final = (
    linkage,
    known_pairs,
    near_keys,
    climbing,
    brute_force,
    recognition,
    learned,
    detection,
    attributes,
    oracles,
    two_keys,
    fields,
    tampering,
    gate,
    missed,
    carriers,
)
ATTACKS: Final[tuple[Attack, ...]] = tuple(
    sorted((attack for family in _FAMILIES for attack in family.ATTACKS), key=lambda attack: attack.number)
)
"""All of them, by the number of their family."""

NOT_COVERED: Final = (
    "hill climbing on realism where a run inverts faces to noise first",
    "attackers with networks trained on large sets of faces, and with other recognizers than the run's",
    "other photographs of the same people: galleries hold the source photographs",
    "age, gender and other attributes than the tone of the skin",
    "pictures over time, video, and what is known of people from elsewhere",
)
"""What none of them tries, for people who read what they came to."""
