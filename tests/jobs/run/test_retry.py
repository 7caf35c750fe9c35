"""Which rows a retry does again, what it may change, and what it refuses. A stand-in for the workers quarantines every row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import ConfigError, PublishError
from jobs.output.manifest import read_existing
from jobs.run.anonymize import run_anonymize
from jobs.run.retry import _retry_config, retry_quarantined
from jobs.storage.opening import open_store
from keystore.embedded import Keystore
from tests.jobs.conftest import MakeConfig
from tests.jobs.run.stand_in import FIRST, Stopped, Workers
from tests.jobs.sources.test_tar_shards import shard


@pytest.fixture(params=["folder"])
def output(request: pytest.FixtureRequest, tmp_path: Path, make_config: MakeConfig, workers: Workers) -> Path:
    """Of a complete run over four pictures, in a folder or in two tar shards."""
    (tmp_path / "photos").mkdir()
    names = [f"{row}.png" for row in range(len(FIRST))]
    if request.param == "folder":
        for name in names:
            (tmp_path / "photos" / name).write_bytes(b"")
    else:
        for number, first in enumerate(range(0, len(names), 2)):
            of_shard = [(name, b"not empty") for name in names[first : first + 2]]
            (tmp_path / "photos" / f"{number}.tar").write_bytes(shard(*of_shard))
    config = make_config()
    run_anonymize(config)
    return config.output


def done_again(workers: Workers) -> set[int]:
    return set(range(len(FIRST))).difference(workers.attempts[-1].left_alone)


OF_BOTH = pytest.mark.parametrize("output", ["folder", "tar"], indirect=True)


@OF_BOTH
def test_the_rows_of_a_reason_are_done_again_alone_then_all_that_are_quarantined(
    output: Path, workers: Workers
) -> None:
    report = retry_quarantined(output, "late")
    assert done_again(workers) == {0, 1} and workers.attempts[-1].retry == 1
    assert (report.rows, report.resumed_rows) == (4, 2) and 0 < report.anonymize_seconds <= report.seconds < 600
    retry_quarantined(output)
    assert done_again(workers) == {0, 1, 2, 3} and workers.attempts[-1].retry == 2


@OF_BOTH
def test_a_stopped_retry_goes_on_also_when_no_row_has_its_reason_any_more(output: Path, workers: Workers) -> None:
    workers.reasons, workers.stops_after = ["gate: y"] * 4, 1
    with pytest.raises(Stopped):
        retry_quarantined(output, "late")
    manifest = read_existing(open_store(output))
    assert manifest is not None and manifest.unfinished_retry is not None
    workers.stops_after = 2
    retry_quarantined(output, "late")
    assert done_again(workers) == {1} and workers.attempts[-1].retry == 1
    with pytest.raises(ConfigError, match="'late'"):
        retry_quarantined(output, "late")
    workers.stops_after = 0
    with pytest.raises(Stopped):
        retry_quarantined(output, "gate")
    retried = workers.attempts[-1].retry
    workers.stops_after = 4
    retry_quarantined(output, "gate")
    assert workers.attempts[-1].retry == retried == 2 and done_again(workers) == {0, 1, 3}


def test_a_retry_may_change_its_places_and_the_number_of_keys_and_says_so(
    output: Path, workers: Workers, tmp_path: Path
) -> None:
    (tmp_path / "photos").rename(tmp_path / "moved")
    retry_quarantined(output, "gate", {"max_attempts": 7, "photos": tmp_path / "moved", "device": None})
    config = workers.attempts[-1].config
    assert (config.max_attempts, Path(config.photos), config.output) == (7, tmp_path / "moved", output)
    manifest = read_existing(open_store(output))
    assert manifest is not None
    assert manifest.retries[0]["settings"] == {"max_attempts": 7, "photos": str(tmp_path / "moved")}
    with pytest.raises(ConfigError, match="gate_threshold, steps can not change"):
        retry_quarantined(output, "gate", {"steps": 4, "gate_threshold": 0.5, "max_attempts": 8})


def test_what_is_no_complete_run_with_its_input_and_keystore_is_refused(
    output: Path, workers: Workers, tmp_path: Path, make_config: MakeConfig
) -> None:
    def refused(named: str, retry: Callable[[], object]) -> None:
        before = len(workers.attempts)
        with pytest.raises(PublishError, match=named):
            retry()
        assert len(workers.attempts) == before

    refused("is not the output of a keyanon run", lambda: retry_quarantined(tmp_path / "nowhere"))
    with Keystore.create(tmp_path / "other"):
        pass
    refused("whose keys are in keystore", lambda: retry_quarantined(output, None, {"keystore": tmp_path / "other"}))
    (tmp_path / "photos" / "more.png").write_bytes(b"")
    refused("other input", lambda: retry_quarantined(output))
    (tmp_path / "photos" / "more.png").unlink()
    workers.stops_after = 1
    with pytest.raises(Stopped):
        run_anonymize(make_config(output=tmp_path / "half"))
    refused("not complete", lambda: retry_quarantined(tmp_path / "half"))


def test_another_inbox_or_keystore_takes_the_place_of_all_that_said_where_the_first_was(
    output: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    manifest = read_existing(open_store(output))
    assert manifest is not None
    outside = {"ingest_key": tmp_path / "key", "inbox": "https://keys.example", "token_file": tmp_path / "token"}
    of_service = replace(manifest, config={**make_config(keystore=None, **outside).to_json(), "limit": 1})
    moved = _retry_config(of_service, output, {"inbox": "s3://bucket/inbox"})
    assert (moved.inbox, moved.token_file, moved.ingest_key) == ("s3://bucket/inbox", None, tmp_path / "key")
    assert moved.limit is None, "a retry does all rows that wait for it"
    same = _retry_config(of_service, output, {"max_attempts": 3})
    assert (str(same.inbox), same.token_file) == ("https://keys.example", tmp_path / "token")
    own = _retry_config(of_service, output, {"keystore": tmp_path / "ks"})
    assert (own.keystore, own.inbox, own.ingest_key, own.token_file) == (tmp_path / "ks", None, None, None)
    other = _retry_config(manifest, output, {"inbox": tmp_path, "ingest_key": tmp_path / "key"})
    assert (other.keystore, other.kek, other.inbox) == (None, None, tmp_path)
