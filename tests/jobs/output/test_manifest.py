"""The manifest across attempts and retries."""

import json
import re
from pathlib import Path

import pytest

from jobs.errors import PublishError
from jobs.output.layout import LEASE, RUN_DIRECTORY, SEGMENTS
from jobs.output.manifest import COMPLETE, RUNNING, Manifest, code_version, read_existing
from jobs.run.recorded import recorded_config
from jobs.sources.source import open_source
from jobs.storage.opening import open_store
from tests.jobs.conftest import MakeConfig


@pytest.fixture
def manifest(tmp_path: Path, make_config: MakeConfig) -> Manifest:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(b"")
    config = make_config()
    return Manifest.begin("run-1", "k" * 32, config, open_source(config))


def test_a_retry_goes_on_until_it_is_through_and_another_has_another_number(
    manifest: Manifest, make_config: MakeConfig
) -> None:
    manifest.finish(make_config())
    assert (manifest.state, manifest.unfinished_retry) == (COMPLETE, None)
    assert manifest.begin_retry("gate", {}) == manifest.begin_retry("gate", {"max_attempts": 9}) == 1
    assert manifest.state == RUNNING and manifest.finished_at is None and manifest.attempts == 3
    assert manifest.begin_retry(None, {}) == 2
    manifest.finish(make_config())
    assert [retry["reason"] for retry in manifest.retries if retry["finished_at"]] == ["gate", None]
    assert manifest.retries[0]["settings"] == {"max_attempts": 9}
    assert manifest.begin_retry(None, {}) == 3


def test_what_a_retry_changes_for_itself_does_not_change_the_runs_settings(
    manifest: Manifest, make_config: MakeConfig, tmp_path: Path
) -> None:
    before = manifest.config["max_attempts"]
    config = make_config(max_attempts=before + 1, detector_actors=3)
    manifest.finish(config)
    assert (manifest.config["max_attempts"], manifest.config["detector_actors"]) == (before, 3)
    manifest.check_same_run(open_store(tmp_path / "out"), make_config(), open_source(config))


def test_an_output_of_another_version_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(open_store(tmp_path / "out"))
    assert read_existing(open_store(tmp_path / "out")) == manifest
    path = tmp_path / "out/_keyanon/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    with pytest.raises(PublishError, match=r"is of version 1, .* give an empty output"):
        read_existing(open_store(tmp_path / "out"))
    path.write_text("[]")
    with pytest.raises(PublishError, match="can not be used"):
        read_existing(open_store(tmp_path / "out"))


def test_a_run_of_method_paper_on_the_embedded_prior_goes_on_by_the_name_that_its_method_has_now(
    manifest: Manifest, tmp_path: Path, make_config: MakeConfig
) -> None:
    manifest.config |= {"method": "paper", "transform": "rotation", "inversion": "ddim", "steps": 12}
    manifest.config_digest, manifest.versions = "0" * 64, ["0.0.1"]
    store = open_store(tmp_path / "out")
    manifest.write(store)
    read = read_existing(store)
    assert read is not None
    config = recorded_config(read, tmp_path / "out", {"accept_version": code_version()})
    assert (config.method, config.transform, config.steps) == ("paper-inpaint", "rotation", 12)
    read.check_same_run(store, config, open_source(config))


def test_what_a_run_that_was_killed_before_its_manifest_leaves_is_gone_on_with(tmp_path: Path) -> None:
    for left in (LEASE, f"{RUN_DIRECTORY}/manifest.json.x.tmp", f"{SEGMENTS}/{0:012d}.json", f"{RUN_DIRECTORY}/other"):
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).touch()
        if not left.endswith("/other"):
            assert read_existing(open_store(tmp_path)) is None
    with pytest.raises(PublishError, match="no run of keyanon wrote it"):
        read_existing(open_store(tmp_path))


def test_rows_that_only_their_positions_name_need_the_very_same_listing(
    manifest: Manifest, tmp_path: Path, make_config: MakeConfig
) -> None:
    store = open_store(tmp_path / "out")
    manifest.check_same_listing(store, open_source(make_config()))
    (tmp_path / "photos" / "y.png").write_bytes(b"")
    with pytest.raises(PublishError, match="other input"):
        manifest.check_same_listing(store, open_source(make_config()))


def test_settings_that_differ_are_named_with_both_values_also_those_that_a_version_knows_alone(
    manifest: Manifest, make_config: MakeConfig, tmp_path: Path
) -> None:
    store, source = open_store(tmp_path / "out"), open_source(make_config())
    with pytest.raises(
        PublishError, match=r"other settings \(regions: .*\"nose\".*, and now \[\"skin\"\]; steps: 1, and now 2\)"
    ):
        manifest.check_same_run(store, make_config(steps=2, regions=["skin"]), source)
    manifest.config["halo"], manifest.config_digest = None, "of a version with a halo"
    with pytest.raises(PublishError, match=r"other settings \(halo: null, and now not known\)"):
        manifest.check_same_run(store, make_config(), source)
    del manifest.config["halo"], manifest.config["steps"]
    with pytest.raises(PublishError, match=r"other settings \(steps: not known, and now 1\)"):
        manifest.check_same_run(store, make_config(), source)


def test_another_version_goes_on_only_where_it_was_accepted(
    manifest: Manifest, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, store, source = code_version(), open_store(tmp_path / "out"), open_source(make_config())
    assert manifest.versions == [begun] and begun != "unknown"
    manifest.check_same_run(store, make_config(accept_version="0.0.1"), source)
    monkeypatch.setattr("jobs.output.manifest.version", lambda name: "9.1")
    refused = rf"another version of keyanon \({re.escape(begun)}, and this is 9\.1\).* by --accept-version 9\.1"
    for accepted in (None, begun, "9.0"):
        with pytest.raises(PublishError, match=refused):
            manifest.check_same_run(store, make_config(accept_version=accepted), source)
    with pytest.raises(PublishError, match=r"other settings \(steps"):
        manifest.check_same_run(store, make_config(accept_version="9.1", steps=2), source)
    manifest.config["halo"], manifest.config_digest = 3, "of a version with a halo"
    config = make_config(accept_version="9.1")
    manifest.check_same_run(store, config, source)
    manifest.taken_over(config)
    assert manifest.versions == [begun, "9.1"] and "halo" not in manifest.config
    manifest.check_same_run(store, make_config(), source)  # once is enough
    monkeypatch.setattr("jobs.output.manifest.version", lambda name: "9.2")
    with pytest.raises(PublishError, match=r"--accept-version 9\.2"):
        manifest.check_same_run(store, make_config(accept_version="9.1"), source)


def test_a_manifest_without_versions_is_held_to_what_its_workers_said(
    manifest: Manifest, make_config: MakeConfig, tmp_path: Path
) -> None:
    store, source = open_store(tmp_path / "out"), open_source(make_config())
    manifest.versions = []
    manifest.check_same_run(store, make_config(), source)
    manifest.facts = [
        {"environment": {"keyanon": "0.0.9"}, "prior": {"digest": "p"}, "face_models": {"detector:d": "f"}}
    ]
    assert manifest.face_models == {"detector:d": "f"}
    with pytest.raises(PublishError, match=r"\(0\.0\.9, and this is"):
        manifest.check_same_run(store, make_config(), source)
    manifest.taken_over(make_config())
    assert manifest.versions == ["0.0.9", code_version()]
