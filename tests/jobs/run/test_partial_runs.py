"""Runs that are told to go only so far: a number of rows, or a share of quarantined ones."""

import json
from pathlib import Path

import pytest

from jobs.commands.cli import main
from jobs.errors import TooManyQuarantinedError
from jobs.exit_codes import ExitCode
from jobs.output.failure_rate import MIN_ROWS
from jobs.output.reader import inspect_run, read_rows
from jobs.run.anonymize import run_anonymize
from tests.jobs.conftest import MakeConfig
from tests.jobs.in_process import run_in_process

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path: Path, face_png: bytes) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(face_png)
    for name in ("b.png", "d.png", "e.png"):
        (folder / name).write_bytes(b"no picture")
    return folder


def test_a_limit_takes_the_first_rows_and_a_run_without_it_the_others(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_process(monkeypatch)
    report = run_anonymize(make_config(limit=2))
    assert (report.rows, report.input_rows, report.keys_stored) == (2, 5, 1)
    out = make_config().output
    assert isinstance(out, Path)
    first = {row.image_id: row for row in read_rows(out)}
    assert first.keys() == {"a.png", "b.png"} and not inspect_run(out).finished
    assert main(["quarantine", "retry", str(out)]) == ExitCode.INPUT, "it is not complete"
    assert run_anonymize(make_config(limit=1)).rows == 2, "a smaller limit has nothing to do, and takes nothing back"
    whole = run_anonymize(make_config())
    assert (whole.rows, whole.resumed_rows, whole.statuses) == (5, 2, {"anonymized": 2, "quarantined": 3})
    rows = {row.image_id: row for row in read_rows(out)}
    assert {name: rows[name] for name in first} == first and inspect_run(out).finished
    assert run_anonymize(make_config(limit=1)).rows == 5 and inspect_run(out).finished, "complete stays complete"


def test_too_many_quarantined_rows_end_a_run_that_another_limit_completes(
    photos: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in_process(monkeypatch)
    config = make_config(max_failure_rate=0.5)
    settings = config.to_json()
    yaml = photos.parent / "run.yaml"
    yaml.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    assert main(["anonymize", "--config", str(yaml)]) == ExitCode.QUARANTINED
    assert "3 of 5 rows were quarantined" in capsys.readouterr().err
    assert not inspect_run(config.output).finished
    with pytest.raises(TooManyQuarantinedError):
        run_anonymize(config)
    assert run_anonymize(make_config(max_failure_rate=0.6)).resumed_rows == 5
    assert inspect_run(config.output).finished


def test_a_run_stops_before_it_has_read_everything(ray_cluster: Path, photos: Path, make_config: MakeConfig) -> None:
    for at in range(6 * MIN_ROWS):
        (photos / f"bad{at:04d}.png").write_bytes(b"no picture")
    config = make_config(max_failure_rate=0.1, pictures_per_task=20)
    with pytest.raises(TooManyQuarantinedError):
        run_anonymize(config)
    rows = list(read_rows(config.output))
    assert len(rows) < MIN_ROWS + 20, "at most what was published before the share said something"
    assert {row.status for row in rows} <= {"anonymized", "quarantined"}
