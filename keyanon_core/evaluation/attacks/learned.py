"""Attackers that learn: pairs of what is seen and what it was made of, made with keys of their own, and a regression on them.

Such attackers broke 11 of the 15 schemes in Fantomas (Hanisch et al., 2024). A ridge regression is learned on half of the people
and asked about the other half; what it predicts is looked up among the sources of those. With so few people it learns what is the
same for all keys, such as a permutation or a blur; it is no network of millions of pictures, and does not claim to be.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, Outcome, linked, measured
from keyanon_core.evaluation.attacks.vectors import cosines
from keyanon_core.evaluation.trial import Bits, Stack, Trial
from keyanon_core.transforms import keyed_transform

OWN_KEYS: Final = 8  # under which each known face is transformed for learning; of the noise, which costs no denoiser
RIDGE: Final = 1e-3  # penalty, as a share of the mean squared length of a row
REDUCTION: Final = 4  # px of a crop, each way, that are one of the learner's
OUTLINE_SPLITS: Final = 20  # of the people into halves
BLOCK: Final = 8  # px of the planted pixelation

Halves = tuple[Stack, Stack]
"""What is seen and what it was made of: (m, D) and (m, E)."""


def _learned(rows: Stack, targets: Stack, asked: Stack) -> Stack:
    """What a ridge regression of targets on rows says of others, over the mean of the targets."""
    from sklearn.kernel_ridge import KernelRidge  # a model of as many numbers as rows, not of columns by columns

    centre = rows.mean(0)
    known = rows - centre
    model = KernelRidge(alpha=RIDGE * float(np.square(known).sum(1).mean()))
    return np.asarray(model.fit(known, targets - targets.mean(0)).predict(asked - centre))


def _cross_learned(
    seen: Stack, sources: Stack, more: Callable[[Bits], Halves], rng: np.random.Generator, known_anyway: float = 0.0
) -> Measured:
    """Learn on one half of the people, look the other half up among themselves, and the other way round.

    seen (n, D): what is attacked. sources (n, E): what it was made of. more: the pairs that the attacker makes of some people,
    given as a bool (n,). known_anyway: share of the people that is found without `seen`; chance where that is more.
    """
    order = rng.permutation(len(seen))
    parts = np.array_split(order, 2)
    hits = tries = 0
    for asked, known in (parts, parts[::-1]):
        mask = np.zeros(len(seen), np.bool_)
        mask[known] = True
        rows, targets = more(mask)
        guess, right = _learned(rows, targets, seen[asked]), sources[asked] - targets.mean(0)
        every = np.ones(guess.shape, np.bool_)
        scores = cosines(guess, every, right, every)
        hits += round(linked(scores, rng).success.value * len(asked))
        tries += len(asked)
    return measured(hits, tries, max(len(parts) / len(seen), known_anyway))


def _by_outline(trial: Trial, sources: Stack, rng: np.random.Generator) -> float:
    """Share of the people that a learner finds by the outlines of their masks alone, which are seen in what is published: how a
    head is turned, and its shape. Mean over OUTLINE_SPLITS, so that it hardly depends on which half is learned from.
    """
    outlines = _reduced(trial.masks[:, None].astype(np.float64))

    def pairs(known: Bits) -> Halves:
        return outlines[known], sources[known]

    found = [_cross_learned(outlines, sources, pairs, rng).success.value for _ in range(OUTLINE_SPLITS)]
    return float(np.mean(found))


def _reduced(crops: Stack) -> Stack:
    """(n, E): crops in rows, REDUCTION px each way to one."""
    n, c, h, w = crops.shape
    cut = crops[:, :, : h - h % REDUCTION, : w - w % REDUCTION]
    small = cut.reshape(n, c, h // REDUCTION, REDUCTION, w // REDUCTION, REDUCTION).mean((3, 5))
    return np.asarray(small.reshape(n, -1))


def _faces(trial: Trial, crops: Stack) -> Stack:
    """(n, E): what all masks have in common, reduced, without tone, light from one side and contrast.

    These follow the surroundings, as the outline of a mask does; both are published as they were, and are nothing that a learner
    finds out.
    """
    common = np.asarray(trial.masks.all(axis=0), np.bool_)
    n, c, h, w = crops.shape
    whole = _reduced(common[None, None].astype(np.float64))[0] > 1 - 1e-9
    values = _reduced(crops).reshape(n, c, -1)[:, :, whole]
    y, x = np.mgrid[: h // REDUCTION, : w // REDUCTION].reshape(2, -1)[:, whole]
    plane = np.stack([np.ones(len(x)), x, y], 1).astype(np.float64)
    rest = values - (plane @ np.linalg.lstsq(plane, values.reshape(n * c, -1).T, rcond=None)[0]).T.reshape(values.shape)
    rows = rest.reshape(n, -1)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def pixelated(crops: Stack) -> Stack:
    n, c, h, w = crops.shape
    if h % BLOCK or w % BLOCK:
        return crops
    small = crops.reshape(n, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).mean((3, 5))
    return np.asarray(small.repeat(BLOCK, 2).repeat(BLOCK, 3))


def _inversion(trial: Trial, rng: np.random.Generator) -> Outcome:
    sources = _faces(trial, trial.sources)
    by_outline = _by_outline(trial, sources, rng)

    def run(attacked: Stack, practice: Stack) -> Measured:
        seen, own = _faces(trial, attacked), _faces(trial, practice)
        return _cross_learned(seen, sources, lambda known: (own[known], sources[known]), rng, by_outline)

    result = run(trial.published.crops, trial.practice.seen.crops)
    shuffled = trial.published.crops[rng.permutation(len(trial))]
    learned = "partly undoes" if result.wins else "does not undo"
    return Outcome(
        result,
        negative=run(shuffled, trial.practice.seen.crops),
        positive=run(pixelated(trial.sources), pixelated(trial.sources)),
        sentence=f"A program that learns from faces anonymized under keys of its own {learned} the anonymization of "
        "people it has not seen.",
        details={
            "learned on": f"{len(trial) // 2} people, once each, and the other way round",
            "from the outlines of the masks alone": f"{100 * by_outline:.1f} % (guessing: {200 / len(trial):.1f} %)",
        },
    )


def _permutation(trial: Trial, rng: np.random.Generator) -> Outcome:
    given = planted.entered(trial)
    sources = _faces(trial, trial.sources)
    n = len(trial)

    def practised(keys: Callable[[int], bytes]) -> Stack:
        made = np.zeros_like(given)
        for at in range(n):
            where = trial.cells[at]
            transform = keyed_transform(trial.procedure.transform, keys(at), int(where.sum()))
            made[at, where] = transform.forward(given[at, where], trial.target_rms)[0]
        return made

    own = [practised(lambda at: rng.bytes(32)) for _ in range(OWN_KEYS)]

    def pairs(known: Bits) -> Halves:
        return np.concatenate([one[known] for one in own]), np.concatenate([sources[known]] * len(own))

    result = _cross_learned(planted.noise(trial), sources, pairs, rng)
    one_given, one_made = planted.one_key(trial, rng)
    c, h, w = trial.entering.shape[1:]
    targets = one_given.reshape(n, c, h, w)
    targets = _reduced(targets) if h >= REDUCTION * 2 else one_given
    learned = "learns what the keys do" if result.wins else "learns nothing that holds for another key"
    return Outcome(
        result,
        negative=_cross_learned(planted.from_sphere(trial, rng), sources, pairs, rng),
        positive=_cross_learned(one_made, targets, lambda known: (one_made[known], targets[known]), rng),
        sentence=f"A program that is shown the noise of faces under {OWN_KEYS} keys of its own each {learned}.",
        details={"learned on": f"{n // 2} people under {OWN_KEYS} keys each, and the other way round"},
    )


ATTACKS: Final = (
    Attack(
        7,
        "learned inversion",
        "the published pictures, the prior, other people's faces and keys of his own",
        _inversion,
    ),
    Attack(
        8,
        "learned permutation",
        "the published noise, the prior, other people's faces and keys of his own",
        _permutation,
    ),
)
