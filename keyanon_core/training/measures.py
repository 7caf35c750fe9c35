"""What is measured while a prior is trained: how well it explains faces it is not shown, and how well they come back."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.evaluation import eight_bit, psnr
from keyanon_core.keys import face_key, new_image_key
from keyanon_core.methods import anonymize, recover
from keyanon_core.priors import Prior
from keyanon_core.procedure import DEFAULT_STEPS, Procedure

EIGHT_BIT_RMS = 2 / 255 / math.sqrt(12)  # of the rounding error of an 8-bit crop in [-1, 1]

Crops = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class InversionMeasures:
    """Of a few held-out faces, method exact with inversion `ddim`, which alone tells how well the prior explains them.

    noise_rms: median rms of the noise latent, 1 is ideal. recovered_db: median PSNR inside the mask from the 8-bit crop. gain:
    rms error of the recovered crop over that of the 8-bit rounding. iterations: most of one solved step. residual: worst, rms.
    anonymized: (n, 3, S, S) in [-1, 1], as published.
    """

    noise_rms: float
    recovered_db: float
    gain: float
    iterations: int
    residual: float
    anonymized: Crops


def measure_inversion(
    prior: Prior, crops: Crops, masks: Masks, steps: int = DEFAULT_STEPS["ddim"]
) -> InversionMeasures:
    """Anonymize under fresh keys, round to 8 bits, recover. crops: (n, 3, S, S) float64 in [-1, 1]; masks: (n, S, S) bool.

    Raises SolverError when a step does not converge.
    """
    device = prior.networks.device
    source, mask = torch.from_numpy(crops).to(device), torch.from_numpy(masks)[:, None].to(device, torch.float64)
    known = source * (1 - mask)
    procedure = Procedure(inversion="ddim", steps=steps)
    keys = [face_key(new_image_key(), 0, 0, "rotation") for _ in crops]
    done = anonymize(prior, source, known, mask, keys, procedure)
    stored = mask * torch.from_numpy(eight_bit(done.latent.numpy())) + (1 - mask) * known
    back = recover(prior, stored, mask, keys, done.scale, procedure)
    db = psnr(back.latent.numpy(), crops, masks)
    return InversionMeasures(
        noise_rms=float(done.noise_rms.median()),
        recovered_db=float(np.median(db)),
        gain=math.sqrt(np.mean(4 / 10 ** (db / 10))) / EIGHT_BIT_RMS,
        iterations=max(step.iterations for step in back.steps),
        residual=max(float(step.residual) for step in back.steps),
        anonymized=done.clean.clamp(-1, 1).cpu().numpy(),
    )


def sample_faces(prior: Prior, count: int, steps: int = DEFAULT_STEPS["none"]) -> Crops:
    """Faces made from noise alone, without a known region: (count, 3, S, S) float64 in [-1, 1]."""
    blank, mask = torch.zeros(count, *prior.latent_shape, dtype=torch.float64), torch.ones(count, 1, 1, 1).double()
    mask = mask.expand(-1, 1, *prior.latent_shape[1:]).contiguous()
    keys = [face_key(new_image_key(), 0, 0, "rotation") for _ in range(count)]
    # Under a fresh key a rotation makes noise of any vector.
    done = anonymize(prior, torch.ones_like(blank), blank, mask, keys, Procedure(steps=steps))
    return done.clean.clamp(-1, 1).cpu().numpy()
