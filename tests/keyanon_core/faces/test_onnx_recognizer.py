"""A recognizer that a user brings is shown faces as its makers show them, and what is no such thing is refused."""

import pickle

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.faces import Face
from keyanon_core.faces.mirrored import Mirrored, mirrored_view
from keyanon_core.faces.onnx_recognizer import ARCFACE_TEMPLATE, OnnxRecognizer
from keyanon_core.faces.recognizers import RecognizerChoice, chosen_recognizers
from tests.keyanon_core.faces.tiny_recognizers import tiny_recognizer, write

ONE_GREY_LEVEL = 1 / 127


@pytest.fixture(scope="module")
def small(astronaut):
    """A picture whose face is smaller than any crop, so that cutting it out is a plain warp."""
    return np.asarray(cv2.resize(astronaut, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def face(models, small):
    (found,) = models.detector.detect(small)
    return found


def shown(recognizer, pixels, face, side=112):
    """What the network was fed: (3, side, side), or (3, n) of tiles."""
    vector = recognizer.embed([(pixels, face)])[0].astype(np.float64)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    return (vector[:-1] / vector[-1]).reshape(3, side, side)


def as_insightface(pixels, face, template, side):
    """What the network is fed, (3, side, side) RGB: the similarity of least squares and a plain warp, as by insightface."""
    rows = [([x, -y, 1, 0], [y, x, 0, 1]) for x, y in face.landmarks]
    (a, b, x, y), *_ = np.linalg.lstsq(np.concatenate(rows), np.ravel(template))
    crop = cv2.warpAffine(pixels, np.array([[a, -b, x], [b, a, y]]), (side, side))
    return (crop.transpose(2, 0, 1).astype(np.float64) - 127.5) / 127.5


def test_arcface_and_adaface_are_shown_the_crop_of_their_own_code(tmp_path, small, face):
    templates = {112: ARCFACE_TEMPLATE, 128: ARCFACE_TEMPLATE + np.array([8, 0]), 224: ARCFACE_TEMPLATE * 2}
    for side, template in templates.items():
        file, expected = tiny_recognizer(tmp_path / "network.onnx", side), as_insightface(small, face, template, side)
        seen = shown(OnnxRecognizer("arc", file, "arcface"), small, face, side)
        assert (
            np.abs(seen - expected).mean() < ONE_GREY_LEVEL / 4 and np.abs(seen - expected).max() < 8 * ONE_GREY_LEVEL
        )
        blue_first = shown(OnnxRecognizer("ada", file, "adaface"), small, face, side)
        np.testing.assert_allclose(blue_first, seen[::-1], atol=1e-4)


def test_facenet_is_shown_its_box_with_a_margin_as_far_as_it_lies_in_the_picture(tmp_path, astronaut):
    recognizer = OnnxRecognizer("face", tiny_recognizer(tmp_path / "network.onnx", "side"), "facenet")

    def in_box(*box):
        return shown(recognizer, astronaut, Face(box, np.zeros((5, 2)), 1.0), 160)

    whole = (astronaut[43:203, 93:253].transpose(2, 0, 1).astype(np.float64) - 127.5) / 128
    np.testing.assert_allclose(in_box(99.5, 49.5, 245.5, 195.5), whole, atol=1e-5)
    # beyond two borders there is nothing: what is left is stretched, as facenet-pytorch does
    cut = cv2.resize(astronaut[:160, 432:], (160, 160), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    difference = in_box(438.5, -146.5, 584.5, 145.5) - (cut.astype(np.float64) - 127.5) / 128
    assert np.abs(difference).mean() < ONE_GREY_LEVEL / 2
    with pytest.raises(PictureError) as refused:
        in_box(-300.0, 10.0, -100.0, 200.0)
    assert refused.value.reason == "face_outside"


@pytest.mark.parametrize(("preset", "side"), [("arcface", 112), ("facenet", 160)])
def test_the_same_face_elsewhere_larger_or_turned_makes_the_same_vector(
    tmp_path, models, astronaut, hopper, turned, preset, side
):
    """Where a preset turns faces upright; by the box it shows them as they stand."""
    recognizer = OnnxRecognizer("tiny", tiny_recognizer(tmp_path / "network.onnx", side, pool=side // 8), preset)
    (face,), (stranger,) = models.detector.detect(astronaut), models.detector.detect(hopper)
    first, other = recognizer.embed([(astronaut, face), (hopper, stranger)])

    def moved(pixels, affine):
        ends = np.concatenate([face.landmarks, np.array(face.box).reshape(2, 2)]) @ affine[:, :2].T + affine[:, 2]
        return recognizer.embed([(pixels, Face(tuple(ends[5:].ravel()), ends[:5], 1.0))])[0]

    apart = recognizer.distance(first, other)
    padded = cv2.copyMakeBorder(astronaut, 31, 0, 57, 20, cv2.BORDER_REPLICATE)
    assert recognizer.distance(first, moved(padded, np.array([[1.0, 0, 57], [0, 1, 31]]))) < 1e-6
    larger = cv2.resize(astronaut, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC)
    assert recognizer.distance(first, moved(larger, np.array([[1.7, 0, 0.35], [0, 1.7, 0.35]]))) < 0.02 * apart
    rolled, affine = turned(astronaut, 70)
    if preset == "arcface":
        assert recognizer.distance(first, moved(rolled, affine)) < 0.02 * apart


def test_a_face_is_not_seen_through_its_neighbours(tmp_path, models, astronaut, hopper):
    views = [(pixels, models.detector.detect(pixels)[0]) for pixels in (astronaut, hopper)]
    for batch in (1, "n"):
        recognizer = OnnxRecognizer("tiny", tiny_recognizer(tmp_path / "network.onnx", pool=14, batch=batch), "arcface")
        both = recognizer.embed(views)
        assert both.shape == (2, 193) and both.dtype == np.float32
        assert np.array_equal(both[1], recognizer.embed(views[1:])[0])
        assert recognizer.embed([]).shape == (0, 193)
    first, other = both
    assert recognizer.distance(first, first) == 0 and recognizer.distance(3 * first, first) < 1e-9
    assert recognizer.distance(first, -first) == pytest.approx(2)
    assert recognizer.distance(first, other) == pytest.approx(np.square(first - other).sum() / 2, abs=1e-6)


def test_pictures_lie_in_memory_as_the_file_says(tmp_path, small, face):
    columns = OnnxRecognizer("tiny", tiny_recognizer(tmp_path / "columns.onnx"), "arcface")
    rows = OnnxRecognizer("tiny", tiny_recognizer(tmp_path / "rows.onnx", rows_first=True), "arcface")
    np.testing.assert_allclose(rows.embed([(small, face)]), columns.embed([(small, face)]), atol=1e-7)
    assert rows.digest != columns.digest and rows.name == columns.name == "tiny:arcface"


def test_a_network_that_scales_its_pictures_itself_is_shown_grey_levels(tmp_path, small, face):
    """As insightface does with networks that came from MXNet: by a Sub and a Mul among the first nodes, by its preset alone."""
    nodes = [helper.make_node("Sub", ["picture", "c"], ["m"]), helper.make_node("Mul", ["m", "k"], ["ready"])]
    numbers = [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in (("c", 127.5), ("k", 1 / 128))]
    file = tiny_recognizer(tmp_path / "network.onnx", before=nodes, weights=numbers)
    plain = shown(OnnxRecognizer("arc", tiny_recognizer(tmp_path / "plain.onnx"), "arcface"), small, face)
    np.testing.assert_allclose(
        shown(OnnxRecognizer("arc", file, "arcface"), small, face), plain * 127.5 / 128, atol=1e-4
    )
    twice = shown(OnnxRecognizer("ada", file, "adaface"), small, face)
    np.testing.assert_allclose(twice, (plain[::-1] - 127.5) / 128, atol=1e-4)
    late = [helper.make_node("Identity", ["picture" if i == 0 else f"i{i}"], [f"i{i + 1}"]) for i in range(7)]
    nodes[0].input[0] = "i7"
    file = tiny_recognizer(tmp_path / "late.onnx", before=[*late, *nodes], weights=numbers)
    np.testing.assert_allclose(
        shown(OnnxRecognizer("arc", file, "arcface"), small, face), (plain - 127.5) / 128, atol=1e-4
    )


def node(kind, inputs=("picture",), **attributes):
    return helper.make_node(kind, list(inputs), ["vector"], **attributes)


PICTURES, NOTHING = ["n", 3, 112, 112], numpy_helper.from_array(np.zeros((1, 3, 112, 112), np.float32), "w")
FLAT = [helper.make_node("Flatten", ["x"], ["vector"])]
REFUSED = {
    "empty": (lambda file: file.write_bytes(b""), "no ONNX file"),
    "text": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "no ONNX file"),
    "missing": (lambda file: None, "No such file"),
    "unknown operation": (lambda file: write(file, [node("Nonsense")], PICTURES), "ONNX Runtime can not run it"),
    "two inputs": (
        lambda file: write(file, [node("Flatten")], PICTURES, further_inputs=["train"]),
        r"one input .*train tensor\(bool\)",
    ),
    "whole numbers": (
        lambda file: write(file, [node("Cast", to=TensorProto.FLOAT)], PICTURES, kind=TensorProto.UINT8),
        r"tensor\(uint8\)",
    ),
    "a row": (lambda file: write(file, [node("Flatten")], ["n", 3]), "one input of pictures"),
    "grey pictures": (lambda file: write(file, [node("Flatten")], ["n", 1, 112, 112]), "s a multiple of 112 or 128"),
    "four channels": (lambda file: write(file, [node("Flatten")], ["n", 112, 112, 4]), "input is .*112, 4"),
    "not square": (lambda file: write(file, [node("Flatten")], ["n", 3, 112, 96]), "112, 96"),
    "another size": (lambda file: write(file, [node("Flatten")], ["n", 3, 96, 96]), "96, 96"),
    "huge": (lambda file: write(file, [node("Flatten")], ["n", 3, 112000, 112000]), "up to 1024"),
    "eight at once": (lambda file: write(file, [node("Flatten")], [8, 3, 112, 112]), "input is .8, 3"),
    "a map": (lambda file: write(file, [node("Relu")], PICTURES), r"float32 \(1, 3, 112, 112\), not float"),
    "one number": (lambda file: write(file, [node("ReduceMax", keepdims=0)], PICTURES), r"no vector"),
    "classes": (lambda file: write(file, [node("Shape")], PICTURES), "ONNX Runtime|int64"),
    "no numbers": (
        lambda file: write(file, [helper.make_node("Log", ["picture"], ["x"]), *FLAT], PICTURES),
        "length nan",
    ),
    "zeros": (
        lambda file: write(file, [helper.make_node("Mul", ["picture", "w"], ["x"]), *FLAT], PICTURES, [NOTHING]),
        "length 0",
    ),
    "the same for all": (
        lambda file: write(
            file,
            [helper.make_node("Mul", ["picture", "w"], ["z"]), helper.make_node("Exp", ["z"], ["x"]), *FLAT],
            PICTURES,
            [NOTHING],
        ),
        "every picture with one vector",
    ),
    "wrong inside": (
        lambda file: write(
            file, [node("Reshape", ("picture", "s"))], PICTURES, [numpy_helper.from_array(np.array([1, 7]), "s")]
        ),
        "can not be run on a picture of 112 x 112 px|ONNX Runtime can not run it",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_recognizer_is_refused_when_it_is_loaded(tmp_path, what):
    make, message = REFUSED[what]
    make(tmp_path / "network.onnx")
    with pytest.raises(FaceModelError, match=message) as refused:
        OnnxRecognizer("mine", tmp_path / "network.onnx", "arcface")
    assert "network.onnx" in str(refused.value) or "mine" in str(refused.value)


def test_weights_in_other_files_are_refused(tmp_path):
    file = tiny_recognizer(tmp_path / "network.onnx")
    model = onnx.load(file)
    onnx.save_model(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(FaceModelError, match="in other files"):
        OnnxRecognizer("mine", file, "arcface")


def test_a_recognizer_is_named_on_the_command_line(tmp_path):
    file = tiny_recognizer(tmp_path / "a:b.onnx", pool=14)
    assert RecognizerChoice.parse("embedded") == RecognizerChoice("embedded")
    assert RecognizerChoice.parse(f"arcface={file}") == RecognizerChoice("arcface", file, "arcface")
    assert RecognizerChoice.parse(f"buffalo-l={file}:adaface") == RecognizerChoice("buffalo-l", file, "adaface")
    assert RecognizerChoice.parse(f"arcface={file}:facenet").preset == "facenet"
    chosen = chosen_recognizers([f"arcface={file}", "embedded", f"ada={file}:adaface"])
    assert [one.name for one in chosen] == ["embedded", "embedded-mirrored", "arcface", "ada"]
    for text in (
        "",
        "dlib",
        "=",
        f"={file}",
        "arcface=",
        f"Arc={file}:arcface",
        f"embedded={file}:arcface",
        "a" * 33 + "=f:arcface",
    ):
        with pytest.raises(FaceModelError, match="names no recognizer"):
            RecognizerChoice.parse(text)
    for text in (f"mine={file}", f"mine={file}:arcfce", "mine=:arcface"):
        with pytest.raises(FaceModelError, match=r"names no recognizer|Add a preset"):
            RecognizerChoice.parse(text)
    with pytest.raises(FaceModelError, match="two recognizers are called arcface"):
        chosen_recognizers([f"arcface={file}", f"arcface={file}:facenet"])
    with pytest.raises(FaceModelError, match="unknown preset 'arc'"):
        OnnxRecognizer("mine", file, "arc")


def test_a_choice_travels_and_insists_on_the_file_it_was_made_for(tmp_path):
    choice = pickle.loads(pickle.dumps(RecognizerChoice.parse(f"mine={tmp_path / 'network.onnx'}:arcface")))
    with pytest.raises(FaceModelError, match="can not be read: No such file"):
        choice.pinned()
    file = tiny_recognizer(tmp_path / "network.onnx", pool=14)
    pinned = choice.pinned()
    assert pinned.load().digest == pinned.expected == choice.load(threads=2).digest
    assert pinned.load().name == "mine:arcface" and RecognizerChoice.parse(f"arcface={file}").load().name == "arcface"
    tiny_recognizer(file, pool=28)
    with pytest.raises(FaceModelError, match=f"mine: {file} has sha256 .* began with {pinned.expected}"):
        pinned.load()
    choice.load()


def test_the_mirrored_recognizer_sees_the_same_person_otherwise(models, astronaut, hopper):
    embedded, seen_in_mirror = models.recognizer, RecognizerChoice("embedded-mirrored").pinned().load()
    assert embedded.name == "dlib-resnet-v1" and seen_in_mirror.name == "dlib-resnet-v1-mirrored"
    assert seen_in_mirror.digest == embedded.digest
    views = [(pixels, models.detector.detect(pixels)[0]) for pixels in (astronaut, hopper)]
    plain, mirrored = embedded.embed(views), seen_in_mirror.embed(views)
    for one, other in zip(plain, mirrored, strict=True):
        assert 0.05 < seen_in_mirror.distance(one, other) < 0.4, "the same person, and another vector"
    pixels, face = mirrored_view(*mirrored_view(*views[0]))
    assert np.array_equal(pixels, astronaut) and face.box == pytest.approx(views[0][1].box)
    np.testing.assert_allclose(face.landmarks, views[0][1].landmarks)
    np.testing.assert_allclose(Mirrored(seen_in_mirror).embed(views), plain, atol=1e-4)
    pixels, face = mirrored_view(*views[0])
    assert face.landmarks[0, 0] < face.landmarks[1, 0], "image-left first"
    np.testing.assert_allclose(embedded.embed([(pixels, face)])[0], mirrored[0], atol=1e-5)
