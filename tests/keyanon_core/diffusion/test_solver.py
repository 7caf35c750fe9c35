"""The fixed-point solver: fast on slow contractions, each face on its own, honest when it fails."""

import pytest
import torch
from torch import Tensor

from keyanon_core.errors import ConvergenceError
from keyanon_core.solver import SolverLimits, solve_fixed_point


def contraction(rates: Tensor, offset: Tensor):  # type: ignore[no-untyped-def]
    """w -> diag(rates) w + offset for each face; its fixed point is offset / (1 - rates)."""

    def g(w: Tensor, faces: Tensor) -> Tensor:
        return rates[faces] * w + offset[faces]

    return g


def problem(batch: int = 3, top: float = 0.97) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rates = torch.linspace(-0.5, top, 4, dtype=torch.float64).repeat(batch, 3, 5, 2)[:, :, :, :8].contiguous()
    return rates, torch.randn(rates.shape, generator=generator, dtype=torch.float64)


def coordinates(w: Tensor) -> Tensor:
    return torch.full((len(w),), float(w[0].numel()), dtype=torch.float64)


def test_slow_contractions_are_solved_in_few_evaluations() -> None:
    rates, offset = problem()
    w = solve_fixed_point(
        contraction(rates, offset), torch.zeros_like(offset), coordinates(offset), SolverLimits(1e-10)
    )
    assert torch.allclose(w.w, offset / (1 - rates), atol=1e-7)
    assert max(w.iterations) <= 15  # the plain iteration needs about 700
    assert max(w.residual) <= 1e-10


def test_converged_faces_are_evaluated_no_more_and_do_not_change_the_others() -> None:
    rates, offset = problem()
    start = torch.zeros_like(offset)
    start[1] = offset[1] / (1 - rates[1])
    evaluated: list[list[int]] = []

    def g(w: Tensor, faces: Tensor) -> Tensor:
        evaluated.append(faces.tolist())
        return rates[faces] * w + offset[faces]

    together = solve_fixed_point(g, start, coordinates(offset), SolverLimits(1e-9))
    assert evaluated[0] == [0, 1, 2]
    assert all(1 not in faces for faces in evaluated[1:])
    assert together.iterations[1] == 1
    alone = solve_fixed_point(
        contraction(rates[2:], offset[2:]), start[2:], coordinates(offset[2:]), SolverLimits(1e-9)
    )
    assert torch.allclose(alone.w[0], together.w[2], atol=1e-12)


def test_a_face_that_does_not_converge_is_an_error_with_numbers() -> None:
    rates, offset = problem()
    rates[2] = -torch.linspace(1.5, 9.0, rates[2].numel(), dtype=torch.float64).view_as(rates[2])
    evaluated: list[list[int]] = []

    def g(w: Tensor, faces: Tensor) -> Tensor:
        evaluated.append(faces.tolist())
        return rates[faces] * w + offset[faces]

    with pytest.raises(ConvergenceError, match=r"the step did not converge for face\(s\) \[2\].*of 6.*1\.0e-09"):
        solve_fixed_point(
            g,
            torch.zeros_like(offset),
            coordinates(offset),
            SolverLimits(1e-9, 6),
            where="the step",
        )
    assert len(evaluated) == 6


def test_a_value_that_is_not_finite_is_an_error_at_once() -> None:
    rates, offset = problem()
    offset[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConvergenceError, match=r"\[0.*nan.*of 100"):
        solve_fixed_point(contraction(rates, offset), torch.zeros_like(offset), coordinates(offset))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_a_face_is_solved_to_the_tolerance_asked_for_and_not_much_further(tolerance: float) -> None:
    offset = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rates = torch.linspace(-0.6, 0.97, offset.numel(), dtype=torch.float64).view_as(offset)  # all different
    solution = solve_fixed_point(
        contraction(rates, offset), torch.zeros_like(offset), coordinates(offset), SolverLimits(tolerance)
    )
    image = rates * solution.w + offset
    assert float((image - solution.w).square().mean().sqrt()) <= tolerance
    assert tolerance / 1000 < max(solution.residual) <= tolerance
