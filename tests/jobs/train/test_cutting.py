"""Faces are cut by processes that may die, as those of a run do: a picture that kills them costs itself, and nothing for ever."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import jobs.train.faces
from jobs.blocks import ENCODED
from jobs.sources.source import open_source
from jobs.train.config import TrainConfig
from jobs.train.faces import CutFaces, prepare_faces

pytestmark = pytest.mark.slow

MARK = b"the culprit"  # after the end of a picture's file, where decoders do not look
SETTINGS = {
    "name": "tiny", "licence": "Apache-2.0", "data": "One photograph.", "side": 16, "space_to_depth": 4, "channels": [32],
    "attention_levels": 1, "cutting_actors": 1, "held_out_share": 0, "same_person_distance": 0,
}  # fmt: skip


@pytest.fixture
def config(ray_cluster: Path, tmp_path: Path, astronaut: Path) -> TrainConfig:
    """Three pictures, the second of which is the culprit."""
    (tmp_path / "photos").mkdir()
    for at in range(3):
        (tmp_path / "photos" / f"{at}.png").write_bytes(astronaut.read_bytes() + (MARK if at == 1 else b""))
    return TrainConfig.load(None, {**SETTINGS, "photos": tmp_path / "photos", "output": tmp_path / "out"})


def killed_by_the_culprit(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    class Killed(CutFaces):
        def _cut_one(self, row: dict[str, Any]) -> dict[str, Any]:
            if row[ENCODED].endswith(MARK):
                with log.open("a") as stream:
                    stream.write("killed\n")
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._cut_one(row)

    monkeypatch.setattr(jobs.train.faces, "CutFaces", Killed)


def test_a_picture_that_kills_its_process_gives_no_face_and_the_others_do(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_by_the_culprit(monkeypatch, tmp_path / "log")
    bank, report = prepare_faces(config, open_source(config), lambda done, total: None)
    assert (report.reasons, report.faces) == ({"killed_process": 1}, 2)
    assert sorted(bank.ids.tolist()) == ["0.png", "2.png"]
    assert len((tmp_path / "log").read_text().split()) == 3, "with the others, then twice alone"
