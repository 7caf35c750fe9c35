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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"photos": "a folder/it's", "output": "out put", "keystore": "k e y"},
        {"include": ["*.jpg", "2024/*"], "exclude": ["x y"], "limit": 3, "max_failure_rate": 0.25},
        {"transform": "sign"},
        {"transform": "sign", "steps": 20},
        {"steps": 6, "compile": True, "regions": ["skin", "nose"], "gpus_per_actor": 0.5, "device": "cuda"},
        {"dataset": "wedding", "keys": "discard", "keystore": None},
        {"endpoint_url": "http://127.0.0.1:8333", "output": "s3://bucket/out"},
    ],
)
def test_the_next_command_has_the_settings_of_the_run_and_no_needless_ones(
    keyanon: Keyanon, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": "out", "keystore": "ks", **settings})
    command = next_command(standing(config), str(config.output), None)
    seen: list[AnonymizeConfig] = []

    def stop(config: AnonymizeConfig, progress: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.commands.anonymize._run", stop)
    assert keyanon(*shlex.split(command)[1:], "--quiet").code == 130
    assert seen == [config.model_copy(update={"limit": None})]
    if not settings:
        assert command == "keyanon anonymize photos --output out --keystore ks"


def test_what_is_complete_or_going_on_is_not_begun_again() -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": "out", "keystore": "ks"})
    assert next_command(standing(config, Activity.RUNNING), "out", "http://h:1") == (
        "keyanon status out --endpoint-url http://h:1"
    )
    assert next_command(standing(config, Activity.COMPLETE), "out", None) == "keyanon inspect out"
    retry = {"number": 1, "reason": "no_key", "started_at": "then", "finished_at": None}
    stopped = standing(config, retries=[retry])
    assert next_command(stopped, "out", None) == "keyanon quarantine retry out --reason no_key"


def test_status_is_told_of_an_output_alone(keyanon: Keyanon, tmp_path: Path) -> None:
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": tmp_path / "out", "keystore": "gone"})
    manifest = vars(standing(config).manifest) | {"seen": None}
    (tmp_path / "out/_keyanon").mkdir(parents=True)
    path = tmp_path / "out/_keyanon/manifest.json"
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name != "seen"}))
    ended = keyanon("status", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["activity"], ended.json["rows"], ended.json["total"]) == ("stopped", 0, 9)
    assert ended.json["next"].endswith("--keystore gone")
    path.write_text('{"version": 2}')
    assert keyanon("status", tmp_path / "out").code == 3
    path.write_text("{")
    assert keyanon("status", tmp_path / "out").code == 3
    assert keyanon("status", tmp_path / "nowhere").code == 3
    assert keyanon("status", "s3://user:secret@bucket/x").code == 2
