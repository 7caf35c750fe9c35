"""Codes come back to the bit, take about the bits of their noise, and hostile bytes are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keyanon_core.errors import SidecarError
from keyanon_core.sidecar import MAX_CODE, pack, unpack

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 9)))


def disc(side: int = 64) -> np.ndarray:
    return np.hypot(*(np.mgrid[:side, :side] - side / 2 + 0.5)) < side * 0.4


@given(mask=MASKS, channels=st.integers(1, 4), data=st.data())
def test_codes_come_back_to_the_bit(mask: np.ndarray, channels: int, data: st.DataObject) -> None:
    numbers = st.integers(-MAX_CODE, MAX_CODE) | st.integers(-3, 3)
    codes = data.draw(arrays(np.int64, (channels, *mask.shape), elements=numbers))
    again = unpack(pack(codes, mask), channels, mask)
    assert np.array_equal(again, np.where(mask, codes, 0))


def test_what_was_written_once_is_read_for_ever() -> None:
    mask = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]], np.bool_)
    first = [[0, 5, -3, 0], [900, -1000, 70, 2], [0, 31, 0, -8]]
    second = [[0, -1, 1, 0], [2, -2, 3, -3], [0, 2000, 0, -2001]]
    written = bytes.fromhex("048544cc672fe2a42263f86fb154f9b7c3ffff0c0cff19fed7360300")
    assert unpack(written, 2, mask).tolist() == [first, second]


def test_the_bytes_say_nothing_of_what_lies_outside_the_mask() -> None:
    codes = np.random.default_rng(1).integers(-99, 99, (3, 64, 64))
    assert pack(codes, disc()) == pack(np.where(disc(), codes, 7), disc())


@pytest.mark.parametrize("width", [2.0, 60.0, 900.0])
def test_noise_on_a_slope_takes_little_more_than_its_entropy(width: float) -> None:
    """A normal variable rounded to whole numbers has log2(width sqrt(2 pi e)) bits; two neighbours' noise in the prediction adds
    half of log2(1.5)."""
    down, across = np.mgrid[:64, :64]
    codes = np.rint(np.random.default_rng(2).normal(40 * down - 25 * across, width, (3, 64, 64))).astype(np.int64)
    bits = 8 * len(pack(codes, disc())) / (3 * disc().sum())
    least = np.log2(np.hypot(width, 0.29) * np.sqrt(2 * np.pi * np.e))
    slope = np.log2(np.hypot(width, 33) / width)
    assert least < bits < least + 0.5 * np.log2(1.5) + slope + 0.25


def test_codes_out_of_range_are_refused() -> None:
    mask = np.ones((1, 2), np.bool_)
    edge = np.array([[[MAX_CODE, -MAX_CODE]]])
    assert np.array_equal(unpack(pack(edge, mask), 1, mask), edge)
    for beyond in (edge + np.array([[[1, 0]]]), edge - np.array([[[0, 1]]])):
        with pytest.raises(ValueError, match="beyond"):
            pack(beyond, mask)


def test_bytes_for_another_mask_are_refused() -> None:
    mask = disc()
    packed = pack(np.random.default_rng(3).integers(-500, 500, (3, 64, 64)), mask)
    smaller, larger = mask.copy(), mask.copy()
    smaller[32, 32], larger[0, 0] = False, True
    one = np.ones((1, 1), np.bool_)
    zero = pack(np.zeros((1, 1, 1), np.int64), one)[1:]
    assert unpack(bytes([16]) + bytes(2) + zero, 1, one) == 0
    for data, channels, where in (
        (packed, 3, smaller),
        (packed, 3, larger),
        (packed, 2, mask),
        (packed, 4, mask),
        (packed[:-1], 3, mask),
        (packed[:100], 3, mask),
        (packed + b"\0", 3, mask),
        (b"", 3, mask),
        (bytes([17]) + packed[1:], 3, mask),
        (bytes([17]) + bytes(3) + zero, 1, one),  # right but for more low bits than there may be
    ):
        with pytest.raises(SidecarError, match="latent"):
            unpack(data, channels, where)


@settings(max_examples=300)
@given(data=st.binary(max_size=60), mask=MASKS)
def test_any_bytes_are_read_or_refused(data: bytes, mask: np.ndarray) -> None:
    try:
        codes = unpack(data, 2, mask)
    except SidecarError:
        return
    assert codes.shape == (2, *mask.shape)
    assert not codes[:, ~mask].any()
