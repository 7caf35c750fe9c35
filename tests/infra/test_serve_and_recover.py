"""The commands of the service's and the recovery's manifests, word for word: from a request to a restored picture, over TLS."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.exit_codes import ExitCode
from jobs.run.anonymize import run_anonymize
from tests.infra.manifests import ROOT, containers, named
from tests.jobs.conftest import MakeConfig, face_png, make_config  # noqa: F401  fixtures
from tests.keystore.serving import Served, make_certificate

pytestmark = pytest.mark.slow
WORDS = ("C-17", "identify a missing person", "court-order: 12/26", timedelta(hours=2))


def _command(kind: str, name: str, places: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """A container's arguments with the variables filled in as kubelet does, and this machine's places for the pod's."""
    (container,) = containers(named(kind, name)["spec"]["template"])
    filled = [re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], one) for one in container["args"]]
    assert places.keys() <= {*filled}, "each place is the manifest's"
    return [places.get(one, one) for one in filled]


@pytest.fixture
def run(make_config: MakeConfig, face_png: bytes, tmp_path: Path, ray_cluster: Path) -> Path:  # noqa: F811
    """A finished run with a keystore of its own whose KEK lies elsewhere."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(face_png)
    run_anonymize(make_config(kek=f"file:{tmp_path / 'kek.key'}", dataset="people"))
    return tmp_path


class ServedByManifest(Served):
    """`keyanon keystore serve` as its pod runs it."""

    def arguments(self, port: int) -> list[str]:
        assert self.tls is not None
        certificate = {"/etc/keyanon/tls.crt": self.tls / "cert.pem", "/etc/keyanon/tls.key": self.tls / "key.pem"}
        places = {
            "/keystore/keystore": str(self.path),
            "8443": str(port),
            **{k: str(v) for k, v in certificate.items()},
        }
        settings = {"KEYANON_KEK": f"file:{self.path.parent / 'kek.key'}"}
        first, second, *rest = _command("Deployment", "keyanon-serve", places, settings)
        assert (first, second) == ("keystore", "serve")
        return rest


@pytest.fixture
def served(run: Path) -> Iterator[Served]:
    make_certificate(run)
    server = ServedByManifest(run / "keystore", run)
    yield server
    server.stop()


def test_a_request_over_the_service_ends_with_a_restored_picture(
    run: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/v1/health", "/v1/ready"):
        assert served.call("GET", path).status_code == 200
    monkeypatch.setenv("SSL_CERT_FILE", str(run / "cert.pem"))
    view = served.client("requester", "alice").request("alice", ["a.png"], *WORDS)
    for name in ("bob", "carol"):
        served.client("approver", name).approve(view.request_id, name, view.digest)
    job: dict[str, Any] = named("Job", "keyanon-recover")
    (container,) = containers(job["spec"]["template"])
    settings = {
        "KEYANON_KEYSTORE": served.url,
        "KEYANON_OUTPUT": str(run / "out"),
        "AWS_REGION": "us-east-1",
    }
    assert settings.keys() == named("ConfigMap", "keyanon-settings", "keyanon-recover")["data"].keys()
    token = served.token_file(run / "token", "recovery", "alice")
    restored = {f"/restored/{view.request_id}": str(run / "restored"), "/etc/keyanon/token/token": str(token)}
    command = _command("Job", "keyanon-recover", restored, {**settings, "KEYANON_REQUEST": view.request_id})
    (authority,) = (one for one in container["env"] if one["name"] == "SSL_CERT_FILE")
    assert authority["value"] == "/etc/keyanon/authority/ca.crt"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.commands.cli", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SSL_CERT_FILE": str(run / "cert.pem")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert [path.name for path in (run / "restored").rglob("*.png")] == ["a.png.png"]
    assert served.client("requester", "alice").show(view.request_id).state == "released"
