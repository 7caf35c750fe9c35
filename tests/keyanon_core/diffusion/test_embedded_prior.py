"""The prior that ships in the package, on a public-domain face."""

import pytest
import torch

from keyanon_core.methods import Anonymized, anonymize, recover
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from keyanon_core.solver import DEFAULT_TOLERANCE
from tests.keyanon_core.diffusion.tiny_priors import a_key, ellipse, psnr

STEPS = 12
SIDE = 128
MASK = ellipse(SIDE).double()


@pytest.fixture(scope="module")
def done(embedded: Prior, astronaut_face: torch.Tensor) -> Anonymized:
    torch.set_num_threads(1)
    return anonymize(embedded, astronaut_face, astronaut_face * (1 - MASK), MASK, [a_key(1)], Procedure(steps=STEPS))


def recovered(
    prior: Prior, latent: torch.Tensor, done: Anonymized, key: int = 1, tolerance: float = DEFAULT_TOLERANCE
) -> torch.Tensor:
    return recover(prior, latent, MASK, [a_key(key)], done.scale, Procedure(steps=STEPS), tolerance=tolerance).latent


def test_it_is_what_its_card_says(embedded: Prior) -> None:
    assert (embedded.side, embedded.latent_shape, embedded.conditioning) == (SIDE, (3, SIDE, SIDE), "inpaint")
    assert embedded.name == "keyanon-embedded-128"
    assert round(embedded.parameters / 1e5) == 161
    eyes, mouth = embedded.landmark_template[:2], embedded.landmark_template[3:]
    assert 44 < eyes[0, 0] < 48 and 80 < eyes[1, 0] < 84 and 56 < eyes[:, 1].mean() < 60
    assert 94 < mouth[:, 1].mean() < 98


def test_it_predicts_faces_and_not_only_noise(embedded: Prior, astronaut_face: torch.Tensor) -> None:
    """Mixed-up input channels or timesteps would cost the denoiser most of what it knows."""
    from keyanon_core.known_path import KnownPath

    noise = torch.randn(astronaut_face.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ab = float(embedded.alpha_bar[400])
    z = ab**0.5 * astronaut_face + (1 - ab) ** 0.5 * noise
    known = KnownPath(astronaut_face * (1 - MASK), None, embedded.alpha_bar)
    eps = embedded.eps(z * MASK, 400, known, MASK)
    x0 = (z - (1 - ab) ** 0.5 * eps) / ab**0.5
    assert psnr(x0, astronaut_face, MASK) > 20


def test_the_face_changes_for_24_evaluations_and_its_surroundings_do_not(
    done: Anonymized, astronaut_face: torch.Tensor
) -> None:
    assert done.nfe == 24
    assert psnr(done.latent, astronaut_face, MASK) < 22
    assert torch.equal(done.latent * (1 - MASK), astronaut_face * (1 - MASK))


def test_recovery_from_the_float_result(embedded: Prior, done: Anonymized, astronaut_face: torch.Tensor) -> None:
    assert psnr(recovered(embedded, done.latent, done), astronaut_face, MASK) > 100


def test_recovery_from_a_float16_sidecar(embedded: Prior, done: Anonymized, astronaut_face: torch.Tensor) -> None:
    assert psnr(recovered(embedded, done.latent.half().double(), done, tolerance=1e-4), astronaut_face, MASK) >= 60


def test_recovery_from_an_8_bit_crop(embedded: Prior, done: Anonymized, astronaut_face: torch.Tensor) -> None:
    rounded = ((done.latent.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert psnr(recovered(embedded, rounded, done, tolerance=1e-4), astronaut_face, MASK) >= 34


def test_a_wrong_key_gives_a_face_as_far_away_as_the_anonymized_one(
    embedded: Prior, done: Anonymized, astronaut_face: torch.Tensor
) -> None:
    false_face = recovered(embedded, done.latent, done, key=2, tolerance=1e-3)
    # Single faces scatter by some dB to either side; the right key gives more than 100 dB.
    assert psnr(false_face, astronaut_face, MASK) <= psnr(done.latent, astronaut_face, MASK) + 3
