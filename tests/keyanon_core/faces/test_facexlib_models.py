"""RetinaFace and BiSeNet: which weight files are opened, and what becomes of the networks' answers.

The published weights are not at hand, so the networks hold random numbers, and their answers are set where the answer matters.
"""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from keyanon_core.errors import FaceModelError
from keyanon_core.evaluation import landmarks_inside
from keyanon_core.faces import facexlib_models
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, reduction, similarity
from keyanon_core.faces.facexlib_models import (
    BISENET,
    RETINAFACE,
    BiSeNetParser,
    PlainRetinaFace,
    RetinaFaceDetector,
    paper_mask,
)
from keyanon_core.faces.parsing import DEFAULT_REGIONS
from keyanon_core.published_weights import PublishedWeights

pytest.importorskip("facexlib")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A directory with random weights of the exact architectures as safetensors."""
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet

    directory = tmp_path_factory.mktemp("facexlib")
    torch.manual_seed(0)
    state = RetinaFace(device=torch.device("cpu")).state_dict()
    for name, value in state.items():
        if "ClassHead" in name:  # at their own random size they see a face of e^100 px in every cell
            state[name] = torch.tensor([9.0, -9.0]).repeat(len(value) // 2) if name.endswith("bias") else 0 * value
    retinaface = {f"module.{name}": value for name, value in state.items()}
    safetensors.torch.save_file(retinaface, directory / f"{RETINAFACE.stem}.safetensors")
    safetensors.torch.save_file(BiSeNet(num_class=19).state_dict(), directory / f"{BISENET.stem}.safetensors")
    return directory


@pytest.fixture(scope="module")
def parser(weights):
    return BiSeNetParser(weights)


@pytest.mark.slow
def test_retinaface_loads_records_its_digest_and_answers_in_picture_pixels(weights, astronaut, monkeypatch):
    detector = RetinaFaceDetector(weights)
    file = weights / f"{RETINAFACE.stem}.safetensors"
    assert detector.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert isinstance(detector.detect(astronaut[:40, :40]), list)
    row = [20.0, 30, 120, 150, 0.99, 45, 70, 95, 70, 70, 95, 50, 120, 90, 120]
    shown = []

    def answer(image, *thresholds):
        shown.append(image)
        return np.array([row])

    monkeypatch.setattr(detector._network, "detect_faces", answer)
    (face,) = detector.detect(astronaut)
    np.testing.assert_array_equal(shown[0], astronaut[..., ::-1])
    assert face.box == (20.0, 30.0, 120.0, 150.0) and face.score == 0.99
    np.testing.assert_array_equal(face.landmarks[4], [90, 120])
    monkeypatch.setattr(detector._network, "detect_faces", lambda *args: np.zeros((0, 15)))
    assert detector.detect(astronaut) == []

    asked = []
    plain = PlainRetinaFace(detector, 0.5)
    monkeypatch.setattr(
        detector._network, "detect_faces", lambda image, *args: asked.append((image, *args)) or np.array([row])
    )
    (face,) = plain.detect(astronaut)
    assert face.box == (20.0, 30.0, 120.0, 150.0) and plain.digest == detector.digest and plain.name.endswith("@0.5")
    ((image, *thresholds),) = asked
    assert thresholds == [0.5, 0.4] and np.array_equal(image, astronaut[..., ::-1]), "one look, at the picture as it is"


def test_bisenet_loads_and_labels(parser, weights, astronaut):
    assert parser.digest == hashlib.sha256((weights / f"{BISENET.stem}.safetensors").read_bytes()).hexdigest()
    labels = parser._labels(astronaut)
    assert labels.shape == (512, 512) and labels.min() >= 0 and labels.max() < 19
    assert np.array_equal(parser.classes(astronaut), labels)


def test_a_whole_picture_is_parsed_at_the_networks_side(parser, monkeypatch):
    shown = []

    def answer(values):
        shown.append(
            values * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
            + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        )
        return [torch.nn.functional.one_hot((values[:, 0] > 0).long(), 19).permute(0, 3, 1, 2).float()]

    monkeypatch.setattr(parser, "_network", answer)
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:, 128:] = (255, 102, 0)
    labels = parser.classes(picture)
    assert labels.shape == (512, 512) and not labels[:, :255].any() and labels[:, 257:].all()
    (seen,) = shown
    assert seen.shape == (1, 3, 512, 512)
    assert seen[0, :, 9, 300].tolist() == pytest.approx([1, 0.4, 0], abs=1e-6)
    assert seen[0, 0, 9, 254:258].tolist() == pytest.approx([0, 0.25, 0.75, 1], abs=1e-6), (
        "between 8-bit values, not rounded"
    )
    with pytest.raises(ValueError, match="square"):
        parser.classes(picture[:100])


def test_labels_become_the_regions_of_the_picture(parser, models, astronaut, monkeypatch, turned):
    labels = np.zeros((512, 512), np.int64)
    labels[100:460, 100:410] = 1  # skin
    labels[220:260, 160:230] = 4  # an eye
    labels[350:390, 190:330] = 12  # a lip
    labels[460:, :] = 14  # neck
    monkeypatch.setattr(parser, "_labels", lambda view: labels)
    for picture in (astronaut, turned(astronaut, 50)[0]):
        (face,) = models.detector.detect(picture)
        every = parser.mask(picture, face, DEFAULT_REGIONS)
        assert landmarks_inside(face, every, picture.shape) == 1.0
        scale = reduction(similarity(face.landmarks, UPRIGHT_TEMPLATE * 512)) ** 2  # picture px per pixel of the crop
        assert every.count == pytest.approx(360 * 310 * scale, rel=0.06), "neck and background stay out"
        eyes = parser.mask(picture, face, frozenset(["eyes"]))
        assert eyes.count == pytest.approx(40 * 70 * scale, rel=0.15)
        rows, columns = np.nonzero(eyes.full(picture.shape))
        assert np.linalg.norm([columns.mean(), rows.mean()] - face.landmarks[0]) < 15 * np.sqrt(scale)


def test_a_parse_that_saw_no_face_is_replaced_by_the_mean_shape(parser, models, astronaut, monkeypatch):
    (face,) = models.detector.detect(astronaut)
    for label in (0, 17):
        monkeypatch.setattr(parser, "_labels", lambda view, label=label: np.full((512, 512), label))
        mask = parser.mask(astronaut, face, DEFAULT_REGIONS)
        assert landmarks_inside(face, mask, astronaut.shape) == 1.0
        assert parser.mask(astronaut, face, frozenset(["lips"])).count > 0
    with pytest.raises(FaceModelError):
        parser.mask(astronaut, face, frozenset(["hair"]))


def test_a_missing_file_says_what_to_put_where(tmp_path):
    with pytest.raises(FaceModelError, match=r"parsing_bisenet\.safetensors.*https://github\.com/xinntao/facexlib"):
        BiSeNetParser(tmp_path)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/nonexistent/opened"),))


def test_a_pickle_with_another_digest_is_never_opened(tmp_path, monkeypatch):
    (tmp_path / f"{BISENET.stem}.pth").write_bytes(pickle.dumps(Bomb()))
    opened = []
    monkeypatch.setattr(facexlib_models.torch, "load", lambda *args, **kwargs: opened.append(args))
    with pytest.raises(FaceModelError, match="never opened"):
        BiSeNetParser(tmp_path)
    assert not opened


def test_a_pickle_with_the_published_digest_is_read_weights_only(tmp_path, parser, monkeypatch):
    out = io.BytesIO()
    torch.save(parser._network.state_dict(), out)
    (tmp_path / f"{BISENET.stem}.pth").write_bytes(out.getvalue())
    published = PublishedWeights(BISENET.stem, BISENET.url, hashlib.sha256(out.getvalue()).hexdigest())
    monkeypatch.setattr(facexlib_models, "BISENET", published)
    assert BiSeNetParser(tmp_path).digest == published.sha256
    bomb = pickle.dumps(Bomb())
    (tmp_path / f"{BISENET.stem}.pth").write_bytes(bomb)
    monkeypatch.setattr(
        facexlib_models, "BISENET", PublishedWeights(BISENET.stem, "", hashlib.sha256(bomb).hexdigest())
    )
    with pytest.raises(FaceModelError):
        BiSeNetParser(tmp_path)


def test_weights_of_another_network_or_not_finite_are_refused(tmp_path, parser):
    file = tmp_path / f"{BISENET.stem}.safetensors"
    state = {name: value.clone() for name, value in parser._network.state_dict().items()}
    first = next(iter(state))
    safetensors.torch.save_file({name: value for name, value in state.items() if name != first}, file)
    with pytest.raises(FaceModelError, match="does not fit"):
        BiSeNetParser(tmp_path)
    state[first].view(-1)[0] = float("nan")
    safetensors.torch.save_file(state, file)
    with pytest.raises(FaceModelError, match="not finite"):
        BiSeNetParser(tmp_path)
    file.write_bytes(b"\x10 not safetensors")
    with pytest.raises(FaceModelError, match="not a safetensors file"):
        BiSeNetParser(tmp_path)


def test_without_facexlib_the_error_names_the_extra(tmp_path, monkeypatch):
    import sys

    for name in list(sys.modules):
        if name.split(".")[0] == "facexlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "facexlib", None)
    with pytest.raises(FaceModelError, match=r"pip install 'keyanon\[facexlib\]'"):
        BiSeNetParser(tmp_path)


def test_a_download_that_fails_is_explained_and_one_that_comes_is_digest_checked(tmp_path, monkeypatch):
    import facexlib.utils

    def unreachable(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(facexlib.utils, "load_file_from_url", unreachable)
    with pytest.raises(FaceModelError, match="can not be fetched"):
        BiSeNetParser(None)
    (tmp_path / "parsing_bisenet.pth").write_bytes(b"an error page")
    monkeypatch.setattr(facexlib.utils, "load_file_from_url", lambda *a, **k: str(tmp_path / "parsing_bisenet.pth"))
    with pytest.raises(FaceModelError, match="never opened"):
        BiSeNetParser(None)


def test_the_papers_mask_takes_every_cell_that_its_classes_reach_and_no_other_class():
    side, cells, reach = 512, 64, 4  # a triangle over 16 px, of which a cell's own 8 are the middle
    drawn = np.random.default_rng(5)
    for label in range(19):
        labels = np.zeros((side, side), np.int64)
        row, column = drawn.integers(0, side, 2)
        labels[row, column] = label
        hit = [
            [
                8 * y - reach <= row < 8 * (y + 1) + reach and 8 * x - reach <= column < 8 * (x + 1) + reach
                for x in range(cells)
            ]
            for y in range(cells)
        ]
        face = label in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14)  # skin to ears, nose to neck
        assert np.array_equal(paper_mask(labels, cells), np.array(hit) & face)
