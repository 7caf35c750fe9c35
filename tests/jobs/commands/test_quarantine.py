"""`keyanon quarantine`: what was kept out is listed, and done again alone, also when the command is killed on the way."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.commands.cli import main
from jobs.commands.quarantine import retry
from jobs.exit_codes import ExitCode
from jobs.run.retry import RETRY_SETTINGS
from keystore.embedded import Keystore
from tests.jobs.conftest import OF_ONE_WORKER

from .conftest import Keyanon

pytestmark = pytest.mark.slow

COMMAND_SECONDS = 240
SETTINGS = ["--fidelity", "lossless", "--steps", 2, "--pictures-per-task", 3, *OF_ONE_WORKER]
GOOD, LATE = "good.png", ["late0.png", "late1.png", "late2.png"]


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    """As any Parquet reader sees them; a row that is there twice is an error."""
    rows = [row for shard in sorted(output.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row for row in rows}


def put(path: Path, content: bytes) -> None:
    """A file whose name, size and time say nothing of its content: the listing stays the same."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture(scope="module")
def finished(without_a_cluster: None, tmp_path_factory: pytest.TempPathFactory, face_png: bytes) -> Path:
    """Where a complete run lies: over one good picture, three that could not be decoded then, and a file of nothing."""
    root = tmp_path_factory.mktemp("quarantine")
    photos = root / "photos"
    photos.mkdir()
    put(photos / GOOD, face_png)
    put(photos / "empty.png", b"")
    for name in LATE:
        put(photos / name, bytes(len(face_png)))
    arguments = ["anonymize", photos, "-o", root / "out", "-k", root / "keystore", *SETTINGS, "--strict"]
    assert main([str(one) for one in arguments]) == ExitCode.QUARANTINED
    for name in LATE:
        put(photos / name, face_png)
    return root


@pytest.fixture
def places(finished: Path, tmp_path: Path) -> list[object]:
    """Options that say where a copy of the run's photos and keystore is; its output is `tmp_path/out`."""
    for name in ("photos", "out", "keystore"):
        shutil.copytree(finished / name, tmp_path / name)
    return ["--photos", tmp_path / "photos", "--keystore", tmp_path / "keystore"]


@pytest.fixture
def output(places: list[object], tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_retry_takes_the_settings_that_change_no_result_and_the_number_of_keys() -> None:
    own = {"context", "output", "reason", "strict", "progress_seconds", "quiet", "as_json", "verbose"}
    assert set(inspect.signature(retry).parameters) - own == RETRY_SETTINGS


def test_quarantined_rows_are_listed_and_done_again_alone(
    keyanon: Keyanon, output: Path, places: list[object], tmp_path: Path
) -> None:
    before = rows_of(output)
    listed = keyanon("quarantine", "list", output, "--json").json
    assert {row["image_id"] for row in listed["rows"]} == {*LATE, "empty.png"}
    late, empty = (before[name]["reason"].split(":")[0] for name in (LATE[0], "empty.png"))
    assert listed["reasons"] == {late: 3, empty: 1}
    assert "late1.png" in keyanon("quarantine", "list", output, "--reason", late).out
    assert keyanon("quarantine", "list", output, "--reason", "none", "--json").json["rows"] == []
    picture = (output / before[GOOD]["output"]).stat()

    assert keyanon("quarantine", "retry", output, "--reason", "none", *places).code == ExitCode.USAGE
    assert keyanon("quarantine", "retry", output, "--steps", 3).code == ExitCode.USAGE
    ended = keyanon("quarantine", "retry", output, "--reason", late, "--max-attempts", 7, *places, "--strict", "--json")
    assert ended.code == ExitCode.QUARANTINED, ended.err
    assert ended.json["statuses"] == {"anonymized": 4, "quarantined": 1}
    assert (ended.json["resumed_rows"], ended.json["keys_stored"], ended.json["reasons"]) == (2, 4, {empty: 1})

    after = rows_of(output)
    assert after[GOOD] == before[GOOD] and after["empty.png"] == before["empty.png"]
    assert (output / before[GOOD]["output"]).stat().st_mtime_ns == picture.st_mtime_ns
    assert keyanon("inspect", output, "--json").json["statuses"] == {"anonymized": 4, "quarantined": 1}
    manifest = json.loads((output / "_keyanon/manifest.json").read_text())
    (retried,) = manifest["retries"]
    settings = {"max_attempts": 7, "photos": str(places[1]), "keystore": str(places[3])}
    assert (retried["number"], retried["reason"], retried["settings"]) == (1, late, settings)
    assert manifest["state"] == "complete" and retried["finished_at"] and manifest["config"]["max_attempts"] != 7
    with Keystore.open(tmp_path / "keystore") as keystore:
        assert {view.image_id for view in keystore.find_records()} == {GOOD, *LATE}

    # Nothing is left to do for the run's own command, and a row that stays as it is is quarantined anew.
    again = keyanon("anonymize", tmp_path / "photos", "-o", output, "-k", tmp_path / "keystore", *SETTINGS, "--json")
    assert again.code == ExitCode.OK and again.json["resumed_rows"] == 5
    assert keyanon("quarantine", "retry", output).code == ExitCode.OK  # the places are those given last
    assert rows_of(output) == after


def test_a_retry_needs_the_same_input_and_keystore_and_a_complete_run(
    keyanon: Keyanon, output: Path, places: list[object], tmp_path: Path
) -> None:
    ended = keyanon("quarantine", "retry", output, *places, "--keystore", tmp_path / "nowhere")
    assert ended.code in (ExitCode.INPUT, ExitCode.REFUSED), ended.err
    with Keystore.create(tmp_path / "other"):
        pass
    ended = keyanon("quarantine", "retry", output, *places, "--keystore", tmp_path / "other")
    assert ended.code == ExitCode.INPUT and "whose keys are in keystore" in ended.err
    (tmp_path / "photos" / "more.png").write_bytes(b"")
    ended = keyanon("quarantine", "retry", output, *places)
    assert ended.code == ExitCode.INPUT and "other input" in ended.err
    (tmp_path / "photos" / "more.png").unlink()
    manifest = output / "_keyanon/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "running"}))
    ended = keyanon("quarantine", "retry", output, *places)
    assert ended.code == ExitCode.INPUT and "not complete" in ended.err
    assert keyanon("quarantine", "retry", tmp_path / "photos").code == ExitCode.INPUT


def test_a_killed_retry_goes_on(keyanon: Keyanon, output: Path, places: list[object], tmp_path: Path) -> None:
    good = rows_of(output)[GOOD]
    arguments = ["quarantine", "retry", output, *places, "--pictures-per-task", 1]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen([sys.executable, "-m", "jobs.commands.cli", *map(str, arguments)], env=environment)
    try:
        deadline = time.monotonic() + COMMAND_SECONDS
        while not list(output.glob("rows/*-r1.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert keyanon("inspect", output, "--json").json["rows"] == 5
    ended = keyanon(*arguments, "--json")
    assert ended.code == ExitCode.OK, ended.err
    assert ended.json["statuses"] == {"anonymized": 4, "quarantined": 1} and ended.json["resumed_rows"] >= 2
    rows = rows_of(output)
    assert rows[GOOD] == good
    assert not list((output / "_keyanon/attempts").iterdir())
    manifest = json.loads((output / "_keyanon/manifest.json").read_text())
    assert [retried["number"] for retried in manifest["retries"]] == [1]
    with Keystore.open(tmp_path / "keystore") as keystore:
        stored = {view.record_id for view in keystore.find_records()}
    assert {row["record_id"] for row in rows.values() if row["status"] == "anonymized"} <= stored
