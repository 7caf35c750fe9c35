"""Landmarks, poses and masks before and after: what can be worked out by hand, and what happens to real faces that are moved."""

import math

import numpy as np
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.geometry import (
    HEAD,
    FaceChange,
    HeadPose,
    face_change,
    head_pose,
    landmark_error,
    mask_overlap,
)
from keyanon_core.faces import Face, PictureMask
from keyanon_core.faces.landmarks import MEAN_SHAPE, ShapePredictor
from keyanon_core.faces.mirrored import mirrored_view
from keyanon_core.imaging import decode_picture, encode_picture

SKIN = frozenset({"skin"})
AT = [27, 36, 45, 0, 16, 30, 62, 8]  # HEAD's points among the 68


def rotation(yaw, pitch, roll):
    """About the axis of sight first, then up, then to the side; x to the right, y down, z away."""
    a, b, c = np.radians([-yaw, -pitch, roll])
    spin = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]]).T
    shake = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    return shake @ nod @ spin


def photographed(turn, size=90.0, at=(300.0, 200.0), distance=3000.0):
    """The 68 points of HEAD, as far as it has them, seen from a distance in mm with a camera that looks past the face."""
    head = HEAD @ turn.T
    points = np.zeros((68, 2))
    seen = head[:, :2] / (head[:, 2:] + distance) * distance
    points[AT] = seen * size / 133 + at
    points[66] = points[62]
    return points


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (25, 0, 0), (-40, 10, 5), (0, -20, 0), (15, 18, -30), (0, 0, 170)]
)
def test_a_head_that_is_turned_by_so_much_is_found_to_be(yaw, pitch, roll):
    turn = rotation(yaw, pitch, roll)
    facing = turn @ [0, 0, -1]
    assert np.sign(facing[0]) == np.sign(round(math.sin(math.radians(yaw)), 9)), "to the right of the picture"
    assert np.sign(-facing[1]) == np.sign(pitch), "upwards"
    assert HeadPose.of(turn).apart(HeadPose(yaw, pitch, roll)) == pytest.approx((0, 0, 0), abs=1e-9)
    for where in ({}, {"size": 900.0, "at": (-2000.0, 5000.0)}):
        found = head_pose(photographed(turn, **where))
        assert max(found.apart(HeadPose(yaw, pitch, roll))) < 2, found
    assert head_pose(photographed(turn)).apart(head_pose(photographed(turn, 900.0))) == pytest.approx(
        (0, 0, 0), abs=1e-3
    )


def test_the_mean_of_many_portraits_looks_into_the_camera():
    assert max(head_pose(MEAN_SHAPE * 256).apart(HeadPose(0, 0, 0))) < 1


def test_differences_of_angles_go_the_short_way_round():
    assert HeadPose(170, 10, -179).apart(HeadPose(-175, -10, 178)) == pytest.approx((15, 20, 3))
    assert HeadPose(0, 0, 0).apart(HeadPose(180, 0, 90)) == pytest.approx((180, 0, 90))


def test_landmark_errors_are_in_eye_distances():
    five = np.array([[10.0, 10], [50, 10], [30, 30], [15, 50], [45, 50]])
    assert landmark_error(five, five) == 0
    assert landmark_error(five, five + np.array([3, 4])) == pytest.approx(5 / 40)
    one_moved = five.copy()
    one_moved[2] += [0, 20]
    assert landmark_error(five, one_moved) == pytest.approx(20 / 5 / 40)
    assert landmark_error(five, 2 * five) != landmark_error(2 * five, five), "over the eyes of the source"
    shape = MEAN_SHAPE * 100
    corners = np.linalg.norm(shape[36] - shape[45])
    assert landmark_error(shape, shape + np.array([0, 7])) == pytest.approx(7 / corners)


@pytest.mark.parametrize("count", [5, 68])
def test_points_that_are_no_face_are_refused(count):
    good = MEAN_SHAPE[:count] * 100 if count == 68 else np.array([[0.0, 0], [9, 0], [5, 5], [2, 9], [7, 9]])
    point, nan = np.full_like(good, 3.0), good.copy()
    nan[1, 0] = np.nan
    for bad in (point, nan):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(PictureError) as refused:
                landmark_error(*pair)
            assert refused.value.reason == "degenerate_landmarks"
    no_eyes = good.copy()
    no_eyes[[1, 45] if count == 68 else [1]] = no_eyes[36 if count == 68 else 0]
    with pytest.raises(PictureError, match=r"eyes are 0\.00 px apart"):
        landmark_error(no_eyes, good)
    with pytest.raises(ValueError, match="landmarks are needed"):
        landmark_error(good, good[:-1])
    if count == 68:
        with pytest.raises(PictureError):
            head_pose(nan)
    else:
        with pytest.raises(ValueError, match=r"\(68, 2\) landmarks are needed"):
            head_pose(good)


def test_overlap_of_masks():
    def box(x0, y0, x1, y1):
        return PictureMask((x0, y0, x1, y1), np.ones((y1 - y0, x1 - x0), np.bool_))

    nothing = PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_))
    half = mask_overlap(box(0, 0, 10, 10), box(5, 0, 15, 10))
    assert (half.iou, half.dice) == (pytest.approx(50 / 150), pytest.approx(100 / 200))
    holed = PictureMask((0, 0, 10, 10), np.eye(10, dtype=np.bool_))
    assert mask_overlap(holed, box(0, 0, 5, 10)) == mask_overlap(box(0, 0, 5, 10), holed)
    assert mask_overlap(holed, box(0, 0, 5, 10)).iou == pytest.approx(5 / 55)
    assert mask_overlap(holed, holed).dice == 1
    assert mask_overlap(box(0, 0, 4, 4), box(9, 9, 12, 12)).iou == 0
    assert mask_overlap(nothing, holed).dice == 0 and math.isnan(mask_overlap(nothing, nothing).iou)


def test_a_real_face_against_itself_stored_moved_turned_and_mirrored(models, astronaut, hopper, turned):
    predictor = ShapePredictor()
    (face,) = models.detector.detect(astronaut)

    def change(pixels, affine, source=(astronaut, face)):
        """The face is found where it was carried to: x, y of the picture by an affine (2, 3)."""
        ends = np.concatenate([face.landmarks, np.reshape(face.box, (2, 2))]) @ affine[:, :2].T + affine[:, 2]
        return face_change(source, (pixels, Face((*ends[5], *ends[6]), ends[:5], 1.0)), predictor, models.parser, SKIN)

    still = np.eye(2, 3)
    assert change(astronaut, still) == FaceChange(0, 0, 0, 0, 0, 1, 1)
    stored = change(decode_picture(encode_picture(astronaut, "jpeg", 80)), still)
    assert 0 < stored.landmarks_68 < 0.03 and stored.iou > 0.9 and max(stored.yaw, stored.pitch, stored.roll) < 3
    moved = change(np.roll(astronaut, 12, axis=1), np.array([[1.0, 0, 12], [0, 1, 0]]))
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    assert moved.landmarks_5 == pytest.approx(12 / eyes) and moved.roll < 1
    assert 0.5 < moved.iou < moved.dice < 0.95
    (upright, there), (tilted, over) = turned(astronaut, 0), turned(astronaut, 25)
    ends = face.landmarks @ there[:, :2].T + there[:, 2]
    before = (upright, Face((0.0, 0.0, 9.0, 9.0), ends, 1.0))
    assert change(tilted, over, before).roll == pytest.approx(25, abs=2)
    pose = head_pose(
        predictor.points(tilted, Face((0.0, 0.0, 9.0, 9.0), face.landmarks @ over[:, :2].T + over[:, 2], 1.0))
    )
    assert pose.roll == pytest.approx(28, abs=4), "clockwise"
    pose, seen = (head_pose(predictor.points(*view)) for view in ((astronaut, face), mirrored_view(astronaut, face)))
    assert HeadPose(-pose.yaw, pose.pitch, -pose.roll).apart(seen) == pytest.approx((0, 0, 0), abs=3)
    with pytest.raises(ValueError, match="at one size"):
        change(hopper, still)
    with pytest.raises(PictureError):
        change(astronaut, np.zeros((2, 3)))
