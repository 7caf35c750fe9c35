"""What the search of a result holds against it: faces nobody anonymized, and not those that somebody did."""

import time
from dataclasses import replace

import numpy as np
import pytest

from keyanon_core.faces.detection import Face, box_iou, in_order, same_face, without_duplicates
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.missed import missed_faces

SHAPE = (300, 400, 3)


def face_at(x, y, height, score=0.9, width_share=0.78):
    """A face whose box is centred on (x, y)."""
    half = (height * width_share / 2, height / 2)
    box = (x - half[0], y - half[1], x + half[0], y + half[1])
    return Face(box, template_in_box(box), score)


def mask_of(face, grown=1.0):
    """An ellipse that fills the face's box."""
    x0, y0, x1, y1 = face.box
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    across, down = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return PictureMask.from_full(across**2 + down**2 <= grown**2)


def without(mask, other):
    """The pixels of a mask that are none of another's."""
    return PictureMask.from_full(mask.full(SHAPE) & ~other.full(SHAPE))


def test_looks_at_one_face_are_the_same_face():
    face = face_at(200, 150, 80)
    for other in (face_at(203, 152, 76), face_at(197, 146, 90), face_at(200, 150, 80, width_share=0.95)):
        assert same_face(face, other) and same_face(other, face)
    cut = Face((face.box[0] + 25, *face.box[1:]), face.landmarks, 0.5)
    assert same_face(face, cut), "landmarks tell where a box is cut"
    assert without_duplicates([face_at(203, 152, 76, 0.5), face]) == [face]


def test_a_face_behind_a_face_is_another_face_whatever_their_boxes_share():
    front = face_at(200, 150, 80)
    shares = []
    for dx, dy, height in [
        (50, 0, 80),
        (35, 0, 80),
        (20, 10, 80),
        (16, 0, 80),
        (0, 21, 80),
        (14, 16, 96),
        (15, 10, 64),
    ]:
        rear = face_at(200 + dx, 150 + dy, height)
        shares.append(box_iou(front, rear))
        assert not same_face(front, rear) and not same_face(rear, front)
        assert len(without_duplicates([front, rear])) == 2
    assert min(shares) < 0.15 and max(shares) >= 0.55


def test_faces_may_differ_twofold_in_size_and_by_a_share_of_it_in_place():
    face = face_at(200, 150, 80, width_share=1.0)
    for height, same in ((160, True), (161, False), (40, True), (39.5, False)):
        assert same_face(face, face_at(200, 150, height, width_share=1.0)) == same
    for dx, dy, same in ((12.7, 0, True), (12.9, 0, False), (0, -12.7, True), (-9, 9, True), (-9.1, 9.1, False)):
        moved = face_at(200 + dx, 150 + dy, 80, width_share=1.0)
        assert same_face(face, moved) == same_face(moved, face) == same
        for part in ({"box": face.box}, {"landmarks": face.landmarks}):
            assert same_face(face, replace(moved, **part)), "either middle tells"


def test_of_several_looks_at_one_face_the_best_stays_whatever_their_order():
    looks = [face_at(200 + 9 * i, 150, 80, 0.9 - 0.1 * i, width_share=1.0) for i in range(5)]
    # the first hides the second alone, the third the fourth, and what is hidden hides nothing
    for order in (looks, looks[::-1]):
        assert without_duplicates(order) == [looks[0], looks[2], looks[4]]
    assert without_duplicates([]) == []
    twins = [face_at(x, 150, 20, 0.5) for x in (300, 100, 200)]
    assert [face.box[0] for face in without_duplicates(twins)] == sorted(face.box[0] for face in twins)


def test_a_crowd_of_thousands_takes_seconds():
    """Each face seen three times, and found again in a result in which all but one of them were anonymized."""
    faces = [face_at(x, y, 20, 0.5 + x / 1e4) for x in range(10, 1010, 25) for y in range(10, 810, 25)]
    again = [face_at(sum(face.box[::2]) / 2 + 1, sum(face.box[1::2]) / 2, 20, 0.4) for face in faces]
    started = time.process_time()
    assert len(without_duplicates([*again, *faces, *again])) == len(faces) == 1280
    masks = [
        PictureMask((int(x0), int(y0), int(x1), int(y1)), np.ones((int(y1) - int(y0), int(x1) - int(x0)), bool))
        for x0, y0, x1, y1 in (np.maximum(face.box, 0) for face in faces)
    ]
    assert missed_faces(again, faces[:-1], masks[:-1], (800, 1000)) == [again[-1]]
    assert time.process_time() - started < 10


def test_a_small_face_on_a_large_one_is_another_face():
    assert not same_face(face_at(200, 150, 80), face_at(200, 150, 30))


def test_an_anonymized_face_is_accounted_for_wherever_in_its_mask_it_is_seen_again():
    face = face_at(200, 150, 80)
    again = [face_at(200, 150, 80, 0.3), face_at(206, 144, 70, 0.4), face_at(190, 158, 60)]
    assert missed_faces(again, [face], [mask_of(face)], SHAPE) == []


def test_a_face_that_no_mask_covers_is_missed_and_counted_once():
    face = face_at(100, 150, 80)
    left = [face_at(300, 150, 40, 0.4), face_at(302, 151, 42, 0.8)]
    assert missed_faces([*left, face], [face], [mask_of(face)], SHAPE) == [left[1]]
    assert missed_faces(left, [], [], SHAPE) == [left[1]]


def test_a_face_behind_an_anonymized_one_is_missed_while_a_quarter_of_it_shows():
    front = face_at(200, 150, 80)
    rear = face_at(200 + 35, 150, 80)
    assert box_iou(front, rear) > 0.25
    (missed,) = missed_faces([front, rear], [front], [mask_of(front)], SHAPE)
    assert missed is rear
    assert missed_faces([rear], [front, rear], [mask_of(front), without(mask_of(rear), mask_of(front))], SHAPE) == []


def test_masks_of_neighbours_count_together():
    left, right = face_at(195, 150, 80), face_at(230, 150, 80)
    between = face_at(212, 150, 40)
    assert missed_faces([between], [left, right], [mask_of(left), mask_of(right)], SHAPE) == []


def test_where_only_the_nose_was_chosen_the_face_around_it_is_accounted_for():
    face = face_at(200, 150, 80)
    nose = PictureMask.from_full(mask_of(face_at(200, 155, 20)).full(SHAPE))
    assert missed_faces([face_at(202, 151, 78)], [face], [nose], SHAPE) == []
    assert len(missed_faces([face_at(240, 151, 78)], [face], [nose], SHAPE)) == 1


def test_an_anonymized_face_whose_mask_lies_beside_it_is_missed():
    face = face_at(200, 150, 80)
    beside = mask_of(face_at(165, 150, 80))
    wrong = Face(face.box, face.landmarks - [35.0, 0.0], 0.9)
    assert same_face(wrong, face)
    assert missed_faces([face], [wrong], [beside], SHAPE) == [face], "where its landmarks were wrong, so was its mask"


def test_a_face_cut_by_the_border_is_judged_by_what_lies_in_the_picture():
    face = face_at(5, 150, 80)
    assert missed_faces([face], [], [], SHAPE) == [face]
    assert missed_faces([face_at(2, 150, 76)], [face_at(40, 20, 30)], [mask_of(face)], SHAPE) == []


def test_a_face_beyond_a_border_is_covered_by_nothing():
    mask = mask_of(face_at(380, 280, 40))
    for beyond in (face_at(520, 150, 80), face_at(-120, 150, 80), face_at(200, 420, 80), face_at(200, -120, 80)):
        assert missed_faces([beyond], [], [mask], SHAPE) == [beyond]
    for touching in ((400.0, 150.0), (200.0, 300.0)):  # begins where the picture ends
        face = face_at(200, 150, 80)
        moved = Face(face.box, face.landmarks - face.landmarks.min(0) + touching, 0.5)
        assert missed_faces([moved], [], [mask], SHAPE) == [moved]


def test_where_nothing_within_a_face_was_chosen_seeing_it_again_is_accounted_for():
    face = face_at(200, 150, 80)
    ears = without(mask_of(face, grown=1.2), mask_of(face))
    assert missed_faces([face, face_at(202, 151, 78, 0.4)], [face], [ears], SHAPE) == []
    assert len(missed_faces([face_at(280, 151, 78)], [face], [ears], SHAPE)) == 1


def test_landmarks_that_lie_on_one_point_stand_for_a_tenth_of_the_box_around_it():
    point = Face((150.0, 100.0, 250.0, 200.0), np.full((5, 2), [200.0, 150.0]), 0.5)
    for share, missed in ((0.82, []), (0.7, [point])):  # of 10 px around
        most = np.zeros(SHAPE[:2], bool)
        most[150 - round(10 * share) : 151 + round(10 * share), 190:211] = True
        assert missed_faces([point], [], [PictureMask.from_full(most)], SHAPE) == missed


def test_landmarks_that_lie_on_one_point_hide_no_face():
    point = Face(face_at(200, 150, 80).box, np.full((5, 2), [200.0, 150.0]), 0.5)
    assert missed_faces([point], [], [], SHAPE) == [point]
    dot = np.zeros(SHAPE[:2], bool)
    dot[149:152, 199:202] = True
    assert missed_faces([point], [face_at(40, 40, 30)], [PictureMask.from_full(dot)], SHAPE) == [point]


def test_faces_are_ordered_by_whole_pixels_from_the_top_then_from_the_left():
    low, right, left = face_at(10, 100, 20), face_at(90, 50.1, 20), face_at(20, 50, 20)
    assert in_order([low, right, left]) == [left, right, low]
    small, large = face_at(20, 50, 10), face_at(20, 50, 30)
    assert in_order([small, large]) == in_order([large, small]) == [large, small]


def test_overlap_is_intersection_over_union_and_nothing_where_boxes_touch():
    face = face_at(100, 100, 40, width_share=1.0)
    for dx, dy, iou in (
        (20, 0, 1 / 3),
        (0, -20, 1 / 3),
        (20, 20, 1 / 7),
        (40, 0, 0),
        (0, 40, 0),
        (60, 0, 0),
        (0, -60, 0),
        (-50, 60, 0),
        (0, 0, 1),
    ):
        assert box_iou(face, face_at(100 + dx, 100 + dy, 40, width_share=1.0)) == pytest.approx(iou)
