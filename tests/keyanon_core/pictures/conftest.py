"""Real photographs from packages, the embedded prior and face models; few steps, since these tests are not about quality."""

from io import BytesIO

import pytest

from jobs.demo.photographs import ASTRONAUT, COFFEE, group_scene, packaged_picture
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from tests.keyanon_core.conftest import draw_keys_alike
from tests.keyanon_core.pictures.photographs import settings


@pytest.fixture(autouse=True)
def same_keys_each_time(keys_drawn_alike: None) -> None:
    """A test of this folder passes or fails under its keys, not now and then."""


@pytest.fixture(scope="session")
def prior() -> Prior:
    return load_prior("embedded")


@pytest.fixture(scope="session")
def models() -> FaceModels:
    return load_face_models("embedded")


@pytest.fixture(scope="session")
def astronaut() -> bytes:
    return packaged_picture(ASTRONAUT).read_bytes()


@pytest.fixture(scope="session")
def coffee() -> bytes:
    return packaged_picture(COFFEE).read_bytes()


@pytest.fixture(scope="session")
def group() -> bytes:
    buffer = BytesIO()
    group_scene().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def anonymized_group(prior: Prior, models: FaceModels, group: bytes) -> PictureResult:
    with pytest.MonkeyPatch.context() as monkeypatch:
        draw_keys_alike(monkeypatch)
        (result,) = PictureAnonymizer(prior, models, settings(fidelity="lossless"))([PictureTask("group", group)])
    assert result.status == "anonymized", result.reason
    return result
