"""What a trained prior is, and how it is trained: values that both the parts of training and the job read."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from keyanon_core.priors.declaration import Conditioning, Declaration
from keyanon_core.priors.schedules import NoiseSchedule, read_schedule

Prediction = Literal["sample", "v_prediction"]

BANK_MARGIN: Final = 1.25
"""Side of a stored face over the side of a crop: room for the shifts, turns and scales of augmentation."""

FACE_TEMPLATE: Final = (
    (0.354912, 0.450749), (0.644811, 0.451302), (0.501451, 0.621276), (0.373975, 0.753402), (0.631435, 0.752804)
)  # fmt: skip
"""Eyes, nose, mouth corners in units of the crop's side: wide enough that a default mask, chin and ears, fits inside."""


@dataclass(frozen=True)
class PriorSettings:
    """The prior that comes out.

    side: of the aligned crop in pixels. space_to_depth: pixels a side of the block that one cell of the network holds.
    prediction: what the network is asked for, "sample" (the clean crop) or "v_prediction" (Salimans and Ho 2022, appendix D).
    channels: of the UNet's levels, each half as wide as the one before; attention_levels: how many of the lowest attend.
    beta_start, beta_end, timesteps: of a scaled linear schedule. grid: first and last timestep that the methods walk between.
    temperature: rms of the noise that faces are made from.
    """

    side: int = 128
    space_to_depth: int = 8
    conditioning: Conditioning = "inpaint"
    prediction: Prediction = "sample"
    channels: tuple[int, ...] = (128, 192, 256)
    layers_per_block: int = 1
    attention_levels: int = 2
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    timesteps: int = 1000
    grid: tuple[int, int] = (1, 949)
    temperature: float = 1.0
    template: tuple[tuple[float, float], ...] = FACE_TEMPLATE

    @property
    def scheduler(self) -> dict[str, Any]:
        """What diffusers' DDIMScheduler is told."""
        return {
            "num_train_timesteps": self.timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": "scaled_linear",
            "prediction_type": self.prediction,
            "set_alpha_to_one": False,
            "clip_sample": False,
        }

    @property
    def schedule(self) -> NoiseSchedule:
        """The same as the prior will have it. Raises PriorError."""
        return read_schedule({"_class_name": "DDIMScheduler", **self.scheduler}, "the settings of a training")

    @property
    def alpha_bar(self) -> torch.Tensor:
        """(T,) float64."""
        return self.schedule.alpha_bar

    @property
    def bank_side(self) -> int:
        """Side in pixels of a stored face."""
        return round(self.side * BANK_MARGIN)

    @property
    def bank_template(self) -> NDArray[np.float64]:
        """(5, 2) landmarks in pixels of a stored face."""
        return np.array(self.template) * self.side + (self.bank_side - self.side) / 2

    def declaration(self, name: str, licence: str | None = None) -> Declaration:
        """What `keyanon_prior.json` will say."""
        return Declaration(
            name=name,
            licence=licence,
            crop_side=self.side,
            space_to_depth=self.space_to_depth,
            conditioning=self.conditioning,
            landmark_template=np.array(self.template, dtype=np.float64),
            grid=self.grid,
            temperature=self.temperature,
        )


@dataclass(frozen=True)
class Augmentation:
    """How a stored face is varied, each time it is drawn. Spreads are standard deviations; a length is a share of the side.

    Shares of masks, the rest being the whole face as the job masks it: `full` masks teach the prior to make a face without a
    hint, `regions` single parts of the face, `ellipses` shapes of other parsers.
    """

    scale: float = 0.06
    turn: float = 0.05  # radians
    shift: float = 0.019
    contrast: tuple[float, float] = (0.85, 1.12)
    brightness: float = 10.0  # grey levels
    tint: float = 4.0  # grey levels, per channel, for every other face
    grey: float = 0.1  # share of faces shown without colour
    mask_scale: float = 0.04
    mask_shift: float = 0.01
    full: float = 0.06
    regions: float = 0.1
    ellipses: float = 0.06


@dataclass(frozen=True)
class Optimization:
    """How the weights are found. The loss weights the squared error of the clean crop by `snr ** snr_power`, clipped to
    `snr_weights`: near the inverse of the error that is left, so that all noise levels have a like say.

    batch: faces of one step over all workers. learning_rate: AdamW's, after `warmup` steps, falling to 0 along a cosine.
    weight_decay, ema: decay of the averaged weights a step. clip: of the gradient's norm.
    """

    batch: int = 40
    learning_rate: float = 5e-4
    warmup: int = 60
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.9995
    snr_power: float = 0.4
    snr_weights: tuple[float, float] = (0.2, 8.0)
    seed: int = 0


@dataclass(frozen=True)
class TrainingSettings:
    """All of it."""

    prior: PriorSettings = field(default_factory=PriorSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimization: Optimization = field(default_factory=Optimization)
