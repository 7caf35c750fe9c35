"""How a picture is shown to a network, and that what it answers comes back to the picture's places: with stand-in networks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces import looks
from keyanon_core.faces.embedded_detector import FIRST, SCENES, SECOND
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.faces.looks import (
    CORE_MARGIN,
    LEVEL_STEP,
    MAX_FACE_PX,
    MIN_DOUBTS,
    SPARE_DOUBTS,
    TILE_OVERLAP,
    TILED_FACE_PX,
    Candidates,
    Search,
    _spans,
    check_min_face,
    lightened,
    look,
)
from tests.keyanon_core.faces.lamps import answers, hang, lamps, night

PLAIN = Search(shown=16.0, tile=512, mirrored=False, gamma=1.0, sure=0.5, doubt=0.1, confirmed=0.5)
MIRRORED = replace(PLAIN, mirrored=True)


def noted(network, shown):
    """The network, with the (height, width) of what it is shown noted."""

    def note(pixels, lowest):
        shown.append(pixels.shape[:2])
        return network(pixels, lowest)

    return note


def shapes(height, width, search, min_face):
    shown = []
    look(night(height, width), noted(answers([], []), shown), search, min_face)
    return shown


def at(seen, box, within):
    """Of what was seen, that whose box is this one to so many px as shown."""
    return [one for one in seen if np.abs(np.subtract(one.face.box, box)).max() * min(one.scale, 1) <= within]


@pytest.mark.parametrize("search", [PLAIN, MIRRORED])
@pytest.mark.parametrize("shape", [(40, 30), (213, 320), (500, 407), (600, 1101), (40, 2400)])
def test_what_a_network_sees_comes_back_to_its_place_whatever_the_scale_and_the_tile(shape, search):
    height, width = shape
    picture = night(height, width)
    boxes = [
        hang(picture, round(across * (width - 14)), round(down * (height - 19)), 13, 18, 0.9)
        for across, down in itertools.product((0.0, 0.31, 0.5, 1.0), (0.0, 1.0) if height > 40 else (0.4,))
        if width > 200 or across == 0.31
    ]
    seen = look(picture, lamps, search, 16)
    finest = max(one.scale for one in seen)
    for box in boxes:
        found = at(seen, box, 1.01)
        assert any(one.scale == finest for one in found), box
        for one in found:
            np.testing.assert_allclose(one.face.landmarks, template_in_box(box), atol=1.1 / min(one.scale, 1))
    assert all(any(one in at(seen, box, 1.5) for box in boxes) for one in seen if one.scale == finest)


@pytest.mark.parametrize("search", [PLAIN, MIRRORED])
def test_landmarks_come_back_in_the_order_of_the_picture(search):
    width, face = 400, np.array([[90, 100], [130, 104], [112, 120], [95, 140], [126, 143]], np.float64)
    box = np.array([[80.0, 80.0], [142.0, 160.0]])
    shown = face.copy()
    if search.mirrored:  # as the network sees it: the eye that stands left is the other one
        shown = np.stack([width - 1 - face[:, 0], face[:, 1]], -1)[[1, 0, 2, 4, 3]]
        box = np.stack([width - 1 - box[::-1, 0], box[:, 1]], -1)
    (seen,) = look(night(300, width), answers(box, [0.9], shown[None]), search, 16)
    np.testing.assert_allclose(seen.face.landmarks, face)
    np.testing.assert_allclose(seen.face.box, (80, 80, 142, 160))
    assert seen.face.score == 0.9 and seen.scale == 1.0 and seen.height == 80


def test_pixel_centres_stay_where_they_are_when_a_tile_is_shown_larger_or_smaller():
    box = (-0.5, -0.5, 39.5, 19.5)  # of the shown tile
    for side, scale in ((100, 3.2), (80, 4.0), (320, 1.0)):
        (seen,) = look(night(side, side), answers(box, [0.9]), PLAIN, 16)
        assert seen.scale == scale
        np.testing.assert_allclose(seen.face.box, (-0.5, -0.5, 40 / scale - 0.5, 20 / scale - 0.5))


@pytest.mark.parametrize(
    ("shape", "min_face", "expected"),
    [
        ((30, 40), 16, [(120, 160)]),  # four times at most
        ((100, 50), 16, [(320, 160)]),
        ((320, 320), 16, [(320, 320)]),
        ((320, 320), 64, [(320, 320)]),  # no smaller than that
        ((640, 640), 32, [(320, 320)]),
        ((300, 640), 16, [(300, 416), (300, 416)]),  # two tiles, and no coarser level
        ((200, 800), 16, [(200, 496)] * 2 + [(128, 512)]),
        ((200, 2048), 16, [(200, 502)] * 6 + [(50, 512)]),
        ((1, 3000), 16, [(1, 504)] * 9 + [(1, 471)] * 2 + [(1, 512)]),
        ((0, 300), 16, []),
        ((300, 0), 16, []),
    ],
)
def test_the_levels_of_a_picture_and_their_tiles(shape, min_face, expected):
    shown = shapes(*shape, PLAIN, min_face)
    assert len(shown) == len(expected), shown
    for (height, width), (high, wide) in zip(shown, expected, strict=True):
        assert abs(height - high) <= 2 and abs(width - wide) <= 2, shown


@pytest.mark.parametrize("search", [FIRST, SECOND, SCENES])
@pytest.mark.parametrize("min_face", looks.MIN_FACE_LIMITS)
def test_no_tile_is_larger_than_it_may_be_at_the_limits_of_min_face(search, min_face):
    for height, width in ((300, 200), (900, 20), (1, 1)):
        shown = shapes(height, width, search, min_face)
        assert (
            shown and max(map(max, shown)) <= search.tile + 4 / (search.shown / min_face) + 2 * search.shown / min_face
        )


@pytest.mark.parametrize("length", [1, 100, 640, 1536, 1537, 1600, 6000, 12345])
@pytest.mark.parametrize("scale", [0.25, 1.0, 1.4125])
def test_tiles_cover_every_pixel_and_overlap_by_more_than_the_largest_face_they_look_after(length, scale):
    side, overlap = 1536 / scale, TILE_OVERLAP / scale
    spans = _spans(length, side, overlap)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert spans[0][2] == -np.inf and spans[-1][3] == np.inf
    assert all(end - start <= side + 2 for start, end, _, _ in spans)
    for (_, end, _, core_end), (start, _, core_start, _) in itertools.pairwise(spans):
        assert end - start >= overlap - 1 and core_end == core_start
        assert min(end - core_end, core_start - start) * scale >= TILED_FACE_PX / 2
    for search in (FIRST, SECOND, SCENES):
        assert search.shown < TILED_FACE_PX / LEVEL_STEP, "the next level sees what this one leaves to it"


@pytest.mark.parametrize("search", [PLAIN, MIRRORED])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_a_face_at_a_seam_is_seen_whole_by_both_tiles_and_beside_it_by_one(scale, search):
    """At several scales, along both axes."""
    length = round(800 / scale)
    ((*_, seam), *_) = _spans(length, search.tile / scale, TILE_OVERLAP / scale)
    size = round(40 / scale)
    margin = CORE_MARGIN / scale
    for beside, times in ((0, 2), (0.8 * margin, 2), (-0.8 * margin, 2), (1.3 * margin, 1), (-1.3 * margin, 1)):
        for across in (True, False) if scale == 1 else (True,):
            picture = night(*((round(300 / scale), length) if across else (length, round(300 / scale))))
            along, other = round(seam + beside - size / 2), round(100 / scale)
            box = hang(picture, *((along, other) if across else (other, along)), size, size)
            seen = look(picture, lamps, search, round(16 / scale))
            finest = [one for one in seen if one.scale == max(one.scale for one in seen)]
            assert len(finest) == len(at(finest, box, 1.5)) == times, (beside, across)


def test_a_level_in_tiles_leaves_large_faces_to_a_coarser_one():
    for size, levels in ((round(TILED_FACE_PX) - 2, 2), (round(TILED_FACE_PX) + 2, 1)):
        for wide, high in ((size, 60), (60, size)):
            picture = night(900, 900)
            box = hang(picture, 30, 30, wide, high)
            assert len({one.scale for one in at(look(picture, lamps, PLAIN, 16), box, 2.0)}) == levels
    for size, levels in ((round(MAX_FACE_PX) - 2, 2), (round(MAX_FACE_PX) + 2, 1)):
        picture = night(900, 900)
        box = hang(picture, 30, 30, 60, size, 0.4)
        assert len(at(look(picture, lamps, replace(PLAIN, tile=1000), 16), box, 3.0)) == levels, "in one piece"


@pytest.mark.parametrize("side", [300, 640, 900, 1500])
def test_a_face_that_fills_its_picture_is_seen_by_the_last_level(side):
    picture = night(side, side)
    box = hang(picture, 0, 0, side, side)
    (seen,) = at(look(picture, lamps, replace(PLAIN, tile=700), 16), box, 2.0)
    assert seen.scale == {300: 320 / 300, 640: 1.0}.get(side, looks.COARSE_SIDE / side)
    assert all(search.tile >= looks.SINGLE_PASS_SIDE for search in (FIRST, SECOND, SCENES)), "it is one piece"


def test_a_face_larger_than_its_picture_keeps_its_box():
    box = (-300.0, -200.0, 700.0, 900.0)
    (seen,) = look(night(400, 400), answers(box, [0.9]), PLAIN, 16)
    assert seen.face.box == pytest.approx(box)


def test_boxes_that_touch_nothing_of_what_was_shown_are_no_faces_there():
    touching = [(-30, 10, 1, 50), (10, -30, 50, 1), (318, 10, 350, 50), (10, 318, 50, 350)]
    beyond = [(-30, 10, -0.5, 50), (10, -30, 50, -0.5), (319.5, 10, 350, 50), (10, 319.5, 50, 350)]
    seen = look(night(320, 320), answers(touching + beyond, [0.9] * 8), PLAIN, 16)
    assert sorted(one.face.box for one in seen) == sorted(touching)


def test_a_box_of_less_than_a_pixel_is_no_face():
    boxes = [(10, 10, 11, 40), (50, 10, 80, 11), (10, 60, 10.9, 90), (50, 60, 80, 60.9)]
    seen = look(night(320, 320), answers(boxes, [0.9] * 4), PLAIN, 16)
    assert sorted(one.face.box for one in seen) == sorted(boxes[:2])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["boxes", "landmarks", "scores"])
def test_an_answer_that_is_no_number_is_an_error_and_not_a_face_less(place, odd):
    said = {"boxes": np.ones((2, 4)), "landmarks": np.ones((2, 5, 2)), "scores": np.full(2, 0.9)}
    said[place][-1] = odd
    with pytest.raises(FaceModelError, match="not a number"):
        Candidates(**said)


def test_too_many_faces_of_which_the_network_is_sure_are_refused_rather_than_cut_off():
    for sure, doubted, refused in ((looks.MAX_CANDIDATES, 500, False), (looks.MAX_CANDIDATES + 1, 0, True)):
        boxes = np.tile([10.0, 10.0, 30.0, 30.0], (sure + doubted, 1))
        network = answers(boxes, np.repeat([PLAIN.sure, PLAIN.doubt], [sure, doubted]))
        if not refused:
            assert sum(one.face.score >= PLAIN.sure for one in look(night(320, 320), network, PLAIN, 16)) == sure
            continue
        with pytest.raises(PictureError, match=str(sure)) as error:
            look(night(320, 320), network, PLAIN, 16)
        assert error.value.reason == "too_many_faces"


def test_doubts_are_limited_by_what_is_shown_the_best_of_them_stay_and_sure_faces_are_not_counted():
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(5, 390, 10) for y in range(5, 390, 10)]
    boxes = [(x, y, x + 5, y + 5) for x, y in places]
    scores = rng.permutation(np.linspace(0.1, 0.4, len(boxes)))
    scores[:200] = 0.7
    for side, most in ((400, 16), (100, 11)):  # of 0.16 megapixels; 100 px are shown as 320
        seen = look(night(side, side), answers(boxes, scores), PLAIN, 16)
        assert not any(one.spare for one in seen if one.face.score >= PLAIN.sure)
        doubts = sorted(one.face.score for one in seen if one.face.score < PLAIN.sure and not one.spare)
        assert len(doubts) == most
        kept = [one.face.score for one in seen]
        assert kept == sorted(kept, reverse=True)
        if side == 400:
            np.testing.assert_allclose(doubts, sorted(scores[200:])[-most:])
            assert len(seen) == 200 + SPARE_DOUBTS * most, "the next best are spare"


def test_the_smallest_tile_keeps_a_few_doubts():
    boxes = [(x, 0, x + 5, 6) for x in range(0, 300, 10)]
    seen = look(night(2, 320), answers(boxes, [0.2] * len(boxes)), PLAIN, 16)
    assert sum(not one.spare for one in seen) == MIN_DOUBTS and len(seen) == len(boxes) < SPARE_DOUBTS * MIN_DOUBTS


def test_what_was_seen_in_one_tile_is_told_from_what_was_seen_in_another():
    picture = night(300, 800)
    boxes = [hang(picture, x, 100, 40, 40) for x in (40, 700)]
    seen = look(picture, lamps, PLAIN, 16)
    tiles = [{one.tile for one in at(seen, box, 3.0)} for box in boxes]
    assert [len(those) for those in tiles] == [2, 2] and len(tiles[0] & tiles[1]) == 1, "the coarse level is one tile"


def test_a_doubt_beside_a_stronger_one_is_the_same_doubt_and_a_sure_face_hides_none():
    boxes = [
        (100, 100, 140, 140),
        (119, 100, 159, 140),
        (100, 121, 140, 161),
        (110, 110, 120, 120),
        (106, 100, 146, 140),
    ]
    scores = [0.4, 0.3, 0.3, 0.3, 0.2]
    seen = look(night(320, 320), answers(boxes, scores), PLAIN, 16)
    # the second lies within half of both sizes, the third beyond, the fourth is small
    assert sorted(one.face.box for one in seen) == sorted([boxes[0], boxes[2], boxes[3]])
    seen = look(night(320, 320), answers(boxes[:2], [0.6, 0.3]), PLAIN, 16)
    assert len(seen) == 2


def test_a_large_face_takes_its_fragments_with_it_and_nothing_else():
    """On the finer of two levels, where the face is too large to be seen."""
    large = hang(night(900, 900), 150, 100, 600, 700)

    def seen(*others, large_score=0.9):
        def network(pixels, lowest):
            if pixels.shape[0] == 900:
                boxes, scores = zip(*others, strict=True)
                return answers(boxes, scores)(pixels, lowest)
            shown = (np.array(large) + 0.5) * 512 / 900 - 0.5
            return answers([shown], [large_score])(pixels, lowest)

        found = look(night(900, 900), network, replace(PLAIN, tile=1000), 16)
        return [one.face.box for one in found if one.scale == 1.0]

    inside, small = (300.0, 300.0, 480.0, 500.0), (300.0, 300.0, 480.0, 470.0)
    beside, rim = (20.0, 300.0, 270.0, 500.0), (20.0, 300.0, 290.0, 500.0)
    above, below = (300.0, 0.0, 480.0, 190.0), (300.0, 698.0, 480.0, 898.0)
    assert seen((inside, 0.9)) == [] and seen((inside, 0.2)) == []
    assert seen((small, 0.9)) == [small], "a face in front of a large one: less than a quarter as high"
    assert seen((beside, 0.9)) == [beside] and seen((rim, 0.9)) == []
    assert seen((above, 0.9)) == [above] and seen((below, 0.9)) == []
    right, under = (650.0, 300.0, 860.0, 500.0), (300.0, 705.0, 480.0, 899.0)
    assert seen((right, 0.9)) == [right] and seen((under, 0.9)) == [under]
    assert seen((inside, 0.9), large_score=0.4) == [inside], "a doubt takes nothing away"


def test_a_face_that_fits_the_finer_level_has_no_fragments():
    def network(pixels, lowest):
        if pixels.shape[0] == 900:
            return answers([(300, 300, 480, 500)], [0.9])(pixels, lowest)
        return answers([(100, 100, 340, 340)], [0.9])(pixels, lowest)  # 422 px of the picture

    seen = look(night(900, 900), network, replace(PLAIN, tile=1000), 16)
    assert len(seen) == 2


def test_lightening_maps_every_value_by_its_power_and_one_changes_nothing():
    values = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (1, 1, 3))
    shown = []

    def network(pixels, lowest):
        shown.append((pixels, lowest))
        return answers([], [])(pixels, lowest)

    assert lightened(network, 1.0) is network
    lightened(network, 0.5)(values, 0.3)
    ((pixels, lowest),) = shown
    assert pixels.dtype == np.uint8 and lowest == 0.3
    np.testing.assert_array_equal(pixels[0, :, 0], np.rint(np.sqrt(np.arange(256) / 255) * 255))


def test_a_network_is_asked_for_its_doubts_and_shown_contiguous_pixels():
    def network(pixels, lowest):
        assert lowest == MIRRORED.doubt and pixels.flags.c_contiguous and pixels.dtype == np.uint8
        return answers([], [])(pixels, lowest)

    look(night(300, 700), network, MIRRORED, 16)


def test_min_face_may_be_at_its_limits_and_not_beyond():
    least, most = looks.MIN_FACE_LIMITS
    check_min_face(least)
    check_min_face(most)
    for beyond in (least - 1, most + 1, 0, -16):
        with pytest.raises(FaceModelError, match=f"min_face {beyond} px is out of range; choose {least} to {most}"):
            check_min_face(beyond)
