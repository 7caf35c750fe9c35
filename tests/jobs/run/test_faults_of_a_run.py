"""Faults on a real cluster: processes that really die, errors that really cross Ray, and what becomes of every row."""

import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

import jobs.run.anonymize
from jobs.blocks import ENCODED
from jobs.config import AnonymizeConfig
from jobs.errors import DefectError, MachineError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.run.anonymize import run_anonymize
from jobs.run.anonymize_stage import AnonymizeFaces
from jobs.run.detect_stage import Asked, DetectFaces
from keyanon_core.errors import NotReversibleError
from keystore.embedded import Keystore
from tests.jobs.conftest import MakeConfig
from tests.jobs.in_process import run_in_process

pytestmark = pytest.mark.slow

MARK = b"the culprit"  # after the end of a picture's file, where decoders do not look
Culprits = Callable[[int], None]  # called with the number of rows in hand when a culprit is among them


@pytest.fixture
def photos(ray_cluster: Path, tmp_path: Path, face_png: bytes) -> Path:
    """Five pictures, the second of which is the culprit."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for at in range(5):
        (folder / f"{at}.png").write_bytes(face_png + (MARK if at == 1 else b""))
    return folder


class LoadsNothing(AnonymizeFaces):
    """Where no row is anonymized before the run ends: torch and models take seconds in each process."""

    def _load(self, *_: object) -> None:
        pass


def met_by(stage: str, meets: Culprits, monkeypatch: pytest.MonkeyPatch, *, everyone: bool = False) -> None:
    """Let the processes of a stage do `meets` when they come to the culprit, or to any row."""

    class Detect(DetectFaces):
        def _detect(self, pictures: Sequence[Asked]) -> list[Any]:
            if everyone or any(encoded.endswith(MARK) for encoded, _ in pictures):
                meets(len(pictures))
            return super()._detect(pictures)

    class Anonymize(LoadsNothing if everyone else AnonymizeFaces):  # type: ignore[misc]
        def _anonymize(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            if everyone or any(row[ENCODED].endswith(MARK) for row in rows):
                meets(len(rows))
            return super()._anonymize(rows)

    if stage == "detect":
        monkeypatch.setattr(jobs.run.anonymize, "DetectFaces", Detect)
        if everyone:
            monkeypatch.setattr(jobs.run.anonymize, "AnonymizeFaces", LoadsNothing)
    else:
        monkeypatch.setattr(jobs.run.anonymize, "AnonymizeFaces", Anonymize)


def rows(config: AnonymizeConfig) -> dict[str, tuple[str, str]]:
    """Status and code of the reason of each published row; no row is published twice."""
    found = [
        row for path in sorted((config.output / "rows").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert len({row["row"] for row in found}) == len(found)
    return {row["image_id"]: (row["status"], row["reason"].split(":")[0]) for row in found}


def expected(reason: str) -> dict[str, tuple[str, str]]:
    neighbours = {f"{at}.png": ("anonymized", "") for at in (0, 2, 3, 4)}
    return {**neighbours, "1.png": ("quarantined", reason)} if reason else {**neighbours, "1.png": ("anonymized", "")}


def counting(log: Path, action: Callable[[], object]) -> Culprits:
    """A line in `log` for each call, then the action. The log outlives the process."""

    def meets(count: int) -> None:
        with log.open("a") as stream:
            stream.write(f"{count}\n")
        action()

    return meets


def calls(log: Path) -> list[int]:
    return list(map(int, log.read_text().split()))


@pytest.mark.parametrize(
    ("stage", "action"),
    [
        ("detect", lambda: ctypes.string_at(0)),
        ("anonymize", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    ],
    ids=["detect by a segmentation fault", "anonymize by SIGKILL"],
)
def test_a_row_that_kills_its_process_twice_is_quarantined_and_its_neighbours_are_not(
    photos: Path,
    tmp_path: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    action: Callable[[], object],
) -> None:
    met_by(stage, counting(tmp_path / "log", action), monkeypatch)
    config = make_config()
    report = run_anonymize(config)
    assert rows(config) == expected("killed_process") and report.keys_stored == 4
    assert calls(tmp_path / "log") == [5, 1, 1], "the block, then the row alone, twice"


def test_a_culprit_in_a_task_of_its_own_is_found_too(
    photos: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    met_by("detect", counting(tmp_path / "log", lambda: os._exit(1)), monkeypatch)
    config = make_config(pictures_per_task=1)
    run_anonymize(config)
    assert rows(config) == expected("killed_process") and calls(tmp_path / "log") == [1, 1]


def test_a_process_that_is_killed_once_costs_no_row(
    photos: Path,
    tmp_path: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "log"
    met_by("anonymize", counting(log, lambda: os._exit(1) if len(calls(log)) == 1 else None), monkeypatch)
    config = make_config()
    report = run_anonymize(config)
    assert rows(config) == expected("") and report.keys_stored == 5
    assert capsys.readouterr().out == "", "stdout is the command's, whatever Ray has to say of the process"
    with Keystore.open(config.keystore) as keystore:
        assert len(list(keystore.find_records())) == 5


def raising(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_a_defect_that_follows_a_row_is_found_by_halving(
    photos: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    met_by("anonymize", counting(tmp_path / "log", raising(ZeroDivisionError("a secret"))), monkeypatch)
    run_in_process(monkeypatch)  # where it happens
    config = make_config()
    report = run_anonymize(config)
    assert rows(config) == expected("internal_error") and calls(tmp_path / "log") == [5, 2, 1]
    assert report.reasons == {"internal_error": 1}


def test_a_picture_too_large_for_the_memory_is_quarantined_once_others_got_through(
    photos: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    met_by("anonymize", counting(tmp_path / "log", raising(MemoryError())), monkeypatch)
    config = make_config()
    run_anonymize(config)
    assert rows(config) == expected("out_of_memory")
    assert calls(tmp_path / "log") == [5, 2, 1, 1], "halved in its process, then alone in a second one"


@pytest.mark.parametrize(
    ("stage", "error"),
    [("detect", RuntimeError("CUDA error: an illegal memory access was encountered")), ("anonymize", MemoryError())],
    ids=["detect", "anonymize"],
)
def test_a_fault_of_the_machine_ends_the_run_without_a_verdict_and_the_same_command_goes_on(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception
) -> None:
    for spare in (2, 3, 4):  # each process that a fault ends costs the loading of another
        (photos / f"{spare}.png").unlink()
    config = make_config()
    with monkeypatch.context() as broken:
        met_by(stage, lambda count: raising(error)(), broken, everyone=True)
        with pytest.raises(MachineError, match="run the same command again") as caught:
            run_anonymize(config)
    assert exit_code_of(caught.value) is ExitCode.TRY_AGAIN
    assert not list((config.output / "rows").glob("*.parquet"))
    run_in_process(monkeypatch)
    run_anonymize(config)
    assert rows(config) == {"0.png": ("anonymized", ""), "1.png": ("anonymized", "")}


def test_processes_that_die_on_every_row_end_the_run(
    photos: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    met_by("detect", counting(tmp_path / "log", lambda: os._exit(1)), monkeypatch, everyone=True)
    config = make_config(detector_actors=1, pictures_per_task=5)
    for at in range(5, 32):
        (photos / f"{at}.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(MachineError, match=r"stage detect: .* ended before a row got through"):
        run_anonymize(config)
    assert len(calls(tmp_path / "log")) <= 12, "Ray alone would start them for ever"
    assert not [row for row, (status, _) in rows(config).items() if status == "anonymized"]


def test_processes_that_die_while_they_load_end_the_run(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Detect(DetectFaces):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            os._exit(1)

    monkeypatch.setattr(jobs.run.anonymize, "DetectFaces", Detect)
    monkeypatch.setattr(jobs.run.anonymize, "AnonymizeFaces", LoadsNothing)
    with pytest.raises(MachineError, match="ended before a row got through"):
        run_anonymize(make_config())


def test_a_way_back_that_does_not_come_back_ends_the_run_at_once(
    photos: Path, tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    way_back = raising(NotReversibleError("came back at 12.1 dB"))
    met_by("anonymize", counting(tmp_path / "log", way_back), monkeypatch, everyone=True)
    config = make_config()
    with pytest.raises(NotReversibleError, match=r"came back at 12\.1 dB") as caught:
        run_anonymize(config)
    assert exit_code_of(caught.value) is ExitCode.NOT_CONVERGED
    assert calls(tmp_path / "log") == [5], "never halved into verdicts on rows"
    assert not list((config.output / "rows").glob("*.parquet"))


def test_a_defect_outside_of_the_rows_is_called_one(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Anonymize(LoadsNothing):
        def __call__(self, table: Any) -> Any:
            with self.hands.reporting_faults():
                raise ZeroDivisionError("a secret")

    monkeypatch.setattr(jobs.run.anonymize, "AnonymizeFaces", Anonymize)
    with pytest.raises(DefectError, match=r"ended stage anonymize \(ZeroDivisionError at test_faults") as caught:
        run_anonymize(make_config())
    assert exit_code_of(caught.value) is ExitCode.UNEXPECTED and "secret" not in str(caught.value)


def test_a_run_whose_counter_is_lost_with_its_machine_is_no_defect(
    make_config: MakeConfig, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LosesTheCounter(AnonymizeFaces):
        def _anonymize(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            ray.kill(self.monitor._actor)
            return super()._anonymize(rows)

    with monkeypatch.context() as patched:
        patched.setattr(jobs.run.anonymize, "AnonymizeFaces", LosesTheCounter)
        with pytest.raises(MachineError, match="run the same command again"):
            run_anonymize(make_config())
    run_in_process(monkeypatch)
    assert run_anonymize(make_config()).rows == 5
