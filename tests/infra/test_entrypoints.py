"""The commands of the manifests, word for word: a run on a Ray cluster of several nodes, and the ingest that takes its keys in,
each with the rights of its policy on a real S3 server and with nothing else.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.exit_codes import ExitCode
from tests.infra.manifests import ROOT, containers, named
from tests.infra.policy_server import BUCKETS, PolicyServer
from tests.jobs.seaweed import without_aws_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = 2
TOKEN = "0123456789abcdef" * 4  # of Ray, as KubeRay hands it to every pod
SIDE = 256  # px
RUN_SECONDS = 300  # of a run that takes a tenth of it on an idle machine


def _environment(server: PolicyServer, part: str, **values: str) -> dict[str, str]:
    """What a pod of a part has: `keyanon` on its PATH, its settings, its credentials."""
    return {
        **without_aws_settings(),
        **server.environment_of(part),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        **values,
    }


def _keyanon(*arguments: object, env: dict[str, str]) -> Any:
    done = subprocess.run(["keyanon", *map(str, arguments), "--json"], capture_output=True, text=True, env=env)
    assert done.returncode == ExitCode.OK, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def photographs(policy_server: PolicyServer, tmp_path: Path, astronaut: Path, grace_hopper: Path) -> int:
    """Pictures in the bucket of the sources; their number."""
    for number, source in enumerate((astronaut, grace_hopper) * 2):
        with Image.open(source) as picture:
            picture.convert("RGB").resize((SIDE, SIDE)).save(tmp_path / "one.png")
        key = f"in/{number}.png"
        policy_server.client().put_object(
            Bucket=BUCKETS["photographs"], Key=key, Body=(tmp_path / "one.png").read_bytes()
        )
    return 4


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """The settings of the manifest, over these buckets."""
    data: dict[str, str] = named("ConfigMap", "keyanon-settings", "keyanon-anonymize")["data"]
    places = {
        "KEYANON_PHOTOS": f"s3://{BUCKETS['photographs']}/in",
        "KEYANON_OUTPUT": f"s3://{BUCKETS['output']}/out",
        "KEYANON_INBOX": INBOX.format(bucket=BUCKETS["inbox"], folder=tmp_path),
        "KEYANON_DATASET": "people",
        "AWS_REGION": "us-east-1",
    }
    assert set(places) == set(data)
    return places


INBOX = "s3://{bucket}/in"


@pytest.fixture
def keystore(tmp_path: Path) -> Iterator[Path]:
    """A keystore whose key-encryption key lies elsewhere, and beside it what a run is given of it."""
    path, env = tmp_path / "keystore", {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    _keyanon("keystore", "init", path, "--kek", f"file:{tmp_path / 'kek.key'}", env=env)
    printed = subprocess.run(["keyanon", "keystore", "ingest-key", path], capture_output=True, check=True, env=env)
    (tmp_path / "ingest-key").write_bytes(printed.stdout)
    yield path


@pytest.fixture
def ray_address(policy_server: PolicyServer, settings: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Three nodes with the environment of the anonymizing pods."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.infra.nodes", str(WORKERS), str(tmp_path / "spill")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(policy_server, "anonymize", **settings),
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def test_a_run_on_several_nodes_ends_with_every_key_taken_in(
    policy_server: PolicyServer,
    photographs: int,
    settings: dict[str, str],
    keystore: Path,
    ray_address: str,
    tmp_path: Path,
) -> None:
    run = named("RayJob", "keyanon-anonymize")["spec"]
    ingest = _ingest_command(settings, keystore, tmp_path)
    as_ingest = _environment(policy_server, "ingest", **settings)
    taking_in = subprocess.Popen(ingest, env=as_ingest, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        as_anonymize = _environment(policy_server, "anonymize", **settings)
        done = subprocess.run(
            ["/bin/bash", "-c", run["entrypoint"]],  # as KubeRay's submitter does
            env={**as_anonymize, "KEYANON_INGEST_KEY": str(tmp_path / "ingest-key"), "RAY_ADDRESS": ray_address},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    finally:
        taking_in.terminate()
        said = taking_in.communicate(timeout=60)[0]
    inspected = _keyanon("inspect", settings["KEYANON_OUTPUT"], env=_environment(policy_server, "recover"))
    assert inspected["statuses"] == {"anonymized": photographs}, said
    names = {entry["Key"] for entry in policy_server.client().list_objects_v2(Bucket=BUCKETS["output"])["Contents"]}
    assert {f"out/images/{number}.png" for number in range(photographs)} <= names


def _ingest_command(settings: dict[str, str], keystore: Path, folder: Path) -> list[str]:
    """The ingest container's command with the variables filled in as kubelet does, and this machine's places for its volumes."""
    (deployment,) = containers(
        {"spec": {"containers": named("Deployment", "keyanon-ingest")["spec"]["template"]["spec"]["containers"]}}
    )
    settings = {**settings, "KEYANON_KEK": f"file:{folder / 'kek.key'}"}
    filled = [re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], one) for one in deployment["args"]]
    assert "/keystore/keystore" in filled
    keyanon = shutil.which("keyanon", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert keyanon is not None
    return [keyanon, *(str(keystore) if one == "/keystore/keystore" else one for one in filled)]
