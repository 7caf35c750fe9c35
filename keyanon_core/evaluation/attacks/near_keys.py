"""Nearly right keys: what a key with one wrong bit restores, and what a transform would that is partly wrong.

A key with one wrong bit gives another transform altogether, since every derived key is an HKDF of it. How much of the
transform itself an attacker would have to know is the graded part: signs and places of each round, that share of them wrong.
"""

from typing import Final, Protocol

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, Outcome, linked, own_rank
from keyanon_core.evaluation.attacks.vectors import cosines
from keyanon_core.evaluation.trial import Stack, Trial
from keyanon_core.keys import subkey
from keyanon_core.transforms import Rotation, SignFlip, Vector

SHARES: Final = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)  # of a transform that are wrong


class _Inverse(Protocol):
    def inverse(self, values: Vector, scale: float) -> Vector: ...


class DamagedRotation(Rotation):
    """A rotation of which each round has a share of its signs turned and of its places exchanged."""

    def __init__(self, key: bytes, n: int, share: float, rng: np.random.Generator) -> None:
        super().__init__(key, n)
        wrong = round(share * n)
        for signs, order in self._rounds:
            signs[rng.choice(n, wrong, replace=False)] *= -1
            places = rng.choice(n, wrong, replace=False)
            order[places] = order[rng.permutation(places)]


class DamagedSigns(SignFlip):
    """Sign flips of which a share is wrong."""

    def __init__(self, key: bytes, n: int, share: float, rng: np.random.Generator) -> None:
        super().__init__(key, n)
        self._signs[rng.choice(n, round(share * n), replace=False)] *= -1


def with_wrong_bit(key: bytes, rng: np.random.Generator) -> bytes:
    """The key with one of its bits turned."""
    at = int(rng.integers(8 * len(key)))
    return (int.from_bytes(key, "little") ^ 1 << at).to_bytes(len(key), "little")


def restored(trial: Trial, keys: list[bytes], rng: np.random.Generator, share: float = 0.0) -> Stack:
    """(n, D): what K^-1 makes of the practice faces under other keys, or under damaged transforms. Of their carriers an attacker
    knows all here."""
    noise = trial.practice.turned.reshape(len(trial), -1)
    made = np.zeros_like(noise)
    method, name = trial.procedure.method, trial.procedure.transform
    kind = DamagedRotation if name == "rotation" else DamagedSigns
    of_all = np.ones(noise.shape[1], np.bool_)  # the signs of method paper are those of the whole latent
    for i, key in enumerate(keys):
        where = of_all if (method, name) == ("paper", "sign") else trial.cells[i]
        transform: _Inverse = kind(subkey(key, "transform"), int(where.sum()), share, rng)
        made[i, where] = transform.inverse(noise[i, where], float(trial.practice.scale[i]))
    return made


def _found(trial: Trial, made: Stack) -> Stack:
    return cosines(made, trial.cells, planted.entered(trial), trial.cells)


def _run(trial: Trial, rng: np.random.Generator) -> Outcome:
    keys = list(trial.practice.keys)
    own = _found(trial, restored(trial, [with_wrong_bit(key, rng) for key in keys], rng))
    result = linked(own, rng)
    graded: dict[str, Measured] = {}
    details = {"mean rank of the right face": own_rank(own)}
    for share in SHARES:
        scores = _found(trial, restored(trial, keys, rng, share))
        graded[f"{share:.1%}"] = found = linked(scores, rng)
        likeness = float(np.median(np.diagonal(scores)))
        details[f"{100 * share:g} % of the transform wrong"] = f"cosine {likeness:.3f}, found {found}"
    with_bit = "still leads to the person" if result.wins else "is as useless as any other key"
    return Outcome(
        result,
        negative=linked(_found(trial, restored(trial, [rng.bytes(32) for _ in keys], rng)), rng),
        positive=graded[f"{SHARES[0]:.1%}"],
        sentence=f"A key with one wrong bit {with_bit}. The details say how much of the transform itself, which no key that "
        "is nearly right gives, would have to be known.",
        details=details,
    )


ATTACKS: Final = (
    Attack(3, "nearly right keys", "the published noise, the scale, and the right key but for one bit", _run),
)
