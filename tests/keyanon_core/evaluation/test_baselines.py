"""The baselines hide what they say they hide, leave all else alone, and give back what they say they give back."""

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.evaluation.baselines import (
    BASELINES,
    SEALING_BYTES,
    blur,
    encrypted_crop,
    fill,
    from_encrypted_crops,
    pixelate,
    shuffle_blocks,
    unshuffle_blocks,
)
from keyanon_core.evaluation.likeness import peak_signal_to_noise
from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import PictureMask

HEIGHT, WIDTH = 90, 110


def ellipse(x: int, y: int, across: int, down: int) -> PictureMask:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return PictureMask.from_full(((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1)


MASKS = [ellipse(35, 45, 21, 29), ellipse(60, 40, 17, 25), ellipse(105, 84, 12, 14)]
"""Two that overlap, and one that the picture's corner cuts."""
EMPTY = PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_))


def noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", BASELINES)
def test_a_face_changes_and_nothing_else(name: str, astronaut: Pixels) -> None:
    baseline, source = BASELINES[name], astronaut[60 : 60 + HEIGHT, 170 : 170 + WIDTH]
    inside = np.any([mask.full(source.shape) for mask in MASKS], axis=0)
    before = source.copy()
    made = baseline.apply(source, MASKS)
    assert (source == before).all() and made.shape == source.shape and made.dtype == np.uint8
    assert (made[~inside] == source[~inside]).all()
    for mask in MASKS:
        there = mask.full(source.shape)
        assert (made[there] != source[there]).any(1).mean() > 0.8
        assert peak_signal_to_noise(made, source, there) < 30
    assert (baseline.apply(source, MASKS) == made).all(), "the same each time"
    assert (baseline.apply(source, [EMPTY]) == source).all() and (baseline.apply(source, []) == source).all()
    with pytest.raises(FaceModelError, match="beyond the picture"):
        baseline.apply(source[:-1], MASKS)
    if baseline.restore is not None:
        back = baseline.restore(source, [*MASKS, EMPTY])
        assert (back.pixels[~inside] == source[~inside]).all()
        assert peak_signal_to_noise(back.pixels, source, inside) > 35
        assert back.sizes.shape == (4,) and back.sizes[3] == 0
        with pytest.raises(FaceModelError, match="beyond the picture"):
            baseline.restore(source[:-1], MASKS)


def test_a_blur_is_of_the_whole_surroundings_and_follows_the_face() -> None:
    source, mask = noise(), MASKS[0]
    across = mask.window[2] - mask.window[0]
    inside = mask.full(source.shape)
    expected = cv2.GaussianBlur(source, (0, 0), 0.05 * across)
    np.testing.assert_allclose(blur(source, [mask], 0.05)[inside].astype(int), expected[inside], atol=1)
    spread = [blur(source, [mask], share)[inside].std() for share in (0.02, 0.05, 0.2)]
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]
    for share in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="above 0"):
            blur(source, MASKS, share)


def test_a_pixelated_face_has_so_many_cells_each_of_one_colour() -> None:
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    full[10:50, 20:84] = True
    source, mask = noise(), PictureMask.from_full(full)
    cells = pixelate(source, [mask], 8)[10:50, 20:84].reshape(5, 8, 8, 8, 3)
    means = source[10:50, 20:84].reshape(5, 8, 8, 8, 3).mean((1, 3))
    assert (cells == cells[:, :1, :, :1]).all()
    np.testing.assert_allclose(cells[:, 0, :, 0], means, atol=1)
    assert len(np.unique(pixelate(source, [mask], 1)[full], axis=0)) == 1, "a single cell"
    assert (pixelate(source, [mask], 64) == source).all() and (pixelate(source, [mask], 1000) == source).all()
    with pytest.raises(ValueError, match="a cell or more"):
        pixelate(source, [mask], 0)


def test_a_filled_face_has_one_colour() -> None:
    filled = fill(noise(), MASKS, (1, 2, 3))
    for mask in MASKS:
        assert (filled[mask.full(filled.shape)] == (1, 2, 3)).all()


@pytest.mark.parametrize("side", [1, 5, 8, 16])
def test_shuffled_blocks_come_back_exactly_with_the_key_alone(side: int) -> None:
    source = noise()
    hidden = shuffle_blocks(source, MASKS, b"key", side)
    assert (unshuffle_blocks(hidden, MASKS, b"key", side) == source).all()
    inside = np.any([mask.full(source.shape) for mask in MASKS], axis=0)
    assert (hidden[inside] == source[inside]).all(1).mean() < 0.02
    for wrong in (unshuffle_blocks(hidden, MASKS, b"kez", side), shuffle_blocks(source, MASKS, b"kez", side)):
        assert (wrong[inside] == source[inside]).all(1).mean() < 0.02
        assert (wrong[inside] == hidden[inside]).all(1).mean() < 0.02
    with pytest.raises(ValueError, match="1 px or more"):
        shuffle_blocks(source, MASKS, b"key", 0)


def test_a_shuffled_face_consists_of_its_own_blocks() -> None:
    """Blocks of one shade each: what stays is which shades there are, or their opposites."""
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    full[16:48, 24:72] = True
    source = noise()
    shades = np.arange(24, dtype=np.uint8).reshape(4, 6) + 10
    source[16:48, 24:72] = shades.repeat(8, 0).repeat(8, 1)[..., None]
    blocks = shuffle_blocks(source, [PictureMask.from_full(full)], b"key")[16:48, 24:72].reshape(4, 8, 6, 8, 3)
    assert (blocks == blocks[:, :1, :, :1, :1]).all()
    found = blocks[:, 0, :, 0, 0].astype(int)
    inverted = found > 127
    assert sorted(np.where(inverted, 255 - found, found).ravel()) == sorted(shades.ravel())
    assert 4 < inverted.sum() < 20 and (np.where(inverted, 255 - found, found) != shades).sum() > 18


def test_blocks_are_turned_mirrored_and_their_channels_change_places() -> None:
    full = np.zeros((HEIGHT, WIDTH), np.bool_)
    full[:88, :104] = True
    source = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    block = np.zeros((8, 8, 3), np.uint8)
    block[0, 1] = (1, 2, 3)  # in no axis of symmetry
    source[:88, :104] = np.tile(block, (11, 13, 1))
    hidden = shuffle_blocks(source, [PictureMask.from_full(full)], b"key")[:88, :104]
    blocks = hidden.reshape(11, 8, 13, 8, 3).swapaxes(1, 2).reshape(-1, 8, 8, 3)
    blocks = np.where((blocks > 127).all((1, 2, 3))[:, None, None, None], 255 - blocks, blocks)
    places = {tuple(np.argwhere(one.any(2))[0]) for one in blocks}
    assert places == {(0, 1), (0, 6), (1, 0), (1, 7), (6, 0), (6, 7), (7, 1), (7, 6)}
    assert len({tuple(one[one.any(2)][0]) for one in blocks}) == 6


def test_two_faces_of_one_picture_are_shuffled_apart() -> None:
    source = noise()
    source[:, 55:] = source[:, :55]
    full = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    full[0, 8:48, 0:40] = full[1, 8:48, 56:96] = True
    source[:, 56:96] = source[:, 0:40]
    hidden = shuffle_blocks(source, [PictureMask.from_full(one) for one in full], b"key")
    assert (hidden[8:48, 0:40] != hidden[8:48, 56:96]).any(2).mean() > 0.9


def test_an_encrypted_crop_costs_what_its_quality_costs_and_keeps_the_face_alone(astronaut: Pixels) -> None:
    source, mask = astronaut[60 : 60 + HEIGHT, 170 : 170 + WIDTH], MASKS[0]
    inside = mask.full(source.shape)
    sizes, fidelities = [], []
    for quality in (20, 80, 100):
        size, back = encrypted_crop(source, inside, quality)
        assert back.shape == source.shape
        sizes.append(size)
        fidelities.append(peak_signal_to_noise(back, source, inside))
    assert sizes == sorted(sizes) and fidelities == sorted(fidelities) and sizes[0] * 2 < sizes[2]
    other = source.copy()
    other[~inside] = 7
    assert encrypted_crop(other, inside, 80)[0] == sizes[1], "nothing else is stored"
    assert sizes[0] > SEALING_BYTES == 28
    restored = from_encrypted_crops(source, MASKS[:1], 80)
    assert restored.sizes.tolist() != [0] and (restored.pixels[~inside] == source[~inside]).all()
    assert peak_signal_to_noise(restored.pixels, source, inside) == pytest.approx(fidelities[1], abs=1.5)


def test_every_baseline_says_what_it_does_and_where_it_comes_from() -> None:
    assert list(BASELINES) == ["blur", "pixelation", "solid fill", "block-wise encryption", "blur and encrypted crop"]
    for baseline in BASELINES.values():
        assert baseline.sentence.endswith(".") and baseline.source
    assert {name for name, one in BASELINES.items() if one.restore} == {
        "block-wise encryption",
        "blur and encrypted crop",
    }
