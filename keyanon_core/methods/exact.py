"""Method `exact`: anonymize = Phi . K . Psi, every step explicit; recover = Psi^-1 . K^-1 . Phi^-1, every step solved.

Psi carries the masked coordinates from the clean to the noisy end of the grid, Phi back; both are plain DDIM steps with
eps taken at the start of the step, beside a known region that walks a path of its own. Each step is a bijection
as long as its fixed point contracts, so recovery is a true inverse and not a second guess.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from keyanon_core.keys import KeyStream, subkey
from keyanon_core.known_path import KnownPath
from keyanon_core.methods.results import Anonymized, Phase, Recovered, SolverStep
from keyanon_core.priors import Prior
from keyanon_core.schedule import backwards, clean_prediction, ddim_coefficients, forwards
from keyanon_core.solver import solve_fixed_point
from keyanon_core.transforms import apply_forward, apply_inverse, masked_transforms


def anonymize(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    transform: str,
    grid: list[int],
    noise: Tensor | None = None,
) -> Anonymized:
    """2N evaluations, N with the `noise` of an earlier call; nothing solved. Shapes as in `keyanon_core.methods.anonymize`."""
    known = _known_path(prior, z_known * (1 - mask), mask, face_keys, grid[0])
    nfe = len(grid) - 1
    if noise is None:
        nfe *= 2
        noise = z * mask
        for s, t in forwards(grid):
            noise = _step(prior, noise, s, t, known, mask)
    noise_rms = (noise.square().sum((1, 2, 3)) / _coordinates(mask, noise)).sqrt()
    transforms = masked_transforms(transform, face_keys, mask, z.shape[1])
    w, scale = apply_forward(noise, mask, transforms, prior.temperature)
    before = w
    for s, t in backwards(grid):
        before, w = w, _step(prior, w, s, t, known, mask)
    clean = mask * clean_prediction(prior.alpha_bar, before, w, grid[1], grid[0])
    serves_again = (
        noise if known.noise is None else None
    )  # Psi depends on the key through the known region's noise alone
    return Anonymized(w + known.clean, clean + known.clean, scale, noise_rms, nfe, serves_again)


def recover(
    prior: Prior,
    latent: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    scale: Tensor,
    transform: str,
    grid: list[int],
    tolerance: float,
    max_iterations: int,
) -> Recovered:
    """Undoes each step of `anonymize` in the reverse order; the known region is the latent outside the mask."""
    known = _known_path(prior, latent * (1 - mask), mask, face_keys, grid[0])
    steps: list[SolverStep] = []
    spent = [0] * len(latent)

    def undo(w: Tensor, pairs: list[tuple[int, int]], phase: Phase) -> Tensor:
        for s, t in reversed(pairs):
            w, step = _unstep(prior, w, s, t, known, mask, phase, tolerance, max_iterations)
            steps.append(step)
            for face, count in enumerate(step.per_face_iterations):
                spent[face] += count + 1  # the warm start
        return w

    w = undo(latent * mask, backwards(grid), "phi")
    w = apply_inverse(w, mask, masked_transforms(transform, face_keys, mask, latent.shape[1]), scale)
    w = undo(w, forwards(grid), "psi")
    return Recovered(w + known.clean, steps, nfe=max(spent))


def _known_path(prior: Prior, clean: Tensor, mask: Tensor, face_keys: Sequence[bytes], first: int) -> KnownPath:
    """The known region's own path; its noise comes from the face key, so both sides see the same one."""
    if prior.conditioning == "inpaint":
        return KnownPath(clean, None, prior.alpha_bar, first)
    streams = [KeyStream(subkey(key, "known-noise")) for key in face_keys]
    noise = torch.stack([torch.from_numpy(s.normal(clean[0].numel())).view(clean.shape[1:]) for s in streams])
    return KnownPath(clean, noise.to(clean) * (1 - mask), prior.alpha_bar, first)


def _coordinates(mask: Tensor, w: Tensor) -> Tensor:
    return mask.sum((1, 2, 3)) * w.shape[1]


def _step(prior: Prior, w: Tensor, s: int, t: int, known: KnownPath, mask: Tensor) -> Tensor:
    """One DDIM step of the masked coordinates: `A w + C eps(w + known_s, s)`."""
    k = ddim_coefficients(prior.alpha_bar, s, t)
    return mask * (k.a * w + k.c * prior.eps(w, s, known, mask))


def _unstep(
    prior: Prior,
    v: Tensor,
    s: int,
    t: int,
    known: KnownPath,
    mask: Tensor,
    phase: Phase,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, SolverStep]:
    """Solves `_step(w, s, t) = v`: `w <- (v - C eps(w + known_s, s)) / A`, started by the explicit step from t to s."""
    k = ddim_coefficients(prior.alpha_bar, s, t)

    def g(w: Tensor, faces: Tensor) -> Tensor:
        eps = prior.eps(w, s, known.of(faces), mask[faces])
        return mask[faces] * (v[faces] - k.c * eps) / k.a

    solution = solve_fixed_point(
        g,
        _step(prior, v, t, s, known, mask),
        _coordinates(mask, v),
        tolerance=tolerance,
        max_iterations=max_iterations,
        where=f"inverse of the {phase} step from timestep {s} to {t}",
    )
    return solution.w, SolverStep(phase, t, s, solution.iterations, solution.residual)
