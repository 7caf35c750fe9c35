"""The rim of a pasted face: softened from inside, out of pixels that are published anyway."""

import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import masks
from keyanon_core.faces.blending import feather
from keyanon_core.faces.masks import PictureMask

Pixels = npt.NDArray[np.uint8]


def noise(shape: tuple[int, int]) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (*shape, 3), dtype=np.uint8)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> npt.NDArray[np.bool_]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) < radius)


def test_only_the_rim_changes_and_it_runs_into_the_surroundings() -> None:
    inside = disc((80, 90), (45, 40), 25)
    picture = np.full((80, 90, 3), 40, np.uint8)
    picture[inside] = 200
    before = picture.copy()

    feather(picture, PictureMask.from_full(inside), [], 4.0)

    np.testing.assert_array_equal(picture[~inside], before[~inside])
    core = disc((80, 90), (45, 40), 20)
    np.testing.assert_array_equal(picture[core], before[core])
    row = picture[40, :, 0].astype(int)
    rim = row[np.flatnonzero(inside[40])[0] :][:5]
    assert 40 < rim[0] < 110 and (np.diff(rim) >= 0).all() and rim[-1] == 200


def test_other_faces_have_no_say() -> None:
    """A neighbour's pixels may still be its source when this face is blended."""
    inside, other = disc((80, 120), (40, 40), 25), disc((80, 120), (85, 40), 21)
    other &= ~inside
    masks = [PictureMask.from_full(inside), PictureMask.from_full(other)]
    one, two = noise((80, 120)), noise((80, 120))
    two[other] = 255 - two[other]

    for picture in (one, two):
        feather(picture, masks[0], masks[1:], 6.0)

    np.testing.assert_array_equal(one[inside], two[inside])


def test_the_result_does_not_depend_on_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = PictureMask.from_full(disc((90, 90), (44, 46), 35))
    whole = noise((90, 90))
    tiled = whole.copy()
    feather(whole, mask, [], 3.4)
    monkeypatch.setattr(masks, "TILE_SIDE", 17)
    feather(tiled, mask, [], 3.4)
    np.testing.assert_array_equal(whole, tiled)


def test_a_mask_that_covers_everything_has_no_rim_and_one_beyond_the_picture_is_refused() -> None:
    picture = noise((20, 20))
    before = picture.copy()
    feather(picture, PictureMask.from_full(np.ones((20, 20), np.bool_)), [], 2.0)
    np.testing.assert_array_equal(picture, before)
    with pytest.raises(FaceModelError, match="reaches beyond"):
        feather(picture, PictureMask.from_full(np.ones((20, 21), np.bool_)), [], 2.0)
