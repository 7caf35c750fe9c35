"""Method `paper`: Labarbarie, Itier, Puech, "Secure and reversible face anonymization with diffusion models", arXiv 2510.01031.

Kept as the reference: Eq. 3-7 as their authors run them, which is what the DDIM schedulers of diffusers do, in float32, on an
unconditional prior. Two things are not as one would write them down from the paper. The inversion asks the network at the
timestep that it goes to, not at the one that it comes from. And the walk ends before the first timestep, where there is no noise
at all unless the scheduler's file says `set_alpha_to_one: false`.

Recovery runs the same procedure on the anonymized latent and can not be exact: the trajectory re-injected outside the mask is the
anonymized latent's, not the original's, and the inversion is a guess. In the paper's protocol that latent is encoded again from
the decoded picture, not rounded and not clamped, and its mask is made anew from it: so the keyed signs belong to cells of the
latent, not to places in a mask.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from keyanon_core.keys import KeyStream, subkey
from keyanon_core.methods.results import Anonymized, Recovered
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.schedule import backwards, forwards
from keyanon_core.transforms import apply_forward, apply_inverse, masked_transforms


def anonymize(
    prior: Prior, z: Tensor, z_known: Tensor, mask: Tensor, face_keys: Sequence[bytes], procedure: Procedure
) -> Anonymized:
    """2N evaluations. Shapes as in `keyanon_core.methods.anonymize`; in the paper's protocol z_known is z."""
    trajectory = invert(prior, z * mask + z_known * (1 - mask), procedure)
    z_t = trajectory[-1].double()
    coordinates = mask.sum((1, 2, 3)) * z.shape[1]
    noise_rms = ((z_t * mask).square().sum((1, 2, 3)) / coordinates).sqrt()
    if procedure.transform == "sign":
        keyed, scale = _flipped(z_t, mask, face_keys), torch.ones(len(z), dtype=torch.float64)
    else:
        transforms = masked_transforms(procedure.transform, face_keys, mask, z.shape[1])
        keyed, scale = apply_forward(z_t * mask, mask, transforms, prior.temperature)
    latent = _generate(prior, keyed, trajectory, mask, procedure)
    return Anonymized(latent, latent, scale, noise_rms, nfe=procedure.evaluations)


def recover(
    prior: Prior, latent: Tensor, mask: Tensor, face_keys: Sequence[bytes], scale: Tensor, procedure: Procedure
) -> Recovered:
    """The same procedure with K^-1; nothing is solved."""
    trajectory = invert(prior, latent, procedure)
    z_t = trajectory[-1].double()
    if procedure.transform == "sign":
        unkeyed = _flipped(z_t, mask, face_keys)
    else:
        transforms = masked_transforms(procedure.transform, face_keys, mask, latent.shape[1])
        unkeyed = apply_inverse(z_t * mask, mask, transforms, scale)
    recovered = _generate(prior, unkeyed, trajectory, mask, procedure)
    return Recovered(recovered, [], procedure.evaluations, keyed_noise=z_t * mask)


def invert(prior: Prior, z_0: Tensor, procedure: Procedure) -> list[Tensor]:
    """Eq. 5: the latents z_0 .. z_T, (B, C, h, w) float32, of z_0's DDIM inversion; each step asks the network at its end."""
    trajectory = [z_0.float()]
    levels = _levels(prior, procedure)
    for step, (_, t) in enumerate(forwards(prior.grid(procedure))):
        trajectory.append(_ddim(prior, trajectory[-1], t, levels[step], levels[step + 1]))
    return trajectory


def _generate(prior: Prior, keyed: Tensor, trajectory: list[Tensor], mask: Tensor, procedure: Procedure) -> Tensor:
    """Eq. 4 with Eq. 7: from the keyed noise inside the mask, and after each step, outside of it, the inversion's own trajectory.
    Returns (B, C, h, w) float64.
    """
    levels, inside = _levels(prior, procedure), mask != 0
    z = torch.where(inside, keyed.float(), trajectory[-1])
    for step, (s, _) in enumerate(backwards(prior.grid(procedure)), start=1):
        z = _ddim(prior, z, s, levels[-step], levels[-step - 1])
        z = torch.where(inside, z, trajectory[-step - 1])
    return z.double()


def _ddim(prior: Prior, z: Tensor, t: int, level: Tensor, next_level: Tensor) -> Tensor:
    """One DDIM step with eta = 0 (Song et al. 2021, Eq. 12) between two values of alpha_bar, the network asked at timestep t."""
    clean, eps = prior.schedule.parts(z, level.sqrt(), (1 - level).sqrt(), prior.predicted(z, t).float())
    clip = prior.schedule.as_diffusers.clip
    if clip is not None:
        clean = clean.clamp(-clip, clip)
    return next_level.sqrt() * clean + (1 - next_level).sqrt() * eps


def _levels(prior: Prior, procedure: Procedure) -> list[Tensor]:
    """alpha_bar along the grid, () float32 each, whose first one belongs to no timestep."""
    schedule = prior.schedule.as_diffusers
    return [schedule.clean, *(schedule.alpha_bar[t] for t in prior.grid(procedure)[1:])]


def _flipped(z_t: Tensor, mask: Tensor, face_keys: Sequence[bytes]) -> Tensor:
    """Eq. 3 and 6, each its own inverse: signs of the whole latent, used inside the mask (zero outside of it)."""
    cells = z_t[0].numel()
    signs = [torch.from_numpy(KeyStream(subkey(key, "transform")).signs(cells)) for key in face_keys]
    return z_t * mask * torch.stack(signs).view(z_t.shape).to(z_t)
