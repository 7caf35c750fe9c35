"""A keystore that is served with its console, people who speak HTTP to it, and a real browser."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystore.served import ServedKeystore
from tests.keystore.service.conftest import tls
from tests.keystore.serving import Served

__all__ = ["tls"]
CHROMIUM = shutil.which("chromium")


class ServedConsole(Served):
    """The same command, with `--console`."""

    def __init__(self, path: Path, tls: Path) -> None:
        port = _free_port()  # the origin must be known before the process listens
        self.origin = f"https://localhost:{port}"
        self.known_port = port
        super().__init__(path, tls)
        self.stranger = Person(self, None)
        self._people: dict[tuple[str, str, str | None], Person] = {}

    def arguments(self, port: int) -> list[str]:
        return [*super().arguments(port or self.known_port), "--console", self.origin]

    def person(self, role: str, name: str, dataset: str | None = None, *, fresh: bool = False) -> Person:
        """Somebody who signed in, without a browser; once, unless `fresh`."""
        key = (role, name, dataset)
        if fresh or key not in self._people:
            person = Person(self, self.token(*key))
            if fresh:
                return person
            self._people[key] = person
        return self._people[key]


def _free_port() -> int:
    """One below those that systems give to outgoing connections, so that hardly anybody takes it before the server does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


class Person:
    """Pages by HTTP, with the cookie and the form's token that a browser would send."""

    def __init__(self, served: ServedConsole, token: str | None) -> None:
        self.http = httpx2.Client(base_url=served.origin, verify=served.ssl, timeout=60, trust_env=False)
        self.origin = served.origin
        self.csrf = ""
        if token is not None:
            self.signed = self.post("/sign-in", token=token)
            assert self.signed.status_code == 303, self.signed.text
            page = self.get("/requests")
            page = page if page.status_code == 200 else self.get("/log")
            self.csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.http.get("/console" + path, **more)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx2.Response:
        known = {"csrf": self.csrf} if self.csrf else {}
        headers = {"Origin": self.origin} if headers is None else headers
        return self.http.post("/console" + path, data={**known, **fields}, headers=headers)


@pytest.fixture(scope="module")
def served(template: Path, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConsole]:
    """A keystore that holds the records of a.png, b.png and c.png, served with its console."""
    path = tmp_path_factory.mktemp("console") / "ks"
    shutil.copytree(template, path)
    server = ServedConsole(path, tls)
    yield server
    server.stop()


@pytest.fixture
def beside(served: ServedConsole) -> Iterator[ServedKeystore]:
    """The same keystore, open in this process."""
    with ServedKeystore.open(served.path) as keystore:
        yield keystore


def launched(playwright: Any, tls: Path) -> Any:
    """A headless Chromium that trusts the servers' certificate."""
    certificate = x509.load_pem_x509_certificate((tls / "cert.pem").read_bytes())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    arguments = ["--no-sandbox", f"--ignore-certificate-errors-spki-list={trusted}"]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture(scope="module")
def browser(tls: Path) -> Iterator[Any]:
    """One browser for the tests of a module."""
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launched(playwright, tls)
        yield chromium
        chromium.close()
