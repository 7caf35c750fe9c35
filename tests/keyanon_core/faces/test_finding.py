"""What is found in large and crowded scenes: small, turned, cut and half hidden faces, at tile seams, and at what cost."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import load_detector
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, similarity
from keyanon_core.faces.closer import confirmed
from keyanon_core.faces.detection import box_iou, without_duplicates
from keyanon_core.faces.embedded_detector import FIRST, SCENES, SECOND
from keyanon_core.faces.looks import TILE_OVERLAP, _spans, look
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.missed import missed_faces
from keyanon_core.faces.parsing import DEFAULT_REGIONS

HEAD = 1.6  # of the face's height: a head that is cut out whole


@pytest.fixture(scope="module")
def heads(models, astronaut, hopper):
    """Two photographs, each with its face."""
    return [(picture, models.detector.detect(picture)[0]) for picture in (astronaut, hopper)]


def put(scene, head, x, y, height, degrees=0.0):
    """Blend a head into a scene so that its face is `height` px high and centred on (x, y); returns its landmarks."""
    picture, face = head
    x0, y0, x1, y1 = face.box
    scale = height / (y1 - y0)
    if scale < 1:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.45 / scale)
    cosine, sine = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    linear = np.array([[cosine, -sine], [sine, cosine]])
    affine = np.hstack([linear, (np.array([x, y]) - linear @ [(x0 + x1) / 2, (y0 + y1) / 2])[:, None]])
    outline = np.zeros(picture.shape[:2], np.float32)
    axes = (round(0.68 * (x1 - x0)), round(0.66 * (y1 - y0)))
    cv2.ellipse(outline, (round((x0 + x1) / 2), round((y0 + y1) / 2)), axes, 0, 0, 360, 1.0, -1)
    left, top = max(int(x - HEAD * height), 0), max(int(y - HEAD * height), 0)
    part = scene[top : int(y + HEAD * height), left : int(x + HEAD * height)]
    window = np.hstack([linear, affine[:, 2:] - [[left], [top]]])
    size = part.shape[1::-1]
    alpha = cv2.warpAffine(outline, window, size)[..., None]
    part[:] = part * (1 - alpha) + cv2.warpAffine(picture, window, size, borderMode=cv2.BORDER_REPLICATE) * alpha
    return face.landmarks @ linear.T + affine[:, 2]


def places(faces):
    return np.array([face.landmarks.mean(0) for face in faces]).reshape(-1, 2)


def assert_each_found_once(faces, expected, tolerance=0.35):
    """expected: landmarks (5, 2) of each face. Every one is found, and nothing else."""
    assert len(faces) == len(expected), f"{len(faces)} faces found, {len(expected)} are there"
    for landmarks in expected:
        eyes = np.linalg.norm(landmarks[1] - landmarks[0])
        distance = np.linalg.norm(places(faces) - landmarks.mean(0), axis=1).min()
        assert distance < tolerance * eyes, f"the nearest face is {distance / eyes:.2f} eye distances away"


def test_small_faces_in_a_picture_of_24_megapixels_are_found_beside_a_large_one(models, heads, coffee):
    scene = cv2.resize(coffee, (6000, 4000))
    sizes_and_places = [(28, 700, 600), (22, 5200, 900), (24, 3000, 2000), (36, 1500, 3300), (48, 2044, 700)]
    sizes_and_places += [(78, 4100, 3500), (200, 900, 2000), (1400, 4600, 2200)]
    expected = [put(scene, heads[i % 2], x, y, size) for i, (size, x, y) in enumerate(sizes_and_places)]
    assert_each_found_once(models.detector.detect(scene), expected)


@pytest.mark.parametrize("size", [16, 18, 22])
def test_faces_of_the_smallest_size_are_found(size, models, heads, coffee):
    scene = cv2.resize(coffee, (900, 600))
    expected = [put(scene, heads[i % 2], 150 + 200 * i, 100, size) for i in range(4)]
    found = models.detector.detect(scene) + missed_faces(models.detector.look_again(scene), [], [], scene.shape)
    assert_each_found_once(without_duplicates(found), expected)


@pytest.mark.parametrize("offset", [(0.58, 0.1), (-0.45, 0.2), (0.3, -0.5), (0.45, -0.25)])
@pytest.mark.parametrize("size", [60, 160])
def test_a_face_behind_a_face_is_found_in_both_searches(size, offset, models, heads, coffee):
    scene = cv2.resize(coffee, (900, 900))
    rear = put(scene, heads[1], 450 + offset[0] * size, 450 + offset[1] * size, size)
    front = put(scene, heads[0], 450, 450, size)
    faces = models.detector.detect(scene)
    assert_each_found_once(faces, [rear, front])
    assert box_iou(*faces) > 0.07
    assert_each_found_once(without_duplicates(models.detector.look_again(scene)), [rear, front])


def test_a_crowd_of_small_faces_is_found_however_many_of_them_are_doubted(models, heads, coffee):
    scene = cv2.resize(coffee, (420, 420))
    rng = np.random.default_rng(0)
    places = [(x, y) for y in range(30, 400, 40) for x in range(30, 400, 40)]
    expected = [put(scene, heads[i % 2], x, y, 22, rng.uniform(-40, 40)) for i, (x, y) in enumerate(places)]
    middles = np.array([landmarks.mean(0) for landmarks in expected])

    def found(faces):
        return (
            np.linalg.norm(middles[:, None] - np.array([face.landmarks.mean(0) for face in faces])[None], axis=2).min(1)
            < 9
        ).sum()

    first = models.detector.detect(scene)
    assert found(first) >= 90
    assert found([*first, *models.detector.look_again(scene)]) >= 98


def test_turned_faces_are_found_beside_upright_ones(models, heads, coffee):
    scene = cv2.resize(coffee, (1200, 800))
    turns = [0, 45, 90, 135, 180, -90, -45, 0]
    expected = [
        put(scene, heads[i % 2], 120 + 310 * (i % 4), 200 + 400 * (i // 4), 40 + 6 * i, turn)
        for i, turn in enumerate(turns)
    ]
    faces = models.detector.detect(scene)
    assert_each_found_once(faces, expected)
    for landmarks in expected:
        nearest = min(faces, key=lambda face: np.linalg.norm(face.landmarks.mean(0) - landmarks.mean(0)))
        eyes = np.linalg.norm(landmarks[1] - landmarks[0])
        assert np.linalg.norm(nearest.landmarks - landmarks, axis=1).mean() < 0.25 * eyes


@pytest.mark.parametrize("degrees", [90, 180, -60])
def test_small_turned_faces_are_found_at_the_latest_by_the_search_of_the_result(degrees, models, heads, coffee):
    scene = cv2.resize(coffee, (600, 400))
    expected = [put(scene, heads[i], 150 + 300 * i, 150, 24, degrees) for i in (0, 1)]
    found = models.detector.detect(scene) + missed_faces(models.detector.look_again(scene), [], [], scene.shape)
    assert_each_found_once(without_duplicates(found), expected)


@pytest.mark.parametrize("share", [0.3, 0.45])
def test_faces_cut_by_every_border_are_found(share, models, heads, coffee):
    scene = cv2.resize(coffee, (800, 600))
    size = 60
    across, down = size * (0.5 - share) * 0.8, size * (0.5 - share)
    middles = [(across, 200), (800 - across, 300), (300, down), (500, 600 - down)]
    expected = [put(scene, heads[i % 2], x, y, size) for i, (x, y) in enumerate(middles)]
    assert_each_found_once(models.detector.detect(scene), expected, tolerance=0.5)


@pytest.mark.parametrize("size", [24, 60])
def test_what_shows_of_a_face_whose_middle_lies_beyond_the_border_is_masked(size, models, heads, coffee):
    scene = cv2.resize(coffee, (800, 600))
    beyond = 0.03 * size
    middles = [(-beyond, 200), (799 + beyond, 300), (300, -beyond), (500, 599 + beyond)]
    expected = [put(scene, heads[i % 2], x, y, size) for i, (x, y) in enumerate(middles)]
    found = without_duplicates(models.detector.detect(scene) + models.detector.look_again(scene))
    masks = [models.parser.mask(scene, face, DEFAULT_REGIONS).full(scene.shape) for face in found]
    for landmarks in expected:
        inner = np.zeros(scene.shape[:2], np.uint8)
        cv2.fillConvexPoly(inner, cv2.convexHull(np.rint(landmarks).astype(np.int32)), 1)
        assert np.any(masks, 0)[inner > 0].mean() > 0.6


@pytest.mark.parametrize("change", ["dark", "grey", "blurred"])
def test_dark_grey_and_blurred_faces_are_found(change, models, heads, coffee):
    scene = cv2.resize(coffee, (900, 600))
    expected = [put(scene, heads[i % 2], 150 + 200 * i, 300, 26 + 10 * i) for i in range(4)]
    scene = {
        "dark": lambda: (scene * 0.15).astype(np.uint8),
        "grey": lambda: np.repeat(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),
        "blurred": lambda: cv2.GaussianBlur(scene, (0, 0), 1.3),
    }[change]()
    assert_each_found_once(models.detector.detect(scene), expected)


SMALL_TILES = replace(FIRST, tile=512)


def test_nearly_black_faces_are_found_by_the_search_of_the_result(models, heads, coffee):
    scene = cv2.resize(coffee, (900, 600))
    expected = [put(scene, heads[i % 2], 150 + 200 * i, 300, 24 + 10 * i) for i in range(4)]
    scene = (scene * 0.05).astype(np.uint8)
    assert_each_found_once(without_duplicates(models.detector.look_again(scene)), expected)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shift", [-7, -1, 0, 2, 9])
def test_a_face_on_a_seam_between_tiles_is_found_once(shift, mirrored, models, heads, coffee):
    scene = cv2.resize(coffee, (1500, 480))
    search = replace(SMALL_TILES, mirrored=mirrored)
    seams = [end for *_, end in _spans(1500, search.tile, TILE_OVERLAP)][:-1]
    assert len(seams) == 4
    sizes = (24, 60, 110, 168)
    expected = [
        put(scene, heads[i % 2], seam + shift, 240, size)
        for i, (seam, size) in enumerate(zip(seams, sizes, strict=True))
    ]
    seen = look(scene, models.detector.center_face, search, 16)
    finest = max(one.scale for one in seen)
    on_finest = [one.face for one in seen if one.scale == finest and one.face.score >= search.doubt]
    for landmarks, size in zip(expected, sizes, strict=True):
        assert np.linalg.norm(places(on_finest) - landmarks.mean(0), axis=1).min() < 0.1 * size, (
            "whole in one of its tiles"
        )
    faces = without_duplicates(confirmed(scene, models.detector.center_face, search, seen, 16))
    assert_each_found_once(faces, expected)


def counting(detector):
    """The sizes in px of everything that the detector's networks are shown from now on."""
    shown = []

    def counted(network):
        def count(pixels, lowest):
            shown.append(pixels.shape[0] * pixels.shape[1])
            return network(pixels, lowest)

        return count

    detector.center_face, detector.scenes = counted(detector.center_face), counted(detector.scenes)
    return shown


def test_a_larger_min_face_shows_the_network_fewer_pixels_and_still_finds_such_faces(heads, coffee):
    scene = cv2.resize(coffee, (2400, 1600))
    expected = [put(scene, heads[i % 2], 300 + 900 * i, 800, 80 + 40 * i) for i in range(3)]
    pixels = {}
    for min_face in (16, 32, 48):
        detector = load_detector("embedded", min_face=min_face)
        assert str(min_face) in detector.name
        shown = counting(detector)
        assert_each_found_once(detector.detect(scene), expected)
        first = sum(shown)
        detector.look_again(scene)
        pixels[min_face] = (first, sum(shown) - first)
    for coarse, fine in itertools.pairwise((48, 32, 16)):
        factor = 0.7 * (coarse / fine) ** 2
        assert all(f > factor * c for f, c in zip(pixels[fine], pixels[coarse], strict=True)), pixels


def test_cost_is_linear_in_the_pixels_and_memory_bounded_by_a_tile(coffee):
    detector = load_detector("embedded")
    shown = counting(detector)
    totals = []
    for width, height in ((1200, 800), (2400, 1600)):
        shown.clear()
        detector.look_again(np.ascontiguousarray(np.tile(coffee, (5, 5, 1))[:height, :width]))
        totals.append(sum(shown))
        assert max(shown) <= max(SECOND.tile, SCENES.tile) ** 2 * 1.05
    assert 3 < totals[1] / totals[0] < 5.5


@pytest.mark.parametrize("min_face", [0, 3, 5000])
def test_a_min_face_that_can_not_be_searched_for_is_refused(min_face):
    with pytest.raises(FaceModelError, match="min_face"):
        load_detector("embedded", min_face=min_face)


def test_the_search_of_the_result_reports_the_face_that_was_not_anonymized(models, heads, coffee):
    scene = cv2.resize(coffee, (900, 600))
    put(scene, heads[0], 250, 300, 120)
    left = put(scene, heads[1], 620, 300, 30)
    (known,) = [face for face in models.detector.detect(scene) if face.box[3] - face.box[1] > 60]
    mask = models.parser.mask(scene, known, frozenset(["skin"]))
    missed = missed_faces(models.detector.look_again(scene), [known], [mask], scene.shape)
    assert_each_found_once(missed, [left])


def test_the_search_of_the_result_sees_a_face_behind_an_anonymized_one(models, heads, coffee):
    scene = cv2.resize(coffee, (900, 600))
    left = put(scene, heads[1], 450 + 60, 300, 120)
    front = put(scene, heads[0], 450, 300, 120)
    known = min(models.detector.detect(scene), key=lambda face: np.abs(face.landmarks - front).mean())
    mask = models.parser.mask(scene, known, frozenset(["skin"]))
    missed = missed_faces(models.detector.look_again(scene), [known], [mask], scene.shape)
    assert_each_found_once(missed, [left])


def test_mirrored_looks_give_landmarks_in_the_order_of_the_picture(models, heads, coffee):
    scene = cv2.resize(coffee, (600, 400))
    landmarks = put(scene, heads[0], 250, 200, 100)
    for face in models.detector.look_again(scene):
        assert np.linalg.norm(face.landmarks - landmarks, axis=1).mean() < 0.15 * np.linalg.norm(
            landmarks[1] - landmarks[0]
        )


def test_a_mask_over_the_wrong_place_accounts_for_nothing(models, heads, coffee):
    scene = cv2.resize(coffee, (600, 400))
    landmarks = put(scene, heads[0], 200, 200, 80)
    elsewhere = np.zeros(scene.shape[:2], bool)
    elsewhere[150:250, 400:500] = True
    missed = missed_faces(models.detector.look_again(scene), [], [PictureMask.from_full(elsewhere)], scene.shape)
    assert_each_found_once(missed, [landmarks])
    assert np.isfinite(similarity(missed[0].landmarks, UPRIGHT_TEMPLATE)).all()
