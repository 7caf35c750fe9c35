"""The embedded recognizer tells people apart, and the same person through turn, size and storage."""

import dlib
import numpy as np
import pytest
import torch

from keyanon_core.errors import FaceModelError
from keyanon_core.faces import dlib_models
from keyanon_core.faces.dlib_resnet import DlibResNet
from keyanon_core.faces.recognition import IDENTITY_VARIANCE, MEAN_IDENTITY
from keyanon_core.imaging import decode_picture, encode_picture


def embed(models, pixels):
    (face,) = models.detector.detect(pixels)
    return models.recognizer.embed([(pixels, face)])[0]


def test_the_same_person_is_near_and_another_far(models, astronaut, hopper, turned):
    import cv2

    recognizer = models.recognizer
    first, other = embed(models, astronaut), embed(models, hopper)
    assert first.shape == (128,) and first.dtype == np.float32
    jpeg = decode_picture(encode_picture(astronaut, "jpeg", 60))
    smaller = cv2.resize(astronaut, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    rolled, _ = turned(astronaut, 40)
    for same in (jpeg, smaller, rolled, np.ascontiguousarray(astronaut[:, ::-1])):
        assert recognizer.distance(first, embed(models, same)) < recognizer.threshold
    assert recognizer.distance(first, other) > recognizer.threshold + 0.05
    assert recognizer.distance(first, first) == 0


def test_strangers_are_expected_where_they_are(models, astronaut, hopper):
    """Whoever looks like many has strangers nearer by; two people are about as far apart as either's strangers."""
    recognizer = models.recognizer
    first, other = embed(models, astronaut), embed(models, hopper)
    distance = recognizer.distance(first, other)
    for one in (first, other):
        assert 0.8 < distance / recognizer.stranger_distance(one) < 1.25
    mean = MEAN_IDENTITY.astype(np.float32)
    assert recognizer.stranger_distance(mean) == pytest.approx(np.sqrt(IDENTITY_VARIANCE), abs=1e-6)
    assert recognizer.stranger_distance(2 * first - mean) > recognizer.stranger_distance(first)
    assert np.isnan(recognizer.stranger_distance(np.full(128, np.nan, np.float32)))


def test_embeddings_do_not_depend_on_the_other_faces(models, astronaut, hopper):
    views = [(pixels, models.detector.detect(pixels)[0]) for pixels in (astronaut, hopper)]
    alone, beside = models.recognizer.embed(views[1:]), models.recognizer.embed(views)
    np.testing.assert_allclose(alone[0], beside[1], atol=1e-5)
    assert models.recognizer.embed([]).shape == (0, 128)


@pytest.mark.parametrize("has", [True, False])
def test_a_coarse_embedding_is_near_the_strict_one_and_in_bfloat16_where_the_hardware_has_it(
    models, astronaut, monkeypatch, has
):
    monkeypatch.setattr("keyanon_core.faces.dlib_resnet.multiplies_bfloat16", lambda device: has)
    view = (astronaut, models.detector.detect(astronaut)[0])
    strict, coarse = models.recognizer.embed([view])[0], models.recognizer.embed([view], coarse=True)[0]
    assert coarse.dtype == np.float32
    assert (0 < np.linalg.norm(strict - coarse) < 0.03) if has else np.array_equal(strict, coarse)
    assert np.array_equal(models.recognizer.embed([view])[0], strict), "the strict network is as it was"


def test_the_network_is_dlibs(astronaut, hopper):
    path = dlib_models.dlib_model(dlib_models.RECOGNIZER)
    chips = np.stack([np.ascontiguousarray(pixels[20:170, 150:300]) for pixels in (astronaut, hopper)])
    original = dlib.face_recognition_model_v1(str(path))
    expected = [np.asarray(original.compute_face_descriptor(chip)) for chip in chips]
    np.testing.assert_allclose(DlibResNet(path).embed(chips), expected, atol=1e-5)


def test_chips_are_brought_to_the_networks_device_and_multiplied_in_strict_float32(monkeypatch):
    network = DlibResNet(dlib_models.dlib_model(dlib_models.RECOGNIZER), torch.device("meta"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    seen = []

    def forward(chips):
        seen.append((chips.device.type, tuple(chips.shape), torch.backends.cudnn.conv.fp32_precision))
        return torch.zeros(len(chips), 128)

    monkeypatch.setattr(network, "forward", forward)
    assert network.embed(np.zeros((2, 150, 150, 3), np.uint8)).shape == (2, 128)
    assert seen == [("meta", (2, 3, 150, 150), "ieee")]


def test_missing_or_changed_weights_are_refused(monkeypatch, tmp_path):
    package = tmp_path / "face_recognition_models"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "models" / dlib_models.RECOGNIZER).write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FaceModelError, match="sha256"):
        dlib_models.dlib_model(dlib_models.RECOGNIZER)
    with pytest.raises(FaceModelError, match="pip install face-recognition-models"):
        dlib_models.dlib_model(dlib_models.SHAPE_PREDICTOR)
