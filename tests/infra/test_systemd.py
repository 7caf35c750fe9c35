"""The units of one machine: the command of the manifests, one run at a time, the exit code that asks for another try."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from tests.infra.manifests import ROOT, named

FOLDER = ROOT / "infra/systemd"


def _setting(name: str) -> str:
    (value,) = re.findall(rf"(?m)^{name}=(.*)$", (FOLDER / "keyanon.service").read_text())
    return str(value)


def test_the_command_is_that_of_the_manifests() -> None:
    """But for where the program is, the quoting, and what only a cluster needs."""
    on_a_cluster = named("RayJob", "keyanon-anonymize")["spec"]["entrypoint"].removesuffix(" --cpus-per-actor 0.5")
    here = _setting("ExecStart").removeprefix("/opt/keyanon/bin/")
    assert re.sub(r"\$\{(\w+)\}", r'"$\1"', here) == on_a_cluster


def test_what_may_be_tried_again_is_and_nothing_else() -> None:
    assert int(_setting("RestartForceExitStatus")) == ExitCode.TRY_AGAIN
    final = {int(code) for code in _setting("RestartPreventExitStatus").split()}
    assert final == {code for code in ExitCode if code not in (ExitCode.OK, ExitCode.TRY_AGAIN, ExitCode.INTERRUPTED)}
    assert _setting("TemporaryFileSystem").startswith("/tmp:")  # where Ray spills is memory


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not on this machine")
    service = (FOLDER / "keyanon.service").read_text().replace("/opt/keyanon/bin/keyanon", "/bin/true")
    (tmp_path / "keyanon.service").write_text(service)
    shutil.copy(FOLDER / "keyanon.timer", tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
