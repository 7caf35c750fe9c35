"""The OpenAPI document is right: schemathesis calls every endpoint by it, and against it, with tokens of three roles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keystore.decisions.api_token import Role
from tests.keystore.serving import Served

from .provider import running

EXAMPLES = 5  # of each operation
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def served(template: Path, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """As in conftest, and people sign in through a provider."""
    directory = tmp_path_factory.mktemp("served")
    shutil.copytree(template, directory / "ks")
    settings = directory / "oidc.yaml"
    with running() as provider:
        settings.write_text(f"issuer: {provider.issuer}\nclient_id: keyanon\naddress: https://127.0.0.1\n")
        server = Served(directory / "ks", tls, more=("--oidc", str(settings)))
        yield server
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.REQUESTER, Role.PSEUDONYMS, Role.AUDITOR])
def test_what_is_answered_is_what_the_document_says(role: Role, served: Served, tls: Path, tmp_path: Path) -> None:
    token = served.token(role.value, "sam", "photos")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing", "--tls-verify", str(tls / "cert.pem")]
    command += ["--header", f"Authorization: Bearer {token}", "--seed", "1", "--no-color"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**os.environ}, check=False
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    print(ran.stdout)
    assert " passed" in ran.stdout
    assert not [line for line in served.lines() if "defect" in line]
