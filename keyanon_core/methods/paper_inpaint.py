"""Method `paper-inpaint`: what becomes of the paper's Eq. 3-7 (see `paper`) on an inpainting prior. It is not its authors'.

The known region needs no trajectory there: such a prior is trained to see the clean known pixels at every timestep, so the
trajectory that Eq. 7 re-injects is constant, the known region itself, and only the masked part walks. It walks on our grid, with
Eq. 5 taken by its letter: the network is asked at the timestep that a step comes from. Recovery is a first-order guess all the
same.

Until `paper` was its authors' procedure it was this one, on every prior: so recovery knows unconditional ones too, on which
nothing is anonymized by it any more.
"""

from collections.abc import Sequence

from torch import Tensor

from keyanon_core.known_path import KnownPath, zero_path
from keyanon_core.methods.results import Anonymized, Recovered
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.schedule import backwards, ddim_coefficients, forwards
from keyanon_core.transforms import apply_forward, apply_inverse, masked_transforms


def anonymize(
    prior: Prior, z: Tensor, z_known: Tensor, mask: Tensor, face_keys: Sequence[bytes], procedure: Procedure
) -> Anonymized:
    """2N evaluations. Shapes as in `keyanon_core.methods.anonymize`."""
    grid = prior.grid(procedure)
    z_0 = z * mask + z_known * (1 - mask)
    trajectory = _invert(prior, z_0, mask, grid)
    z_t = trajectory[-1]
    coordinates = mask.sum((1, 2, 3)) * z.shape[1]
    noise_rms = ((z_t * mask).square().sum((1, 2, 3)) / coordinates).sqrt()
    transforms = masked_transforms(procedure.transform, face_keys, mask, z.shape[1])
    keyed, scale = apply_forward(z_t * mask, mask, transforms, prior.temperature)
    latent = _generate(prior, keyed + z_t * (1 - mask), trajectory, mask, grid)
    return Anonymized(latent, latent, scale, noise_rms, nfe=procedure.evaluations)


def recover(
    prior: Prior,
    latent: Tensor,
    mask: Tensor,
    face_keys: Sequence[bytes],
    scale: Tensor,
    procedure: Procedure,
) -> Recovered:
    """The same procedure with K^-1; nothing is solved."""
    grid = prior.grid(procedure)
    trajectory = _invert(prior, latent, mask, grid)
    z_t = trajectory[-1]
    transforms = masked_transforms(procedure.transform, face_keys, mask, latent.shape[1])
    unkeyed = apply_inverse(z_t * mask, mask, transforms, scale)
    recovered = _generate(prior, unkeyed + z_t * (1 - mask), trajectory, mask, grid)
    return Recovered(recovered, [], procedure.evaluations, keyed_noise=z_t * mask)


def _ddim(prior: Prior, z: Tensor, s: int, t: int, mask: Tensor) -> Tensor:
    """One DDIM step of the whole latent from s to t: Eq. 4 towards the clean end, Eq. 5 towards the noisy one."""
    k = ddim_coefficients(prior.alpha_bar, s, t)
    if prior.conditioning == "none":
        return k.a * z + k.c * prior.eps(z, s, zero_path(z, prior.alpha_bar, 0), mask)
    known, w = KnownPath(z * (1 - mask), None, prior.alpha_bar), z * mask
    return mask * (k.a * w + k.c * prior.eps(w, s, known, mask)) + known.clean


def _invert(prior: Prior, z_0: Tensor, mask: Tensor, grid: Sequence[int]) -> list[Tensor]:
    """Eq. 5: the latents z_0 .. z_T of the explicit DDIM inversion."""
    trajectory = [z_0]
    for s, t in forwards(grid):
        trajectory.append(_ddim(prior, trajectory[-1], s, t, mask))
    return trajectory


def _generate(prior: Prior, z_t: Tensor, trajectory: list[Tensor], mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Eq. 4 with Eq. 7: after each step, outside the mask, the trajectory of the inversion at that timestep."""
    z = z_t
    for (s, t), reinjected in zip(backwards(grid), trajectory[-2::-1], strict=True):
        z = mask * _ddim(prior, z, s, t, mask) + (1 - mask) * reinjected
    return z
