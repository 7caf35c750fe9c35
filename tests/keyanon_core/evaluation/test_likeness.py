"""Likeness of pictures, against values worked out by hand."""

import math

import numpy as np
import pytest

from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.likeness import mean_absolute_error, peak_signal_to_noise, structural_similarity
from keyanon_core.faces.detection import Pixels

BLACK = np.zeros((16, 20, 3), np.uint8)
MASK = np.zeros((16, 20), np.bool_)
MASK[4:12, 5:15] = True


def marked(value: int) -> Pixels:
    """Black, but for one channel of the masked pixels."""
    picture = BLACK.copy()
    picture[MASK, 1] = value
    return picture


def test_one_channel_of_the_masked_pixels_differs() -> None:
    inside, share = marked(60), MASK.mean()
    assert peak_signal_to_noise(BLACK, inside, MASK) == pytest.approx(10 * math.log10(255**2 / (60**2 / 3)))
    assert peak_signal_to_noise(BLACK, inside) == pytest.approx(10 * math.log10(255**2 / (share * 60**2 / 3)))
    assert mean_absolute_error(BLACK, inside, MASK) == pytest.approx(60 / 255 * 2 / 3)
    assert mean_absolute_error(BLACK, inside) == pytest.approx(share * 60 / 255 * 2 / 3)
    assert peak_signal_to_noise(inside, BLACK, MASK) == peak_signal_to_noise(BLACK, inside, MASK), "no wrap around"


def test_the_extremes() -> None:
    white = np.full_like(BLACK, 255)
    assert (peak_signal_to_noise(BLACK, white), mean_absolute_error(BLACK, white)) == (0, 2)
    assert (peak_signal_to_noise(white, white), mean_absolute_error(white, white)) == (math.inf, 0)
    assert structural_similarity(white, white) == structural_similarity(white, white, MASK) == 1
    assert structural_similarity(BLACK, white) == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-3), (
        "means alone: C1 / (1 + C1)"
    )


def test_structure_is_compared_where_the_mask_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, BLACK.shape).astype(np.uint8)
    changed = noise.copy()
    changed[:, 16:] = 0  # more than the window's reach from columns up to 12
    assert structural_similarity(noise, changed, MASK) < 1 > structural_similarity(noise, changed)
    left = np.zeros_like(MASK)
    left[:, :12] = True
    assert structural_similarity(noise, changed, left) == pytest.approx(1)
    assert structural_similarity(noise, changed, left, gaussian=True) < 1 - 1e-9, "5 px on either side instead of 3"
    left[:, 11] = False
    assert structural_similarity(noise, changed, left, gaussian=True) == pytest.approx(1)


def test_what_does_not_fit_is_refused() -> None:
    for second, mask in ((BLACK[1:], None), (BLACK.astype(np.float32), None), (BLACK, MASK[1:]), (BLACK, MASK & False)):
        for measure in (peak_signal_to_noise, mean_absolute_error, structural_similarity):
            with pytest.raises(ValueError, match=r"are needed|does not fit"):
                measure(BLACK, second, mask)
    assert structural_similarity(BLACK[:4, :4], BLACK[:4, :4]) == 1, "a small one takes a smaller window"
    with pytest.raises(EvaluationError, match="20 x 2 px is too small"):
        structural_similarity(BLACK[:2], BLACK[:2])
