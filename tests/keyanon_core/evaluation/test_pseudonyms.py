"""What is told of consistent pseudonyms, from identity vectors that are written down by hand."""

import math

import numpy as np
import pytest

from keyanon_core.evaluation.pseudonyms import another_photograph, likeness
from keyanon_core.evaluation.recovery import measure_sidecar
from keyanon_core.pictures.settings import chosen_sidecar_bits
from keyanon_core.priors import load_prior
from keyanon_core.procedure import Procedure

PEOPLE, PHOTOGRAPHS = 6, 2
PERSON = np.repeat(np.arange(PEOPLE), PHOTOGRAPHS)


def vectors(seed: int, *, alike: bool) -> np.ndarray:
    """(n, 32) of the photographs: of one person near each other if `alike`, at any rate about one mean that all faces have."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(PEOPLE, 32))[PERSON] if alike else rng.normal(size=(len(PERSON), 32))
    return np.asarray(3.0 + own + rng.normal(scale=0.1, size=own.shape))


def test_a_data_set_of_pseudonyms_has_one_face_for_each_person_and_one_without_has_none() -> None:
    sources, far = vectors(0, alike=True), np.full(len(PERSON), math.sqrt(64))
    first, second = vectors(1, alike=True), vectors(2, alike=True)
    first[3] = np.nan
    found = likeness(sources, first, second, PERSON, far, same_person=2.0)
    assert found.same.value > 0.95 and found.same.n == PEOPLE - 1, "the picture that is not published is in no pair"
    assert abs(found.people.value) < 0.3 and abs(found.other.value) < 0.3 and abs(found.source.value) < 0.3
    assert (found.tar.value, found.far.value, found.tar_at_far.n) == (1, 0, 0), (
        "50 pairs of two people show no FAR of 1 %"
    )
    assert found.far.n == 11 * 10 / 2 - 5 and math.isnan(found.threshold)
    assert found.distance.value == pytest.approx(1, abs=0.2) and found.distance.n == 11
    apart = likeness(sources, vectors(1, alike=False), second, PERSON, far, same_person=2.0)
    assert apart.tar.value == 0 and abs(apart.same.value) < 0.3


def test_faces_that_stayed_are_their_sources() -> None:
    sources = vectors(0, alike=True)
    found = likeness(sources, sources, sources, PERSON, np.ones(len(PERSON)), same_person=2.0)
    assert found.source.value == pytest.approx(1) and found.other.value == pytest.approx(1)
    assert found.distance.value == 0


def test_another_photograph_is_the_same_one_moved_and_darkened() -> None:
    pixels = np.zeros((100, 80, 3), np.uint8)
    pixels[45:55, 35:45] = 200
    again = another_photograph(pixels)
    assert again.shape == pixels.shape and again.max() == round(200 * 0.85)
    rows, columns = np.nonzero(again[..., 0] > 100)
    assert rows.mean() == pytest.approx(49.5 + 3, abs=1) and columns.mean() == pytest.approx(39.5 + 2.4, abs=1)
    assert len(rows) == pytest.approx(100 * 1.21, rel=0.15)


def test_what_rides_on_a_carrier_comes_back_by_as_many_bits_more_as_its_share_is_smaller() -> None:
    prior = load_prior()
    side = prior.side
    y, x = np.mgrid[:side, :side] / side - 0.5
    crop = np.stack([0.6 * np.sin(9 * x + shift) * np.cos(7 * y) for shift in (0.0, 0.1, 0.2)])[None]
    mask = ((x / 0.3) ** 2 + (y / 0.36) ** 2 < 1)[None]

    def decibels(bits: float) -> float:
        return float(measure_sidecar(prior, crop, mask, Procedure(payload_share=0.2), bits)[1][0])

    assert decibels(chosen_sidecar_bits(0.2)) > decibels(11.5) + 10
