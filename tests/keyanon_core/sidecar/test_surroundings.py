"""Surroundings are small, near to what they were, and say nothing of what they surround."""

import numpy as np
import pytest
from skimage.data import astronaut

from keyanon_core.errors import SidecarError
from keyanon_core.imaging import encode_picture
from keyanon_core.sidecar import decode_surroundings, encode_surroundings

SIDE = 128


@pytest.fixture
def crop() -> np.ndarray:
    return astronaut()[60:188, 160:288].transpose(2, 0, 1) / 127.5 - 1.0


def disc() -> np.ndarray:
    return np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5)) < SIDE * 0.35


def test_they_are_near_to_what_they_were_in_two_kilobytes(crop: np.ndarray) -> None:
    encoded = encode_surroundings(crop, disc())
    again = decode_surroundings(encoded, SIDE)
    assert again.shape == crop.shape and np.abs(again).max() <= 1
    assert np.sqrt(np.square(again - crop)[:, ~disc()].mean()) < 0.05
    assert len(encoded) < 4000


def test_they_depend_on_nothing_inside_the_mask(crop: np.ndarray) -> None:
    other = np.where(disc(), np.random.default_rng(1).uniform(-1, 1, crop.shape), crop)
    assert encode_surroundings(crop, disc()) == encode_surroundings(other, disc())
    brighter = np.where(disc(), crop, crop + 0.1)
    assert encode_surroundings(crop, disc()) != encode_surroundings(np.clip(brighter, -1, 1), disc())


@pytest.mark.parametrize("axis", [1, 2])
def test_the_filling_takes_its_colour_from_near(axis: int) -> None:
    ramp = np.broadcast_to(np.linspace(-1, 1, SIDE).reshape([-1, 1] if axis == 1 else [1, -1]), (3, SIDE, SIDE))
    square = np.zeros((SIDE, SIDE), np.bool_)
    square[32:96, 32:96] = True
    again = decode_surroundings(encode_surroundings(ramp, square), SIDE)
    for edge in (32, 95):
        assert np.abs(again - ramp).take(edge, axis)[:, 32:96].max() < 0.15


@pytest.mark.parametrize("mask", [np.ones((SIDE, SIDE), np.bool_), np.zeros((SIDE, SIDE), np.bool_)])
def test_a_crop_without_surroundings_and_one_without_a_face(crop: np.ndarray, mask: np.ndarray) -> None:
    again = decode_surroundings(encode_surroundings(crop, mask), SIDE)
    assert np.isfinite(again).all()
    if mask.all():
        assert np.ptp(again) < 0.02, "one colour"


def test_bytes_that_are_no_picture_of_the_crop_are_refused() -> None:
    for size in (SIDE - 1, SIDE + 1, 4 * SIDE):
        with pytest.raises(SidecarError, match="surroundings"):
            decode_surroundings(encode_picture(np.zeros((size, size, 3), np.uint8), "png"), SIDE)
    for data in (b"", b"RIFF", bytes(100)):
        with pytest.raises(SidecarError, match="surroundings are not readable"):
            decode_surroundings(data, SIDE)
