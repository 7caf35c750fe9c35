"""Training examples: a face drawn from the bank, varied, with a mask as the job would make it, a timestep and its noise.

Everything about example `slot` of step `step` follows from (seed, step, slot) alone. So a training that is resumed, or
spread over more workers, sees the same examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from keyanon_core.errors import PictureError
from keyanon_core.faces.parsing import DEFAULT_REGIONS, REGIONS, fill_polygons, region_polygons
from keyanon_core.schedule import half_log_snr
from keyanon_core.training.bank import FaceBank
from keyanon_core.training.settings import TrainingSettings

Mask = npt.NDArray[np.bool_]
MIRRORED_LANDMARKS = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), *range(45, 41, -1), 47, 46,
     *range(39, 35, -1), 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
)  # fmt: skip
"""Where each of the 68 landmarks of a mirrored face comes from."""

MAX_ELLIPSES = 3


@dataclass(frozen=True)
class Batch:
    """crops, noise: (B, 3, S, S) float32, crops in [-1, 1]; masks: (B, 1, S, S) float32 of {0, 1}; timesteps: (B,) int64."""

    crops: Tensor
    masks: Tensor
    noise: Tensor
    timesteps: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(*(part.to(device) for part in (self.crops, self.masks, self.noise, self.timesteps)))


class Examples:
    """Draws examples from a bank's faces that are not held out."""

    def __init__(self, bank: FaceBank, settings: TrainingSettings) -> None:
        """Raises ValueError when no face may be drawn."""
        total = float(bank.weight.sum())
        if not total > 0:
            raise ValueError("no face of the bank may be drawn: all are held out")
        self._bank, self._settings = bank, settings
        self._cumulative = np.cumsum(bank.weight / total)
        # Uniform in lambda, as the methods walk: uniform in t would hardly visit the clean end.
        lam = half_log_snr(settings.prior.alpha_bar).numpy()
        self._levels = ((lam[0] - lam) / (lam[0] - lam[-1]))[:-1]

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The examples `slots` of step `step`; slots are numbers below the global batch size."""
        settings, side = self._settings, self._settings.prior.side
        crops = np.empty((len(slots), side, side, 3), np.float32)
        masks, noise = np.empty((len(slots), side, side), np.float32), np.empty((len(slots), 3, side, side), np.float32)
        timesteps = np.empty(len(slots), np.int64)
        offset = np.random.default_rng([settings.optimization.seed, step]).random()
        for position, slot in enumerate(slots):
            rng = np.random.default_rng([settings.optimization.seed, step, slot])
            index = min(int(np.searchsorted(self._cumulative, rng.random())), len(self._cumulative) - 1)
            crops[position], masks[position] = self._example(index, rng)
            # Noise levels spread evenly over the batch lower the variance of its loss (Kingma et al. 2021, appendix I.1).
            level = (slot / settings.optimization.batch + offset) % 1.0
            timesteps[position] = np.searchsorted(self._levels, level)
            noise[position] = rng.standard_normal(noise.shape[1:], np.float32)
        return Batch(
            torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1,
            torch.from_numpy(masks)[:, None],
            torch.from_numpy(noise),
            torch.from_numpy(timesteps),
        )

    def _example(self, index: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], Mask]:
        prior, vary = self._settings.prior, self._settings.augmentation
        affine = _variation(rng, prior.side, prior.bank_side, vary.scale, vary.turn, vary.shift * prior.side)
        image = cv2.warpAffine(
            self._bank.faces[index],
            affine,
            (prior.side, prior.side),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        covered = cv2.warpAffine(
            self._bank.covered[index].astype(np.uint8), affine, (prior.side, prior.side), flags=cv2.INTER_NEAREST
        )
        shape = self._bank.shape[index] @ affine[:, :2].T + affine[:, 2]
        if rng.random() < 0.5:
            image, covered = image[:, ::-1], covered[:, ::-1]
            shape = (shape * [-1, 1] + [prior.side - 1, 0])[MIRRORED_LANDMARKS]
        mask = self._mask(shape, rng) & covered.astype(np.bool_)
        if not mask.any():
            mask = covered.astype(np.bool_)
        values = (image.astype(np.float32) - 127.5) * rng.uniform(*vary.contrast) + 127.5
        values += rng.normal(0, vary.brightness)
        if rng.random() < 0.5:
            values += rng.normal(0, vary.tint, 3)
        if rng.random() < vary.grey:
            values[:] = values.mean(axis=2, keepdims=True)
        return np.clip(values, 0, 255).astype(np.float32), mask

    def _mask(self, shape: npt.NDArray[np.float64], rng: np.random.Generator) -> Mask:
        prior, vary = self._settings.prior, self._settings.augmentation
        whole = np.ones((prior.side, prior.side), np.bool_)
        kind = rng.random()
        if prior.conditioning == "none" or kind < vary.full:
            return whole
        if kind < vary.full + vary.ellipses:
            return _ellipses(prior.side, rng)
        regions = DEFAULT_REGIONS
        if kind < vary.full + vary.ellipses + vary.regions:
            regions = frozenset(rng.choice(REGIONS, rng.integers(1, len(REGIONS)), replace=False).tolist())
        middle = shape.mean(axis=0)
        varied = (shape - middle) * np.exp(rng.normal(0, vary.mask_scale)) + middle
        varied += rng.normal(0, vary.mask_shift * prior.side, 2)
        return face_mask(varied, regions, prior.side)


def face_mask(shape: npt.NDArray[np.float64], regions: frozenset[str], side: int) -> Mask:
    """The named regions of a face with landmarks (68, 2) in px of a crop: (S, S) bool; empty when they lie outside of it."""
    try:
        return fill_polygons(region_polygons(shape, regions), (side, side)).full((side, side))
    except PictureError:
        return np.zeros((side, side), np.bool_)


def held_out_crops(bank: FaceBank, side: int, count: int) -> tuple[npt.NDArray[np.float64], Mask]:
    """Up to `count` held-out faces, unvaried, with their default masks: (n, 3, S, S) float64 in [-1, 1] and (n, S, S) bool."""
    chosen = np.flatnonzero(bank.held_out)[:count]
    edge = (bank.faces.shape[1] - side) // 2
    inner = slice(edge, edge + side)
    crops = bank.faces[chosen, inner, inner].transpose(0, 3, 1, 2) / 127.5 - 1.0
    masks = [face_mask(bank.shape[index] - edge, DEFAULT_REGIONS, side) for index in chosen]
    covered = bank.covered[chosen, inner, inner]
    return crops, np.array(masks, np.bool_).reshape(-1, side, side) & covered


def _variation(
    rng: np.random.Generator, side: int, bank_side: int, scale: float, turn: float, shift: float
) -> npt.NDArray[np.float64]:
    """(2, 3): stored face -> varied crop, turning and scaling about the middle."""
    factor = np.exp(rng.normal(0, scale)) * np.exp(1j * rng.normal(0, turn))
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    move = (side - 1) / 2 + rng.normal(0, shift, 2) - linear @ np.full(2, (bank_side - 1) / 2)
    return np.hstack([linear, move[:, None]])


def _ellipses(side: int, rng: np.random.Generator) -> Mask:
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(rng.integers(1, MAX_ELLIPSES + 1)):
        centre = tuple(int(v) for v in rng.uniform(0.15, 0.85, 2) * side)
        axes = tuple(int(v) for v in rng.uniform([0.08, 0.06], [0.28, 0.19]) * side)
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return canvas.astype(np.bool_)
