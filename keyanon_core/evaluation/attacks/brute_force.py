"""Guessing keys: every seed of 16 bits, made into a key in the ways in which programs make one of a seed.

A sidecar's commitment says of a guess at once whether it is right, so guessing costs no denoiser. That finds keys of 16 bits in
seconds, and tells nothing of keys of 256 bits, which the run draws: that they are not found is an argument of numbers, which the
sentence gives, and not of this test.
"""

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.outcome import Attack, Measured, Outcome, measured
from keyanon_core.evaluation.trial import Trial
from keyanon_core.keys import IMAGE_KEY_BYTES, commitment, face_key

SEED_BITS: Final = 16
FACES_TRIED: Final = 2  # of a run; what they have in common is how keys are made
PLANTED: Final = 1  # of the controls
KEY_BITS: Final = 8 * IMAGE_KEY_BYTES
GUESSES_PER_SECOND: Final = 1e12  # of an attacker with a data centre, for the sentence
SECONDS_PER_YEAR: Final = 365.25 * 86400

DERIVATIONS: Final[dict[str, Callable[[int], bytes]]] = {
    "the seed itself, little-endian": lambda seed: seed.to_bytes(IMAGE_KEY_BYTES, "little"),
    "SHA-256 of its four bytes": lambda seed: hashlib.sha256(seed.to_bytes(4, "little")).digest(),
    "Python's random.Random": lambda seed: random.Random(seed).randbytes(IMAGE_KEY_BYTES),
}

Target = tuple[str, int, bytes]
"""Image id, index of the face, its commitment."""


def found_keys(targets: Sequence[Target], transform: str, derivations: Sequence[str] = tuple(DERIVATIONS)) -> list[str]:
    """For each target how its key was made of a seed of SEED_BITS, "" where no guess is right. First attempts only."""
    ways = [""] * len(targets)
    for way in derivations:
        derive = DERIVATIONS[way]
        for seed in range(1 << SEED_BITS):
            image_key = derive(seed)
            keys = {index: face_key(image_key, index, 0, transform) for index in {index for _, index, _ in targets}}
            for at, (image_id, index, expected) in enumerate(targets):
                if commitment(keys[index], image_id) == expected:
                    ways[at] = way
            if all(ways):
                return ways
    return ways


def _planted(trial: Trial, keys: Sequence[bytes]) -> list[Target]:
    transform = trial.procedure.transform
    return [(f"{at}.jpg", 0, commitment(face_key(key, 0, 0, transform), f"{at}.jpg")) for at, key in enumerate(keys)]


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    transform = trial.procedure.transform
    targets = list(trial.commitments[:FACES_TRIED]) or _planted(trial, [rng.bytes(32) for _ in range(FACES_TRIED)])
    begun = time.process_time()
    ways = found_keys(targets, transform)
    rate = len(DERIVATIONS) * (1 << SEED_BITS) * len(targets) / max(time.process_time() - begun, 1e-9)

    def control(keys: Sequence[bytes]) -> Measured:
        way = next(iter(DERIVATIONS))
        hits = found_keys(_planted(trial, keys), transform, [way])
        return measured(sum(map(bool, hits)), len(hits), 0.0)

    result = measured(sum(map(bool, ways)), len(ways), 0.0)
    years = 2.0**KEY_BITS / 2 / GUESSES_PER_SECOND / SECONDS_PER_YEAR
    sentence = (
        f"None of {len(targets)} keys tried is one of {1 << SEED_BITS} seeds. Keys have {KEY_BITS} random bits: half take "
        f"{years:.0e} years at {GUESSES_PER_SECOND:.0e} guesses a second; that is an argument, which no test can replace."
    )
    if result.wins:
        sentence = f"Keys were guessed: each is made of a seed of {SEED_BITS} bits ({max(ways)})."
    seeds = [int(seed) for seed in rng.integers(1 << SEED_BITS, size=PLANTED)]
    return Outcome(
        result,
        negative=control([rng.bytes(32) for _ in range(PLANTED)]),
        positive=control([DERIVATIONS[next(iter(DERIVATIONS))](seed) for seed in seeds]),
        sentence=sentence,
        details={
            **({} if result.wins else {"guesses a second, one core": f"{rate:.0f}"}),
            "of the run's own faces": str(len(trial.commitments) > 0),
        },
    )


ATTACKS: Final = (
    Attack(
        5, "brute force of short seeds", "the published sidecars, whose commitments say when a guess is right", _run
    ),
)
