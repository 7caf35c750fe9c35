"""The command that `keyanon status` says comes next is one that goes on."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs.commands.status import next_command
from jobs.config import AnonymizeConfig
from jobs.output.manifest import Manifest
from jobs.output.status import Activity, RunStatus

from .conftest import Keyanon


def standing(config: AnonymizeConfig, activity: Activity = Activity.STOPPED, **more: Any) -> RunStatus:
    manifest = Manifest("run-1", "k", config.dataset, "", "", "files", 9, config.to_json(), "then", **more)
    return RunStatus(activity, None, "then", 1, 3, 9, 0, {"anonymized": 3}, None, manifest)


@pytest.mark.parametrize(("output", "endpoint_url"), [("out put", None), ("s3://bucket/out", "http://127.0.0.1:8333")])
def test_a_run_that_stopped_is_resumed(
    keyanon: Keyanon, monkeypatch: pytest.MonkeyPatch, output: str, endpoint_url: str | None
) -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": output, "keystore": "ks"})
    retry = {"number": 1, "reason": "no_key", "started_at": "then", "finished_at": None}
    command = next_command(standing(config), output, endpoint_url)
    assert command == next_command(standing(config, retries=[retry]), output, endpoint_url), "a retry goes on by it too"
    seen: list[object] = []

    def stop(*given: object) -> None:
        seen.extend(given[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.run.resume.resume_run", stop)
    assert keyanon(*shlex.split(command)[1:], "--quiet").code == 130
    assert seen[0] == config.output
    assert isinstance(seen[1], dict) and seen[1]["endpoint_url"] == endpoint_url


def test_what_is_complete_or_going_on_is_not_begun_again() -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": "out", "keystore": "ks"})
    assert next_command(standing(config, Activity.RUNNING), "out", "http://h:1") == (
        "keyanon status out --endpoint-url http://h:1"
    )
    assert next_command(standing(config, Activity.COMPLETE), "out", None) == "keyanon inspect out"


def test_status_is_told_of_an_output_alone(keyanon: Keyanon, tmp_path: Path) -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": tmp_path / "out", "keystore": "gone"})
    manifest = vars(standing(config).manifest) | {"seen": None}
    (tmp_path / "out/_keyanon").mkdir(parents=True)
    path = tmp_path / "out/_keyanon/manifest.json"
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name != "seen"}))
    ended = keyanon("status", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["activity"], ended.json["rows"], ended.json["total"]) == ("stopped", 0, 9)
    assert ended.json["next"] == f"keyanon resume {tmp_path / 'out'}"
    path.write_text('{"version": 2}')
    assert keyanon("status", tmp_path / "out").code == 3
    path.write_text("{")
    assert keyanon("status", tmp_path / "out").code == 3
    assert keyanon("status", tmp_path / "nowhere").code == 3
    assert keyanon("status", "s3://user:secret@bucket/x").code == 2
