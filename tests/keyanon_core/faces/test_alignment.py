"""Alignment: the similarity fit, the exactly known kernel of `warp`, and `paste` inside the mask only."""

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces import masks
from keyanon_core.faces.alignment import coverage, footprint, invert, paste, reachable, reduction, similarity, warp
from keyanon_core.faces.landmarks import UPRIGHT_TEMPLATE
from keyanon_core.faces.masks import PictureMask

SIDE = 48


def make_affine(scale, degrees, x, y):
    """Crop whose centre is the picture position (x, y), `scale` picture px per crop px, turned by degrees."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    return np.hstack([linear, ((SIDE - 1) / 2 - linear @ [x, y])[:, None]])


AFFINES = {
    "small face, enlarged": make_affine(0.37, 12.0, 70.2, 61.7),
    "one to one on the grid": make_affine(1.0, 0.0, 70.5, 60.5),
    "reduced, rotated": make_affine(1.9, -37.0, 75.3, 66.1),
    "reduced in blocks": make_affine(4.3, 101.0, 80.9, 70.4),
    "cut by the border": make_affine(2.6, 25.0, 8.3, 140.2),
}


@pytest.fixture
def picture():
    return np.random.default_rng(7).integers(0, 256, (150, 170, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    y, x = np.mgrid[:150, :170]
    return PictureMask.from_full(((x - 72) / 21) ** 2 + ((y - 64) / 17) ** 2 < 1)


def test_similarity_recovers_a_known_map():
    affine = make_affine(3.1, 140.0, 500.0, 300.0)
    back = invert(affine)
    landmarks = UPRIGHT_TEMPLATE * SIDE @ back[:, :2].T + back[:, 2]
    np.testing.assert_allclose(similarity(landmarks, UPRIGHT_TEMPLATE * SIDE), affine, atol=1e-9)


def test_similarity_is_the_least_squares_fit_without_reflection():
    rng = np.random.default_rng(1)
    template = UPRIGHT_TEMPLATE * SIDE
    landmarks = template * 4 + rng.normal(0, 3, (5, 2))
    best = similarity(landmarks, template)

    def error(affine):
        return np.sum((landmarks @ affine[:, :2].T + affine[:, 2] - template) ** 2)

    for _ in range(50):
        a, b, x, y = rng.normal(0, 1e-3, 4)
        other = np.add(best, [[a, -b, x], [b, a, y]])
        assert error(other) >= error(best)
    with pytest.raises(PictureError):  # a mirrored face is never forced into the template
        similarity(landmarks * [-1, 1], template)


@pytest.mark.parametrize(
    "landmarks",
    [np.full((5, 2), 3.0), np.full((5, 2), np.nan), UPRIGHT_TEMPLATE * [-99, 99]],
    ids=["one point", "not a number", "mirrored"],
)
def test_landmarks_that_show_no_face_are_refused(landmarks):
    with pytest.raises(PictureError) as error:
        similarity(landmarks, UPRIGHT_TEMPLATE * SIDE)
    assert error.value.reason == "degenerate_landmarks"


def test_an_affine_without_inverse_is_refused():
    with pytest.raises(PictureError):
        invert(np.zeros((2, 3)))


def test_warp_on_the_grid_copies_pixels(picture):
    affine = np.array([[1.0, 0, -20], [0, 1, -30]])
    np.testing.assert_array_equal(warp(picture, affine, SIDE), picture[30 : 30 + SIDE, 20 : 20 + SIDE])


@pytest.mark.parametrize("affine", [a for n, a in AFFINES.items() if "border" not in n])
def test_warp_keeps_a_linear_ramp_in_its_place(affine):
    """Bilinear samples and block means are both exact on a ramp: a shifted kernel would show as an offset."""
    y, x = np.mgrid[:150, :170]
    crop = warp(np.stack([x, y, x + y], -1).astype(np.uint16), affine, SIDE)
    v, u = np.mgrid[:SIDE, :SIDE]
    back = invert(affine)
    inside = coverage(affine, SIDE, (150, 170))
    for channel, row in enumerate(back):
        expected = row[0] * u + row[1] * v + row[2]
        np.testing.assert_allclose(crop[..., channel][inside], expected[inside], atol=1e-6)
    assert inside.mean() > 0.3


def test_warp_averages_what_it_reduces():
    stripes = np.zeros((400, 400, 1), np.uint8)
    stripes[:, ::2] = 200
    crop = warp(stripes, make_affine(5.7, 0.0, 200.0, 200.0), SIDE)
    assert np.abs(crop - 100).max() < 12, "aliasing would bring back the stripes"


@pytest.mark.parametrize("name", AFFINES)
def test_masked_pixels_have_no_say_outside_the_footprint(name, picture, mask):
    affine, rng = AFFINES[name], np.random.default_rng(3)
    touched = footprint(mask, affine, SIDE, picture.shape)
    crop, full = warp(picture, affine, SIDE), mask.full(picture.shape)
    for _ in range(3):
        other = picture.copy()
        other[full] = rng.integers(0, 256, (mask.count, 3))
        changed = (warp(other, affine, SIDE) != crop).any(-1)
        assert not (changed & ~touched).any(), "a masked pixel reached a crop pixel outside the footprint"
    if "border" not in name:
        assert touched.any()


@pytest.mark.parametrize("name", AFFINES)
def test_the_footprint_is_no_larger_than_the_kernel(name, picture, mask):
    affine = AFFINES[name]
    touched = footprint(mask, affine, SIDE, picture.shape)
    black, white = np.zeros_like(picture), np.zeros_like(picture)
    white[mask.full(picture.shape)] = 255
    np.testing.assert_array_equal((warp(white, affine, SIDE) != warp(black, affine, SIDE)).any(-1), touched)


def test_a_single_masked_pixel_has_a_footprint_wherever_it_lies(picture):
    affine = AFFINES["reduced in blocks"]
    for row, column in [(70, 81), (40, 100), (100, 60)]:
        full = np.zeros((150, 170), bool)
        full[row, column] = True
        assert footprint(PictureMask.from_full(full), affine, SIDE, picture.shape).any()


def test_coverage_marks_what_the_outside_of_the_picture_touches(picture):
    affine = AFFINES["cut by the border"]
    covered = coverage(affine, SIDE, picture.shape)
    assert 0.05 < covered.mean() < 0.95
    framed = np.pad(picture, ((600, 600), (600, 600), (0, 0)), constant_values=255)
    moved = affine.copy()
    moved[:, 2] -= affine[:, :2] @ [600, 600]
    differs = (np.abs(warp(framed, moved, SIDE) - warp(picture, affine, SIDE)) > 1e-9).any(-1)
    assert reduction(affine) < 4, "blocks of one pixel, so that both grids agree"
    np.testing.assert_array_equal(differs, ~covered)


def test_a_crop_wholly_inside_the_picture_is_covered_and_one_at_its_rim_is_not(picture):
    inside = np.array([[1.0, 0, -20], [0, 1, -30]])
    rim = np.array([[1.0, 0, 1], [0, 1, -30]])
    assert coverage(inside, SIDE, picture.shape).all()
    covered = coverage(rim, SIDE, picture.shape)
    assert not covered[:, 0].any() and covered[:, 1:].all()


def test_pictures_of_several_sizes_under_one_affine_do_not_mix(picture):
    affine = AFFINES["cut by the border"]
    before = coverage(affine, SIDE, picture.shape)
    assert coverage(affine, SIDE, (600, 600)).sum() > before.sum()
    np.testing.assert_array_equal(coverage(affine, SIDE, picture.shape), before)


def test_a_crop_wholly_outside_the_picture_is_black_and_uncovered(picture, mask):
    affine = make_affine(2.0, 10.0, -4000.0, 9000.0)
    assert not warp(picture, affine, SIDE).any()
    assert not coverage(affine, SIDE, picture.shape).any()
    assert not footprint(mask, affine, SIDE, picture.shape).any()


@pytest.mark.parametrize("name", AFFINES)
def test_paste_changes_masked_pixels_only_and_all_of_them(name, picture, mask):
    out = picture.copy()
    crop = np.full((SIDE, SIDE, 3), 300.0)
    paste(out, crop, AFFINES[name], mask, back_projections=0)
    full = mask.full(picture.shape)
    np.testing.assert_array_equal(out[~full], picture[~full])
    assert (out[full] == 255).all(), "values are clipped, and every masked pixel is replaced, also beyond the crop"


def test_reachable_leaves_out_what_the_crop_does_not_cover(picture, mask):
    affine = AFFINES["small face, enlarged"]
    part = reachable(mask, affine, SIDE)
    assert 0 < part.count < mask.count
    assert part.subtract(mask).count == 0


@pytest.mark.parametrize("name", ["small face, enlarged", "reduced, rotated", "reduced in blocks"])
def test_a_pasted_crop_reads_back_better_with_back_projection(name, picture):
    affine = AFFINES[name]
    everything = PictureMask.from_full(np.ones(picture.shape[:2], bool))
    smooth = np.kron(np.random.default_rng(5).uniform(40, 210, (6, 6, 3)), np.ones((8, 8, 1)))
    inside = coverage(affine, SIDE, picture.shape)

    def error(rounds):
        out = picture.copy()
        paste(out, smooth, affine, everything, back_projections=rounds)
        return np.sqrt(np.mean((warp(out, affine, SIDE) - smooth)[inside] ** 2))

    if reduction(affine) > 1:
        assert error(3) < 0.5 * error(0)
    else:
        assert error(3) < 1.2 * error(0), "a picture smaller than the crop can not hold it"


@pytest.mark.parametrize("name", ["small face, enlarged", "reduced, rotated"])
def test_what_is_pasted_does_not_depend_on_the_tiles(name, picture, mask, monkeypatch):
    affine = AFFINES[name]
    smooth = np.kron(np.random.default_rng(5).uniform(40, 210, (6, 6, 3)), np.ones((8, 8, 1)))
    smooth = cv2.GaussianBlur(smooth, (0, 0), 3)
    whole, tiled = picture.copy(), picture.copy()
    paste(whole, smooth, affine, mask, back_projections=0)
    monkeypatch.setattr(masks, "TILE_SIDE", 17)
    paste(tiled, smooth, affine, mask, back_projections=0)
    assert (whole != picture).any()
    assert np.abs(whole.astype(int) - tiled).max() <= 2, (
        "OpenCV rounds coordinates to 1/32 px from the tile's corner on"
    )


def test_a_mask_beyond_the_picture_is_refused(picture, mask):
    with pytest.raises(FaceModelError):
        paste(picture[:60, :60].copy(), np.zeros((SIDE, SIDE, 3)), AFFINES["one to one on the grid"], mask)
    with pytest.raises(FaceModelError):
        footprint(mask, AFFINES["one to one on the grid"], SIDE, (60, 60, 3))
