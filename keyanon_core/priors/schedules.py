"""A diffusers scheduler configuration as `alpha_bar` and a prediction type, with what has no inverse refused."""

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
class NoiseSchedule:
    """alpha_bar (T,) float64, strictly decreasing inside (0, 1); what the network predicts."""

    alpha_bar: Tensor
    prediction_type: str

    def eps(self, z: Tensor, t: int, predicted: Tensor) -> Tensor:
        """The noise in z (B, C, h, w) float64 at timestep t, by what the network predicted of it."""
        ab = float(self.alpha_bar[t])
        signal, noise = math.sqrt(ab), math.sqrt(1 - ab)
        if self.prediction_type == "epsilon":
            return predicted
        if self.prediction_type == "sample":
            return (z - signal * predicted) / noise
        return signal * predicted + noise * z  # v = signal eps - noise x0 (Salimans and Ho 2022, appendix D)


def read_schedule(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """Raises PriorError for an unknown scheduler, and for one whose ends have no inverse."""
    if config.get("_class_name") not in SCHEDULERS:
        raise PriorError(f"{where}: scheduler {config.get('_class_name')!r} is not one of {', '.join(SCHEDULERS)}")
    if config.get("set_alpha_to_one"):
        raise PriorError(
            f"{where}: set_alpha_to_one ends the walk at alpha_bar = 1, where the last step is a projection and has no "
            "inverse; set it to false"
        )
    if config.get("rescale_betas_zero_snr"):
        raise PriorError(
            f"{where}: rescale_betas_zero_snr makes alpha_bar 0 at the noisy end, where nothing of the face is left to "
            "recover; use a prior trained without it"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise PriorError(f"{where}: prediction_type {prediction!r} is not one of {', '.join(PREDICTION_TYPES)}")
    try:
        alpha_bar = torch.cumprod(1 - _betas(config), 0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PriorError(f"{where}: its betas can not be computed ({error})") from error
    inside = torch.isfinite(alpha_bar).all() and float(alpha_bar[-1]) > 0 and float(alpha_bar[0]) < 1
    if len(alpha_bar) < 2 or not inside or not bool((alpha_bar[1:] < alpha_bar[:-1]).all()):
        raise PriorError(
            f"{where}: alpha_bar must fall strictly inside (0, 1), it goes from {float(alpha_bar[0])} to "
            f"{float(alpha_bar[-1])}; a step that reaches 0 or 1 has no inverse"
        )
    return NoiseSchedule(alpha_bar, prediction)


def _betas(config: Mapping[str, Any]) -> Tensor:
    """(T,) float64 betas as diffusers defines them by `beta_schedule`."""
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, Eq. 17
        level = [
            math.cos((i / count + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2 for i in range(count + 1)
        ]
        betas = [min(1 - level[i + 1] / level[i], _COSINE_MAX_BETA) for i in range(count)]
        return torch.tensor(betas, dtype=torch.float64)
    raise ValueError(f"unknown beta_schedule {kind!r}")
