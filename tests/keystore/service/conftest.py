"""A keystore that is served, and the same keystore open beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keystore.served import ServedKeystore
from tests.keystore.serving import Served, make_certificate


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem and key.pem of an authority of its own, for 127.0.0.1 and localhost."""
    directory = tmp_path_factory.mktemp("tls")
    make_certificate(directory)
    return directory


@pytest.fixture
def trusted(tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process trust the servers' certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls / "cert.pem"))


@pytest.fixture(scope="module")
def served(template: Path, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A keystore that holds the records of a.png, b.png and c.png, served."""
    path = tmp_path_factory.mktemp("served") / "ks"
    shutil.copytree(template, path)
    server = Served(path, tls)
    yield server
    server.stop()


@pytest.fixture
def beside(served: Served) -> Iterator[ServedKeystore]:
    """The same keystore, open in this process."""
    with ServedKeystore.open(served.path) as keystore:
        yield keystore
