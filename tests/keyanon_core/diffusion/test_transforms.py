"""Keyed transforms: exact bijections that keep the norm; how close `rotation` comes to a Haar-random one."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.keys import face_key
from keyanon_core.procedure import TRANSFORMS
from keyanon_core.transforms import (
    Rotation,
    SignFlip,
    apply_forward,
    apply_inverse,
    keyed_transform,
    masked_transforms,
)
from tests.keyanon_core.diffusion.tiny_priors import a_key, ellipse

N = 2049
"""Not a power of two: blocks of 2,048 and 1, the worst split for a single round."""


def key_number(number: int) -> bytes:
    return number.to_bytes(32, "little")


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 700), kind=st.sampled_from(sorted(TRANSFORMS)), seed=st.integers(0, 2**32 - 1))
def test_transforms_are_bijections_that_keep_the_norm(n: int, kind: str, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n) * 3
    transform = keyed_transform(kind, key_number(seed), n)
    keyed, scale = transform.forward(values)
    assert np.allclose(keyed_transform(kind, key_number(seed), n).inverse(keyed, scale), values, rtol=0, atol=1e-12)
    assert np.isclose(np.linalg.norm(keyed) * scale, np.linalg.norm(values), rtol=1e-12)
    if kind == "rotation":
        assert np.isclose(np.mean(keyed**2), 1.0, rtol=1e-12)


def test_rotation_is_linear_and_orthogonal_but_for_its_scale() -> None:
    columns = np.stack([Rotation(key_number(3), 45).forward(e)[0] / np.sqrt(45) for e in np.eye(45)])
    assert np.allclose(columns @ columns.T, np.eye(45), atol=1e-12)


def test_sign_flips_half_of_the_coordinates_and_nothing_else() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    keyed, scale = SignFlip(key_number(1), 10_000).forward(values)
    assert scale == 1.0
    assert np.array_equal(np.abs(keyed), np.abs(values))
    assert 0.47 < np.mean(keyed != values) < 0.53


def test_rotated_vectors_point_away_from_their_source_like_random_ones() -> None:
    """For a Haar rotation sqrt(n) <u, Ku> is N(0, 1) to O(1/n)."""
    source = np.random.default_rng(0).normal(size=N)
    source /= np.sqrt(np.mean(source**2))
    products = [float(source @ Rotation(key_number(k), N).forward(source)[0]) / np.sqrt(N) for k in range(200)]
    assert abs(np.mean(products)) < 0.25
    assert 0.82 < np.std(products) < 1.18
    assert np.max(np.abs(products)) < 4.5


@pytest.mark.parametrize("where", [0, N // 2, N - 1])
def test_a_single_spike_is_spread_over_all_coordinates(where: int) -> None:
    spike = np.zeros(N)
    spike[where] = 1.0
    kurtoses = []
    for k in range(20):
        keyed, _ = Rotation(key_number(k), N).forward(spike)
        kurtoses.append(np.mean(keyed**4))
        assert np.max(np.abs(keyed)) < 6
    assert 2.8 < np.mean(kurtoses) < 3.2  # 3 for a normal distribution


def test_a_key_off_by_one_bit_gives_an_unrelated_result() -> None:
    source = np.random.default_rng(0).normal(size=N)
    image_key = bytes(range(32))
    correlations = []
    for bit in range(0, 256, 8):
        flipped = bytearray(image_key)
        flipped[bit // 8] ^= 1 << (bit % 8)
        ours = Rotation(face_key(image_key, 0, 0, "rotation"), N)
        theirs = Rotation(face_key(bytes(flipped), 0, 0, "rotation"), N)
        keyed, scale = ours.forward(source)
        correlations.append(np.corrcoef(theirs.inverse(keyed, scale), source)[0, 1])
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(N)


def test_rotation_moves_magnitudes_which_sign_flips_keep() -> None:
    source = np.random.default_rng(0).normal(size=N)
    rotated, scale = Rotation(key_number(1), N).forward(source)
    flipped, _ = SignFlip(key_number(1), N).forward(source)
    assert np.corrcoef(np.abs(flipped), np.abs(source))[0, 1] > 0.999
    assert abs(np.corrcoef(np.abs(rotated * scale), np.abs(source))[0, 1]) < 5 / np.sqrt(N)


def test_a_temperature_is_the_rms_of_what_a_rotation_gives_and_undone_with_the_scale() -> None:
    source = 1.7 * np.random.default_rng(0).normal(size=N)
    transform = Rotation(key_number(1), N)
    keyed, scale = transform.forward(source, 0.8)
    assert np.sqrt(np.mean(keyed**2)) == pytest.approx(0.8)
    np.testing.assert_allclose(transform.inverse(keyed, scale), source, atol=1e-12)
    assert SignFlip(key_number(1), N).forward(source, 0.8)[1] == 1


@pytest.mark.parametrize("kind", sorted(TRANSFORMS))
def test_each_face_of_a_batch_has_its_own_key_and_mask(kind: str) -> None:
    mask = torch.cat([ellipse(16), ellipse(16, 0.4, 0.5)]).double()
    w = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * mask
    keys = [a_key(1), a_key(2)]
    keyed, scale = apply_forward(w, mask, masked_transforms(kind, keys, mask, 3))
    assert bool((keyed[mask.expand_as(w) == 0] == 0).all())
    again = apply_inverse(keyed, mask, masked_transforms(kind, keys, mask, 3), scale)
    assert torch.allclose(again, w, atol=1e-12)
    alone, _ = apply_forward(w[1:], mask[1:], masked_transforms(kind, keys[1:], mask[1:], 3))
    assert torch.equal(alone[0], keyed[1])
    swapped, _ = apply_forward(w, mask, masked_transforms(kind, keys[::-1], mask, 3))
    assert not torch.allclose(swapped, keyed)


@pytest.mark.parametrize(
    ("n", "digest"), [(48, "b2aae214e6589609"), (1021, "d3a6aa87486e051e"), (17100, "59c58fec0bbf5836")]
)
def test_a_rotation_undoes_to_the_bit_what_earlier_versions_stored(n: int, digest: str) -> None:
    undone = Rotation(bytes(range(32)), n).inverse(np.arange(n) / 7.0 - n / 16, 1.0)
    assert hashlib.sha256(undone.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("kind", "expected", "scale"),
    [
        (
            "rotation",
            [-0.92823501, -0.16492998, -1.08274513, 0.39207238, -1.03317412, -0.97928706, -1.19526908],
            4.96904,
        ),
        ("sign", [-1, 2, 3, -4, -5, -6, 7], 1.0),
    ],
)
def test_what_a_key_does_to_a_vector_never_changes(kind: str, expected: list[float], scale: float) -> None:
    """Faces that were published are recovered by it."""
    keyed, divided = keyed_transform(kind, bytes(range(32)), 7).forward(np.arange(1.0, 8.0), 0.9)
    np.testing.assert_allclose(keyed, expected, atol=1e-8)
    assert divided == pytest.approx(scale, abs=1e-5)


def test_an_empty_mask_an_unknown_kind_and_a_zero_vector_are_refused() -> None:
    with pytest.raises(ValueError, match="face 1"):
        masked_transforms("sign", [a_key(1)] * 2, torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]), 3)
    with pytest.raises(ValueError, match="rotation"):
        masked_transforms("shuffle", [a_key(1)], torch.ones(1, 1, 4, 4), 3)
    with pytest.raises(ValueError, match="no direction"):
        Rotation(key_number(1), 4).forward(np.zeros(4))
