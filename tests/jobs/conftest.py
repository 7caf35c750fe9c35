"""Small pictures, and configurations that run on them in seconds."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.config import AnonymizeConfig
from jobs.storage.connections import forget_clients
from keystore.embedded import Keystore
from tests.jobs.in_process import run_in_process
from tests.jobs.publishing import Place
from tests.jobs.seaweed import Seaweed

# These tests are about where rows go: neither about how faces come back, which takes a prior many steps and a solved recovery
# of each run's first face, nor about the gate, which takes several keys for a face.
STEPS = 1
FIDELITY = "lossless"
OPEN_GATE = 0.1
ONE_WORKER = {"anonymizer_actors": 1, "threads_per_actor": 1}  # another one costs the start of its process, and torch
OF_ONE_WORKER = ("--anonymizer-actors", "1", "--threads-per-actor", "1")


def encoded(source: Path, size: int, kind: str) -> bytes:
    """A picture reduced to at most `size` pixels a side."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
        small.thumbnail((size, size))
        buffer = io.BytesIO()
        small.save(buffer, kind)
        return buffer.getvalue()


@pytest.fixture(scope="session")
def face_png(astronaut: Path) -> bytes:
    return encoded(astronaut, 256, "PNG")


@pytest.fixture(scope="session")
def face_jpeg(grace_hopper: Path) -> bytes:
    return encoded(grace_hopper, 256, "JPEG")


@pytest.fixture(scope="session")
def faceless_png(coffee: Path) -> bytes:
    return encoded(coffee, 160, "PNG")


MakeConfig = Callable[..., AnonymizeConfig]


def config_maker(place: Path) -> MakeConfig:
    """Makes configurations over `place/{photos,out,keystore}`; keyword arguments change them."""

    def make(**changes: Any) -> AnonymizeConfig:
        places = {"photos": place / "photos", "output": place / "out", "keystore": place / "keystore"}
        quick = {"steps": STEPS, "fidelity": FIDELITY, "gate_threshold": OPEN_GATE, **ONE_WORKER}
        return AnonymizeConfig.load(None, {**places, **quick, **changes})

    return make


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """Of `config_maker` over `tmp_path`."""
    return config_maker(tmp_path)


@pytest.fixture(scope="module")
def without_a_cluster() -> Iterator[None]:
    """The runs of the module's tests are made in this process, see `tests.jobs.in_process`."""
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        yield


@pytest.fixture(scope="session")
def shared_keystore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystore]:
    """A real keystore; each test that takes it has a run of its own in it."""
    with Keystore.create(tmp_path_factory.mktemp("keystore") / "keystore") as keystore:
        yield keystore


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running S3 server."""
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """The same, with this process's AWS settings those of the job."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield seaweed
    forget_clients()


@pytest.fixture
def place(tmp_path: Path, shared_keystore: Keystore) -> Place:
    return Place(tmp_path, shared_keystore)
