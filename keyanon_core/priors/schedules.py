"""A diffusers scheduler configuration as `alpha_bar` and a prediction type, with what has no inverse refused.

At its clean end method `exact` takes the schedule's first level, whatever `set_alpha_to_one` says: at 1 its last step would be a
projection, which has no inverse.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from keyanon_core.errors import PriorError

PREDICTION_TYPES: Final = ("epsilon", "sample", "v_prediction")
SCHEDULERS: Final = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler")
"""Their betas are defined alike; only the betas are taken from them."""

_COSINE_OFFSET: Final = 0.008
_COSINE_MAX_BETA: Final = 0.999


@dataclass(frozen=True)
class AsDiffusers:
    """The same schedule as diffusers' DDIM schedulers read it, for method `paper`, which is what they do.

    alpha_bar: (T,) float32, with the rounding of betas in float32. clean: () float32, its value before the first timestep: 1
    unless the file says `set_alpha_to_one: false`. clip: bound of a predicted clean latent, None for none.
    """

    alpha_bar: Tensor
    clean: Tensor
    clip: float | None


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar (T,) float64, strictly decreasing inside (0, 1); what the network predicts."""

    alpha_bar: Tensor
    prediction_type: str
    as_diffusers: AsDiffusers

    def eps(self, z: Tensor, t: int, predicted: Tensor) -> Tensor:
        """The noise in z (B, C, h, w) float64 at timestep t, by what the network predicted of it."""
        ab = float(self.alpha_bar[t])
        return self.parts(z, math.sqrt(ab), math.sqrt(1 - ab), predicted)[1]

    def parts(
        self, z: Tensor, signal: float | Tensor, noise: float | Tensor, predicted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`x0` and eps of z = signal x0 + noise eps (B, C, h, w), by what the network predicted of it."""
        if self.prediction_type == "epsilon":
            return (z - noise * predicted) / signal, predicted
        if self.prediction_type == "sample":
            return predicted, (z - signal * predicted) / noise
        # v = signal eps - noise x0 (Salimans and Ho 2022, appendix D)
        return signal * z - noise * predicted, signal * predicted + noise * z


def read_schedule(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """Raises PriorError for an unknown scheduler, and for one whose ends have no inverse."""
    if config.get("_class_name") not in SCHEDULERS:
        raise PriorError(f"{where}: scheduler {config.get('_class_name')!r} is not one of {', '.join(SCHEDULERS)}")
    if config.get("rescale_betas_zero_snr"):
        raise PriorError(
            f"{where}: rescale_betas_zero_snr makes alpha_bar 0 at the noisy end, where nothing of the face is left to "
            "recover; use a prior trained without it"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise PriorError(f"{where}: prediction_type {prediction!r} is not one of {', '.join(PREDICTION_TYPES)}")
    try:
        alpha_bar, single = (torch.cumprod(1 - _betas(config, dtype), 0) for dtype in (torch.float64, torch.float32))
        clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else None
    except (TypeError, ValueError, RuntimeError) as error:
        raise PriorError(f"{where}: its betas or clip_sample_range can not be used ({error})") from error
    inside = torch.isfinite(alpha_bar).all() and float(alpha_bar[-1]) > 0 and float(alpha_bar[0]) < 1
    if len(alpha_bar) < 2 or not inside or not bool((alpha_bar[1:] < alpha_bar[:-1]).all()):
        raise PriorError(
            f"{where}: alpha_bar must fall strictly inside (0, 1), it goes from {float(alpha_bar[0])} to "
            f"{float(alpha_bar[-1])}; a step that reaches 0 or 1 has no inverse"
        )
    clean = torch.ones_like(single[0]) if config.get("set_alpha_to_one", True) else single[0]
    return NoiseSchedule(alpha_bar, prediction, AsDiffusers(single, clean, clip))


def _betas(config: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """(T,) betas as diffusers, which has them in float32, defines them by `beta_schedule`."""
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=dtype)
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=dtype)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=dtype) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, Eq. 17
        level = [
            math.cos((i / count + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2 for i in range(count + 1)
        ]
        betas = [min(1 - level[i + 1] / level[i], _COSINE_MAX_BETA) for i in range(count)]
        return torch.tensor(betas, dtype=dtype)
    raise ValueError(f"unknown beta_schedule {kind!r}")
