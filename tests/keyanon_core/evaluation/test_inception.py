"""Inception's features are those of the named pictures, by the published weights and no others."""

from pathlib import Path

import numpy as np
import pytest

from keyanon_core.errors import EvaluationError, FaceModelError
from keyanon_core.evaluation.inception import Inception
from tests.keyanon_core.evaluation.random_networks import random_inception, saved

pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    return file, random_inception(file)


@pytest.fixture(scope="module")
def inception(weights):
    return Inception(*weights)


def test_each_picture_has_features_of_its_own_whatever_its_size_and_its_neighbours(inception, astronaut):
    small, other = astronaut[:64, :64], astronaut[100:164, 200:264]
    together = inception([small, other, astronaut[:80, :48], small])
    assert together.shape == (4, 2048) and together.dtype == np.float32 and inception.name == "inception"
    np.testing.assert_allclose(together[0], together[3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together[1], inception([other])[0], rtol=1e-3, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01
    assert inception([]).shape == (0, 2048)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/nonexistent/opened"),))


def test_no_other_file_is_opened(weights, tmp_path):
    file, published = weights
    with pytest.raises(
        FaceModelError, match=r"not the published 6726825d.*never opened; fetch it again from https://github"
    ):
        Inception(file)
    with pytest.raises(FaceModelError, match="can not be read"):
        Inception(tmp_path / "none.pth", published)
    bomb = tmp_path / "bomb.pth"
    with pytest.raises(FaceModelError, match="more than numbers"):
        Inception(bomb, saved(Bomb(), bomb))
    with pytest.raises(FaceModelError, match="something else"):
        Inception(bomb, saved([1.0], bomb))
    with pytest.raises(FaceModelError, match="does not fit torch-fidelity's Inception"):
        Inception(bomb, saved({}, bomb))


def test_without_torch_fidelity_the_error_names_the_extra(weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(EvaluationError, match=r"keyanon\[evaluation\]"):
        Inception(*weights)
