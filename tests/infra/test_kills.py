"""A run whose driver, actor, write task, node, S3 server and ingest are killed, once each, over tar shards in a
bucket: `benchmarks/kills.py`, made small."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.infra.manifests import ROOT
from tests.jobs.seaweed import without_aws_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PICTURES, KILLS = 28, 6
PER_SHARD = 9  # pictures: no multiple of a task's, so that tasks read two shards
SIDE = 256  # px
SLEEP_MS = 700  # for a face: a run that is not over before all are killed
SEED = 54  # kills that an attempt survives come first, the driver last: two attempts, or three
RUN_SECONDS = 800  # of what takes a sixth of it on an idle machine


def test_a_run_whose_parts_are_all_killed_ends_with_every_row_once(
    tmp_path: Path, astronaut: Path, grace_hopper: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for source in (astronaut, grace_hopper):
        with Image.open(source) as picture:
            picture.convert("RGB").resize((SIDE, SIDE)).save(tmp_path / "photos" / f"{source.stem}.png")
    few = ("--pictures", PICTURES, "--kills", KILLS, "--nodes", 2, "--actors", 1, "--detectors", 1, "--per-task", 2)
    command = (
        ROOT / "benchmarks/kills.py",
        "--photos",
        tmp_path / "photos",
        *few,
        "--per-shard",
        PER_SHARD,
        "--away",
        0,
        "--ms",
        SLEEP_MS,
        "--seed",
        SEED,
    )
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=without_aws_settings(),
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout and done.stdout.count("ok  ") >= 10
