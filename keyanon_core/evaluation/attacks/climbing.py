"""Hill climbing: from the published noise and the scale, without a key, towards what looks more real, or more like a suspect.

A candidate is what the noise becomes when the transform is undone in one way or another; a move changes in which. Two oracles say
how high a candidate stands.

The prior says how real it is: what a denoiser takes away leads towards what is. A move flips signs, which both transforms do,
among other things. Each of STEPS evaluations says of every coordinate which sign looks more real, and it gets it; noise that
is laid over the candidate meanwhile, less with each step, leads past the nearest hill. At the top a recognizer says who it is.

The gallery says how like a suspect it is. A move turns two coordinates towards him (a Givens rotation). Fewer than two moves for
each coordinate of a block make the candidate point at him inside the block, and it then stands as high as the lengths of its
blocks go with those of his. So the top is computed and not walked to, one for each suspect, and held against what any noise
reaches. In one block of all coordinates everybody is reached alike; the smaller the blocks are, the less a transform may mix for
its faces to be found so.
"""

import math
from typing import Final

import numpy as np
import torch

from keyanon_core.evaluation.attacks import planted
from keyanon_core.evaluation.attacks.outcome import Attack, Measured, NotTriedError, Outcome, linked, own_rank
from keyanon_core.evaluation.attacks.recognition import inside_only
from keyanon_core.evaluation.attacks.vectors import negative_distances
from keyanon_core.evaluation.trial import Stack, Trial
from keyanon_core.keys import FACE_KEY_BYTES
from keyanon_core.methods.exact import Walk
from keyanon_core.pictures.settings import DEFAULT_FACE_BATCH
from keyanon_core.schedule import backwards, lambda_grid

STEPS: Final = 4  # evaluations of the denoiser for each face; 3 already find who is under flipped signs
BLOCKS: Final = (1, 4, 16)  # coordinates; a face has MIN_COORDINATES, 48, at least


def climbed(trial: Trial, start: Stack, rng: np.random.Generator) -> Stack:
    """(n, 3, S, S): the faces at the top, each from its candidate in `start` (n, D), by flips of signs."""
    tops = []
    for at in range(0, len(trial), DEFAULT_FACE_BATCH):
        few = slice(at, at + DEFAULT_FACE_BATCH)
        tops.append(_top(trial, few, start[few], rng))
    return np.concatenate(tops)


def _top(trial: Trial, few: slice, start: Stack, rng: np.random.Generator) -> Stack:
    prior = trial.prior
    latent, inside = (
        torch.from_numpy(part[few]).to(prior.networks.device) for part in (trial.practice.seen.latent, trial.inside)
    )
    grid = tuple(lambda_grid(prior.alpha_bar, STEPS, *prior.grid_ends))
    walk = Walk.around(prior, latent, inside, [bytes(FACE_KEY_BYTES)] * len(latent), trial.procedure)
    candidate = torch.from_numpy(start).to(latent).view_as(latent)
    with prior.networks.strict():
        for t, _ in backwards(grid):
            level = float(prior.alpha_bar[t])
            drawn = torch.from_numpy(rng.normal(size=latent.shape)).to(latent)
            noisy = inside * (math.sqrt(level) * candidate + math.sqrt(1 - level) * drawn)
            real = noisy - math.sqrt(1 - level) * walk.eps(noisy, t)
            candidate = torch.where(real < 0, -candidate.abs(), candidate.abs())
    return prior.decode(candidate * inside + latent * (1 - inside)).cpu().numpy()


def _realism(trial: Trial, rng: np.random.Generator) -> Outcome:
    if trial.procedure.inversion != "none":
        raise NotTriedError(
            "faces are inverted to noise before the transform: how real a candidate is shows only when the prior has walked it "
            "back, in many evaluations"
        )
    gallery = trial.embedded(inside_only(trial.sources, trial.masks))
    scale = trial.practice.scale[:, None]

    def found(start: Stack, anyway: float = 0.0) -> Measured:
        faces = inside_only(climbed(trial, start, rng), trial.masks)
        return linked(negative_distances(trial.embedded(faces), gallery), rng, anyway=anyway)

    # Scale and surroundings are public here, and a prior makes a face that fits them whatever it starts from.
    anyway = found(planted.from_sphere(trial, rng) * scale).success.value
    result = found(trial.practice.seen.noise.reshape(len(trial), -1) * scale, anyway)
    ends = "ends at the person" if result.wins else "ends at somebody else"
    return Outcome(
        result,
        negative=found(planted.from_sphere(trial, rng) * scale, anyway),
        positive=found(planted.signs(trial, rng), anyway),
        sentence=f"Who changes signs of the noise for as long as the face gets more real {ends}. Under signs alone, as the "
        "positive control has it, this finds the person.",
        details={
            "budget for a face": f"{STEPS} evaluations of the denoiser, of all signs at once, and one look of the recognizer",
            "from noise that is nobody's": f"{100 * anyway:.1f} % (guessing: {100 / len(trial):.1f} %)",
        },
    )


def heights(trial: Trial, rows: Stack, block: int) -> Stack:
    """(n, n): how high each face of `rows` (n, D) gets towards each suspect by turns inside blocks, above what noise gets."""
    whole = trial.entering.reshape(len(trial), -1)
    return np.stack(
        [_agreement(row[where], whole[:, where], block) for row, where in zip(rows, trial.cells, strict=True)]
    )


def _agreement(row: Stack, suspects: Stack, block: int) -> Stack:
    """(m,): correlation of the lengths of the blocks of a (D,) with those of each of (m, D)."""
    own, theirs = (_lengths(values, block) for values in (row[None], suspects))
    spread = np.linalg.norm(own) * np.linalg.norm(theirs, axis=1)
    return np.asarray(np.divide(theirs @ own[0], spread, out=np.zeros_like(spread), where=spread > 0))


def _lengths(values: Stack, block: int) -> Stack:
    """(m, D) -> (m, D / block), over their mean."""
    blocks = values[:, : values.shape[1] // block * block].reshape(len(values), -1, block)
    lengths = np.sqrt(np.einsum("mbi,mbi->mb", blocks, blocks))
    return np.asarray(lengths - lengths.mean(1, keepdims=True))


def _towards(trial: Trial, rows: Stack, rng: np.random.Generator) -> tuple[Measured, str]:
    """What the best of BLOCKS came to, and the mean rank of the right face there."""
    scores = {block: heights(trial, rows, block) for block in BLOCKS}
    found = {block: linked(one, rng, looks=len(BLOCKS)) for block, one in scores.items()}
    best = max(found, key=lambda block: found[block].success.value)
    return found[best], f"{own_rank(scores[best])}, in blocks of {best}"


def _likeness(trial: Trial, rng: np.random.Generator) -> Outcome:
    result, rank = _towards(trial, planted.noise(trial), rng)
    highest = "the person" if result.wins else "anybody"
    return Outcome(
        result,
        negative=_towards(trial, planted.from_sphere(trial, rng), rng)[0],
        positive=_towards(trial, planted.signs(trial, rng), rng)[0],
        sentence=f"Who turns the noise towards one suspect after another gets highest with {highest}"
        + ("." if result.wins else ": everybody can be reached alike."),
        details={
            "mean rank of the right face": rank,
            "budget for a suspect": "fewer than two turns for each coordinate, in blocks of "
            f"{', '.join(map(str, BLOCKS[:-1]))} and {BLOCKS[-1]}",
        },
    )


ATTACKS: Final = (
    Attack(
        4,
        "hill climbing on realism",
        "the published noise, the scale, the prior, a recognizer, the source photographs",
        _realism,
    ),
    Attack(
        4,
        "hill climbing towards suspects",
        "the published sidecars, the prior, the source photographs",
        _likeness,
    ),
)
