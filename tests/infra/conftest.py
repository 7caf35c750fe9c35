"""A real S3 server that gives each part the rights of its policy."""

from collections.abc import Iterator

import pytest

from tests.infra.policy_server import PolicyServer


@pytest.fixture(scope="session")
def policy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyServer]:
    server = PolicyServer(tmp_path_factory.mktemp("policies"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
