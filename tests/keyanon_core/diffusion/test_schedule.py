"""The grid and the DDIM coefficients."""

import itertools
import math

import pytest
import torch

from keyanon_core.known_path import KnownPath
from keyanon_core.priors.schedules import read_schedule
from keyanon_core.schedule import backwards, clean_prediction, ddim_coefficients, forwards, half_log_snr, lambda_grid
from tests.keyanon_core.diffusion.tiny_priors import SCHEDULER

ALPHA_BAR = read_schedule(SCHEDULER, "test").alpha_bar


@pytest.mark.parametrize("steps", [1, 2, 12, 50, 200, 999])
def test_grid_is_strictly_increasing_between_its_ends(steps: int) -> None:
    grid = lambda_grid(ALPHA_BAR, steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (0, 999)
    assert all(s < t for s, t in itertools.pairwise(grid))


def test_grid_is_uniform_in_lambda() -> None:
    grid = lambda_grid(ALPHA_BAR, 12, 20, 980)
    lam = half_log_snr(ALPHA_BAR)[grid]
    step = (lam[:-1] - lam[1:]).numpy()
    assert abs(step / step.mean() - 1).max() < 0.05


def test_a_timestep_is_the_nearest_to_its_lambda_or_else_the_next_free_one() -> None:
    grid, lam = lambda_grid(ALPHA_BAR, 200), half_log_snr(ALPHA_BAR)
    wanted = torch.linspace(float(lam[0]), float(lam[-1]), 201, dtype=torch.float64)
    nearest = [int((lam - value).abs().argmin()) for value in wanted]
    assert nearest[1] == nearest[2], "some round to one timestep"
    for (before, t), near in zip(itertools.pairwise(grid), nearest[1:], strict=True):
        assert t == max(near, before + 1)


def test_the_grid_of_a_procedure_never_changes() -> None:
    """Faces that were published are recovered on it."""
    assert lambda_grid(ALPHA_BAR, 6, 1, 949, 0.6) == [1, 7, 34, 132, 355, 621, 949]
    assert lambda_grid(ALPHA_BAR, 12, 1, 949) == [1, 5, 18, 51, 124, 243, 384, 517, 631, 727, 810, 883, 949]


def test_a_grid_is_walked_step_by_step_from_either_end() -> None:
    assert forwards([1, 5, 9]) == [(1, 5), (5, 9)]
    assert backwards([1, 5, 9]) == [(9, 5), (5, 1)]


@pytest.mark.parametrize(
    ("steps", "first", "last"), [(0, 0, 999), (1000, 0, 999), (5, 10, 12), (2, 9, 3), (2, 0, 1000)]
)
def test_grids_that_do_not_fit_are_refused(steps: int, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        lambda_grid(ALPHA_BAR, steps, first, last)


def test_ddim_step_carries_the_marginal_when_eps_is_true() -> None:
    """From z_s = sqrt(ab_s) x0 + sqrt(1 - ab_s) e, with the true e, one step gives z_t of the same x0 and e."""
    x0, e = 0.3, -1.2
    for s, t in ((0, 999), (999, 0), (400, 380)):
        k = ddim_coefficients(ALPHA_BAR, s, t)
        z_s, z_t = (math.sqrt(float(ALPHA_BAR[i])) * x0 + math.sqrt(1 - float(ALPHA_BAR[i])) * e for i in (s, t))
        assert k.a * z_s + k.c * e == pytest.approx(z_t, abs=1e-12)


def test_known_path_starts_at_the_known_region_and_keeps_its_marginal_variance() -> None:
    clean = torch.full((1, 1, 100, 100), 0.5, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = KnownPath(clean, noise, ALPHA_BAR, first=0)
    assert torch.allclose(path.at(0), clean, atol=1e-12)
    c2 = float(ALPHA_BAR[500] / ALPHA_BAR[0])
    assert float(path.at(500).mean()) == pytest.approx(0.5 * c2**0.5, abs=0.03)
    assert float(path.at(500).var()) == pytest.approx(
        1 - float(ALPHA_BAR[500]) - c2 * (1 - float(ALPHA_BAR[0])), rel=0.05
    )


def test_alpha_bar_is_float64_and_agrees_with_diffusers() -> None:
    from diffusers import DDIMScheduler

    for kind in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        config = {**SCHEDULER, "beta_schedule": kind}
        ours = read_schedule(config, "test").alpha_bar
        theirs = DDIMScheduler.from_config(config).alphas_cumprod.double()
        assert ours.dtype == torch.float64
        assert torch.allclose(ours, theirs, rtol=2e-4, atol=1e-7)


def test_the_clean_prediction_of_a_step_is_the_x0_it_was_made_of() -> None:
    alpha_bar = torch.linspace(0.9985, 0.01, 100, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    s, t = 40, 3
    z_s, z_t = (alpha_bar[i].sqrt() * x0 + (1 - alpha_bar[i]).sqrt() * eps for i in (s, t))
    assert torch.allclose(clean_prediction(alpha_bar, z_s, z_t, s, t), x0, atol=1e-10)
