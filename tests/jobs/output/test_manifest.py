"""The manifest across attempts and retries."""

import json
from pathlib import Path

import pytest

from jobs.errors import PublishError
from jobs.output.manifest import COMPLETE, RUNNING, Manifest, read_existing
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


def test_rows_that_only_their_positions_name_need_the_very_same_listing(
    manifest: Manifest, tmp_path: Path, make_config: MakeConfig
) -> None:
    store = open_store(tmp_path / "out")
    manifest.check_same_listing(store, open_source(make_config()))
    (tmp_path / "photos" / "y.png").write_bytes(b"")
    with pytest.raises(PublishError, match="other input"):
        manifest.check_same_listing(store, open_source(make_config()))
