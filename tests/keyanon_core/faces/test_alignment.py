"""Alignment: the similarity that brings landmarks nearest to a template."""

import numpy as np
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, invert, similarity
from tests.keyanon_core.faces.placements import SIDE, make_affine


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
