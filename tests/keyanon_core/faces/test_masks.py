"""Picture masks: windows, set operations, and the serialised form against hostile bytes."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import masks
from keyanon_core.faces.masks import HEADER, MAGIC, PictureMask, disjoint_masks

SHAPE = (60, 80)


def disc(x, y, radius):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return PictureMask.from_full((columns - x) ** 2 + (rows - y) ** 2 < radius**2)


def test_full_and_trimmed_keep_the_pixels():
    full = disc(30, 20, 9).full(SHAPE)
    mask = PictureMask((0, 0, SHAPE[1], SHAPE[0]), full).trimmed()
    assert mask.window == (22, 12, 39, 29)
    np.testing.assert_array_equal(mask.full(SHAPE), full)
    assert PictureMask.from_full(np.zeros(SHAPE, bool)).count == 0


def test_tiles_are_the_mask_in_pieces_and_none_is_empty(monkeypatch):
    monkeypatch.setattr(masks, "TILE_SIDE", 8)
    mask = disc(30, 20, 15)
    tiles = list(mask.tiles())
    assert all(tile.count and max(tile.bits.shape) <= 8 for tile in tiles)
    np.testing.assert_array_equal(sum(tile.full(SHAPE).astype(int) for tile in tiles), mask.full(SHAPE))
    corners = np.zeros(SHAPE, bool)
    corners[0, 0] = corners[-1, -1] = True
    assert [tile.window for tile in PictureMask.from_full(corners).tiles()] == [(0, 0, 8, 8), (72, 56, 80, 60)]
    assert not list(PictureMask.from_full(np.zeros(SHAPE, bool)).tiles())


def test_crop_reads_any_window():
    mask = disc(5, 5, 9)
    window = (-10, -7, 20, 18)
    padded = np.pad(mask.full(SHAPE), 20)
    np.testing.assert_array_equal(mask.crop(window), padded[13:38, 10:40])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 59), st.integers(1, 25)), min_size=1, max_size=5))
def test_disjoint_masks_share_no_pixel_and_lose_none(circles):
    masks = [disc(*circle) for circle in circles]
    apart = disjoint_masks(masks)
    counted = np.sum([mask.full(SHAPE).astype(int) for mask in apart], axis=0)
    np.testing.assert_array_equal(counted, np.any([mask.full(SHAPE) for mask in masks], axis=0))
    for before, after in zip(masks, apart, strict=True):
        assert not (after.full(SHAPE) & ~before.full(SHAPE)).any()


def test_a_contested_pixel_goes_to_the_nearer_face():
    left, right = disjoint_masks([disc(20, 30, 12), disc(36, 30, 12)])
    assert left.full(SHAPE)[30, 26] and not right.full(SHAPE)[30, 26]
    assert right.full(SHAPE)[30, 31] and not left.full(SHAPE)[30, 31]


@pytest.mark.parametrize("mask", [disc(30, 20, 9), disc(0, 0, 4), PictureMask.from_full(np.zeros(SHAPE, bool))])
def test_bytes_round_trip(mask):
    data = mask.to_bytes()
    assert PictureMask.from_bytes(data) == mask
    assert len(data) < 150


def header(width, height, x0=0, y0=0):
    return HEADER.pack(MAGIC, x0, y0, width, height)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"KM\x02" + b"\0" * 40,
        header(8, 8),
        header(8, 8) + b"not zlib",
        header(8, 8) + zlib.compress(b"\0" * 7),
        header(8, 8) + zlib.compress(b"\0" * 9),
        header(8, 8) + zlib.compress(b"\0" * 8) + b"more",
        header(8, 8) + zlib.compress(b"\0" * 8)[:-2],
        header(100_000, 100_000) + zlib.compress(b"\0"),
        header(8, 8, x0=0xFFFFFFFF) + zlib.compress(b"\0" * 8),
        header(64, 64) + zlib.compress(b"\0" * 50_000_000),
        struct.pack(">3s", MAGIC),
    ],
    ids=str,
)
def test_bytes_that_are_no_mask_are_refused(data):
    with pytest.raises(FaceModelError):
        PictureMask.from_bytes(data)


def test_any_flipped_header_byte_is_refused_or_stays_within_the_limits():
    data = disc(30, 20, 9).to_bytes()
    for position in range(HEADER.size):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        try:
            mask = PictureMask.from_bytes(bytes(broken))
        except FaceModelError:
            continue
        assert mask.window[2] <= 1_000_000 and mask.window[3] <= 1_000_000


def test_bits_must_fit_the_window():
    with pytest.raises(FaceModelError):
        PictureMask((0, 0, 4, 4), np.zeros((4, 5), bool))
    with pytest.raises(FaceModelError):
        PictureMask((-1, 0, 3, 4), np.zeros((4, 4), bool))
