"""Fixed points, several at once, each with its own Anderson acceleration and its own end.

Inverting one DDIM step asks for the w with `w = (v - C eps(w + known)) / A`. The plain iteration contracts slowly on a
step that is long in lambda; Anderson's mixing (Walker and Ni 2011, "Anderson acceleration for fixed-point iterations")
takes a few evaluations instead. Faces are independent: each has its own history, and one that has converged is
evaluated no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from keyanon_core.errors import ConvergenceError

DEFAULT_TOLERANCE: Final = 3e-6
"""Largest accepted rms of `g(w) - w` over a face's masked coordinates at the last w that was evaluated, in latent units (an image
spans [-1, 1]). What is returned is one step further."""

DEFAULT_MAX_ITERATIONS: Final = 100
"""Evaluations allowed for one step of one face."""

MEMORY: Final = 15
"""Earlier differences that an Anderson step combines; five cost up to half as many evaluations again, and fail sooner."""

_RELATIVE_RIDGE: Final = 1e-12
"""Added to the normal equations, relative to their mean diagonal: keeps nearly dependent differences solvable."""

FixedPointMap = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SolverLimits:
    """tolerance: largest accepted residual; max_iterations: evaluations allowed for one step of one face."""

    tolerance: float = DEFAULT_TOLERANCE
    max_iterations: int = DEFAULT_MAX_ITERATIONS


@dataclass(frozen=True)
class Solution:
    """`w` (B, ...) float64; evaluations spent and residual (rms) of each face at the last w evaluated, one step before `w`."""

    w: Tensor
    iterations: tuple[int, ...]
    residual: tuple[float, ...]


def solve_fixed_point(
    g: FixedPointMap,
    start: Tensor,
    coordinates: Tensor,
    limits: SolverLimits = SolverLimits(),
    *,
    where: str = "a fixed point",
) -> Solution:
    """Solves `w = g(w)` for each face of a batch.

    g: takes (w of the faces still open, their indices (n,) int64) and returns the same shape; zero outside the masks.
    start: (B, C, h, w) float64. coordinates: (B,) number of masked coordinates of each face, for the rms.
    Returns the Anderson step from the last w, whose residual is below the tolerance; that step needs no evaluation. Raises
    ConvergenceError with the numbers when a face does not get there in the evaluations allowed or becomes non-finite.
    """
    batch = len(start)
    solved = start.clone()
    open_faces = torch.arange(batch, device=start.device)
    iterations, residual = [0] * batch, [float("nan")] * batch
    w = start
    points = torch.empty(batch, 0, start[0].numel(), dtype=start.dtype, device=start.device)
    values = points
    for count in range(1, limits.max_iterations + 1):
        image = g(w, open_faces)
        rms = ((image - w).flatten(1).square().sum(1) / coordinates[open_faces]).sqrt()
        for face, value in zip(open_faces.tolist(), rms.tolist(), strict=True):
            iterations[face], residual[face] = count, value
        if not bool(torch.isfinite(rms).all()):
            break
        points = torch.cat([points, w.flatten(1)[:, None]], 1)[:, -MEMORY - 1 :]
        values = torch.cat([values, image.flatten(1)[:, None]], 1)[:, -MEMORY - 1 :]
        w = _anderson_step(points, values).view_as(image)
        done = rms <= limits.tolerance
        # g(w) is as near to the solution as its residual says; a step beyond is taken only as far as that.
        beyond = ((w - image).flatten(1).square().sum(1) / coordinates[open_faces]).sqrt() <= limits.tolerance
        solved[open_faces[done]] = torch.where(beyond[:, None, None, None], w, image)[done]
        going = ~done
        if not bool(going.any()):
            return Solution(solved, tuple(iterations), tuple(residual))
        open_faces, w, points, values = open_faces[going], w[going], points[going], values[going]
    failed = [f for f in range(batch) if not residual[f] <= limits.tolerance]
    raise ConvergenceError(
        f"{where} did not converge for face(s) {failed} of the batch: residual (rms) "
        f"{[f'{residual[f]:.2e}' for f in failed]} after {[iterations[f] for f in failed]} of {limits.max_iterations} "
        f"iterations, tolerance {limits.tolerance:.1e}. The latent is not one this prior, grid and mask produced, or the "
        "steps are too long: check the prior's digest, method, transform, inversion and number of steps in the key record"
    )


def _anderson_step(points: Tensor, values: Tensor) -> Tensor:
    """The next iterate from the last m + 1 points and their images, (B, m + 1, D) each.

    `g_k - dG gamma` with `gamma = argmin |f_k - dF gamma|`, where f = g - w and d takes successive differences; of one point,
    which has none, its image.
    """
    f = values - points
    df, dg = f[:, 1:] - f[:, :-1], values[:, 1:] - values[:, :-1]
    normal = df @ df.mT
    diagonal = normal.diagonal(dim1=1, dim2=2)
    # Unit diagonal before solving: differences of successive iterations span many orders of magnitude.
    size = diagonal.clamp_min(torch.finfo(f.dtype).tiny).sqrt()
    scaled = normal / (size[:, :, None] * size[:, None, :])
    scaled = scaled + _RELATIVE_RIDGE * torch.eye(scaled.shape[1], dtype=f.dtype, device=f.device)
    right = (df @ f[:, -1, :, None]) / size[:, :, None]
    gamma = torch.linalg.solve(scaled, right) / size[:, :, None]
    accelerated: Tensor = values[:, -1] - (gamma.mT @ dg)[:, 0]
    return accelerated
