"""What is told of an anonymized clip, against values worked out by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest

from keyanon_core.evaluation.clips import (
    NOBODY,
    ClipTimes,
    Flicker,
    Switches,
    TimesKept,
    decibels_inside,
    equal_packets,
    flicker,
    frames_showing,
    identity_switches,
    likeness_to_first,
    times_kept,
    whose,
)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_detection_is_of_the_face_that_it_overlaps_most_and_of_nobody_where_it_hardly_overlaps_any() -> None:
    known = np.array([[0, 0, 10, 10], [8, 0, 18, 10], [50, 50, 60, 60]], np.float64)
    found = np.array([[7, 0, 17, 10], [0, 0, 10, 11], [56, 50, 66, 60], [100, 0, 110, 10]], np.float64)
    assert whose(found, known).tolist() == [1, 0, NOBODY, NOBODY]
    assert whose(found, np.zeros((0, 4))).tolist() == [NOBODY] * 4
    assert whose(np.zeros((0, 4)), known).shape == (0,)


def test_a_frame_shows_a_source_where_one_of_its_faces_is_near_to_it() -> None:
    distances = np.array([0.9, 0.1, 0.6, 0.59, 0.3, 0.8])
    assert frames_showing(numbers(4, 4, 7, 9, 4, 2), distances, 0.6).tolist() == [4, 9]
    assert frames_showing(numbers(), np.zeros(0), 0.6).tolist() == []


def test_an_identity_is_switched_where_a_person_goes_on_under_another_track() -> None:
    # frames:  0  1  2  3; person 0 is in tracks 5 5 6 5, person 1 is in 6 -, 6, and nobody is in 9
    frames = numbers(3, 0, 1, 2, 0, 2, 1)
    people = numbers(0, 0, 0, 0, 1, 1, NOBODY)
    tracks = numbers(5, 5, 5, 6, 6, 6, 9)
    assert identity_switches(frames, people, tracks) == Switches(faces=6, switched=2, mixed=1)
    once = np.array([0, 0, 1, 1])
    assert identity_switches(numbers(0, 1, 0, 1), once, once + 3) == Switches(4, 0, 0)
    assert identity_switches(numbers(0, 1), numbers(0, 1), numbers(7, 7)) == Switches(2, 0, 1), (
        "one track of two people"
    )
    assert identity_switches(numbers(), numbers(), numbers()) == Switches(0, 0, 0)


def test_faces_are_compared_about_the_mean_with_the_first_of_their_person() -> None:
    mean = np.array([10.0, 10.0])
    vectors = np.array([[11, 10], [10, 11], [13, 10], [9, 10], [10, 12]], np.float64)
    frames, people = numbers(0, 3, 2, 1, 0), numbers(4, 4, 4, 2, 2)
    # person 2: (0, 2) first, then (-1, 0); person 4: (1, 0) first, then (3, 0), then (0, 1)
    assert likeness_to_first(frames, people, vectors, mean).tolist() == [0, 1, 0]
    assert likeness_to_first(frames[:1], people[:1], vectors[:1], mean).shape == (0,)


def test_flicker_is_the_change_inside_both_masks_between_frames_that_follow() -> None:
    frames = numbers(0, 1, 4, 5)
    source = np.full((4, 3, 3, 3), 100, np.uint8)
    source[1], source[3] = 98, 104
    published = np.full_like(source, 200)
    published[1], published[2], published[3] = 220, 0, 10  # from the second to the third 0 and 220 do not follow
    masks = np.zeros((4, 3, 3), np.bool_)
    masks[:, 0] = True
    masks[1, 0, 0] = False  # of the first pair two pixels count, of the last three
    published[:, 1:] = np.arange(4, dtype=np.uint8)[:, None, None, None] * 60
    found = flicker(frames, published, source, masks)
    assert found.published == pytest.approx((2 * 20 + 3 * 10) / 5)
    assert found.source == pytest.approx((2 * 2 + 3 * 4) / 5)
    assert found.ratio == pytest.approx(70 / 16)


def test_flicker_of_what_stands_still_or_is_not_masked_is_no_number() -> None:
    crops = np.zeros((2, 3, 3, 3), np.uint8)
    everything = np.ones((2, 3, 3), np.bool_)
    assert math.isnan(flicker(numbers(0, 1), crops, crops, ~everything).published)
    assert math.isnan(flicker(numbers(0, 2), crops, crops, everything).published)
    still = flicker(numbers(0, 1), crops, crops, everything)
    assert (still.published, still.source) == (0, 0) and math.isnan(still.ratio)
    assert Flicker(1.0, 0.0).ratio == math.inf


def test_restored_frames_are_measured_inside_their_masks() -> None:
    source = np.full((3, 4, 4, 3), 50, np.uint8)
    restored = source.copy()
    restored[0, 0] = 60
    restored[1, 3] = 0
    masks = np.zeros((3, 4, 4), np.bool_)
    masks[0, :2] = True
    masks[1, 0] = True
    found = decibels_inside(restored, source, masks)
    assert found[0] == pytest.approx(10 * math.log10(255**2 / 50))
    assert found[1] == math.inf
    assert len(found) == 2, "in the last one nothing is masked"


def test_times_are_compared_frame_by_frame() -> None:
    base = Fraction(1, 90_000)
    source = ClipTimes(base, (Fraction(0), Fraction(1, 25), Fraction(2, 25)), Fraction(3, 25))
    assert times_kept(source, source) == TimesKept(True, 0, 0.0, 0.0)
    moved = ClipTimes(Fraction(1, 1000), (Fraction(0), Fraction(1, 20), Fraction(2, 25)), Fraction(1, 10))
    assert times_kept(moved, source) == TimesKept(False, 0, pytest.approx(0.01), pytest.approx(-0.02))
    shorter = times_kept(ClipTimes(base, source.frames[:2], source.duration), source)
    assert shorter.frames == -1 and math.isnan(shorter.shift)


def test_packets_are_equal_bit_by_bit_and_none_may_be_missing_or_more() -> None:
    assert equal_packets([b"a", b"b"], [b"a", b"b"]) == 1
    assert equal_packets([b"a", b"x"], [b"a", b"b"]) == 0.5
    assert equal_packets([b"a", b"b", b"c"], [b"a", b"b"]) == pytest.approx(2 / 3)
    assert equal_packets([], [b"a"]) == 0
    assert math.isnan(equal_packets([], []))
