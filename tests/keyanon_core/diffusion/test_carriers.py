"""Carriers: the formula, its inverse, and a face that comes back from the one it rides on."""

import math

import pytest
import torch

from keyanon_core.carriers import carrier, put_on, take_off
from keyanon_core.keys import KeyStream
from keyanon_core.methods import Procedure, anonymize, recover
from keyanon_core.priors import Prior

KEYS = [bytes([number]) * 32 for number in range(3)]
SHARE, TEMPERATURE = 0.2, 0.9


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Payloads and masks of three faces."""
    torch.manual_seed(0)
    mask = (torch.rand(3, 1, 16, 16) < 0.5).double()
    return torch.randn(3, 12, 16, 16, dtype=torch.float64) * mask * TEMPERATURE, mask


def test_a_face_on_a_carrier_is_the_formula_and_one_without_stays() -> None:
    payload, mask = _batch()
    noise = put_on(payload, mask, [KEYS[0], None, KEYS[0]], SHARE, TEMPERATURE)
    drawn = torch.from_numpy(KeyStream(KEYS[0]).normal(12 * 16 * 16)).view(12, 16, 16)
    assert torch.equal(carrier(KEYS[0], (12, 16, 16)), drawn)
    for face in (0, 2):
        wanted = mask[face] * (math.sqrt(1 - 0.04) * 0.9 * drawn + 0.2 * payload[face])
        assert torch.allclose(noise[face], wanted, rtol=0, atol=1e-12)
    assert torch.equal(noise[1], payload[1])
    inside = mask[0].expand(12, -1, -1) > 0
    assert noise[0][inside].square().mean().sqrt() == pytest.approx(TEMPERATURE, rel=0.05)


def test_taking_off_undoes_putting_on_with_the_same_carrier_alone() -> None:
    payload, mask = _batch()
    noise = put_on(payload, mask, KEYS, SHARE, TEMPERATURE)
    assert torch.allclose(take_off(noise, mask, KEYS, SHARE, TEMPERATURE), payload, rtol=0, atol=1e-13)
    other = take_off(noise, mask, [*KEYS[1:], KEYS[0]], SHARE, TEMPERATURE)
    assert (other - payload).square().mean().sqrt() > 1


def test_without_carriers_nothing_changes() -> None:
    payload, mask = _batch()
    assert put_on(payload, mask, (), 1.0, TEMPERATURE) is payload
    assert take_off(payload, mask, [None] * 3, 0.2, TEMPERATURE) is payload


@pytest.mark.parametrize("inversion", ["none", pytest.param("ddim", marks=pytest.mark.slow)])
def test_a_face_comes_back_from_its_carrier(embedded: Prior, astronaut_face: torch.Tensor, inversion: str) -> None:
    masked = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    masked[:, :, 32:96, 32:96] = True
    mask = embedded.latent_mask(masked)
    z, known = embedded.encode(astronaut_face), embedded.encode(astronaut_face.masked_fill(masked, 0.0))
    procedure = Procedure(inversion=inversion, payload_share=SHARE)
    done = anonymize(embedded, z, known, mask, KEYS[:1], procedure, carrier_keys=KEYS[1:2])
    back = recover(embedded, done.latent, mask, KEYS[:1], done.scale, procedure, carrier_keys=KEYS[1:2])
    assert float(((back.latent - z) * mask).square().sum() / mask.sum() / 12) < 1e-7
    wrong = recover(embedded, done.latent, mask, KEYS[:1], done.scale, procedure, carrier_keys=KEYS[2:])
    assert float(((wrong.latent - z) * mask).square().sum() / mask.sum() / 12) > 0.1


def test_carriers_that_do_not_fit_are_refused(embedded: Prior) -> None:
    z = torch.zeros(1, *embedded.latent_shape, dtype=torch.float64)
    mask = torch.ones(1, 1, *embedded.latent_shape[1:], dtype=torch.float64)
    with pytest.raises(ValueError, match="as many carriers"):
        anonymize(embedded, z, z, mask, KEYS[:1], Procedure(payload_share=0.2), carrier_keys=KEYS)
    with pytest.raises(ValueError, match="payload share below 1"):
        recover(embedded, z, mask, KEYS[:1], torch.ones(1), Procedure(), carrier_keys=KEYS[:1])


@pytest.mark.parametrize(
    "said", [{"method": "paper-inpaint"}, {"transform": "sign"}, {"payload_share": 0.01}, {"payload_share": 1.1}]
)
def test_a_share_is_for_a_dense_rotation_and_within_bounds(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"carrier|payload_share"):
        Procedure(**{"payload_share": 0.2, **said})  # type: ignore[arg-type]
