"""`keyanon` from bucket to bucket, each run in a process of its own as a user starts it, against a real S3 server."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.cli import main
from jobs.exit_codes import ExitCode
from jobs.storage.connections import forget_clients
from tests.jobs.conftest import FIDELITY, OF_ONE_WORKER, OPEN_GATE, STEPS
from tests.jobs.in_process import run_in_process
from tests.jobs.seaweed import BUCKET, KEY, OTHER_BUCKET, SECRET, Seaweed, without_aws_settings

COMMAND_SECONDS = 400.0
PICTURES = 6
QUICK = ("--steps", STEPS, "--fidelity", FIDELITY, "--gate-threshold", OPEN_GATE, *OF_ONE_WORKER)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def prefix(seaweed: Seaweed, face_png: bytes) -> str:
    """A folder of the bucket, with photographs."""
    made = uuid.uuid4().hex
    for at in range(PICTURES - 1):
        seaweed.put(f"{made}/photos/{at}.png", face_png)
    seaweed.put(f"{made}/photos/below/torn ü.jpg", b"\xff\xd8\xff")
    return made


def keyanon(*arguments: object, **settings: str) -> Ended:
    command = [sys.executable, "-m", "jobs.commands.cli", *map(str, arguments)]
    environment = {**without_aws_settings(), **settings}
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=environment)
    assert SECRET not in done.stdout + done.stderr and "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The same in this process, for commands that start no run: a process of its own takes seconds to load what they need."""

    def run(*arguments: object, **settings: str) -> Ended:
        environment = {**without_aws_settings(), **settings}
        with monkeypatch.context() as changed:
            for name in os.environ.keys() - environment.keys():
                changed.delenv(name)
            for name, value in environment.items():
                changed.setenv(name, value)
            forget_clients()
            capfd.readouterr()
            code = main([*map(str, arguments)])
            out, err = capfd.readouterr()
        forget_clients()
        assert SECRET not in out + err
        return Ended(int(code), out, err)

    return run


def test_from_a_bucket_to_a_bucket_and_back_to_one_restored_picture(
    seaweed: Seaweed, prefix: str, tmp_path: Path, face_png: bytes, here: Callable[..., Ended]
) -> None:
    photos, out, keystore = f"s3://{BUCKET}/{prefix}/photos", f"s3://{BUCKET}/{prefix}/out", tmp_path / "keystore"
    aws = {name: value for name, value in seaweed.environment.items() if name != "AWS_ENDPOINT_URL"}
    there = ("--endpoint-url", seaweed.url)
    before = set(Path.cwd().iterdir())
    run = keyanon("anonymize", photos, "-o", out, "-k", keystore, *there, *QUICK, "--json", **aws)
    assert run.code == ExitCode.OK, run.err
    assert run.json["statuses"] == {"anonymized": PICTURES - 1, "quarantined": 1} and run.json["output"] == out
    assert set(Path.cwd().iterdir()) == before, "no folder called s3: anywhere"
    names = seaweed.names(f"{prefix}/out")
    assert {f"images/{at}.png" for at in range(PICTURES - 1)} <= names
    assert not any(name.startswith("_keyanon/attempts") for name in names)
    for name in names:
        assert SECRET.encode() not in seaweed.get(f"{prefix}/out/{name}") and KEY.encode() not in seaweed.get(
            f"{prefix}/out/{name}"
        )
    assert seaweed.get(f"{prefix}/out/images/0.png") != face_png

    shown = here("inspect", out, *there, "--json", **aws)
    assert shown.code == ExitCode.OK and shown.json["rows"] == PICTURES and shown.json["finished"], shown.err
    picture = here("inspect", f"{out}/images/0.png", *there, "--json", **aws)
    assert picture.code == ExitCode.OK and picture.json["metadata"] == ["icc_profile"], picture.err
    sidecar = here("inspect", f"{out}/sidecars/0.png.keyanon", *there, "--json", **aws)
    assert sidecar.code == ExitCode.OK and sidecar.json["image_id"] == "0.png", sidecar.err
    listed = here("quarantine", "list", out, *there, "--json", **aws)
    assert [row["image_id"] for row in listed.json["rows"]] == ["below/torn ü.jpg"], listed.err

    again = keyanon("anonymize", photos, "-o", out, "-k", keystore, *there, *QUICK, "--json", **aws)
    assert again.json["resumed_rows"] == PICTURES and again.json["run_id"] == run.json["run_id"], again.err

    words = ("--case", "C-17", "--purpose", "identify", "--legal-basis", "court-order: StPO 98a", "--expires", "2h")
    asked = here("request", keystore, "--image", "0.png", *words, "--as", "ines", "--json")
    request = asked.json["request_id"]
    digest = here("show", keystore, request, "--json").json["digest"]
    for person in ("dora", "carl"):
        assert here("approve", keystore, request, "--digest", digest, "--as", person).code == ExitCode.OK
    recovered = keyanon(
        "recover", keystore, request, "--input", out, "--output", tmp_path / "restored", "--as", "ines", "--json",
        **seaweed.environment,
    )  # fmt: skip
    assert recovered.code == ExitCode.OK, recovered.err
    (entry,) = recovered.json["pictures"]
    assert entry["exact"] and entry["picture_intact"] and entry["sidecar_intact"]


def test_parquet_with_pictures_in_it_goes_from_a_bucket_to_a_bucket_and_back(
    seaweed: Seaweed,
    tmp_path: Path,
    face_png: bytes,
    face_jpeg: bytes,
    monkeypatch: pytest.MonkeyPatch,
    here: Callable[..., Ended],
) -> None:
    """Two files of Hive partitions, with pictures as bytes, one that is no picture, and a column of the owner's."""
    made = uuid.uuid4().hex
    of_each = {"train": [face_png, b"no picture"], "test": [face_jpeg]}
    for split, pictures in of_each.items():
        table = pa.table({"image": pictures, "note": [f"{split} {at}" for at in range(len(pictures))]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        seaweed.put(f"{made}/photos/split={split}/part.parquet", sink.getvalue().to_pybytes())
    photos, out, keystore = f"s3://{BUCKET}/{made}/photos", f"s3://{BUCKET}/{made}/out", tmp_path / "keystore"
    arguments = ("anonymize", photos, "-o", out, "-k", keystore, *QUICK, "--json")
    run_in_process(monkeypatch)
    run = here(*arguments, **seaweed.environment)
    assert run.code == ExitCode.OK, run.err
    assert run.json["statuses"] == {"anonymized": 2, "quarantined": 1} and run.json["keys_stored"] == 2
    names = seaweed.names(f"{made}/out")
    assert not any(name.startswith(("images/", "_keyanon/attempts")) for name in names)
    shards = {name for name in names if name.startswith("rows/")}
    rows = [
        row for name in shards for row in pq.read_table(pa.BufferReader(seaweed.get(f"{made}/out/{name}"))).to_pylist()
    ]
    assert {(row["split"], row["note"], row["status"]) for row in rows} == {
        ("train", "train 0", "anonymized"),
        ("train", "train 1", "quarantined"),
        ("test", "test 0", "anonymized"),
    }
    found = {row["note"]: row for row in rows}
    assert found["train 1"]["image"] is None
    for note, source in (("train 0", face_png), ("test 0", face_jpeg)):
        assert found[note]["image"] and found[note]["image"] != source and found[note]["keyanon_sidecar"]

    again = here(*arguments, **seaweed.environment)
    assert again.code == ExitCode.OK and again.json["resumed_rows"] == 3, again.err
    assert {name for name in seaweed.names(f"{made}/out") if name.startswith("rows/")} == shards
    verified = here("verify", out, "--keystore", keystore, "--json", **seaweed.environment)
    assert verified.code == ExitCode.OK, verified.err

    words = ("--case", "C-17", "--purpose", "identify", "--legal-basis", "consent", "--expires", "2h")
    image = found["train 0"]["image_id"]
    request = here("request", keystore, "--image", image, *words, "--as", "ines", "--json").json["request_id"]
    digest = here("show", keystore, request, "--json").json["digest"]
    for person in ("dora", "carl"):
        assert here("approve", keystore, request, "--digest", digest, "--as", person).code == ExitCode.OK
    restored = tmp_path / "restored"
    recovered = here(
        "recover", keystore, request, "--input", out, "--output", restored, "--as", "ines", "--json",
        **seaweed.environment,
    )  # fmt: skip
    assert recovered.code == ExitCode.OK, recovered.err
    (entry,) = recovered.json["pictures"]
    assert entry["exact"] and entry["picture_intact"] and entry["sidecar_intact"]


STALLING_RUN = """
import sys, time
import jobs.run.anonymize, jobs.blocks, jobs.commands.cli

class Stalling(jobs.run.anonymize.AnonymizeFaces):
    def _anonymize(self, rows):
        if rows[0][jobs.blocks.ROW] > 1:
            time.sleep(SECONDS)
        return super()._anonymize(rows)

jobs.run.anonymize.AnonymizeFaces = Stalling
sys.exit(jobs.commands.cli.main(sys.argv[1:]))
"""  # whose workers do not come beyond the second row: the run is killed in its midst, however slow the machine


@contextmanager
def in_its_midst(
    seaweed: Seaweed, prefix: str, arguments: list[str], stall: int = 600
) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has published something and waits for `stall` seconds at each further row; killed at the end of the block."""
    environment = {**without_aws_settings(), **seaweed.environment}
    process = subprocess.Popen(
        [sys.executable, "-c", STALLING_RUN.replace("SECONDS", str(stall)), *arguments], env=environment
    )
    try:
        deadline = time.monotonic() + COMMAND_SECONDS
        while not any(name.startswith("rows/") for name in seaweed.names(f"{prefix}/out")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_two_never_write_at_once_and_one_that_was_stopped_is_taken_over_and_publishes_nothing_more(
    seaweed: Seaweed, prefix: str, tmp_path: Path
) -> None:
    """SIGSTOP for longer than its lease, then SIGCONT."""
    places = (f"s3://{BUCKET}/{prefix}/photos", "-o", f"s3://{BUCKET}/{prefix}/out", "-k", tmp_path / "keystore")
    arguments = [*map(str, ("anonymize", *places, *QUICK, "--pictures-per-task", 1, "--json"))]
    with in_its_midst(seaweed, prefix, arguments, stall=60) as process:
        second = keyanon(*arguments, **seaweed.environment)
        assert second.code == ExitCode.TRY_AGAIN and "another run is writing" in second.err, second.err
        process.send_signal(signal.SIGSTOP)
        ended = keyanon(*arguments, **seaweed.environment)
        assert ended.code == ExitCode.OK and ended.json["rows"] == PICTURES, ended.err
        assert ended.json["resumed_rows"] >= 1 and ended.json["keys_stored"] == PICTURES - 1
        names = seaweed.names(f"{prefix}/out")
        process.send_signal(signal.SIGCONT)
        assert process.wait(COMMAND_SECONDS) == ExitCode.TRY_AGAIN
    assert {name for name in seaweed.names(f"{prefix}/out") if name.startswith(("images/", "rows/"))} == {
        name for name in names if name.startswith(("images/", "rows/"))
    }
    shown = keyanon("inspect", f"s3://{BUCKET}/{prefix}/out", "--json", **seaweed.environment)
    assert shown.json["rows"] == PICTURES and shown.json["finished"]


@pytest.mark.parametrize(
    ("output", "settings", "code", "said"),
    [
        (f"s3://{BUCKET}/x", {"AWS_SECRET_ACCESS_KEY": "another-secret"}, ExitCode.INPUT, "refuses access"),
        (f"s3://{OTHER_BUCKET}/x", {}, ExitCode.INPUT, f"there is no bucket '{OTHER_BUCKET}'"),
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, ExitCode.TRY_AGAIN, "can not be reached"),
        (f"s3://{KEY}:{SECRET}@{BUCKET}/x", {}, ExitCode.USAGE, "credentials do not belong in a URI"),
        (f"s3:/{BUCKET}/x", {}, ExitCode.USAGE, "is no place in S3"),
        (f"gs://{BUCKET}/x", {}, ExitCode.USAGE, "can not be written"),
    ],
)
def test_a_bucket_that_can_not_be_used_is_refused_before_anything_is_written(
    seaweed: Seaweed,
    tmp_path: Path,
    face_png: bytes,
    here: Callable[..., Ended],
    output: str,
    settings: dict[str, str],
    code: int,
    said: str,
) -> None:
    photos, keystore = tmp_path / "photos", tmp_path / "keystore"
    photos.mkdir()
    (photos / "a.png").write_bytes(face_png)
    before = set(Path.cwd().iterdir())
    ended = here("anonymize", photos, "-o", output, "-k", keystore, "-v", **{**seaweed.environment, **settings})
    assert ended.code == code and said in ended.err, ended.err
    assert "another-secret" not in ended.out + ended.err
    assert not keystore.exists() and set(Path.cwd().iterdir()) == before
    assert seaweed.names("x") == set()


@pytest.mark.parametrize(
    ("photos", "settings", "code", "said"),
    [
        (f"s3://{BUCKET}/nothing", {}, ExitCode.INPUT, "does not exist"),
        (f"s3://{BUCKET}/nothing", {"AWS_SECRET_ACCESS_KEY": "another-secret"}, ExitCode.INPUT, "can not be read"),
        (f"s3://{BUCKET}/nothing", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, ExitCode.TRY_AGAIN, "could not be read"),
        (f"s3://{KEY}:{SECRET}@{BUCKET}/x", {}, ExitCode.USAGE, "credentials do not belong in a URI"),
    ],
)
def test_photographs_that_can_not_be_read_are_said_so(
    seaweed: Seaweed,
    tmp_path: Path,
    here: Callable[..., Ended],
    photos: str,
    settings: dict[str, str],
    code: int,
    said: str,
) -> None:
    ended = here(
        "anonymize", photos, "-o", tmp_path / "out", "-k", tmp_path / "k", **{**seaweed.environment, **settings}
    )
    assert ended.code == code and said in ended.err and "Traceback" not in ended.err, ended.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "k").exists()
