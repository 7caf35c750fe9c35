"""K on the pixels themselves leaves what noise of the same length has and nothing of a face; `sign` is the control that fails."""

import numpy as np
import pytest
import torch

from keyanon_core.evaluation.hiding import distance_from_sphere, hard_sources, keyed, normality, sphere, traces, unit
from keyanon_core.methods import anonymize
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from keyanon_core.transforms import MIN_COORDINATES, Rotation, Vector
from tests.keyanon_core.diffusion.tiny_priors import a_key, pixel_prior

LARGE, SMALLEST = (3, 32, 32), (3, 4, 4)
SOURCES, KEYS = 24, 4
CHANCE = 1.6  # Kolmogorov-Smirnov: times sqrt(2 / keys), passed by chance once in a hundred


def faces(shape: tuple[int, int, int]) -> list[Vector]:
    """Smooth pictures of one tone each, as skin is, each with its own shades."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(SOURCES, 3, 3, 3, generator=generator, dtype=torch.float64)
    tone = torch.randn(SOURCES, 3, 1, 1, generator=generator, dtype=torch.float64)
    shades = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear", align_corners=True)
    return [one.numpy().ravel() for one in 0.3 * shades + 0.5 * tone]


@pytest.mark.parametrize("shape", [LARGE, SMALLEST])
def test_a_rotated_face_has_the_traces_of_noise(shape: tuple[int, int, int]) -> None:
    n = int(np.prod(shape))
    ours, ideal = (traces(faces(shape), shape, sampler, KEYS) for sampler in (keyed("rotation"), sphere))
    results = SOURCES * KEYS
    assert ours.kurtosis == pytest.approx(3 * n / (n + 2), abs=8 / np.sqrt(n * results))
    assert abs(ours.neighbours) < 4 / np.sqrt(n * results)
    assert ours.low_frequencies == pytest.approx(ideal.low_frequencies, rel=0.3)
    assert ours.magnitude_rank == pytest.approx(1, abs=0.2)
    assert ours.projection == pytest.approx(1, abs=0.25)
    assert ours.others == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("shape", [LARGE, SMALLEST])
def test_flipped_signs_leave_the_face_to_be_found(shape: tuple[int, int, int]) -> None:
    ours = traces(faces(shape), shape, keyed("sign"), KEYS)
    assert ours.magnitude_rank == pytest.approx(2 / (SOURCES + 1)), "always the first"
    assert abs(ours.kurtosis - 3) > 0.5


def test_rotated_faces_are_rejected_as_noise_as_seldom_as_noise_is_and_most_flipped_ones_are() -> None:
    """Once in a hundred at 1 %, of 96; more than four are chance once in 300 times, and the keys here are the same each time. Of
    the flipped ones those pass whose shades happen to be spread like noise: 84 are rejected.
    """
    rejected = {
        kind: sum(normality(keyed(kind)(key, face)) < 0.01 for face in faces(LARGE) for key in range(KEYS))
        for kind in ("rotation", "sign")
    }
    assert rejected["rotation"] <= 4 and rejected["sign"] > 0.8 * SOURCES * KEYS


@pytest.mark.parametrize("n", [MIN_COORDINATES, MIN_COORDINATES + 1, 64, 191])
def test_from_the_smallest_mask_on_results_point_as_on_the_sphere_whatever_the_vector_was(n: int) -> None:
    keys = 400
    for name, source in hard_sources(n).items():
        assert distance_from_sphere(source, keyed("rotation"), keys) < CHANCE * np.sqrt(2 / keys), name


@pytest.mark.parametrize("n", [2, 4])
def test_of_a_few_coordinates_a_rotation_reaches_few_directions(n: int) -> None:
    keys = 1000
    worst = max(distance_from_sphere(source, keyed("rotation"), keys) for source in hard_sources(n).values())
    assert worst > 2 * CHANCE * np.sqrt(2 / keys)


def test_every_result_has_the_same_length_so_that_it_tells_no_contrast() -> None:
    for source in hard_sources(300).values():
        for contrast in (0.01, 1.0):
            result, _ = Rotation(bytes(32), 300).forward(contrast * source)
            assert np.sqrt(np.mean(result**2)) == pytest.approx(1, rel=1e-12)
            np.testing.assert_allclose(result, Rotation(bytes(32), 300).forward(source)[0], atol=1e-12)
    assert np.sqrt(np.mean(unit(np.arange(9.0)) ** 2)) == pytest.approx(1)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def test_a_mask_too_small_to_hide_is_refused_without_inversion(prior: Prior) -> None:
    z = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    mask.view(-1)[: MIN_COORDINATES // 3] = 1
    anonymize(prior, z, z * (1 - mask), mask, [a_key(0)], Procedure(steps=2))
    mask.view(-1)[0] = 0
    with pytest.raises(ValueError, match=f"{MIN_COORDINATES} are needed"):
        anonymize(prior, z, z * (1 - mask), mask, [a_key(0)], Procedure(steps=2))


def test_what_is_published_says_nothing_of_the_source_but_through_its_rotation(prior: Prior) -> None:
    """Two sources of one direction and other lengths give one result under one key; their lengths are in the scales alone."""
    mask = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    mask[..., :4] = 0
    z = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    faint, strong = (
        anonymize(prior, factor * z, z * (1 - mask), mask, [a_key(0)], Procedure(steps=3)) for factor in (0.1, 0.5)
    )
    torch.testing.assert_close(faint.latent, strong.latent, rtol=0, atol=1e-6)
    assert float(strong.scale / faint.scale) == pytest.approx(5)
