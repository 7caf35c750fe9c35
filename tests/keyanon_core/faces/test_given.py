"""Which faces of a picture are anonymized, when its user has named some, or keeps some."""

import numpy as np
import pytest

from keyanon_core.errors import PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE
from keyanon_core.faces.detection import Detector, Face
from keyanon_core.faces.given import (
    MAX_BOXES,
    REPEATED_IOU,
    Box,
    GivenFace,
    GivenFaces,
    check_box,
    check_face,
    check_landmarks,
    choose_faces,
    is_kept,
    newly_kept,
)
from keyanon_core.faces.landmarks import template_in_box
from tests.keyanon_core.conftest import Pixels

ELSEWHERE: Box = (300.0, 300.0, 360.0, 380.0)  # of the astronaut: suit, no face


@pytest.fixture(scope="module")
def detector(models: FaceModels) -> Detector:
    return models.detector


@pytest.fixture(scope="module")
def found(detector: Detector, astronaut: Pixels) -> Face:
    (face,) = detector.detect(astronaut)
    return face


def grown(face: Face, by: float) -> Box:
    x0, y0, x1, y1 = face.box
    margin = by * (x1 - x0)
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


class BlindToWholes:
    """A detector that sees nothing when it is shown a whole picture."""

    def __init__(self, detector: Detector, shape: tuple[int, ...]) -> None:
        self.detector, self.shape = detector, shape
        self.name, self.digest = detector.name, detector.digest

    def detect(self, pixels: Pixels) -> list[Face]:
        return [] if pixels.shape == self.shape else self.detector.detect(pixels)

    def look_again(self, pixels: Pixels) -> list[Face]:
        return self.detector.look_again(pixels)


def test_a_given_face_that_is_detected_as_well_counts_once_and_has_the_detectors_landmarks(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    given = GivenFaces((GivenFace(grown(found, 0.2)),))
    for choice in ("detect", "given"):
        (face,) = choose_faces(astronaut, detector, given, choice).faces  # type: ignore[arg-type]
        assert np.abs(face.landmarks - found.landmarks).max() < 5


def test_a_given_face_that_no_search_of_the_whole_shows_is_found_within_its_box(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    blind = BlindToWholes(detector, astronaut.shape)
    assert choose_faces(astronaut, blind).faces == []
    (face,) = choose_faces(astronaut, blind, GivenFaces((GivenFace(grown(found, 0.1)),))).faces
    assert np.abs(face.landmarks - found.landmarks).max() < 5


def test_where_the_detector_sees_no_face_an_upright_one_fills_the_given_box(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    chosen = choose_faces(astronaut, detector, GivenFaces((GivenFace(ELSEWHERE),)))
    assert len(chosen.faces) == 2
    (added,) = [face for face in chosen.faces if face.box == ELSEWHERE]
    assert np.array_equal(added.landmarks, template_in_box(ELSEWHERE))
    (only,) = choose_faces(astronaut, detector, GivenFaces((GivenFace(ELSEWHERE),)), "given").faces
    assert only.box == ELSEWHERE
    two = choose_faces(astronaut, detector, GivenFaces((GivenFace(grown(found, 0.1)), GivenFace(ELSEWHERE)))).faces
    assert sorted(face.box for face in two) == sorted([found.box, ELSEWHERE])


def test_a_box_far_too_small_for_its_face_does_not_hide_the_rest_of_it(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    given = GivenFaces((GivenFace(grown(found, -0.35)),))
    faces = choose_faces(astronaut, detector, given, "given").faces
    assert len(faces) == 2
    assert min(np.abs(face.landmarks - found.landmarks).max() for face in faces) < 5


def test_given_landmarks_are_taken_as_they_are(detector: Detector, astronaut: Pixels, found: Face) -> None:
    moved = found.landmarks + 1.0
    (face,) = choose_faces(astronaut, detector, GivenFaces((GivenFace(found.box, moved),))).faces
    assert np.array_equal(face.landmarks, moved)


def test_landmarks_that_miss_the_detected_face_do_not_hide_it(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    misplaced = GivenFace(found.box, found.landmarks + np.array([0.0, 60.0]))
    faces = choose_faces(astronaut, detector, GivenFaces((misplaced,))).faces
    assert len(faces) == 2
    assert any(np.array_equal(face.landmarks, found.landmarks) for face in faces)


def test_a_face_given_twice_counts_once_and_two_overlapping_ones_count_twice(
    detector: Detector, astronaut: Pixels
) -> None:
    x0, y0, x1, y1 = ELSEWHERE
    again, behind = (x0 + 0.5, y0, x1, y1), (x0 + 15.0, y0, x1 + 15.0, y1)
    assert (x1 - x0 - 0.5) / (x1 - x0) > REPEATED_IOU
    given = GivenFaces((GivenFace(ELSEWHERE), GivenFace(again), GivenFace(behind)))
    assert len(choose_faces(astronaut, detector, given, "given").faces) == 2


def test_two_boxes_around_one_detected_face_are_two_faces_with_landmarks_apart(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    given = GivenFaces((GivenFace(found.box), GivenFace(grown(found, 0.25))))
    first, second = choose_faces(astronaut, detector, given).faces
    assert not np.array_equal(first.landmarks, second.landmarks)


def test_a_face_in_a_kept_box_is_left_alone_unless_it_is_given(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    keep = (grown(found, 0.1),)
    chosen = choose_faces(astronaut, detector, GivenFaces(keep=keep))
    assert chosen.faces == [] and len(chosen.kept) == 1
    both = choose_faces(astronaut, detector, GivenFaces((GivenFace(found.box),), keep))
    assert len(both.faces) == 1 and both.kept == []


def test_a_face_of_which_a_kept_box_holds_a_part_is_not_kept(found: Face) -> None:
    x0, y0, x1, y1 = found.box
    assert is_kept(found, [found.box])
    middle = (x0 + x1) / 2
    for part in ((x0, y0, middle, y1), (middle, y0, x1, y1), (x0, y0, x1, (y0 + y1) / 2)):
        assert not is_kept(found, [part])
    # Most landmarks lie in this box, their centre does not.
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [90.0, 0.0]])
    assert not is_kept(Face((0.0, 0.0, 90.0, 90.0), points, 1.0), [(0.0, 0.0, 2.0, 2.0)])
    # Doubt does not keep.
    assert not is_kept(Face(found.box, found.landmarks * np.nan, 1.0), [found.box], [found])


def test_what_another_search_makes_of_a_kept_face_is_kept_and_counted_once(found: Face) -> None:
    shifted = Face(found.box, found.landmarks + 2.0, 0.3)
    assert is_kept(shifted, [], [found])
    assert newly_kept([shifted], [found.box], [found]) == []
    assert newly_kept([shifted, found], [found.box], []) == [shifted]
    assert newly_kept([shifted], [ELSEWHERE], []) == []


def test_given_faces_survive_their_text_form_exactly() -> None:
    box = (0.1, 1 / 3, 100.7, 250.123456789)
    given = GivenFaces((GivenFace(box, template_in_box(box)), GivenFace(box)), (ELSEWHERE,), (640, 480))
    again = GivenFaces.from_json(given.to_json())
    assert [face.box for face in again.faces] == [box, box]
    assert np.array_equal(again.faces[0].landmarks, template_in_box(box))  # type: ignore[arg-type]
    assert again.faces[1].landmarks is None
    assert (again.keep, again.size) == ((ELSEWHERE,), (640, 480))
    assert GivenFaces.from_json(GivenFaces().to_json()).size is None


@pytest.mark.parametrize(
    ("corners", "named"),
    [
        ([float("nan"), 0, 10, 10], "x0"),
        ([0, float("inf"), 10, 10], "y0"),
        ([0, 0, -10, 10], "x1 must be larger than x0"),
        ([0, 5, 10, 5], "y1 must be larger than y0"),
        ([5, 0, 5, 10], "x1 must be larger than x0"),
        ([0.1, 0.1, 0.5, 0.6], "not shares of the picture"),
        ([0, 0, 10**400, 10], "x1"),
        ([0, 0, "10", 10], "x1"),
        ([0, 0, True, 10], "x1"),
        ([0, 0, None, 10], "x1"),
        ([0, 0, 10], "3 numbers"),
    ],
)
def test_a_bad_box_is_refused_by_the_field_that_is_wrong(corners: list[object], named: str) -> None:
    with pytest.raises(PictureError, match=named) as caught:
        check_box(corners)
    assert caught.value.reason == "bad_faces"


def test_landmarks_in_another_order_and_no_landmarks_are_refused() -> None:
    good = (UPRIGHT_TEMPLATE * 100).ravel().tolist()
    assert check_landmarks(good).shape == (5, 2)
    for order in ([1, 0, 2, 4, 3], [2, 0, 1, 3, 4], [0, 1, 2, 4, 3]):
        with pytest.raises(PictureError, match="order"):
            check_landmarks((UPRIGHT_TEMPLATE[order] * 100).ravel().tolist())
    profile = UPRIGHT_TEMPLATE * [20.0, 100.0] + [[0, 0], [0, 0], [12, 0], [0, 0], [0, 0]]
    check_landmarks(profile.ravel().tolist())
    for bad in ([5.0] * 10, [*good[:9], float("nan")]):
        with pytest.raises(PictureError):
            check_landmarks(bad)
    for box in ([0, 0, 50, 100], [0, 0, 100, 50]):
        with pytest.raises(PictureError, match="landmarks do not lie in its box"):
            check_face([*box, *(value + 30 for value in good)])
    assert check_face([40, 50, 100, 110, *(value + 30 for value in good)]).landmarks is not None
    with pytest.raises(PictureError, match="7 numbers"):
        check_face([0, 0, 10, 10, 1, 2, 3])


def test_boxes_that_can_not_be_about_the_picture_are_refused(detector: Detector, astronaut: Pixels) -> None:
    for given, named in (
        (GivenFaces((GivenFace((600.0, 10.0, 700.0, 90.0)),)), "face 0 lies outside"),
        (GivenFaces(keep=((10.0, -90.0, 70.0, -10.0),)), "kept box 0 lies outside"),
        (GivenFaces((GivenFace((10.0, -90.0, 70.0, 0.0)),)), "face 0 lies outside"),
        (GivenFaces((GivenFace((-90.0, 10.0, 0.0, 70.0)),)), "face 0 lies outside"),
        (GivenFaces((GivenFace((511.0, 10.0, 600.0, 90.0)),)), "face 0 lies outside"),
        (GivenFaces((GivenFace((10.0, 511.0, 90.0, 600.0)),)), "face 0 lies outside"),
        (GivenFaces((GivenFace((-600.0, 0.0, 425.0, 90.0)),)), "face 0 is more than 2 times as large"),
        (GivenFaces(size=(512, 511)), "given for 512 x 511 px"),
        (GivenFaces((GivenFace(ELSEWHERE),) * (MAX_BOXES + 1)), "more than"),
    ):
        with pytest.raises(PictureError, match=named) as caught:
            choose_faces(astronaut, detector, given)
        assert caught.value.reason == "bad_faces"
    cut = GivenFaces((GivenFace((-40.0, -40.0, 60.0, 60.0)),), size=(512, 512))
    assert len(choose_faces(astronaut, detector, cut, "given").faces) == 1


def test_an_aligned_crop_is_its_largest_central_face_and_must_be_square(
    detector: Detector, astronaut: Pixels, found: Face
) -> None:
    x, y = (int(value) for value in found.landmarks.mean(0))
    crop = np.ascontiguousarray(astronaut[y - 110 : y + 110, x - 110 : x + 110])
    first = choose_faces(crop, detector, choice="aligned").faces[0]
    assert np.abs(first.landmarks - (found.landmarks - [x - 110, y - 110])).max() < 5
    with pytest.raises(PictureError) as caught:
        choose_faces(crop[:-1], detector, choice="aligned")
    assert caught.value.reason == "not_square"


class Seeing(BlindToWholes):
    """A detector that sees these faces."""

    def __init__(self, detector: Detector, faces: list[Face]) -> None:
        super().__init__(detector, ())
        self.faces = faces

    def detect(self, pixels: Pixels) -> list[Face]:
        return self.faces


def test_the_face_of_an_aligned_crop_is_not_a_larger_one_at_its_side(detector: Detector, astronaut: Pixels) -> None:
    boxes: list[Box] = [(270.0, 60.0, 510.0, 400.0), (150.0, 160.0, 330.0, 400.0), (200.0, 200.0, 300.0, 300.0)]
    aside, main, inner = (Face(box, template_in_box(box), 0.9) for box in boxes)
    chosen = choose_faces(astronaut, Seeing(detector, [aside, inner, main]), choice="aligned")
    assert [face.box for face in chosen.faces] == [main.box, aside.box, inner.box]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("at", "central"), [(0.23, False), (0.27, True), (0.73, True), (0.77, False)])
def test_the_face_of_an_aligned_crop_lies_in_its_middle_half(
    detector: Detector, astronaut: Pixels, axis: int, at: float, central: bool
) -> None:
    box: Box = (220.0, 220.0, 290.0, 290.0)
    small, large = Face(box, template_in_box(box), 0.9), Face((0.0, 0.0, 511.0, 511.0), np.full((5, 2), 256.0), 0.9)
    large.landmarks[:, axis] = at * 512
    chosen = choose_faces(astronaut, Seeing(detector, [small, large]), choice="aligned")
    assert (chosen.faces[0] is large) is central


def test_an_aligned_crop_in_which_no_face_is_seen_is_outlined_as_ffhq_aligns_them(detector: Detector) -> None:
    (face,) = choose_faces(np.full((512, 512, 3), 127, np.uint8), detector, choice="aligned").faces
    assert np.abs(face.landmarks - UPRIGHT_TEMPLATE * 512).max() <= 0.5
    assert np.abs(template_in_box(face.box) - face.landmarks).max() < 0.03 * 512
