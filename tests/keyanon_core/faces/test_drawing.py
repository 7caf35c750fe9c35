"""A crop is written into a picture inside the mask only."""

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import masks
from keyanon_core.faces.alignment import reduction
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.drawing import paste
from keyanon_core.faces.masks import PictureMask
from tests.keyanon_core.faces.placements import AFFINES, MASK, PICTURE, SIDE


@pytest.mark.parametrize("name", AFFINES)
def test_paste_changes_masked_pixels_only_and_all_of_them(name):
    out = PICTURE.copy()
    crop = np.full((SIDE, SIDE, 3), 300.0)
    paste(out, crop, AFFINES[name], MASK, back_projections=0)
    full = MASK.full(PICTURE.shape)
    np.testing.assert_array_equal(out[~full], PICTURE[~full])
    assert (out[full] == 255).all(), "values are clipped, and every masked pixel is replaced, also beyond the crop"


@pytest.mark.parametrize("name", ["small face, enlarged", "reduced, rotated", "reduced in blocks"])
def test_a_pasted_crop_reads_back_better_with_back_projection(name):
    affine = AFFINES[name]
    everything = PictureMask.from_full(np.ones(PICTURE.shape[:2], bool))
    smooth = np.kron(np.random.default_rng(5).uniform(40, 210, (6, 6, 3)), np.ones((8, 8, 1)))
    kernel = CropKernel(affine, SIDE, PICTURE.shape)
    inside = kernel.coverage()

    def error(rounds):
        out = PICTURE.copy()
        paste(out, smooth, affine, everything, back_projections=rounds)
        return np.sqrt(np.mean((kernel.warp(out) - smooth)[inside] ** 2))

    if reduction(affine) > 1:
        assert error(3) < 0.5 * error(0)
    else:
        assert error(3) < 1.2 * error(0), "a picture smaller than the crop can not hold it"


@pytest.mark.parametrize("name", ["small face, enlarged", "reduced, rotated"])
def test_what_is_pasted_does_not_depend_on_the_tiles(name, monkeypatch):
    affine = AFFINES[name]
    smooth = np.kron(np.random.default_rng(5).uniform(40, 210, (6, 6, 3)), np.ones((8, 8, 1)))
    smooth = cv2.GaussianBlur(smooth, (0, 0), 3)
    whole, tiled = PICTURE.copy(), PICTURE.copy()
    paste(whole, smooth, affine, MASK, back_projections=0)
    monkeypatch.setattr(masks, "TILE_SIDE", 17)
    paste(tiled, smooth, affine, MASK, back_projections=0)
    assert (whole != PICTURE).any()
    assert np.abs(whole.astype(int) - tiled).max() <= 2, (
        "OpenCV rounds coordinates to 1/32 px from the tile's corner on"
    )


def test_a_mask_beyond_the_picture_is_refused():
    with pytest.raises(FaceModelError):
        paste(PICTURE[:60, :60].copy(), np.zeros((SIDE, SIDE, 3)), AFFINES["one to one on the grid"], MASK)
