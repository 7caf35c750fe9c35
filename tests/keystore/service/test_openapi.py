"""The OpenAPI document is right: schemathesis calls every endpoint by it, and against it, with tokens of three roles; and with
those of the other four what each may call, about what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.decisions.api_token import Role
from keystore.decisions.proposals import PolicyProposal
from keystore.served import ServedKeystore
from keystore.service.endpoints import ENDPOINTS
from tests.keystore.serving import Served

from .provider import running

EXAMPLES = 5  # of each operation
# Of these no made-up body is good: a key on a curve, a change that can be made, a sealed shard. test_endpoints has good ones.
MADE_UP_IS_MALFORMED = {"release", "file_change", "put_shard"}
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


Ids = dict[str, dict[str, str]]


def ids_for_an_approver(beside: ServedKeystore, make: Any) -> Ids:
    """Requests of alice's, one of which is to be denied."""
    seen, denied = (make.request(beside, "a.png", requester="alice").request_id for _ in range(2))
    return {name: {"request_id": denied if name == "deny" else seen} for name in ENDPOINTS}


def ids_for_a_recovery(beside: ServedKeystore, make: Any) -> Ids:
    """A request of sam's that was approved."""
    request = make.request(beside, "a.png", requester="sam").request_id
    for name in ("bob", "carol"):
        make.approve(beside, request, name)
    return {name: {"request_id": request} for name in ENDPOINTS}


def ids_for_an_operator(beside: ServedKeystore, make: Any) -> Ids:
    """Changes that sam filed, one of which is to be withdrawn, and a token."""
    for name in ("ewa", "fred"):
        beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, "oscar", "olga")
    seen, withdrawn = (str(beside.propose(PolicyProposal(max_images=number), "sam")) for number in (7, 8))
    beside.issue_token("somebody", Role.AUDITOR, timedelta(days=1), "oscar")
    token = beside.tokens()[0].token_id
    return {name: {"request_id": withdrawn if name == "withdraw" else seen, "token_id": token} for name in ENDPOINTS}


def ids_for_ingest(beside: ServedKeystore, make: Any) -> Ids:
    """A run of the token's data set, and a name that a shard has."""
    beside.announce_run("run-1", "photos")
    return {name: {"run_id": "run-1", "shard": "part-0"} for name in ENDPOINTS}


def settings_of(ids: Ids) -> str:
    """A configuration of schemathesis that puts ids into paths."""
    lines = []
    for name, values in ids.items():
        lines += ["[[operations]]", f'include-operation-id = "{name}"', "[operations.parameters]"]
        lines += [f'"path.{key}" = "{value}"' for key, value in values.items() if f"{{{key}}}" in ENDPOINTS[name].path]
    return "\n".join(lines) + "\n"


def check(served: Served, token: str, tls: Path, directory: Path, *more: str) -> None:
    """Call endpoints with a token. Fails where an answer is not as the document says."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--checks", CHECKS]
    command += ["--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing", "--tls-verify", str(tls / "cert.pem")]
    command += ["--header", f"Authorization: Bearer {token}", "--seed", "1", "--no-color", *more]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=directory, env={**os.environ}, check=False
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    print(ran.stdout)
    assert " passed" in ran.stdout
    assert not [line for line in served.lines() if "defect" in line]


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.REQUESTER, Role.PSEUDONYMS, Role.AUDITOR])
def test_what_is_answered_is_what_the_document_says(role: Role, served: Served, tls: Path, tmp_path: Path) -> None:
    check(served, served.token(role.value, "sam", "photos"), tls, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "ids_for"),
    [
        (Role.APPROVER, ids_for_an_approver),
        (Role.RECOVERY, ids_for_a_recovery),
        (Role.OPERATOR, ids_for_an_operator),
        (Role.INGEST, ids_for_ingest),
    ],
)
def test_what_is_answered_of_what_is_there_is_what_the_document_says(
    role: Role,
    ids_for: Callable[[ServedKeystore, Any], Ids],
    served: Served,
    beside: ServedKeystore,
    make: Any,
    tls: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "schemathesis.toml").write_text(settings_of(ids_for(beside, make)))
    mine = [name for name, endpoint in ENDPOINTS.items() if role in endpoint.roles]
    chosen = [word for name in mine for word in ("--include-operation-id", name)]
    check(served, served.token(role.value, "sam", "photos"), tls, tmp_path, *chosen)
    answered = {(line["endpoint"], line["status"]) for line in served.lines() if line.get("role") == role.value}
    done = {name for name, status in answered if status in (200, 204, 409)}
    assert done | {name for name, status in answered if status == 422 and name in MADE_UP_IS_MALFORMED} >= set(mine)
    assert not {(name, 429) for name in mine} & answered, "or less was tried than is said"
