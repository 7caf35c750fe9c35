"""What a sidecar keeps of a face is what recovery starts from, with and without an autoencoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from keyanon_core.errors import KeyanonError, SidecarError
from keyanon_core.pictures.settings import SIDECAR_BITS_LIMITS, AnonymizeSettings
from keyanon_core.pictures.stored import is_storable, known_latent, levels_of, packed, rounded, stored_latent
from keyanon_core.priors import Prior, load_prior
from keyanon_core.sidecar import MAX_CODE, SidecarFace, encode_surroundings
from tests.keyanon_core.diffusion.tiny_priors import kl_prior, ldm_prior, pixel_prior

LEVELS = 1448


@pytest.fixture(scope="module", params=[pixel_prior, ldm_prior, kl_prior])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prior:
    make: Callable[[Path], Path] = request.param
    return load_prior(make(tmp_path_factory.mktemp("prior")))


def kept(prior: Prior) -> tuple[SidecarFace, np.ndarray, np.ndarray]:
    """A face's part of a sidecar, its latent as anonymizing has it, and its crop's mask."""
    rng = np.random.default_rng(5)
    crop = np.clip(rng.normal(0, 0.4, (3, prior.side, prior.side)), -1, 1)
    crop_mask = np.zeros((prior.side, prior.side), np.bool_)
    crop_mask[prior.side // 4 : -prior.side // 4, prior.side // 3 :] = True
    surroundings, masked = encode_surroundings(crop, crop_mask), torch.from_numpy(crop_mask)[None, None]
    mask = prior.latent_mask(masked)
    known = known_latent(prior, [surroundings], masked)
    assert not (known * mask).any()
    latent = rounded(known + mask * torch.from_numpy(rng.normal(0, 1, (1, *prior.latent_shape))), mask, LEVELS)[
        0
    ].numpy()
    return SidecarFace(bytes(32), surroundings, packed(prior, latent, crop_mask, LEVELS)), latent, crop_mask


def test_recovery_starts_from_the_latent_that_was_anonymized(prior: Prior) -> None:
    face, latent, crop_mask = kept(prior)
    again = stored_latent(prior, face, crop_mask, LEVELS)
    assert again.dtype == np.float64
    assert np.array_equal(again, latent)


def test_a_latent_of_version_1_is_taken_whole(prior: Prior) -> None:
    _, latent, crop_mask = kept(prior)
    half = latent.astype(np.float16)
    assert np.array_equal(stored_latent(prior, SidecarFace(bytes(32), latent=half), crop_mask, 0), half.astype(float))
    with pytest.raises(SidecarError, match="does not fit the prior"):
        stored_latent(prior, SidecarFace(bytes(32), latent=half[:, 1:]), crop_mask, 0)


def test_what_does_not_fit_the_face_is_refused(prior: Prior) -> None:
    face, _, crop_mask = kept(prior)
    for broken in (replace(face, codes=None), replace(face, surroundings=None)):
        with pytest.raises(SidecarError, match="no latent"):
            stored_latent(prior, broken, crop_mask, LEVELS)
    with pytest.raises(SidecarError, match=r"fit its mask|cut short"):
        stored_latent(prior, face, np.ones_like(crop_mask), LEVELS)
    with pytest.raises(SidecarError, match="surroundings"):
        stored_latent(prior, replace(face, surroundings=b"none"), crop_mask, LEVELS)


@pytest.mark.parametrize(("bits", "levels"), [(10, 512), (11, 1024), (11.5, 1448), (12, 2048), (16, 32768)])
def test_bits_are_of_the_range_from_minus_one_to_one(bits: float, levels: int) -> None:
    assert levels_of(bits) == levels


def test_only_the_masked_part_is_rounded() -> None:
    latent, mask = torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64), torch.tensor([[[[1.0, 0.0]]]])
    assert rounded(latent, mask, 2).flatten().tolist() == [0.5, 0.3]


def test_numbers_that_can_not_be_stored_are_told() -> None:
    most = (MAX_CODE - 1) / LEVELS
    for value, storable in ((most, True), (-most, True), (MAX_CODE / LEVELS, False), (np.nan, False), (np.inf, False)):
        assert is_storable(np.array([[[0.0, value]]]), LEVELS) == storable


@pytest.mark.parametrize("bits", [9.9, 16.1, float("nan"), float("inf")])
def test_bits_that_bring_no_face_back_or_hold_nothing_more_are_refused(bits: float) -> None:
    for edge in SIDECAR_BITS_LIMITS:
        AnonymizeSettings(sidecar_bits=edge)
    with pytest.raises(KeyanonError, match="sidecar_bits must be from 10 to 16"):
        AnonymizeSettings(sidecar_bits=bits)


def test_settings_that_no_run_can_use_are_refused_by_name() -> None:
    counts = ("max_attempts", "check_every", "face_batch", "max_pixels")
    AnonymizeSettings(**dict.fromkeys(counts, 1))  # type: ignore[arg-type]
    for name in counts:
        with pytest.raises(KeyanonError, match=f"{name} must be at least 1, not 0"):
            AnonymizeSettings(**{name: 0})  # type: ignore[arg-type]
    for name in ("fidelity", "faces"):
        with pytest.raises(KeyanonError, match=f"{name} 'best' is unknown; choose one of "):
            AnonymizeSettings(**{name: "best"})  # type: ignore[arg-type]
    with pytest.raises(KeyanonError, match="method"):
        AnonymizeSettings(method="best")
