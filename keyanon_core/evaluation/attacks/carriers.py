"""Consistent pseudonyms: what the carrier that a person's pictures share tells, of other data sets, of names, and of sources.

The carrier is nearly all of a face's noise, so whoever has several pictures of one person knows it to a few percent, and that
they show one person, which is what it is for. It must lead to no other data set, be nothing that a guessed name could be tested
with, and leave of the source what a rotation without it leaves: nothing.

A run's own carriers are secret, and of each subject one picture is attacked. So the further pictures of a subject, and all that
an attacker is given a key of, are made here as noise, which is what the way back from a published face ends in.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Final

import numpy as np
import torch

from keyanon_core.carriers import carrier, put_on, take_off
from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.known_pairs import SURE, angles
from keyanon_core.evaluation.attacks.linkage import by_projections
from keyanon_core.evaluation.attacks.outcome import (
    Attack,
    Measured,
    NotTriedError,
    Outcome,
    Run,
    linked,
    measured,
    own_rank,
)
from keyanon_core.evaluation.attacks.vectors import cosines
from keyanon_core.evaluation.trial import Bits, Stack, Trial
from keyanon_core.keys import derived, face_key, subkey
from keyanon_core.pseudonyms import carrier_key
from keyanon_core.transforms import keyed_transform

Keys = list[bytes]
Rows = Stack  # (n, C h w), zero outside the masks

SHARE: Final = 0.2  # payload's, where a control needs one and the run has none
PICTURES: Final = 8  # of each person, of which an attacker knows the noise
NUMBERS: Final = (
    8  # of a subject's carriers that are guessed, from the first on: one of them passes the gate nearly always
)
ATTEMPTS: Final = 4  # keys that a released image key gives a face

GUESSES: Final[dict[str, Callable[[str], bytes]]] = {
    "the name's own bytes": lambda name: name.encode()[:32].ljust(32, b"\0"),
    "SHA-256 of the name": lambda name: hashlib.sha256(name.encode()).digest(),
    "HKDF of the name, without a secret": lambda name: derived(bytes(32), "pseudonym", name.encode()),
}
"""Ways in which a secret could be made of a name."""


def fresh(trial: Trial, rng: np.random.Generator) -> Keys:
    """A carrier's key for each face, of a data set of its own."""
    return [carrier_key(rng.bytes(32), 0) for _ in range(len(trial))]


def on_carriers(trial: Trial, payload: Rows, carrier_keys: Keys) -> Rows:
    """Noise of the trial's target rms, put on carriers. payload: (n, D), what a transform made; the cells are its own."""
    return _changed(put_on, trial, payload, carrier_keys)


def off_carriers(trial: Trial, noise: Rows, carrier_keys: Keys) -> Rows:
    """Undoes `on_carriers`."""
    return _changed(take_off, trial, noise, carrier_keys)


def _changed(change: Callable[..., torch.Tensor], trial: Trial, rows: Rows, carrier_keys: Keys) -> Rows:
    held = torch.from_numpy(rows.reshape(trial.entering.shape))
    inside = torch.ones(len(rows), 1, *held.shape[2:], dtype=torch.float64)
    made = change(held, inside, carrier_keys, _share(trial), trial.target_rms).numpy().reshape(len(rows), -1)
    return np.asarray(np.where(rows != 0, made, 0.0))


def _share(trial: Trial) -> float:
    share = trial.procedure.payload_share
    return share if share < 1 else SHARE


def turned(trial: Trial, given: Rows, cells: Bits, keys: Keys) -> Rows:
    """What the rotation makes of each row under its key, of the trial's target rms."""
    made = np.zeros_like(given)
    for row, result, where, key in zip(given, made, cells, keys, strict=True):
        result[where] = keyed_transform("rotation", key, int(where.sum())).forward(row[where], trial.target_rms)[0]
    return made


def _averaged(trial: Trial, carrier_keys: Keys, rng: np.random.Generator) -> Rows:
    """The carriers as who has PICTURES of each person learns them: means of their noise, whose payloads are as good as drawn."""
    payloads = [planted.from_sphere(trial, rng) for _ in range(PICTURES)]
    return np.asarray(np.mean([on_carriers(trial, payload, carrier_keys) for payload in payloads], axis=0))


def _two_sets(trial: Trial, rng: np.random.Generator) -> Outcome:
    here, there = fresh(trial, rng), _averaged(trial, fresh(trial, rng), rng)

    def against(rows: Rows, known: Rows) -> Stack:
        return cosines(rows, trial.cells, known, trial.cells)

    own = against(planted.noise(trial), there)
    result = linked(own, rng)
    same = on_carriers(trial, planted.from_sphere(trial, rng), here)
    return Outcome(
        result,
        negative=linked(against(planted.from_sphere(trial, rng), there), rng),
        positive=linked(against(same, _averaged(trial, here, rng)), rng),
        sentence=f"A person's pseudonym in one data set {'leads' if result.wins else 'does not lead'} to the same person's in "
        f"another, of which {PICTURES} pictures of each person are known.",
        details={"mean rank of the right person": own_rank(own)},
    )


def alike(noise: Rows, cells: Bits, share: float) -> list[tuple[int, int]]:
    """Pairs of faces on one carrier: by a cosine of at least half of what such have, which chance does not reach."""
    scores = cosines(noise, cells, noise, cells)
    common = cells.astype(np.float64) @ cells.T.astype(np.float64)
    bound = np.maximum((1 - share**2) / 2, SURE / np.sqrt(np.maximum(common, 1)))
    return [pair for pair in combinations(range(len(noise)), 2) if scores[pair] > bound[pair]]


def _shared(trial: Trial, rng: np.random.Generator) -> Outcome:
    pairs = len(trial) * (len(trial) - 1) // 2

    def found(rows: Rows) -> list[tuple[int, int]]:
        return alike(rows, trial.cells, _share(trial))

    def control(carrier_keys: Keys) -> Measured:
        rows = on_carriers(trial, planted.from_sphere(trial, rng), carrier_keys)
        return measured(len(found(rows)), pairs, 0.0)

    own = found(planted.noise(trial))
    named = sorted({trial.named(face) for pair in own for face in pair})
    return Outcome(
        measured(len(own), pairs, 0.0),
        negative=control(fresh(trial, rng)),
        positive=control(fresh(trial, rng)[:1] * len(trial)),
        sentence=f"{len(own)} of {pairs} pairs of people are on one carrier"
        + (": their pictures pass for one person's." if own else ", which their noise would show."),
        details={"carriers shared by": ", ".join(named)} if own else {},
    )


def _guessed(trial: Trial, rng: np.random.Generator) -> Outcome:
    names = [trial.whom(face) for face in range(len(trial))]

    def tested(rows: Rows, ways: Sequence[str], numbers: int) -> Stack:
        """(n, n): the best that a guess of each name's carrier comes to."""
        best = np.full((len(rows), len(names)), -np.inf)
        for way in ways:
            for number in range(numbers):
                keys = [carrier_key(GUESSES[way](name), number) for name in names]
                guesses = np.stack([carrier(key, trial.entering.shape[1:]).numpy().ravel() for key in keys])
                best = np.maximum(best, cosines(rows, trial.cells, guesses, np.ones_like(trial.cells)))
        return best

    own = tested(planted.noise(trial), tuple(GUESSES), NUMBERS)
    result = linked(own, rng)
    easiest = next(iter(GUESSES))
    weak = on_carriers(
        trial, planted.from_sphere(trial, rng), [carrier_key(GUESSES[easiest](name), 0) for name in names]
    )
    return Outcome(
        result,
        negative=linked(tested(planted.from_sphere(trial, rng), [easiest], 1), rng),
        positive=linked(tested(weak, [easiest], 1), rng),
        sentence="Who guesses the people's names can tell whose face a picture stands for: carriers are made of names alone."
        if result.wins
        else "Who guesses the people's names can not test a guess: a carrier is made of a secret, and of no name.",
        details={
            "best cosine of a guess": f"{own.max():.3f}",
            "mean rank of the right name": own_rank(own),
            "ways that were tried": ", ".join(GUESSES),
        },
    )


def _released(trial: Trial, rng: np.random.Generator) -> Outcome:
    given, carrier_keys = planted.entered(trial), fresh(trial, rng)
    released, kept = ([rng.bytes(32) for _ in range(len(trial))] for _ in range(2))

    def key(image_key: bytes, face: int, attempt: int = 0) -> bytes:
        return subkey(face_key(image_key, 0, attempt, "rotation", carrier_keys[face]), "transform")

    def opened(noise: Rows) -> Stack:
        """(n, n): what the released keys make of other pictures of the same people, against the sources."""
        payload = off_carriers(trial, noise, carrier_keys)
        best = np.full((len(noise), len(noise)), -np.inf)
        for attempt in range(ATTEMPTS):
            made = np.zeros_like(payload)
            for face, where in enumerate(trial.cells):
                transform = keyed_transform("rotation", key(released[face], face, attempt), int(where.sum()))
                made[face, where] = transform.inverse(payload[face, where], 1.0)
            best = np.maximum(best, cosines(made, trial.cells, given, trial.cells))
        return best

    def published(image_keys: Keys) -> Rows:
        payload = turned(trial, given, trial.cells, [key(one, face) for face, one in enumerate(image_keys)])
        return on_carriers(trial, payload, carrier_keys)

    own = opened(published(kept))
    result = linked(own, rng)
    return Outcome(
        result,
        negative=linked(opened(on_carriers(trial, planted.from_sphere(trial, rng), carrier_keys)), rng),
        positive=linked(opened(published(released)), rng),
        sentence=f"The keys of one released picture, its carrier's too, {'open' if result.wins else 'do not open'} another "
        "picture of the same person.",
        details={"mean rank of the right face": own_rank(own)},
    )


def _of_one_person(
    trial: Trial, made: Callable[[Rows, Bits], Rows], rng: np.random.Generator
) -> tuple[Rows, Rows, Bits]:
    """One person's pictures, of the trial's sources inside the first one's mask: what was given, of unit rms, and their noise on
    one carrier, of which every attacker here takes off a mean.

    made: payloads of what is given.
    """
    cells = np.broadcast_to(trial.cells[0], trial.cells.shape)
    given = np.where(cells, trial.entering.reshape(len(trial), -1), 0.0)
    given /= np.sqrt(np.square(given).sum(1) / cells.sum(1))[:, None]
    return given, on_carriers(trial, made(given, cells), fresh(trial, rng)[:1] * len(trial)), cells


def _own_keys(trial: Trial, rng: np.random.Generator) -> Callable[[Rows, Bits], Rows]:
    return lambda given, cells: turned(trial, given, cells, [rng.bytes(32) for _ in range(len(trial))])


def _pairs(trial: Trial, rng: np.random.Generator) -> Outcome:
    def scored(made: Callable[[Rows, Bits], Rows]) -> Stack:
        *both, cells = _of_one_person(trial, made, rng)
        given, noise = (
            rows - rows[: len(rows) // 2].mean(0) for rows in both
        )  # of sources too: one rotation keeps that
        return angles(given, noise, cells)

    one_key = [rng.bytes(32)] * len(trial)
    own = scored(_own_keys(trial, rng))
    result = linked(own, rng)
    learns = "learns which of the others is which" if result.wins else "learns nothing of the others"
    return Outcome(
        result,
        negative=linked(scored(lambda given, cells: np.where(cells, rng.normal(size=given.shape), 0.0)), rng),
        positive=linked(scored(lambda given, cells: turned(trial, given, cells, one_key)), rng),
        sentence=f"Who has the sources of half of a person's pictures, and takes the carrier off as their mean, {learns}.",
        details={"mean rank of the right picture": own_rank(own)},
    )


def _bare(trial: Trial, rng: np.random.Generator) -> Outcome:
    def scored(made: Callable[[Rows, Bits], Rows]) -> Stack:
        _, noise, cells = _of_one_person(trial, made, rng)
        return by_projections(trial, noise - (noise.sum(0) - noise) / (len(noise) - 1), cells)

    def few(given: Rows, _: Bits) -> Rows:
        return given * trial.target_rms * np.where(rng.random(given.shape) < planted.FEW, -1.0, 1.0)

    own = scored(_own_keys(trial, rng))
    result = linked(own, rng)
    finds = "finds" if result.wins else "does not find"
    return Outcome(
        result,
        negative=linked(scored(lambda given, cells: np.where(cells, rng.normal(size=given.shape), 0.0)), rng),
        positive=linked(scored(few), rng),
        sentence=f"Who averages a person's other pictures and takes the mean off one {finds} whose source is in what is left.",
        details={"mean rank of the right picture": own_rank(own)},
    )


def _attack(name: str, holds: str, run: Run) -> Attack:
    def on_a_carrier(trial: Trial, rng: np.random.Generator) -> Outcome:
        if trial.procedure.payload_share == 1:
            raise NotTriedError("no face of this run rides on a carrier: its pseudonyms are not consistent")
        return run(trial, rng)

    return Attack(17, name, holds, on_a_carrier)


ATTACKS: Final = (
    _attack("pseudonyms of two data sets", "the published sidecars of two data sets of the same people", _two_sets),
    _attack("carriers shared by people", "the published sidecars", _shared),
    _attack("guessed names", "the published sidecars, the people's names", _guessed),
    _attack("keys of one released picture", "the image key and the carrier's of one picture of each person", _released),
    _attack(
        "known pairs on one carrier",
        "many published sidecars of one person, and the source photographs of half of them",
        _pairs,
    ),
    _attack("the carrier averaged away", "many published sidecars of one person, the source photographs", _bare),
)
