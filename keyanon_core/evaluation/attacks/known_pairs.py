"""Known pairs: who has the sources of half of the pictures learns what was done to them, and undoes it on the other half.

Under one key a rotation keeps every angle between two faces. So the angles of an unknown face's noise with those of known faces
are the angles of its source with their sources: all that known pairs give of it, whatever estimates it (least squares or
Procrustes). Sign flips keep them too.

Masks have different sizes, and rotations of two sizes under one key have nothing in common, while sign flips begin alike. So keys
that are used twice are looked for pair by pair, in the coordinates as they come: under signs among all faces, under rotations
among those of one size, of which a large run has some.
"""

from itertools import combinations
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, NotTriedError, Outcome, linked, measured, own_rank
from keyanon_core.evaluation.attacks.vectors import cosines, negative_distances
from keyanon_core.evaluation.trial import Bits, Stack, Trial

SURE: Final = 12.0  # standard deviations of the cosine that two noises have under keys of their own
KEPT: Final = 0.02  # share of itself that a cosine may change by, and is called kept

Pair = tuple[int, int]


def angles(given: Stack, made: Stack, cells: Bits) -> Stack:
    """(m, m) scores of the second half's noise against the second half's sources, by their angles with the first half's.

    given, made, cells: (n, D), what the transform was given, what it made of it, and where.
    """
    half = len(given) // 2
    known, unknown = slice(0, half), slice(half, None)
    of_noise = cosines(made[unknown], cells[unknown], made[known], cells[known])
    of_sources = cosines(given[unknown], cells[unknown], given[known], cells[known])
    return negative_distances(of_noise, of_sources)


def kept_angles(given: Stack, made: Stack, cells: Bits, kind: str) -> tuple[list[Pair], int]:
    """Pairs of faces whose noise has the angle that their sources have; and how many pairs could show it.

    given, made, cells: as in `angles`. kind: the transform's. Under keys of their own the cosine of two noises of n coordinates
    is normal, of standard deviation 1 / sqrt(n).
    """
    kept, could = [], 0
    sources, noises = ([row[where] for row, where in zip(rows, cells, strict=True)] for rows in (given, made))
    for first, second in combinations(range(len(sources)), 2):
        n = min(len(sources[first]), len(sources[second]))
        if kind == "rotation" and len(sources[first]) != len(sources[second]):
            continue
        before, after = (_cosine(rows[first][:n], rows[second][:n]) for rows in (sources, noises))
        if abs(before) * np.sqrt(n) > SURE:
            could += 1
            if abs(after - before) < KEPT * abs(before):
                kept.append((first, second))
    return kept, could


def _cosine(first: Stack, second: Stack) -> float:
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def _twice(trial: Trial, rng: np.random.Generator) -> Outcome:
    kind = trial.procedure.transform
    if trial.procedure.method == "paper":
        raise NotTriedError("the signs of method paper belong to places of the latent, so that known pairs say it")
    kept, could = kept_angles(planted.entered(trial), planted.noise(trial), trial.cells, kind)
    if not could:
        raise NotTriedError(
            "no two faces have masks of one size, without which a rotation does not show that a key was used twice"
        )
    cells = np.broadcast_to(trial.cells[0], trial.cells.shape)
    given, made = planted.one_key(trial, rng)
    drawn = np.where(cells, rng.normal(size=cells.shape), 0.0)
    (negative, of_drawn), (positive, of_made) = (kept_angles(given, one, cells, kind) for one in (drawn, made))
    result = measured(len(kept), could, 0.0)
    sentence = f"No two faces that could show it are hidden by one key: {could} pairs were compared with their sources."
    if kept:
        sentence = (
            f"Keys were used more than once: {len(kept)} of {could} pairs of faces are hidden by the same one. Who has the "
            "source photograph of one learns of the other, and a key that is released for one opens both."
        )
    alike = sorted({trial.named(face) for pair in kept for face in pair})
    return Outcome(
        result,
        negative=measured(len(negative), of_drawn, 0.0),
        positive=measured(len(positive), of_made, 0.0),
        sentence=sentence,
        details={"keys shared by": ", ".join(alike)} if kept else {},
    )


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
        sentence=f"Who has the source photographs of half of the pictures {known}"
        + (": keys are used more than once." if result.wins else ", as far as their masks are alike."),
        details={"mean rank of the right face": own_rank(own)},
    )


ATTACKS: Final = (
    Attack(
        2,
        "known pairs",
        "the published pictures and sidecars, the prior, the source photographs, and half of them by name",
        _run,
    ),
    Attack(
        2,
        "keys used twice",
        "the published pictures and sidecars, the prior, the source photographs",
        _twice,
    ),
)
