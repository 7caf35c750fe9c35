"""How the two networks share the work: the search of a result asks both, and what one alone sees has usable landmarks."""

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces import load_detector
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, likeness
from keyanon_core.faces.detection import Face
from keyanon_core.faces.embedded_detector import CHIP_SIDE, FIRST, MIN_FACE_LIKENESS, SCENES, SECOND, _shaped
from keyanon_core.faces.landmarks import roll_degrees, template_in_box
from keyanon_core.faces.looks import DEFAULT_MIN_FACE, MAX_CANDIDATES, Candidates, look
from tests.keyanon_core.faces.lamps import NOTHING, answers, dots, drawn_face, night


def blind(pixels, lowest):
    return NOTHING


def forbidden(pixels, lowest):
    raise AssertionError("this network is not to be asked")


@pytest.fixture
def detector(models, monkeypatch):
    """The embedded detector, whose networks a test may exchange."""
    for name in ("center_face", "scenes"):
        monkeypatch.setattr(models.detector, name, getattr(models.detector, name))
    return models.detector


@pytest.fixture(scope="module")
def head(astronaut):
    """160 x 160 px about a face."""
    return np.ascontiguousarray(astronaut[40:200, 144:304])


@pytest.fixture(scope="module")
def known(models, head):
    (face,) = models.detector.detect(head)
    return face


def assert_is(face, known, tolerance):
    """Landmarks within so many eye distances."""
    eyes = np.linalg.norm(known.landmarks[1] - known.landmarks[0])
    assert np.linalg.norm(face.landmarks - known.landmarks, axis=1).mean() < tolerance * eyes
    assert likeness(face.landmarks, UPRIGHT_TEMPLATE) >= MIN_FACE_LIKENESS


@pytest.mark.parametrize("seeing", ["center_face", "scenes"])
def test_the_search_of_a_result_finds_what_either_network_alone_sees(seeing, detector, head, known):
    other = {"center_face": "scenes", "scenes": "center_face"}[seeing]
    both = detector.look_again(head)
    setattr(detector, other, blind)
    alone = detector.look_again(head)
    assert alone and len(alone) < len(both)
    for face in alone:
        assert_is(face, known, 0.2)
    setattr(detector, seeing, blind)
    assert detector.look_again(head) == []


def test_a_picture_in_which_the_first_search_finds_nothing_is_given_to_both(detector, head, known):
    detector.center_face = blind
    (face,) = detector.detect(head)
    assert_is(face, known, 0.2)
    detector.scenes = blind
    assert detector.detect(head) == []


def test_a_picture_with_a_face_in_the_first_search_is_searched_once(detector, head, known):
    detector.scenes = forbidden
    assert len(detector.detect(head)) == 1


def test_the_second_search_of_center_face_serves_where_the_first_sees_nothing(detector):
    """Its first search is told from the second by how light the picture is."""
    grey = np.full((320, 320, 3), 64, np.uint8)
    box = (100.0, 100.0, 200.0, 230.0)
    told = answers(box, [0.9])
    detector.scenes = blind
    detector.center_face = lambda pixels, lowest: told(pixels, lowest) if pixels.max() > 64 else NOTHING
    (face,) = detector.detect(grey)
    ratio = SECOND.shown / DEFAULT_MIN_FACE
    x0, y0, x1, y1 = (value / ratio for value in box)
    assert face.box == pytest.approx((320 - x1, y0, 320 - x0, y1), abs=1.5), "it is mirrored"


def test_the_search_of_a_result_differs_from_the_first_in_all_that_a_picture_is_shown_by():
    assert SECOND.mirrored and not FIRST.mirrored
    assert SECOND.gamma < FIRST.gamma and SECOND.shown > FIRST.shown and SECOND.tile != FIRST.tile


def test_each_search_asks_its_network_for_its_own_doubts(detector):
    lowest = {"center_face": set(), "scenes": set()}

    def asked(name):
        def ask(pixels, least):
            lowest[name].add(least)
            return NOTHING

        return ask

    detector.center_face, detector.scenes = asked("center_face"), asked("scenes")
    detector.look_again(night(320, 320))
    assert lowest == {"center_face": {SECOND.doubt}, "scenes": {SCENES.doubt}}
    detector.detect(night(320, 320))
    assert lowest["center_face"] == {SECOND.doubt, FIRST.doubt}


def test_a_face_that_only_the_scene_network_sees_gets_a_templates_landmarks_where_its_own_make_none(detector):
    box = (100.0, 100.0, 180.0, 200.0)
    detector.center_face = blind
    detector.scenes = answers(box, [0.9], np.full((1, 5, 2), 140.0))
    for faces in (detector.look_again(night(320, 320)), detector.detect(night(320, 320))):
        assert faces
        for face in faces:
            np.testing.assert_array_equal(face.landmarks, template_in_box(face.box))


def test_landmarks_just_like_enough_to_a_face_are_kept():
    def stretched(by):
        landmarks = UPRIGHT_TEMPLATE * 100 * [1.0, by]
        return Face((0.0, 0.0, 100.0, 100.0 * by), landmarks, 0.5), likeness(landmarks, UPRIGHT_TEMPLATE)

    kept, alike = stretched(2.5)
    assert alike >= MIN_FACE_LIKENESS and _shaped(kept) is kept
    replaced, alike = stretched(20.0)
    assert alike < MIN_FACE_LIKENESS
    np.testing.assert_array_equal(_shaped(replaced).landmarks, template_in_box(replaced.box))


@pytest.mark.parametrize("degrees", [0, 12, 40, -75, 90, 180, -150])
def test_landmarks_of_a_rolled_face_are_read_off_an_upright_chip(degrees, detector):
    """Whatever its first landmarks say of its roll, and although the network's drift when a face is not upright."""
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, degrees)
    seeing, shown = dots(), []

    def drifting(pixels, lowest):
        seen = seeing(pixels, lowest)
        roll = roll_degrees(seen.landmarks[0])
        shown.append((pixels.shape[0], lowest))
        drift = 0.0 if abs(roll) < 20 else 0.12 * np.ptp(seen.landmarks[0, :, 0])
        return Candidates(
            seen.boxes, seen.landmarks + drift * np.sin(np.arange(5))[:, None], seen.scores - abs(roll) / 720
        )

    detector.center_face = drifting
    box = (135.0, 70.0, 205.0, 150.0)
    for first in (landmarks, template_in_box(box)):
        shown.clear()
        face = detector._upright(picture, Face(box, first, 0.8))
        assert (face.box, face.score) == (box, 0.8), "only its landmarks are read anew"
        if first is landmarks and abs(degrees) <= 15:
            assert face.landmarks is landmarks and not shown, "an upright face is believed"
        elif first is landmarks:
            np.testing.assert_allclose(face.landmarks, landmarks, atol=1.0)
            assert set(shown) == {(CHIP_SIDE, 0.35)}


def test_an_upright_face_wider_than_high_is_looked_at_again(detector):
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, 0)
    detector.center_face = dots()
    wide = Face((130.0, 80.0, 210.0, 150.0), landmarks + np.array([2.0, 0.0]), 0.8)
    np.testing.assert_allclose(detector._upright(picture, wide).landmarks, landmarks, atol=1.0)
    square = Face((130.0, 70.0, 210.0, 150.0), landmarks + np.array([2.0, 0.0]), 0.8)
    assert detector._upright(picture, square) is square


def test_of_the_quarter_turns_the_one_of_which_the_network_is_surest_counts(detector):
    """The landmarks it starts from are those of an upright face, and the face stands on its head."""
    picture, landmarks = drawn_face((240, 320), 170, 110, 60, 180)
    seeing = dots()

    def stubborn(pixels, lowest):
        """Calls every face upright, and is surer of one that is."""
        seen = seeing(pixels, lowest)
        roll = roll_degrees(seen.landmarks[0])
        turned = seen.landmarks if abs(roll) < 45 else template_in_box(tuple(seen.boxes[0]))[None]
        return Candidates(seen.boxes, turned, np.array([0.9 if abs(roll) < 45 else 0.5]))

    detector.center_face = stubborn
    lying = Face((130.0, 80.0, 210.0, 150.0), template_in_box((130.0, 80.0, 210.0, 150.0)), 0.8)
    np.testing.assert_allclose(detector._upright(picture, lying).landmarks, landmarks, atol=1.5)


@pytest.mark.parametrize("search", ["detect", "look_again"])
@pytest.mark.parametrize("name", ["center_face", "scenes"])
def test_too_many_faces_in_either_network_are_refused(name, search, detector):
    detector.center_face = detector.scenes = blind
    crowd = answers(np.tile([10.0, 10.0, 30.0, 30.0], (MAX_CANDIDATES + 1, 1)), np.ones(MAX_CANDIDATES + 1))
    setattr(detector, name, crowd)
    with pytest.raises(PictureError, match="more than") as error:
        getattr(detector, search)(night(320, 320))
    assert error.value.reason == "too_many_faces"


def test_the_detector_says_what_changes_its_results(models):
    assert models.detector.name == "centerface+scenes@16px" and models.detector.min_face == DEFAULT_MIN_FACE
    with pytest.raises(FaceModelError, match="min_face"):
        load_detector("embedded", min_face=3)


def test_small_light_blots_that_no_closer_look_confirms_are_no_faces(detector, coffee):
    """On this table the scene network alone is fairly sure of a place of 18 px, from afar."""
    table = cv2.resize(coffee, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert max(one.face.score for one in look(table, detector.scenes, SCENES, DEFAULT_MIN_FACE)) > 0.6
    assert detector.look_again(table) == [] and detector.detect(table) == []
