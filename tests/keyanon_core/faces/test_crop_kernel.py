"""The kernel of an aligned crop: what is cut, and which picture pixels have a say in it."""

import numpy as np
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.alignment import invert, reduction
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.masks import PictureMask
from tests.keyanon_core.faces.placements import AFFINES, MASK, PICTURE, SIDE, make_affine


def test_warp_on_the_grid_copies_pixels():
    kernel = CropKernel(np.array([[1.0, 0, -20], [0, 1, -30]]), SIDE, PICTURE.shape)
    np.testing.assert_array_equal(kernel.warp(PICTURE), PICTURE[30 : 30 + SIDE, 20 : 20 + SIDE])


@pytest.mark.parametrize("affine", [a for n, a in AFFINES.items() if "border" not in n])
def test_warp_keeps_a_linear_ramp_in_its_place(affine):
    """Bilinear samples and block means are both exact on a ramp: a shifted kernel would show as an offset."""
    y, x = np.mgrid[:150, :170]
    kernel = CropKernel(affine, SIDE, x.shape)
    crop = kernel.warp(np.stack([x, y, x + y], -1).astype(np.uint16))
    v, u = np.mgrid[:SIDE, :SIDE]
    back = invert(affine)
    inside = kernel.coverage()
    for channel, row in enumerate(back):
        expected = row[0] * u + row[1] * v + row[2]
        np.testing.assert_allclose(crop[..., channel][inside], expected[inside], atol=1e-6)
    assert inside.mean() > 0.3


def test_warp_averages_what_it_reduces():
    stripes = np.zeros((400, 400, 1), np.uint8)
    stripes[:, ::2] = 200
    crop = CropKernel(make_affine(5.7, 0.0, 200.0, 200.0), SIDE, stripes.shape).warp(stripes)
    assert np.abs(crop - 100).max() < 12, "aliasing would bring back the stripes"


@pytest.mark.parametrize("name", AFFINES)
def test_masked_pixels_have_no_say_outside_the_footprint(name):
    kernel, rng = CropKernel(AFFINES[name], SIDE, PICTURE.shape), np.random.default_rng(3)
    touched = kernel.footprint(MASK)
    crop, full = kernel.warp(PICTURE), MASK.full(PICTURE.shape)
    for _ in range(3):
        other = PICTURE.copy()
        other[full] = rng.integers(0, 256, (MASK.count, 3))
        changed = (kernel.warp(other) != crop).any(-1)
        assert not (changed & ~touched).any(), "a masked pixel reached a crop pixel outside the footprint"
    if "border" not in name:
        assert touched.any()


@pytest.mark.parametrize("name", AFFINES)
def test_the_footprint_is_no_larger_than_the_kernel(name):
    kernel = CropKernel(AFFINES[name], SIDE, PICTURE.shape)
    touched = kernel.footprint(MASK)
    black, white = np.zeros_like(PICTURE), np.zeros_like(PICTURE)
    white[MASK.full(PICTURE.shape)] = 255
    np.testing.assert_array_equal((kernel.warp(white) != kernel.warp(black)).any(-1), touched)


def test_a_single_masked_pixel_has_a_footprint_wherever_it_lies():
    kernel = CropKernel(AFFINES["reduced in blocks"], SIDE, PICTURE.shape)
    for row, column in [(70, 81), (40, 100), (100, 60)]:
        full = np.zeros((150, 170), bool)
        full[row, column] = True
        assert kernel.footprint(PictureMask.from_full(full)).any()


def test_coverage_marks_what_the_outside_of_the_picture_touches():
    affine = AFFINES["cut by the border"]
    kernel = CropKernel(affine, SIDE, PICTURE.shape)
    covered = kernel.coverage()
    assert 0.05 < covered.mean() < 0.95
    framed = np.pad(PICTURE, ((600, 600), (600, 600), (0, 0)), constant_values=255)
    moved = affine.copy()
    moved[:, 2] -= affine[:, :2] @ [600, 600]
    differs = (np.abs(CropKernel(moved, SIDE, framed.shape).warp(framed) - kernel.warp(PICTURE)) > 1e-9).any(-1)
    assert reduction(affine) < 4, "blocks of one pixel, so that both grids agree"
    np.testing.assert_array_equal(differs, ~covered)


def test_a_crop_wholly_inside_the_picture_is_covered_and_one_at_its_rim_is_not():
    inside = np.array([[1.0, 0, -20], [0, 1, -30]])
    rim = np.array([[1.0, 0, 1], [0, 1, -30]])
    assert CropKernel(inside, SIDE, PICTURE.shape).coverage().all()
    covered = CropKernel(rim, SIDE, PICTURE.shape).coverage()
    assert not covered[:, 0].any() and covered[:, 1:].all()


def test_a_crop_wholly_outside_the_picture_is_black_and_uncovered():
    kernel = CropKernel(make_affine(2.0, 10.0, -4000.0, 9000.0), SIDE, PICTURE.shape)
    assert not kernel.warp(PICTURE).any()
    assert not kernel.coverage().any()
    assert not kernel.footprint(MASK).any()


def test_a_picture_or_mask_that_the_kernel_is_not_for_is_refused():
    kernel = CropKernel(AFFINES["one to one on the grid"], SIDE, (60, 60, 3))
    with pytest.raises(ValueError, match="can not cut"):
        kernel.warp(PICTURE)
    with pytest.raises(FaceModelError):
        kernel.footprint(MASK)
