"""The closer look at what a network doubts: what it is shown, and what is made of the answers; with stand-in networks."""

from dataclasses import replace

import numpy as np
import pytest

from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.faces.closer import (
    AROUND_PX,
    AROUND_SHARE,
    AROUND_SIDE,
    CENTRE_SHARE,
    FACE_SHARE,
    HALF_SEEN_DOUBT,
    PATIENCE,
    PROMISE,
    SMALL_SHARE,
    TURNED_SIDE,
    confirmed,
    view,
)
from keyanon_core.faces.detection import Face
from keyanon_core.faces.embedded_detector import FIRST, SCENES, SECOND
from keyanon_core.faces.landmarks import roll_degrees, template_in_box
from keyanon_core.faces.looks import Candidates, Search, Seen, look
from tests.keyanon_core.faces.lamps import NOTHING, answers, dots, drawn_face, night

SEARCH = Search(shown=16.0, tile=1536, mirrored=False, gamma=1.0, sure=0.5, doubt=0.1, confirmed=0.4)


def face_at(x, y, width, height, score=0.9):
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Face(box, template_in_box(box), score)


def in_the_middle(score, side, by=(0.0, 0.0), share=FACE_SHARE):
    """What a network answers that sees an upright face `by` px beside the middle of a view."""
    middle = (side - 1) / 2 + np.array(by)
    half = share * side / 2
    box = (*(middle - half), *(middle + half))
    return Candidates(np.array([box]), template_in_box(box)[None], np.array([score]))


def judged(scores, search, doubt, min_face=16, beside=None):
    """What becomes of a doubt whose views, one after the other, show a face of these scores (None: nothing); and the sides of the
    views that were shown. beside: a face that was seen too.
    """
    shown, left = [], list(scores)

    def network(pixels, lowest):
        if lowest == HALF_SEEN_DOUBT:  # the surroundings of a small face
            return NOTHING
        assert lowest == PROMISE and pixels.flags.c_contiguous
        shown.append(pixels.shape[0])
        score = left.pop(0)
        return NOTHING if score is None else in_the_middle(score, pixels.shape[0])

    seen = [Seen(face, 1.0) for face in (doubt, beside) if face is not None]
    return confirmed(night(200, 200), network, search, seen, min_face), shown


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 30, -60, 90, 135, 180, -90])
def test_a_view_shows_a_rolled_face_upright_and_its_answer_comes_back_to_the_picture(degrees, mirror):
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, degrees)
    box = (140.0, 80.0, 200.0, 140.0)
    shown = []

    def network(pixels, lowest):
        seen = dots()(pixels, lowest)
        shown.append((pixels.shape, seen.landmarks[0]))
        return seen

    face = view(picture, network, Face(box, landmarks, 0.2), degrees, 192, 0.3, mirror=mirror)
    ((shape, seen),) = shown
    assert shape == (192, 192, 3)
    assert abs(roll_degrees(seen)) < 3, "upright"
    eyes = np.linalg.norm(landmarks[1] - landmarks[0])
    assert np.linalg.norm(seen[1] - seen[0]) == pytest.approx(eyes * 192 * FACE_SHARE / 60, rel=0.05)
    np.testing.assert_allclose(face.landmarks, landmarks, atol=0.7)
    assert face.score == 0.9


def test_a_view_of_a_face_of_the_same_size_keeps_its_box_to_the_pixel():
    for x, y, width, height in ((100, 80, 40, 40), (100.25, 80.5, 30, 40), (3, 190, 61, 40)):
        doubt = face_at(x, y, width, height)
        side = 96
        size = np.array([width, height]) * side * FACE_SHARE / max(width, height)
        box = np.concatenate([(side - 1) / 2 - size / 2, (side - 1) / 2 + size / 2])
        seen = view(night(200, 200), answers(box, [0.7]), doubt, 0.0, side, 0.1)
        np.testing.assert_allclose(seen.box, doubt.box)
        np.testing.assert_allclose(seen.landmarks, doubt.landmarks)
        assert seen.score == 0.7


@pytest.mark.parametrize(
    ("angle", "exchanged"),
    [
        (0, False),
        (44, False),
        (46, True),
        (90, True),
        (134, True),
        (136, False),
        (180, False),
        (-90, True),
        (-46, True),
    ],
)
def test_the_box_of_a_face_that_lies_is_wide(angle, exchanged):
    side = 96
    size = np.array([0.4, FACE_SHARE]) * side
    box = np.concatenate([(side - 1) / 2 - size / 2, (side - 1) / 2 + size / 2])
    (x0, y0, x1, y1) = view(night(200, 200), answers(box, [0.7]), face_at(100, 80, 40, 40), angle, side, 0.1).box
    upright = (32.0, 40.0)
    assert (x1 - x0, y1 - y0) == pytest.approx(upright[::-1] if exchanged else upright)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((100, 80))


def test_in_a_mirrored_view_left_and_right_are_told_apart():
    doubt = face_at(100, 80, 40, 40)
    answer = in_the_middle(0.8, 96, by=(6.0, 3.0))
    plain, mirrored = (
        view(night(200, 200), lambda pixels, lowest: answer, doubt, 0.0, 96, 0.1, mirror=mirror)
        for mirror in (False, True)
    )
    scale = 96 * FACE_SHARE / 40
    assert np.mean(plain.box[::2]) == pytest.approx(100 + 6 / scale)
    assert np.mean(mirrored.box[::2]) == pytest.approx(100 - 6 / scale)
    assert np.mean(plain.box[1::2]) == np.mean(mirrored.box[1::2]) == pytest.approx(80 + 3 / scale)
    assert mirrored.landmarks[0, 0] < mirrored.landmarks[1, 0] and mirrored.landmarks[3, 0] < mirrored.landmarks[4, 0]


def test_what_lies_far_from_the_middle_of_a_view_is_another_face():
    doubt = face_at(100, 80, 40, 40)
    for share, seen in ((CENTRE_SHARE - 1e-3, True), (CENTRE_SHARE + 1e-3, False)):
        for direction in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.6)):
            answer = in_the_middle(0.9, 96, by=np.array(direction) * share * 96)
            found = view(night(200, 200), lambda pixels, lowest, answer=answer: answer, doubt, 0.0, 96, 0.1)
            assert (found is not None) == seen
    assert view(night(200, 200), lambda pixels, lowest: NOTHING, doubt, 0.0, 96, 0.1) is None


def both_of(first: Candidates, second: Candidates) -> Candidates:
    return Candidates(
        *(np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("boxes", "landmarks", "scores"))
    )


def test_the_face_itself_is_taken_and_not_a_better_one_beside_it_or_in_front_of_it():
    doubt = face_at(100, 80, 40, 40)
    itself = in_the_middle(0.2, 96, by=(3.0, 0.0))
    for answer in (
        both_of(itself, in_the_middle(0.99, 96, by=(12.0, 0.0))),  # a quarter of the face's side away
        both_of(in_the_middle(0.99, 96, by=(0.0, 12.0)), itself),
    ):
        assert view(night(200, 200), lambda pixels, lowest, answer=answer: answer, doubt, 0.0, 96, 0.1).score == 0.2


def test_where_a_view_shows_no_face_in_the_doubts_place_the_best_near_it_is_taken():
    doubt = face_at(100, 80, 40, 40)
    further = in_the_middle(0.8, 96, by=(18.0, 0.0))  # 12 and 18 px of a face of 48 px
    for score, taken in ((0.7, 0.7), (0.6, 0.8)):
        answer = both_of(further, in_the_middle(score, 96, by=(12.0, 0.0)))
        assert view(night(200, 200), lambda pixels, lowest, answer=answer: answer, doubt, 0.0, 96, 0.1).score == taken


def test_a_view_beyond_the_picture_is_black_and_costs_no_error():
    for x, y in ((-300, 80), (500, 80), (100, -300), (199, 199)):
        shown = []

        def network(pixels, lowest, shown=shown):
            shown.append(pixels)
            return NOTHING

        assert view(night(200, 200), network, face_at(x, y, 40, 40), 45.0, 96, 0.1) is None
        assert shown[0].shape == (96, 96, 3) and not shown[0].any()


def test_a_doubt_is_seen_in_every_turn_and_then_upright_in_every_view():
    for search in (SEARCH, FIRST, SECOND):
        count = len(search.turns) + len(search.views)
        faces, shown = judged([0.6] * count, search, face_at(100, 80, 40, 40, search.doubt))
        assert len(faces) == 1
        assert shown == [TURNED_SIDE] * len(search.turns) + [side for side, _ in search.views]
        assert sorted(search.turns) == [0.0, 90.0, 180.0, 270.0], "a face may stand on any side"


@pytest.mark.parametrize("search", [FIRST, SECOND, SCENES])
def test_what_is_doubted_must_convince_mirrored_too(search):
    assert {mirror for _, mirror in search.views} == {False, True}


def test_without_turns_a_doubt_is_seen_upright_as_its_own_landmarks_say():
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, 75)
    assert SCENES.turns == ()
    shown = []

    def network(pixels, lowest):
        seen = dots(0.4)(pixels, lowest)
        shown.append((pixels.shape[0], roll_degrees(seen.landmarks[0])))
        return seen

    doubt = Face((140.0, 80.0, 200.0, 140.0), landmarks, 0.3)
    (face,) = confirmed(picture, network, SCENES, [Seen(doubt, 1.0)], 16)
    assert [side for side, _ in shown] == [side for side, _ in SCENES.views]
    assert all(abs(roll) < 5 for _, roll in shown)
    np.testing.assert_allclose(face.landmarks, landmarks, atol=1.5)


def test_the_best_turn_decides_which_way_is_up():
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, 90)
    rolls = []

    def network(pixels, lowest):
        seen = dots()(pixels, lowest)
        roll = roll_degrees(seen.landmarks[0])
        rolls.append(roll)
        score = 0.9 - abs(roll) / 400  # the more upright, the surer
        return replace(seen, scores=np.array([score]))

    doubt = face_at(170, 110, 60, 60, 0.2)  # says nothing about its roll
    (face,) = confirmed(picture, network, SEARCH, [Seen(doubt, 1.0)], 16)
    assert all(abs(roll) < 5 for roll in rolls[len(SEARCH.turns) :])
    np.testing.assert_allclose(face.landmarks, landmarks, atol=1.5)


def test_a_view_that_shows_nothing_ends_the_look_and_the_doubt():
    doubt = face_at(100, 80, 40, 40, 0.2)
    assert judged([None] * 4, SEARCH, doubt) == ([], [TURNED_SIDE] * 4)
    assert judged([0.9, None, None, None, 0.9, None], SEARCH, doubt) == ([], [TURNED_SIDE] * 4 + [96, 192])
    assert len(judged([None, None, 0.2, None, 0.9, 0.9, 0.9], SEARCH, doubt)[0]) == 1


def test_the_mean_of_the_upright_views_decides():
    doubt = face_at(100, 80, 40, 40, 0.2)
    (face,), _ = judged([0.9] * 4 + [0.25, 0.25, 0.75], replace(SEARCH, confirmed=1.25 / 3), doubt)
    assert face.score == pytest.approx(1.25 / 3)
    assert judged([0.9] * 4 + [0.3, 0.3, 0.5], SEARCH, doubt)[0] == []


def test_the_best_of_the_upright_views_says_where_the_face_is():
    answers_in_turn = [
        in_the_middle(0.5, 96, by=(6.0, 0.0)),
        in_the_middle(0.8, 96, by=(0.0, 6.0)),
        in_the_middle(0.6, 96, by=(9.0, 9.0)),
    ]

    def network(pixels, lowest):
        return answers_in_turn.pop(0)

    search = replace(SEARCH, turns=(), views=((96, False),) * 3)
    (face,) = confirmed(night(200, 200), network, search, [Seen(face_at(100, 80, 40, 40, 0.2), 1.0)], 16)
    scale = 96 * FACE_SHARE / 40
    assert (np.mean(face.box[::2]), np.mean(face.box[1::2])) == pytest.approx(
        (100 + 6 / scale, 80 + 6 / scale), abs=0.1
    )
    assert face.score == pytest.approx(1.9 / 3)


def test_in_a_crowd_looking_goes_on_and_in_clutter_it_stops():
    """Each view after the other; a doubt whose first view shows nothing has failed. No turns and one view make it simple."""
    search = replace(SEARCH, turns=(), views=((96, False),))

    def looked_at(answers_, seen):
        left = list(answers_)
        shown = []

        def network(pixels, lowest):
            shown.append(1)
            return in_the_middle(0.9, 96) if left.pop(0) else NOTHING

        return len(confirmed(night(200, 200), network, search, seen, 16)), len(shown)

    doubt = face_at(100, 80, 40, 40, 0.2)
    crowd = [Seen(doubt, 1.0, 0, i >= 30) for i in range(100)]
    assert looked_at([True] * 100, crowd) == (100, 100)
    assert looked_at([False] * 100, crowd) == (0, 30), "what is not spare is looked at, whatever came before"
    few = [i % PATIENCE == PATIENCE - 1 for i in range(100)]
    assert looked_at(few, crowd) == (5, 100)
    last = [i == 29 for i in range(100)]
    assert looked_at(last, crowd) == (1, 30 + PATIENCE)
    elsewhere = [Seen(doubt, 1.0, 1, True) for _ in range(100)]
    assert looked_at([False] * 200, [*crowd, *elsewhere]) == (0, 30 + PATIENCE), "each tile for itself"
    tiny = [replace(one, face=face_at(100, 80, 8, 8, 0.2)) for one in crowd]
    assert looked_at([True] * 100, tiny) == (0, 30), "what is too small is no success"


def test_what_is_confirmed_and_much_smaller_than_what_is_searched_for_is_no_face():
    for size, count in ((SMALL_SHARE * 20 + 0.01, 1), (SMALL_SHARE * 20 - 0.01, 0)):
        assert len(judged([0.9] * 7, SEARCH, face_at(100, 80, size, size, 0.2), min_face=20)[0]) == count
    tiny = face_at(100, 80, 4, 4, SEARCH.sure)
    assert judged([], SEARCH, tiny, min_face=20) == ([tiny], []), "a sure face is not looked at again"


def test_a_long_and_narrow_face_counts_by_its_longer_side():
    def network(pixels, lowest):
        side = pixels.shape[0]
        box = (side * 0.4, side * 0.25, side * 0.6, side * 0.75)
        return Candidates(np.array([box]), (UPRIGHT_TEMPLATE * side)[None], np.array([0.9]))

    assert len(confirmed(night(200, 200), network, SEARCH, [Seen(face_at(100, 80, 8, 20, 0.2), 1.0)], 20)) == 1


def test_doubts_between_the_landmarks_of_a_sure_face_cost_nothing():
    sure = face_at(100, 80, 60, 80)
    sure = replace(sure, landmarks=np.rint(sure.landmarks))
    for x, y in (sure.landmarks.mean(0), sure.landmarks[0], sure.landmarks[4]):  # inside the hull, and on its rim
        assert judged([], SEARCH, face_at(x, y, 20, 20, 0.2), beside=sure) == ([sure], [])


def test_doubts_beside_the_landmarks_of_a_sure_face_are_looked_at_even_within_its_box():
    sure = face_at(100, 80, 60, 80)
    x0, y0, x1, y1 = sure.box
    for x, y in ((x0 + 4, 80), (x1 - 4, 80), (100, y0 + 4), (100, y1 - 4), (x0 - 30, 80), (100, y1 + 30)):
        shown = []

        def network(pixels, lowest, shown=shown):
            shown.append(pixels.shape[0])
            return NOTHING

        confirmed(night(200, 200), network, SEARCH, [Seen(sure, 1.0), Seen(face_at(x, y, 20, 20, 0.2), 1.0)], 16)
        assert len(shown) == len(SEARCH.turns), (x, y)


def test_landmarks_beyond_a_sure_faces_box_hide_nothing():
    sure = Face((100.0, 80.0, 120.0, 100.0), template_in_box((0.0, 0.0, 190.0, 190.0)), 0.9)
    assert len(judged([0.9] * 7, SEARCH, face_at(60, 90, 20, 20, 0.2), beside=sure)[0]) == 2


def test_a_picture_goes_from_look_to_confirmation():
    """A network that doubts one place of the picture and is surer of it the closer it looks."""

    def network(pixels, lowest):
        if pixels.shape[0] != 400:
            return in_the_middle(0.5, pixels.shape[0])
        return answers([180.0, 180.0, 220.0, 220.0], [0.1])(pixels, lowest)

    (face,) = confirmed(night(400, 400), network, FIRST, look(night(400, 400), network, FIRST, 16), 16)
    assert face.box == pytest.approx((180, 180, 220, 220)) and face.score == 0.5
    assert confirmed(night(400, 400), network, FIRST, look(night(400, 400), network, FIRST, 16), 64) == []


@pytest.mark.parametrize(
    ("doubted", "by", "size", "least", "found"),  # by: px below the face in front
    [
        (0.3, 30, 40, 0.25, True),  # half hidden beside a face of its size
        (0.29, 30, 40, 0.25, False),  # a neck
        (0.3, 30, 40, 0.35, False),  # no view shows it
        (0.3, 70, 40, 0.25, False),  # elsewhere
        (0.3, 30, 19, 0.25, False),  # a button
        (0.3, 2, 40, 0.25, False),  # the face itself, seen again
        (0.3, 30, 40, None, False),  # not asked for
        (0.6, 70, 40, 0.25, True),  # nearly sure
        (0.59, 70, 40, 0.25, False),
        (0.6, 70, 40, 0.35, False),
        (0.3, 105, 40, 0.25, True),  # across the border
        (0.3, 99, 40, 0.25, False),  # at it
        (0.29, 105, 40, 0.25, False),
    ],
)
def test_less_is_asked_of_a_doubt_beside_a_face_or_nearly_sure(doubted, by, size, least, found):
    front = replace(face_at(100, 80, 40, 40), score=0.9)
    doubt = replace(face_at(100, 80 + by, size, size), score=doubted)
    seen = [Seen(front, 1.0), Seen(doubt, 1.0)]

    def network(pixels, lowest):
        return in_the_middle(0.3, pixels.shape[0])

    faces = confirmed(night(200, 200), network, replace(SEARCH, sure=0.8, hinted=least), seen, 16)
    assert [face.score for face in faces] == [0.9] + found * [pytest.approx(0.3)]


def two_in_a_row(size, rear_score, seen_at_first=1, by=0.45, rear_size=None):
    """A front face of `size` px, and a rear one whose middle lies by a share of that to its left. Of the picture the network sees
    the front one alone; of an enlarged view both, the rear one with a score. Returns the faces confirmed.
    """
    front = face_at(100, 80, size, size, 0.9)
    rear = face_at(100 - by * size, 80, rear_size or size, rear_size or size)
    picture = night(160, 200)
    looked = []

    def network(pixels, lowest):
        side = pixels.shape[0]
        looked.append((side, lowest))
        # where each face is in this view: the view's middle shows the middle of `centred`, its scale follows from the share
        share = AROUND_SHARE if lowest == HALF_SEEN_DOUBT else FACE_SHARE
        centred = front if lowest == HALF_SEEN_DOUBT else rear
        scale = side * share / (centred.box[2] - centred.box[0])
        middle = np.array([(centred.box[0] + centred.box[2]) / 2, (centred.box[1] + centred.box[3]) / 2])
        boxes = [((np.array(one.box).reshape(2, 2) - middle) * scale + (side - 1) / 2).ravel() for one in (front, rear)]
        answer = Candidates(
            np.array(boxes), np.array([template_in_box(box) for box in boxes]), np.array([0.9, rear_score])
        )
        chosen = answer.scores >= lowest
        return Candidates(answer.boxes[chosen], answer.landmarks[chosen], answer.scores[chosen])

    search = replace(SEARCH, sure=0.8, turns=(), views=((96, False), (192, False)))
    return confirmed(picture, network, search, [Seen(front, 1.0)] * seen_at_first, 16), looked


@pytest.mark.parametrize(
    ("size", "rear_score", "by", "rear_size", "found"),
    [
        (18, 0.5, 0.45, None, True),
        (AROUND_PX, 0.5, 0.45, None, True),
        (AROUND_PX + 1, 0.5, 0.45, None, False),  # large enough to be told apart in the picture
        (18, 0.35, 0.45, None, False),  # no closer look confirms it
        (18, HALF_SEEN_DOUBT - 0.01, 0.45, None, False),
        (18, 0.5, 0.1, None, False),  # the front face once more
        (18, 0.5, 1.6, None, False),  # elsewhere: the search of the picture itself looks there
        (34, 0.5, 0.45, 14, False),  # a brooch
    ],
)
def test_behind_a_small_face_another_is_looked_for_in_an_enlarged_view(size, rear_score, by, rear_size, found):
    faces, looked = two_in_a_row(size, rear_score, by=by, rear_size=rear_size)
    assert len(faces) == 1 + found
    if found:
        assert faces[1].score == pytest.approx(rear_score)
        assert np.mean(faces[1].box[::2]) == pytest.approx(100 - by * size)
    if size > AROUND_PX:
        assert looked == []
    else:
        assert looked[0] == (AROUND_SIDE, HALF_SEEN_DOUBT)


def test_a_face_that_was_seen_several_times_is_looked_around_once():
    _, looked = two_in_a_row(18, 0.5, seen_at_first=5)
    assert looked.count((AROUND_SIDE, HALF_SEEN_DOUBT)) == 1


@pytest.mark.parametrize(("x", "found"), [(2, True), (100, False)])
def test_of_a_face_across_the_border_a_view_may_outline_less_than_is_searched_for(x, found):
    """The doubt is 20 px wide, the views show 12 px of it."""

    def network(pixels, lowest):
        return in_the_middle(0.9, pixels.shape[0], share=0.6 * FACE_SHARE)

    search = replace(SEARCH, turns=())
    doubt = face_at(x, 80, 20, 20, 0.3)
    assert len(confirmed(night(200, 200), network, search, [Seen(doubt, 1.0)], 16)) == found
