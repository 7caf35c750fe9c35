"""`keyanon resume`: the run of an output goes on by what the output says of it. A stand-in for the workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.commands.cli import main
from jobs.commands.resume import resume
from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, PublishError
from jobs.output.manifest import COMPLETE, read_existing
from jobs.run.anonymize import run_anonymize
from jobs.run.recorded import RESUME_SETTINGS
from jobs.run.resume import resume_run
from jobs.run.retry import retry_quarantined
from jobs.storage.opening import open_store
from tests.jobs.conftest import MakeConfig
from tests.jobs.run.stand_in import Stopped, Workers
from tests.jobs.seaweed import BUCKET, Seaweed

PICTURES = 4


@pytest.fixture
def stopped(tmp_path: Path, make_config: MakeConfig, workers: Workers) -> Callable[..., AnonymizeConfig]:
    """Makes an attempt over four pictures that ends after one row."""
    (tmp_path / "photos").mkdir()
    for row in range(PICTURES):
        (tmp_path / "photos" / f"{row}.png").write_bytes(b"")

    def begin(**changes: Any) -> AnonymizeConfig:
        config = make_config(keys="discard", keystore=None, fidelity=None, steps=None, **changes)
        workers.stops_after = 1
        with pytest.raises(Stopped):
            run_anonymize(config)
        workers.stops_after = 1000
        return config

    return begin


def test_a_stopped_run_goes_on_with_its_settings_and_takes_up_what_has_come(
    stopped: Callable[..., AnonymizeConfig], workers: Workers, tmp_path: Path
) -> None:
    config = stopped(max_attempts=7, regions=["skin", "nose"], limit=2)
    (tmp_path / "photos" / "new.png").write_bytes(b"")
    with pytest.raises(PublishError, match="put them back"):
        resume_run(config.output, {"photos": str(_moved(tmp_path, without="0.png"))})
    report = resume_run(config.output, {"max_failure_rate": None, "check_every": 3, "max_pixels": None})
    assert (report.rows, report.resumed_rows) == (5, 1)
    assert workers.attempts[-1].config == config.model_copy(update={"limit": None, "check_every": 3})
    manifest = read_existing(open_store(config.output))
    assert manifest is not None and (manifest.state, manifest.attempts) == (COMPLETE, 2)
    assert resume_run(config.output).resumed_rows == 5


def _moved(tmp_path: Path, without: str) -> Path:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (tmp_path / "photos").iterdir():
        if path.name != without:
            (moved / path.name).hardlink_to(path)
    return moved


def test_a_stopped_retry_goes_on_as_it_was_begun(
    stopped: Callable[..., AnonymizeConfig], workers: Workers, tmp_path: Path
) -> None:
    config = stopped()
    resume_run(config.output)
    workers.stops_after = 1
    with pytest.raises(Stopped):
        retry_quarantined(config.output, "late", {"max_attempts": 9})
    workers.stops_after = 1000
    resume_run(config.output)
    attempt = workers.attempts[-1]
    assert (attempt.retry, attempt.config.max_attempts) == (1, 9)
    manifest = read_existing(open_store(config.output))
    assert manifest is not None and manifest.unfinished_retry is None
    workers.stops_after = 0
    with pytest.raises(Stopped):
        retry_quarantined(config.output)
    with pytest.raises(ConfigError, match="limit can not change"):
        resume_run(config.output, {"limit": 1})


def test_what_is_no_run_of_this_version_is_said(tmp_path: Path, stopped: Callable[..., AnonymizeConfig]) -> None:
    for nothing in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(PublishError, match="is not the output of a keyanon run"):
            resume_run(nothing)
        (tmp_path / "empty").mkdir(exist_ok=True)
    (tmp_path / "empty" / "thesis.txt").write_text("mine")
    with pytest.raises(PublishError, match="no run of keyanon wrote it"):
        resume_run(tmp_path / "empty")
    output = stopped().output
    path = tmp_path / "out/_keyanon/manifest.json"
    said = json.loads(path.read_text())
    for changed, named in (
        ({"version": 1}, r"of version 1, .* give an empty output"),
        ({"version": 3}, r"of version 3, .* the later keyanon that wrote it"),
        ({"blessing": "x"}, r"does not know \(blessing\); go on with the later keyanon"),
        ({"config": {**said["config"], "halo": 3}}, r"does not know \(halo\)"),
    ):
        path.write_text(json.dumps({**said, **changed}))
        with pytest.raises(PublishError, match=named):
            resume_run(output)
    path.write_text("{")
    with pytest.raises(PublishError, match="can not be used"):
        resume_run(output)


def test_a_run_in_a_bucket_goes_on(stopped: Callable[..., AnonymizeConfig], s3: Seaweed, tmp_path: Path) -> None:
    output = f"s3://{BUCKET}/{tmp_path.name}"
    stopped(output=output)
    assert main(["resume", output, "--quiet", "--endpoint-url", s3.url]) == 0
    manifest = read_existing(open_store(output))
    assert manifest is not None and (manifest.state, manifest.config["endpoint_url"]) == (COMPLETE, s3.url)


def test_the_command_says_when_nothing_was_left(
    stopped: Callable[..., AnonymizeConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = str(stopped().output)
    assert main(["resume", output, "--quiet", "--json"]) == 0
    ended = capsys.readouterr()
    assert json.loads(ended.out)["rows"] == PICTURES and "nothing was left" not in ended.err
    assert main(["resume", output, "--quiet", "--strict"]) == 7  # the stand-in quarantines all
    assert "nothing was left to do: 4 rows stood" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "nowhere")]) == 3


def test_the_options_are_the_settings_that_change_no_result() -> None:
    import inspect

    own = {"context", "output", "strict", "progress_seconds", "quiet", "as_json", "verbose"}
    assert set(inspect.signature(resume).parameters) - own == RESUME_SETTINGS
