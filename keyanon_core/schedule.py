"""The noise schedule and the grids of timesteps on which the methods walk.

Everything is float64: `alpha_bar` enters as differences of square roots, and recovery undoes what anonymizing did.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MIN_STEPS = 1
MAX_STEPS = 1000


@dataclass(frozen=True)
class StepCoefficients:
    """`z_t = a z_s + c eps(z_s, s)`: one DDIM step with eta = 0 (Song et al. 2021, Eq. 12 with sigma = 0)."""

    a: float
    c: float


def ddim_coefficients(alpha_bar: Tensor, s: int, t: int) -> StepCoefficients:
    """Coefficients of the DDIM step from timestep `s` to `t`, either way."""
    ab_s, ab_t = float(alpha_bar[s]), float(alpha_bar[t])
    a = math.sqrt(ab_t / ab_s)
    return StepCoefficients(a, math.sqrt(1 - ab_t) - a * math.sqrt(1 - ab_s))


def step_eps(alpha_bar: Tensor, z_s: Tensor, z_t: Tensor, s: int, t: int) -> Tensor:
    """The eps that the step from z_s to z_t was made of, read off the step itself, so that it costs no evaluation."""
    k = ddim_coefficients(alpha_bar, s, t)
    return (z_t - k.a * z_s) / k.c


def clean_prediction(alpha_bar: Tensor, z_s: Tensor, z_t: Tensor, s: int, t: int) -> Tensor:
    """The `x0` that the step from z_s to z_t was made of: `(z_s - sqrt(1 - ab_s) eps) / sqrt(ab_s)` (Song et al. 2021, Eq. 9).

    z_s, z_t: (B, C, h, w) float64, and the same comes back.
    """
    ab_s = float(alpha_bar[s])
    return (z_s - math.sqrt(1 - ab_s) * step_eps(alpha_bar, z_s, z_t, s, t)) / math.sqrt(ab_s)


def half_log_snr(alpha_bar: Tensor) -> Tensor:
    """`lambda = log(sqrt(ab) / sqrt(1 - ab))`, (T,) float64, decreasing (Lu et al. 2022, DPM-Solver, section 3)."""
    return 0.5 * (torch.log(alpha_bar) - torch.log1p(-alpha_bar))


def lambda_grid(
    alpha_bar: Tensor, steps: int, first: int = 0, last: int | None = None, power: float = 1.0
) -> list[int]:
    """`steps + 1` strictly increasing timesteps from `first` to `last`, at `lambda_last + (lambda_first - lambda_last) u^power`.

    u runs evenly from 0 at the noisy end to 1. Power 1 is uniform in lambda: the fixed point that inverts a step there and back
    contracts by a factor that depends on the step in lambda alone, and a grid uniform in t has steps at its clean end that do not
    converge. A smaller power has its long steps at the noisy end and its short ones where texture is decided.

    Raises ValueError when `steps` timesteps do not fit into the schedule.
    """
    last = len(alpha_bar) - 1 if last is None else last
    if not MIN_STEPS <= steps <= MAX_STEPS or not 0 <= first < last < len(alpha_bar) or steps > last - first:
        raise ValueError(
            f"{steps} steps do not fit between timesteps {first} and {last} of a schedule of {len(alpha_bar)}; "
            f"choose from {MIN_STEPS} to {min(MAX_STEPS, len(alpha_bar) - 1)} steps"
        )
    lam = half_log_snr(alpha_bar.to(torch.float64))
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    wanted = lam[last] + (lam[first] - lam[last]) * u**power
    nearest = [int((lam - value).abs().argmin()) for value in wanted]
    grid = [first]
    for position, t in enumerate(nearest[1:], start=1):
        # Neighbours may round to one timestep at the clean end; keep room for the steps still to come.
        grid.append(min(max(t, grid[-1] + 1), last - (steps - position)))
    return grid


def leading_grid(timesteps: int, steps: int) -> list[int]:
    """`steps + 1` timesteps of method `paper`: 0, 20 .. 980 for 50 of 1,000, and before them 0 once more for the clean end, which
    comes before the first timestep and has none of its own ("leading" in Lin et al. 2024, table 2, as diffusers rounds it).

    Raises ValueError when `steps` timesteps do not fit into the schedule.
    """
    if not MIN_STEPS <= steps <= min(MAX_STEPS, timesteps):
        raise ValueError(
            f"{steps} steps do not fit into a schedule of {timesteps}; choose from {MIN_STEPS} to {timesteps}"
        )
    return [0, *range(0, steps * (timesteps // steps), timesteps // steps)]


def backwards(grid: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (from, to) walking a grid from its noisy end to its clean end."""
    return list(pairwise(grid[::-1]))


def forwards(grid: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (from, to) walking a grid from its clean end to its noisy end."""
    return list(pairwise(grid))
