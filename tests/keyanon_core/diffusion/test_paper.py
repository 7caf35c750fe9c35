"""Method `paper` against diffusers itself: the same networks and keys, its own classes and schedulers, in float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DModel, VQModel
from torch import Tensor

from keyanon_core.errors import PriorError
from keyanon_core.keys import KeyStream, subkey
from keyanon_core.methods import anonymize, decode, recover
from keyanon_core.methods.paper import invert
from keyanon_core.priors import load_prior
from keyanon_core.procedure import Procedure
from tests.keyanon_core.diffusion.tiny_priors import a_key, ellipse, ldm_prior, pixel_prior, psnr, scheduler, write_json

TO_NOISE, TO_PICTURE = (
    1e-5,
    1e-4,
)  # largest difference in zT, as a share of its largest value, and in a picture in [-1, 1]


class Reference:
    """What one writes with diffusers: DDIM inversion, signs inside the mask, DDIM with the inversion's own latents outside of it,
    and the decoder with its codebook. In the memory format that a prior's networks run in: in another one kernels sum in another
    order.
    """

    def __init__(self, root: Path, steps: int) -> None:
        config = json.loads((root / "scheduler" / "scheduler_config.json").read_text())
        self.up, self.down = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
        self.up.set_timesteps(steps)
        self.down.set_timesteps(steps)
        self.unet = UNet2DModel.from_pretrained(root / "unet").to(memory_format=torch.channels_last)
        self.vqvae = VQModel.from_pretrained(root / "vqvae").to(memory_format=torch.channels_last)

    def encode(self, picture: Tensor) -> Tensor:
        latents: Tensor = self.vqvae.encode(picture.contiguous(memory_format=torch.channels_last)).latents
        return latents

    def walk(self, picture: Tensor, mask: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Picture (B, 3, S, S) -> its noise latent zT and the picture of the keyed one, float32."""
        with torch.no_grad():
            trail = [self.encode(picture)]
            for t in self.up.timesteps:
                trail.append(self.up.step(self.unet(trail[-1], t).sample, t, trail[-1]).prev_sample)
            z = torch.where(mask != 0, trail[-1] * signs, trail[-1])
            for t, outside in zip(self.down.timesteps, trail[-2::-1], strict=True):
                z = self.down.step(self.unet(z, t).sample, t, z).prev_sample
                z = torch.where(mask != 0, z, outside)
            return trail[-1], self.vqvae.decode(z).sample


def pictures() -> Tensor:
    """(2, 3, 32, 32) float32 in [-1, 1], smooth."""
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(7)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def says(root: Path, **changes: Any) -> None:
    """Write the scheduler's file anew; None takes a field out."""
    scheduler(root, **changes)
    path = root / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    write_json(path, {name: value for name, value in config.items() if changes.get(name, value) is not None})


def _apart(noise: torch.Tensor, original: torch.Tensor) -> float:
    return float((noise - original).abs().max() / original.abs().max())


@pytest.mark.parametrize(
    ("said", "steps", "clean"),
    [
        ({"set_alpha_to_one": None}, 50, 1.0),  # as the file of ldm-celebahq-256
        ({"set_alpha_to_one": True, "clip_sample": None}, 7, 1.0),
        (
            {"set_alpha_to_one": False, "prediction_type": "sample", "clip_sample": True, "clip_sample_range": 0.3},
            50,
            0.9985,
        ),
        ({"set_alpha_to_one": None, "prediction_type": "v_prediction", "beta_schedule": "linear"}, 12, 1.0),
    ],
)
def test_paper_is_what_diffusers_does(tmp_path: Path, said: dict[str, Any], steps: int, clean: float) -> None:
    root = ldm_prior(tmp_path, output=1.0)
    says(root, **said)
    prior, reference, procedure = load_prior(root), Reference(root, steps), Procedure("paper", steps=steps)
    assert float(prior.schedule.as_diffusers.clean) == pytest.approx(clean)
    assert list(prior.grid(procedure)) == [0, *reference.up.timesteps.tolist()]
    keys, picture = [a_key(0), a_key(1)], pictures()
    masks = [torch.cat([ellipse(8, rows), ellipse(8, rows - 0.2)]).double() for rows in (0.8, 0.9)]
    cells = torch.Size((2, *prior.latent_shape))
    signs = torch.stack([torch.from_numpy(KeyStream(subkey(k, "transform")).signs(cells[1:].numel())) for k in keys])
    signs = signs.view(cells).float()

    noise, shown = reference.walk(picture, masks[0], signs)
    z = prior.encode(picture.double())
    done = anonymize(prior, z, z, masks[0], keys, procedure)
    assert _apart(invert(prior, z, procedure)[-1], noise) <= TO_NOISE
    anonymized = decode(prior, done.latent, procedure)
    assert float((anonymized - shown).abs().max()) <= TO_PICTURE
    assert float((anonymized - prior.decode(done.latent)).abs().max()) > 0.01, "the decoder's codebook is used"
    assert done.scale.tolist() == [1, 1]

    # Recovery has the picture in floating point, not clamped, and outlines another mask in it.
    noise_again, back = reference.walk(shown, masks[1], signs)
    again = prior.encode(anonymized)
    recovered = recover(prior, again, masks[1], keys, done.scale, procedure)
    assert _apart(invert(prior, again, procedure)[-1], noise_again) <= TO_NOISE
    assert float((decode(prior, recovered.latent, procedure) - back).abs().max()) <= TO_PICTURE


def test_paper_depends_on_the_key_inside_the_mask_alone_and_keeps_what_lies_outside(tmp_path: Path) -> None:
    prior = load_prior(ldm_prior(tmp_path))
    z, mask = prior.encode(pictures().double()), ellipse(8).double().expand(2, 1, 8, 8)
    made = [
        anonymize(prior, z, z, mask, keys, Procedure("paper")) for keys in ([a_key(0), a_key(1)], [a_key(0), a_key(2)])
    ]
    assert torch.equal(made[0].latent[0], made[1].latent[0])
    assert psnr(made[0].latent[1:], made[1].latent[1:], mask[1:]) < 30
    assert torch.equal(made[0].latent * (1 - mask), z * (1 - mask))


def test_a_prior_that_a_method_is_not_for_is_refused_by_the_name_of_the_other(tmp_path: Path) -> None:
    unconditional, inpaints = (
        load_prior(ldm_prior(tmp_path / "ldm")),
        load_prior(pixel_prior(tmp_path / "pixel", "inpaint")),
    )
    for prior, method, other in ((unconditional, "paper-inpaint", "paper"), (inpaints, "paper", "paper-inpaint")):
        z = torch.zeros(1, *prior.latent_shape, dtype=torch.float64)
        with pytest.raises(
            PriorError, match=rf"method {method} is not for prior .* use method {other}, which is for such"
        ):
            anonymize(prior, z, z, z[:, :1] + 1, [a_key(0)], Procedure(method))


def test_a_face_without_noise_whose_noise_would_be_divided_by_none_of_it_is_refused(tmp_path: Path) -> None:
    root = pixel_prior(tmp_path)
    says(root, prediction_type="sample", set_alpha_to_one=None)
    prior = load_prior(root)
    z = torch.zeros(1, *prior.latent_shape, dtype=torch.float64)
    with pytest.raises(PriorError, match=r"prediction_type sample.*set_alpha_to_one false"):
        anonymize(prior, z, z, z[:, :1] + 1, [a_key(0)], Procedure("paper"))
