"""The prior that ships in the package, on a public-domain face."""

import pytest
import torch

from keyanon_core.methods import Anonymized, Recovered, anonymize, recover
from keyanon_core.priors import Prior
from keyanon_core.procedure import Procedure
from tests.keyanon_core.diffusion.tiny_priors import a_key, ellipse, psnr

DEFAULT, THERE_AND_BACK = Procedure(), Procedure(inversion="ddim")
MOST_NFE = 40  # to recover a face made by default
SIDE = 128
MASK = ellipse(SIDE).double()


@pytest.fixture(scope="module", params=[DEFAULT, THERE_AND_BACK], ids=str)
def procedure(request: pytest.FixtureRequest) -> Procedure:
    chosen: Procedure = request.param
    return chosen


@pytest.fixture(scope="module")
def done(embedded: Prior, astronaut_face: torch.Tensor, procedure: Procedure) -> Anonymized:
    torch.set_num_threads(1)
    return anonymize(embedded, astronaut_face, astronaut_face * (1 - MASK), MASK, [a_key(1)], procedure)


def recovered(
    prior: Prior,
    latent: torch.Tensor,
    done: Anonymized,
    procedure: Procedure,
    key: int = 1,
    tolerance: float | None = None,
) -> Recovered:
    return recover(prior, latent, MASK, [a_key(key)], done.scale, procedure, tolerance=tolerance)


def test_it_is_what_its_card_says(embedded: Prior) -> None:
    assert (embedded.side, embedded.latent_shape, embedded.conditioning) == (SIDE, (3, SIDE, SIDE), "inpaint")
    assert embedded.name == "keyanon-embedded-128"
    assert round(embedded.networks.parameters / 1e5) == 161
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


def test_the_face_changes_for_4_or_24_evaluations_and_its_surroundings_do_not(
    done: Anonymized, procedure: Procedure, astronaut_face: torch.Tensor
) -> None:
    assert done.nfe == (4 if procedure == DEFAULT else 24)
    assert psnr(done.latent, astronaut_face, MASK) < 22
    assert torch.equal(done.latent * (1 - MASK), astronaut_face * (1 - MASK))


def test_recovery_from_the_float_result(
    embedded: Prior, done: Anonymized, procedure: Procedure, astronaut_face: torch.Tensor
) -> None:
    back = recovered(embedded, done.latent, done, procedure)
    assert psnr(back.latent, astronaut_face, MASK) > (80 if procedure == DEFAULT else 100)


def test_recovery_from_a_float16_sidecar(
    embedded: Prior, done: Anonymized, procedure: Procedure, astronaut_face: torch.Tensor
) -> None:
    back = recovered(embedded, done.latent.half().double(), done, procedure)
    assert psnr(back.latent, astronaut_face, MASK) >= 60
    assert procedure != DEFAULT or back.nfe <= MOST_NFE


def test_recovery_from_an_8_bit_crop(
    embedded: Prior, done: Anonymized, procedure: Procedure, astronaut_face: torch.Tensor
) -> None:
    rounded = ((done.latent.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    back = recovered(embedded, rounded, done, procedure, tolerance=1e-4)
    assert psnr(back.latent, astronaut_face, MASK) >= 34


def test_a_wrong_key_gives_what_is_as_far_away_as_the_anonymized_face(
    embedded: Prior, done: Anonymized, procedure: Procedure, astronaut_face: torch.Tensor
) -> None:
    false_face = recovered(embedded, done.latent, done, procedure, key=2, tolerance=1e-3).latent
    # Single faces scatter by some dB to either side; the right key gives more than 80 dB.
    assert psnr(false_face, astronaut_face, MASK) <= psnr(done.latent, astronaut_face, MASK) + 3
