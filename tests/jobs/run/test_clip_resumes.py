"""A run over clips whose driver is killed, while it anonymizes and while it joins: no face is looked for twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from jobs.config import AnonymizeConfig
from jobs.output.clip_view import clip_views
from jobs.output.found_faces import FOUND_FACES, WHOLE
from jobs.output.reader import read_rows
from jobs.output.verify import verify_output
from jobs.run.anonymize import run_anonymize
from jobs.storage.opening import open_store
from keyanon_core.imaging import decode_picture
from keystore.embedded import Keystore
from tests.jobs.conftest import MakeConfig
from tests.jobs.run.test_clip_runs import packets_of
from tests.jobs.run.test_pseudonym_runs import released
from tests.made_clips import MadeClip, make_clip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1300)]
SECONDS = 600  # of what takes a twentieth of it on an idle machine

RUN = """
import os, signal, sys, time
import jobs.blocks, jobs.config, jobs.output.joined, jobs.run.anonymize, jobs.run.tracks

stalls, looked_at, config = sys.argv[1] == "stalls", sys.argv[2], sys.argv[3]

class Stalling(jobs.run.anonymize.AnonymizeFaces):
    def _anonymize(self, rows):
        if stalls and rows[0][jobs.blocks.ROW] > 0:
            time.sleep(600)
        return super()._anonymize(rows)

class Listening(jobs.run.anonymize.Tracker):
    def _pieces_seen(self, clips):
        with open(looked_at, "w") as file:
            file.write(" ".join(clip.name for clip in clips))
        return super()._pieces_seen(clips)

joined, join_pieces = [], jobs.output.joined.join_pieces

def joining(pieces, path, *rest):
    if joined:  # the second clip
        path.write_bytes(next(pieces))
        os.kill(os.getpid(), signal.SIGKILL)
    joined.append(path)
    join_pieces(pieces, path, *rest)

jobs.output.joined.join_pieces = joining
jobs.run.anonymize.AnonymizeFaces, jobs.run.anonymize.Tracker = Stalling, Listening
jobs.run.anonymize.run_anonymize(jobs.config.AnonymizeConfig.model_validate_json(config))
"""  # killed by the test at its second row, if it stalls there, and else by itself when it joins its second clip


@pytest.fixture
def clips(tmp_path: Path, face_png: bytes, face_jpeg: bytes) -> dict[str, MadeClip]:
    """One of two pieces, and one of one."""
    (tmp_path / "photos").mkdir()
    made = {}
    for name, frames, portrait in (("a.mp4", 34, face_png), ("b.mkv", 3, face_jpeg)):
        path, portraits = tmp_path / "photos" / name, [decode_picture(portrait)]
        made[name] = make_clip(path, portraits, seconds=frames / 25, fps=25, size=(144, 112), story="moving")
    return made


def killed(config: AnonymizeConfig, how: str, looked_at: Path, until: Callable[[], bool]) -> list[str]:
    """Run until something is so, or until it is dead. Returns the clips that it went through."""
    command = [sys.executable, "-c", RUN, how, str(looked_at), config.model_dump_json(exclude_unset=True)]
    process = subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}, cwd=Path.cwd()
    )
    try:
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and not until():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return looked_at.read_text().split()


def found_files(config: AnonymizeConfig) -> list[Path]:
    return [path for path in (Path(config.output) / FOUND_FACES).rglob("*") if path.is_file()]


def test_a_run_over_clips_whose_driver_is_killed_goes_on_and_looks_for_no_face_twice(
    ray_cluster: Path, tmp_path: Path, make_config: MakeConfig, clips: dict[str, MadeClip]
) -> None:
    config, looked_at = make_config(pictures_per_task=1), tmp_path / "looked at"
    rows = Path(config.output) / "rows"
    assert killed(config, "stalls", looked_at, lambda: any(rows.glob("*.parquet"))) == ["a.mp4", "b.mkv"]
    standing = {row.image_id: row.record_ids for row in read_rows(config.output)}
    assert list(standing) == ["a.mp4/000000000.mp4"], "killed in the midst of the first clip"
    assert [path.name for path in sorted(found_files(config))].count(WHOLE) == len(clips)
    told = [json.loads(line) for path in found_files(config) if path.name != WHOLE for line in path.open()]
    assert [one.keys() for one in told] == [{"faces", "somebody", "following"}] * 3
    faces = [face for one in told for face in [*(face for _, face in one["faces"]), *one["following"].values()]]
    places = {name for face in faces for name in face}
    assert places == {"box", "landmarks", "score", "frame"}, "and no identity vectors"
    (last,) = (path.parent for path in found_files(config) if path.read_text().count("\n") == 0)
    (last / WHOLE).unlink()  # as if the driver had been killed before it was through with b.mkv

    assert killed(config, "goes on", looked_at, lambda: False) == ["b.mkv"]
    assert found_files(config) == [], "every row stands: nobody needs them any more"
    store = open_store(config.output)
    assert [view.is_joined for view in clip_views(store)] == [True, False], "killed while it joined the second"
    assert not (Path(config.output) / "clips" / "b.mkv").exists()

    report = run_anonymize(config)
    assert (report.clips, report.clips_missing) == (["a.mp4", "b.mkv"], {})
    assert (report.resumed_rows, report.rows, report.statuses) == (3, 3, {"anonymized": 3})
    for name, clip in clips.items():
        assert packets_of(Path(config.output) / "clips" / name, "video") == packets_of(clip.path, "video")
    records = {row.image_id: row.record_ids for row in read_rows(config.output)}
    assert records | standing == records and len(records) == 3
    with Keystore.open(config.keystore) as keystore:
        verification = verify_output(store, keystore)
        assert verification.disagreements == [] and verification.complete
        assert (verification.rows, verification.records) == (3, sum(map(len, records.values())))
        keys = released(keystore)
    carriers = [
        {face.carrier_key for one in of_piece for face in keys[one].faces if face.mask.count}
        for of_piece in records.values()
    ]
    assert len(carriers[0]) == 1 and carriers[0] == carriers[1], "one face through a clip, whoever anonymized a piece"
    assert carriers[0] != carriers[2]
