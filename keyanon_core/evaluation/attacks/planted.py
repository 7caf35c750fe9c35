"""Weak ways to hide a face, made for attacks to win against: none of them can be chosen in a run.

They work on what the keyed transform is given of each face, so that the noise an attacker would see is exactly their result.
"""

import numpy as np

from keyanon_core.evaluation.trial import Stack, Trial
from keyanon_core.transforms import keyed_transform

Rows = Stack  # (n, C h w), zero outside the masks

FEW = 0.05  # share of coordinates that `few_signs` keys


def entered(trial: Trial) -> Rows:
    """What the transform is given of each face, inside its mask."""
    return np.where(trial.cells, trial.entering.reshape(len(trial), -1), 0.0)


def noise(trial: Trial) -> Rows:
    """What was published of each, as noise."""
    return trial.published.noise.reshape(len(trial), -1)


def from_sphere(trial: Trial, rng: np.random.Generator) -> Rows:
    """Noise that knows nothing of any face: uniform on the sphere, of the rms that faces are made from."""
    drawn = np.where(trial.cells, rng.normal(size=trial.cells.shape), 0.0)
    rms = np.sqrt(np.square(drawn).sum(1) / trial.cells.sum(1))
    return np.asarray(drawn * (trial.target_rms / rms)[:, None])


def signs(trial: Trial, rng: np.random.Generator) -> Rows:
    """The paper's sign flips on the source itself."""
    return np.asarray(entered(trial) * rng.choice([-1.0, 1.0], size=trial.cells.shape))


def few_signs(trial: Trial, rng: np.random.Generator) -> Rows:
    """Sign flips of FEW of the coordinates."""
    return entered(trial) * np.where(rng.random(trial.cells.shape) < FEW, -1.0, 1.0)


def unscaled(trial: Trial, rng: np.random.Generator) -> Rows:
    """A dense rotation that does not divide the scale out."""
    return _rotated(trial, [rng.bytes(32) for _ in range(len(trial))], scaled=False)


def one_key(trial: Trial, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Every face under one key, and inside one mask, that of the first: what the transform was given, and what it made."""
    cells = np.broadcast_to(trial.cells[0], trial.cells.shape)
    given = np.where(cells, trial.entering.reshape(len(trial), -1), 0.0)
    key, made = rng.bytes(32), np.zeros_like(given)
    for row, result, where in zip(given, made, cells, strict=True):
        transform = keyed_transform(trial.procedure.transform, key, int(where.sum()))
        result[where] = transform.forward(row[where], trial.target_rms)[0]
    return given, made


def _rotated(trial: Trial, keys: list[bytes], *, scaled: bool) -> Rows:
    given = entered(trial)
    made = np.zeros_like(given)
    for row, result, where, key in zip(given, made, trial.cells, keys, strict=True):
        turned, scale = keyed_transform("rotation", key, int(where.sum())).forward(row[where], trial.target_rms)
        result[where] = turned if scaled else turned * scale
    return made
