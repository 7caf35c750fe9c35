"""What the published bytes of a sidecar answer without a key: whether two faces share one, and whether a guess comes near one."""

from itertools import combinations
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks.near_keys import with_wrong_bit
from keyanon_core.evaluation.attacks.outcome import Attack, NotTriedError, Outcome, measured
from keyanon_core.evaluation.trial import Trial
from keyanon_core.faces.masks import PictureMask
from keyanon_core.keys import commitment
from keyanon_core.sidecar import SidecarFace, seal_source

PREFIX: Final = 16  # bytes: a PNG's signature and the head of its first chunk, in whatever it shows
GUESSES: Final = 200
PAIRS: Final = 6  # of the controls


def shares_a_key(first: SidecarFace, second: SidecarFace) -> bool:
    """Whether two faces' published bytes say that one key made both.

    Commitments are bound to the picture, and say it only of one picture; encrypted sources say it by their first bytes, since one
    key and one nonce encrypt equal bytes to equal bytes.
    """
    if first.source is not None and second.source is not None and first.source[:PREFIX] == second.source[:PREFIX]:
        return True
    return first.commitment == second.commitment


def _shared(trial: Trial, rng: np.random.Generator) -> Outcome:
    faces = [
        (picture.image_id, face) for picture in trial.pictures if picture.sidecar for face in picture.sidecar.faces
    ]
    if len(faces) < 2:
        raise NotTriedError("there are no published sidecars")
    pairs = list(combinations(faces, 2))
    sharing = [(a, b) for (a, first), (b, second) in pairs if shares_a_key(first, second)]
    result = measured(len(sharing), len(pairs), 0.0)

    def planted(keys: list[bytes]) -> list[SidecarFace]:
        mask = PictureMask.from_full(np.ones((8, 8), np.bool_))
        pixels = [rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in keys]
        sealed = [
            seal_source(one, mask, key, str(at), 0) for at, (one, key) in enumerate(zip(pixels, keys, strict=True))
        ]
        return [
            SidecarFace(commitment(key, f"{at}.jpg"), source=one)
            for at, (one, key) in enumerate(zip(sealed, keys, strict=True))
        ]

    def control(faces: list[SidecarFace]) -> int:
        return sum(shares_a_key(faces[0], other) for other in faces[1:])

    apart, same = planted([rng.bytes(32) for _ in range(PAIRS + 1)]), planted([rng.bytes(32)] * (PAIRS + 1))
    share = "share a key, and their sidecars say so" if sharing else "share a key by what their sidecars say"
    alike = sorted({image_id for pair in sharing for image_id in pair})
    return Outcome(
        result,
        negative=measured(control(apart), PAIRS, 0.0),
        positive=measured(control(same), PAIRS, 0.0),
        sentence=f"{len(sharing)} of {len(pairs)} pairs of faces {share}.",
        details={"keys shared by": ", ".join(alike)} if alike else {},
    )


def _near(trial: Trial, rng: np.random.Generator) -> Outcome:
    def nearer(held: bytes, right: bytes, other: bytes) -> bool:
        goal = int.from_bytes(held, "little")
        apart, strange = ((goal ^ int.from_bytes(one, "little")).bit_count() for one in (right, other))
        return apart < strange or (apart == strange and bool(rng.integers(2)))

    hits = luck = naive = 0
    for _ in range(GUESSES):
        key, stranger = rng.bytes(32), rng.bytes(32)
        near = with_wrong_bit(key, rng)
        held, guess, other = (commitment(one, "a.jpg") for one in (key, near, stranger))
        hits += nearer(held, guess, other)
        luck += nearer(held, commitment(rng.bytes(32), "a.jpg"), other)
        naive += nearer(key, near, stranger)
    result = measured(hits, GUESSES, 0.5)
    says = "says" if result.wins else "does not say"
    return Outcome(
        result,
        negative=measured(luck, GUESSES, 0.5),
        positive=measured(naive, GUESSES, 0.5),
        sentence=f"A sidecar's commitment {says} of a wrong key that it is nearly right: no guess can be improved.",
        details={"positive control": "a commitment that is the key itself"},
    )


ATTACKS: Final = (
    Attack(12, "keys shared by faces", "the published sidecars", _shared),
    Attack(12, "commitments of nearly right keys", "a commitment, and as many guesses as he likes", _near),
)
