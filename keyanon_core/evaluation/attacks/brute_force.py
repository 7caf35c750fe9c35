"""Guessing keys: every seed of 16 bits, made into a key in the ways in which programs make one of a seed.

A sidecar's commitment says of a guess at once whether it is right, so guessing costs no denoiser. That finds keys of 16 bits in
seconds, and tells nothing of keys of 256 bits, which the run draws: that they are not found is an argument of numbers, which the
sentence gives, and not of this test.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, Outcome, measured
from keyanon_core.evaluation.trial import Trial
from keyanon_core.keys import IMAGE_KEY_BYTES, commitment, commitment_key, committed, face_key

SEED_BITS: Final = 16
PICTURES_TRIED: Final = 24  # of a run; what they have in common is how keys are made
KEY_BITS: Final = 8 * IMAGE_KEY_BYTES
GUESSES_PER_SECOND: Final = 1e12  # of an attacker with a data centre, for the sentence
SECONDS_PER_YEAR: Final = 365.25 * 86400

DERIVATIONS: Final[dict[str, Callable[[int], bytes]]] = {
    "the seed itself, little-endian": lambda seed: seed.to_bytes(IMAGE_KEY_BYTES, "little"),
    "SHA-256 of its four bytes": lambda seed: hashlib.sha256(seed.to_bytes(4, "little")).digest(),
    "Python's random.Random": lambda seed: random.Random(seed).randbytes(IMAGE_KEY_BYTES),
}

Target = tuple[str, bytes]
"""Image id, and the commitment of its first face."""


def found_keys(
    targets: Sequence[Target], transform: str, derivations: Sequence[str] = tuple(DERIVATIONS)
) -> tuple[set[str], str]:
    """The images whose key is made of a seed of SEED_BITS, and how: the first way in which one is, () and "" where none is.

    Of a face the first key alone is guessed, which is the published one of one face in eight: the gate asks for so many in the
    mean. Hence many pictures, which cost next to nothing, and not many keys of each, which cost as much as the first.
    """
    for way in derivations:
        found = set()
        for seed in range(1 << SEED_BITS):
            key = commitment_key(face_key(DERIVATIONS[way](seed), 0, 0, transform))
            found |= {image_id for image_id, expected in targets if committed(key, image_id) == expected}
        if found:
            return found, way
    return set(), ""


def _planted(keys: Mapping[str, bytes], transform: str) -> list[Target]:
    return [(image_id, commitment(face_key(key, 0, 0, transform), image_id)) for image_id, key in keys.items()]


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    transform = trial.procedure.transform
    published = [(image_id, expected) for image_id, index, expected in trial.commitments if index == 0]
    targets = published[:PICTURES_TRIED] or _planted({"a.jpg": rng.bytes(IMAGE_KEY_BYTES)}, transform)
    begun = time.process_time()
    found, way = found_keys(targets, transform)
    rate = len(DERIVATIONS) * (1 << SEED_BITS) / max(time.process_time() - begun, 1e-9)
    result = measured(len(found), len(targets), 0.0)
    years = 2.0**KEY_BITS / 2 / GUESSES_PER_SECOND / SECONDS_PER_YEAR
    sentence = (
        f"No key of {len(targets)} pictures is made of one of {1 << SEED_BITS} seeds. Keys have {KEY_BITS} random bits: half "
        f"take {years:.0e} years at {GUESSES_PER_SECOND:.0e} guesses a second; that is an argument, which no test can replace."
    )
    if found:
        sentence = (
            f"Keys were guessed, of {len(found)} of {len(targets)} pictures: each is made of a seed of {SEED_BITS} bits ({way}). "
            "Whoever has a sidecar finds its key in a minute."
        )
    easiest = next(iter(DERIVATIONS))
    seed = int(rng.integers(1 << SEED_BITS))
    controls = {"random.jpg": rng.bytes(IMAGE_KEY_BYTES), "seeded.jpg": DERIVATIONS[easiest](seed)}
    guessed, _ = found_keys(_planted(controls, transform), transform, [easiest])
    return Outcome(
        result,
        negative=measured("random.jpg" in guessed, 1, 0.0),
        positive=measured("seeded.jpg" in guessed, 1, 0.0),
        sentence=sentence,
        details={
            **({"keys guessed of": ", ".join(sorted(found))} if found else {"seeds a second, one core": f"{rate:.0f}"}),
            "of the run's own faces": str(len(published) > 0),
        },
    )


ATTACKS: Final = (
    Attack(
        5, "brute force of short seeds", "the published sidecars, whose commitments say when a guess is right", _run
    ),
)
