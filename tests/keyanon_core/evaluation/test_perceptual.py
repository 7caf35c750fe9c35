"""LPIPS is 0 for equal pictures and grows with what is done to them, by the published weights and no others."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from keyanon_core.errors import EvaluationError, FaceModelError
from keyanon_core.evaluation.perceptual import Lpips
from keyanon_core.faces.detection import Pixels
from keyanon_core.published_weights import PublishedWeights
from tests.keyanon_core.evaluation.random_networks import random_alexnet, saved

pytest.importorskip("lpips")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublishedWeights]:
    file = tmp_path_factory.mktemp("alexnet") / "random.pth"
    return file, random_alexnet(file)


@pytest.fixture(scope="module")
def distance(weights: tuple[Path, PublishedWeights]) -> Lpips:
    return Lpips(*weights)


def test_equal_pictures_are_at_0_and_the_more_is_done_the_farther_they_are(distance: Lpips, astronaut: Pixels) -> None:
    face = astronaut[40:200, 150:310]
    blurred = [cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (1, 3, 9)]
    found = distance([face] * 4, [face, *blurred])
    assert found[0] == 0 and (np.diff(found) > 0).all()
    np.testing.assert_allclose(distance(blurred, [face] * 3), found[1:], rtol=1e-4)
    assert distance([], []).shape == (0,)


def test_the_heads_are_the_published_ones(distance: Lpips) -> None:
    """Which weigh no difference of any channel below nothing; random ones would."""
    heads = [value for name, value in distance._network.state_dict().items() if name.startswith("lins.")]
    assert len(heads) == 5 and all((head >= 0).all() and head.max() > 0 for head in heads)


def test_the_backbone_is_that_of_the_file(distance: Lpips, weights: tuple[Path, PublishedWeights]) -> None:
    state, found = weights[1].read(weights[0]), distance._network.net.state_dict()
    assert len(found) == 10
    for name, value in found.items():
        assert value.equal(state[f"features.{name.split('.', 1)[1]}"])


def test_no_other_file_is_opened(weights: tuple[Path, PublishedWeights], tmp_path: Path) -> None:
    with pytest.raises(FaceModelError, match="not the published 7be5be79"):
        Lpips(weights[0])
    other = tmp_path / "other.pth"
    with pytest.raises(FaceModelError, match=r"other\.pth is not torchvision's AlexNet"):
        Lpips(other, saved({}, other))
    state = {name: value[:1] for name, value in weights[1].read(weights[0]).items()}
    with pytest.raises(FaceModelError, match="does not fit"):
        Lpips(other, saved(state, other))


def test_without_lpips_the_error_names_the_extra(
    weights: tuple[Path, PublishedWeights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(EvaluationError, match=r"keyanon\[evaluation\]"):
        Lpips(*weights)
