"""A pasted crop is read back from the 8-bit picture to a tenth of a grey level, and nothing outside the mask changes."""

import numpy as np
import pytest

from keyanon_core.faces.alignment import invert
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.drawing import paste
from keyanon_core.faces.masks import PictureMask
from keyanon_core.pictures import read_back
from keyanon_core.pictures.pasting import with_rim
from keyanon_core.pictures.read_back import paste_readable

SIDE = 48


def placed(reduction: float, degrees: float, x: float = 75.3, y: float = 66.1) -> np.ndarray:
    """The affine, picture -> crop, of a face `reduction` times as large as the crop, its middle at (x, y)."""
    angle = np.radians(degrees)
    linear = reduction * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return invert(np.hstack([linear, (np.array([x, y]) - linear @ np.full(2, (SIDE - 1) / 2))[:, None]]))


def placed_mask(radius: float, x: float = 75.3, y: float = 66.1) -> PictureMask:
    rows, columns = np.mgrid[:150, :170]
    return PictureMask.from_full(np.hypot(columns - x, (rows - y) * 0.8) < radius)


CASES = {
    "reduced": (placed(1.9, 0.0), placed_mask(36)),
    "reduced and turned": (placed(1.7, -37.0), placed_mask(33)),
    "reduced in blocks": (placed(3.4, 101.0), placed_mask(60)),
    "cut by the border": (placed(1.9, 12.0, x=4.0), placed_mask(30, x=4.0)),
}


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (150, 170, 3), dtype=np.uint8)


def crop_of(level: float = 128.0, grain: float = 2.5) -> np.ndarray:
    rng = np.random.default_rng(8)
    down, across = np.mgrid[:SIDE, :SIDE]
    smooth = level + 30 * np.sin(down / 7) * np.cos(across / 5)
    return np.clip(smooth[..., None] + rng.normal(0, grain, (SIDE, SIDE, 3)), 0, 255)


def read_error(picture: np.ndarray, crop: np.ndarray, affine: np.ndarray, cells: np.ndarray) -> float:
    return float(np.sqrt(np.square(CropKernel(affine, SIDE, picture.shape).warp(picture) - crop)[cells].mean()))


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_what_warp_does(name: str, picture: np.ndarray) -> None:
    affine, mask = CASES[name]
    kernel = CropKernel(affine, SIDE, picture.shape)
    matrix, row, column = kernel.matrix(mask)
    alone = np.where(mask.full(picture.shape)[..., None], picture, np.uint8(0))
    np.testing.assert_allclose((matrix @ picture[row, column]).reshape(SIDE, SIDE, 3), kernel.warp(alone), atol=1e-9)
    assert (matrix.data > 0).all() and mask.full(picture.shape)[row, column].all()


@pytest.mark.parametrize("name", CASES)
def test_the_picture_reads_back_and_keeps_what_is_not_masked(name: str, picture: np.ndarray) -> None:
    affine, mask = CASES[name]
    cells, crop = CropKernel(affine, SIDE, picture.shape).inner_cells(mask), crop_of()
    assert cells.sum() > 300
    plain, solved = picture.copy(), picture.copy()
    paste(plain, crop, affine, mask, back_projections=3)
    paste_readable(solved, crop, affine, mask, cells)
    assert read_error(solved, crop, affine, cells) < 0.07
    assert read_error(solved, crop, affine, cells) < read_error(plain, crop, affine, cells) / 3
    outside = ~mask.full(picture.shape)
    assert np.array_equal(solved[outside], picture[outside])
    assert not np.array_equal(solved[~outside], picture[~outside])


@pytest.mark.parametrize("level", [0.0, 255.0])
def test_where_pixels_end_the_crop_is_met_as_far_as_it_goes(level: float, picture: np.ndarray) -> None:
    affine, mask = CASES["reduced"]
    cells, crop = CropKernel(affine, SIDE, picture.shape).inner_cells(mask), crop_of(level, grain=4.0)
    paste_readable(picture, crop, affine, mask, cells)
    assert read_error(picture, crop, affine, cells) < 0.6


def test_a_face_smaller_than_its_crop_is_pasted_as_near_as_its_pixels_allow(picture: np.ndarray) -> None:
    affine, mask = placed(0.6, 20.0), placed_mask(12)
    cells, crop = CropKernel(affine, SIDE, picture.shape).inner_cells(mask), crop_of(grain=0.0)
    paste_readable(picture, crop, affine, mask, cells)
    assert read_error(picture, crop, affine, cells) < 3


def test_a_mask_without_a_cell_of_its_own_is_still_anonymized(picture: np.ndarray) -> None:
    affine, mask = placed(3.4, 0.0), placed_mask(3)
    before = picture.copy()
    cells = CropKernel(affine, SIDE, picture.shape).inner_cells(mask)
    assert not cells.any()
    paste_readable(picture, crop_of(), affine, mask, cells)
    inside = mask.full(picture.shape)
    assert (picture != before)[inside].any(axis=1).mean() > 0.9


def test_a_face_too_large_to_be_solved_for_is_corrected_by_projections(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine, mask = CASES["reduced in blocks"]
    cells, crop = CropKernel(affine, SIDE, picture.shape).inner_cells(mask), crop_of()
    projected = picture.copy()
    paste(projected, crop, affine, mask, back_projections=3)
    monkeypatch.setattr(read_back, "MAX_SOLVED_PIXELS", mask.count - 1)
    paste_readable(picture, crop, affine, mask, cells)
    assert np.array_equal(picture, projected)


def test_void_rim_cells_take_the_colour_of_their_neighbours() -> None:
    crop = np.zeros((9, 9, 3))
    crop[:, 5:] = 100.0
    rim = np.zeros((9, 9), np.bool_)
    rim[:, 4] = True
    crop[rim] = -77.0
    shown = with_rim(crop, rim)
    assert np.array_equal(shown[~rim], crop[~rim])
    np.testing.assert_allclose(shown[2:-2, 4], 50.0)
    assert with_rim(crop, np.zeros_like(rim)) is crop
