"""A crop's known region depends on no pixel of any face."""

import numpy as np
import pytest

from keyanon_core.faces.masks import PictureMask
from keyanon_core.pictures.crops import cut_crop

SIDE = 32


def _mask(x0: int, y0: int, x1: int, y1: int) -> PictureMask:
    return PictureMask((x0, y0, x1, y1), np.ones((y1 - y0, x1 - x0), np.bool_))


def _affine(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


@pytest.mark.parametrize("scale", [0.13, 0.3, 0.77, 1.0, 2.4])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_masked_pixels_of_any_face_never_reach_the_known_region(scale: float, angle: float) -> None:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    own, other = _mask(30, 25, 61, 70), _mask(61, 30, 83, 64)
    second = first.copy()
    for mask in (own, other):
        x0, y0, x1, y1 = mask.window
        second[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), dtype=np.uint8)
    affine = _affine(scale, angle, SIDE / 2 - scale * 45, SIDE / 2 - scale * 47)

    a, b = (cut_crop(picture, affine, own, [other], SIDE) for picture in (first, second))

    assert np.array_equal(a.mask, b.mask)
    assert a.mask.any()
    outside = np.broadcast_to(~a.mask, a.values.shape)
    assert np.array_equal(a.values[outside], b.values[outside])
    assert not np.array_equal(a.values[~outside], b.values[~outside])


def test_the_world_outside_the_picture_is_filled_and_not_smeared() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, :20] = 255  # the face, cut by the left border
    crop = cut_crop(picture, _affine(0.5, 0.0, 12.0, 4.0), _mask(0, 0, 20, 40), [], SIDE)
    outside_picture = crop.values[:, :, :11]
    assert not crop.mask[:, :10].any()
    assert np.all(outside_picture == -1.0)  # the mean of the known pixels, which are black


@pytest.mark.parametrize("scale", [0.3, 0.77, 1.0, 2.4])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_an_inner_crop_is_masked_where_nothing_but_the_mask_is_seen(scale: float, angle: float) -> None:
    rng = np.random.default_rng(6)
    first = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    own, other = _mask(30, 25, 91, 90), _mask(91, 30, 113, 64)
    second, third = first.copy(), rng.integers(0, 256, first.shape, dtype=np.uint8)
    x0, y0, x1, y1 = own.window
    second[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), dtype=np.uint8)
    third[y0:y1, x0:x1] = first[y0:y1, x0:x1]
    linear = _affine(scale, angle, 0.0, 0.0)[:, :2]
    affine = np.hstack([linear, (SIDE / 2 - linear @ [84.6, 57.3])[:, None]])  # about the mask's border

    a, b, c = (cut_crop(picture, affine, own, [other], SIDE, inner=True) for picture in (first, second, third))

    whole = cut_crop(first, affine, own, [other], SIDE)
    assert a.mask.any() and a.rim.any() and not whole.rim.any()
    assert np.array_equal(a.mask | a.rim, whole.mask) and not (a.mask & a.rim).any()
    assert np.array_equal(a.values[:, ~a.mask], b.values[:, ~a.mask]), "outside it nothing masked is seen"
    assert np.array_equal(a.values[:, a.mask], c.values[:, a.mask]), "inside it nothing else"
    assert len(np.unique(a.values[0, a.rim])) == 1, "the rim is void"
