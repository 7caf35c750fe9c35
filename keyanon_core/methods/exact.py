"""Method `exact`: anonymize = Phi . K . Psi, every step explicit; recover = Psi^-1 . K^-1 . Phi^-1, every step solved.

Psi carries the masked coordinates from the clean to the noisy end of the grid, Phi back; both are plain DDIM steps with
eps taken at the start of the step, beside a known region that walks a path of its own. Each step is a bijection
as long as its fixed point contracts, so recovery is a true inverse and not a second guess.

Phi can be walked in pieces (`begin`, `advance`, `finish`), so that a face of which the first steps show that it will not do is
given up before the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from keyanon_core.keys import KeyStream, subkey
from keyanon_core.known_path import KnownPath
from keyanon_core.methods.results import Anonymized, Phase, Recovered, SolverStep
from keyanon_core.priors import Prior
from keyanon_core.schedule import backwards, clean_prediction, ddim_coefficients, forwards
from keyanon_core.solver import solve_fixed_point
from keyanon_core.transforms import apply_forward, apply_inverse, masked_transforms


@dataclass(frozen=True)
class Walk:
    """A batch of faces on its way through Phi, from keyed noise to the clean end of the grid.

    Faces are apart from each other: some can leave (`of`) and go on beside others that have come as far (`together`).
    w (B, C, h, w) float64: the masked coordinates after `taken` steps. clean (B, C, h, w) float64: the face that the last step
    predicts, inside the mask (before the first step: the noise). scale, noise_rms, noise: as in `Anonymized`.
    """

    taken: int
    w: Tensor
    clean: Tensor
    known: KnownPath
    mask: Tensor
    scale: Tensor
    noise_rms: Tensor
    noise: Tensor | None = field(repr=False)

    def of(self, faces: Tensor) -> "Walk":
        """Some faces of the batch; faces: (n,) int64 indices."""
        return replace(
            self,
            w=self.w[faces],
            clean=self.clean[faces],
            known=self.known.of(faces),
            mask=self.mask[faces],
            scale=self.scale[faces],
            noise_rms=self.noise_rms[faces],
            noise=None if self.noise is None else self.noise[faces],
        )

    @staticmethod
    def together(walks: Sequence["Walk"]) -> "Walk":
        """One batch of several, of one prior and grid. Raises ValueError when they have not taken as many steps."""
        if len({walk.taken for walk in walks}) != 1:
            raise ValueError("faces go on together only from the same step")
        noises = [walk.noise for walk in walks if walk.noise is not None]
        return Walk(
            walks[0].taken,
            torch.cat([walk.w for walk in walks]),
            torch.cat([walk.clean for walk in walks]),
            KnownPath.together([walk.known for walk in walks]),
            torch.cat([walk.mask for walk in walks]),
            torch.cat([walk.scale for walk in walks]),
            torch.cat([walk.noise_rms for walk in walks]),
            torch.cat(noises) if noises else None,
        )

    @property
    def predicted(self) -> Tensor:
        """(B, C, h, w) float64: the anonymized latent as it is expected now, the known region around it."""
        return self.clean + self.known.clean


def begin(
    prior: Prior,
    z: Tensor,
    z_known: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    transform: str,
    grid: list[int],
    noise: Tensor | None = None,
) -> Walk:
    """K . Psi: N evaluations, none with the `noise` of an earlier call. Shapes as in `keyanon_core.methods.anonymize`."""
    known = _known_path(prior, z_known * (1 - mask), mask, face_keys, grid[0])
    if noise is None:
        noise = z * mask
        for s, t in forwards(grid):
            noise = _step(prior, noise, s, t, known, mask)
    noise_rms = (noise.square().sum((1, 2, 3)) / _coordinates(mask, noise)).sqrt()
    transforms = masked_transforms(transform, face_keys, mask, z.shape[1])
    w, scale = apply_forward(noise, mask, transforms, prior.temperature)
    # Psi depends on the key through the known region's noise alone.
    serves_again = noise if known.noise is None else None
    return Walk(0, w, w, known, mask, scale, noise_rms, serves_again)


def advance(prior: Prior, walk: Walk, grid: list[int], taken: int) -> Walk:
    """Phi as far as `taken` steps, one evaluation each."""
    w, clean = walk.w, walk.clean
    for s, t in backwards(grid)[walk.taken : taken]:
        before, w = w, _step(prior, w, s, t, walk.known, walk.mask)
        clean = walk.mask * clean_prediction(prior.alpha_bar, before, w, s, t)
    return replace(walk, taken=taken, w=w, clean=clean)


def finish(walk: Walk, nfe: int) -> Anonymized:
    """What a walk that has taken all steps of its grid comes to."""
    return Anonymized(walk.w + walk.known.clean, walk.predicted, walk.scale, walk.noise_rms, nfe, walk.noise)


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
    steps = len(grid) - 1
    walk = begin(prior, z, z_known, mask, face_keys, transform, grid, noise)
    return finish(advance(prior, walk, grid, steps), 2 * steps if noise is None else steps)


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
