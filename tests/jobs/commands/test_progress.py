"""What a run says on its way, where nobody looks at a terminal."""

import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.commands.progress import ProgressLines
from jobs.run.progress import Phase, RunState
from tests.jobs.conftest import OF_ONE_WORKER

from .conftest import Keyanon


class Lines(io.StringIO):
    """What was written, with when each line came."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Semaphore(0)

    def write(self, text: str) -> int:
        written = super().write(text)
        self.came.release()
        return written

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def test_a_phase_is_told_at_once_and_then_again_and_again() -> None:
    stream = Lines()
    with ProgressLines(0.05, stream) as lines:
        lines(RunState(phase=Phase.LISTING))
        assert [line["progress"] for line in stream.said] == ["listing"], "before the first interval is over"
        lines(RunState(total=9, rows=1, fresh_rows=1, seconds=2.0, statuses={"anonymized": 1}))
        lines(RunState(total=9, rows=3, fresh_rows=3, seconds=3.0, statuses={"anonymized": 3}))
        for _ in range(4):  # nothing is reported any more, and lines come all the same
            assert stream.came.acquire(timeout=10)
    last = stream.said[-1]
    assert (last["progress"], last["rows"], last["total"], last["seconds_left"]) == ("anonymizing", 3, 9, 6)
    assert last["statuses"] == {"anonymized": 3} and last["images_per_second"] == 1.0
    count = len(stream.said)
    time.sleep(0.2)
    assert len(stream.said) == count, "it ends with its run"


@pytest.mark.slow
def test_a_run_off_a_terminal_is_never_silent_and_names_no_picture(
    ray_cluster: Path, keyanon: Keyanon, tmp_path: Path, face_png: bytes
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for at in range(3):
        (photos / f"secretname{at}.png").write_bytes(face_png)
    quick = ("--steps", 1, "--fidelity", "lossless", "--gate-threshold", 0.1, *OF_ONE_WORKER)
    places = (photos, "-o", tmp_path / "out", "-k", tmp_path / "keystore")
    ended = keyanon("anonymize", *places, *quick, "--progress-seconds", 0.5, "--json", "--limit", 2)
    assert ended.code == 0, ended.err
    said = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    phases = list(dict.fromkeys(line["progress"] for line in said))
    assert phases == ["listing", "starting", "anonymizing", "committing"]
    assert {line["total"] for line in said if line["progress"] == "listing"} == {None}
    assert {line["total"] for line in said if line["progress"] != "listing"} == {2}
    last = said[-1]
    assert (last["rows"], last["statuses"], last["faces"], last["seconds_left"]) == (2, {"anonymized": 2}, 2, 0)
    ((device, rate),) = last["device_faces_per_second"].items()
    assert re.fullmatch(r"[\d.]+/cpu", device) and rate > 0
    assert last["evaluations"] >= 2 and 0 <= last["waiting_share"] <= 1
    assert "secretname" not in re.sub(r"(?m)^[^{].*$", "", ended.err)
    assert ended.json["rows"] == 2, "stdout has the one document alone"
    quiet = keyanon("anonymize", *places, *quick, "--quiet", "--progress-seconds", 0.5)
    assert quiet.code == 0 and "progress" not in quiet.err
    assert keyanon("anonymize", *places, "--progress-seconds", 0).code == 2
