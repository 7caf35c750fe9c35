"""A run that hands its keys in to a served keystore: published, receipted, complete; looked at before anything is computed."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import ConfigError, KeysWaitingError, MachineError
from jobs.output.doors import DoorName
from jobs.output.manifest import Manifest
from jobs.output.reconcile import reconcile
from keystore.embedded import Keystore
from keystore.ingest_opening import IngestOpening
from keystore.intake.ingest_key import IngestKey
from keystore.service import inbox_client
from tests.jobs.conftest import MakeConfig
from tests.jobs.publishing import Place, block
from tests.keystore.serving import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A keystore of its own, on this machine's own address."""
    path = tmp_path_factory.mktemp("served") / "ks"
    with Keystore.create(path) as made:
        (path.parent / "key").write_text(IngestKey(made.ingest_public_key, made.audit_vkey).text())
    server = Served(path, None)
    server.token_file(path.parent / "token", "ingest", "job", "d")
    yield server
    server.stop()


@pytest.fixture
def named(served: Served) -> DoorName:
    root = served.path.parent
    return DoorName(root / "key", served.url, None, root / "token", "d", patience=0.0)


@pytest.fixture
def by_http(tmp_path: Path, served: Served, named: DoorName) -> Iterator[Place]:
    with Keystore.open(served.path) as keystore:
        place = Place(tmp_path, keystore)
        place.keys = named.open()
        yield place


def test_a_run_is_complete_when_the_service_has_receipts_of_its_keys(
    by_http: Place, served: Served, tmp_path: Path
) -> None:
    inbox = served.path / "inbox" / by_http.run_id
    with by_http.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        sink = attempt.sink()
        assert served.token("ingest", "job", "d").encode() not in pickle.dumps(sink)
        sink.stage(block([by_http.result(0, "a.jpg")]))
        publisher.publish_complete()
        sink.stage(block([by_http.result(1, "b.jpg")]))  # and never published
        with pytest.raises(KeysWaitingError, match=f"keys of 1 rows wait in the inbox {served.url}"):
            attempt.complete(1)
    assert len(list(inbox.glob("*.keys"))) == 1, "what was not published is taken back"
    with IngestOpening.open(served.path, receipts=True) as taker:
        taker.ingest(by_http.run_id)
    with by_http.attempt() as attempt:
        attempt.publisher().open()
        assert attempt.complete(1).keyed.total() == 1
    assert list(inbox.iterdir()) == [], "the receipts too are taken away"
    by_http.check_visible()


def test_a_keystore_that_is_away_ends_the_attempt_with_nothing_published(
    by_http: Place, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_client, "PATIENCE_SECONDS", 0.0)
    folder = served.path / "inbox" / by_http.run_id
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("no folder")
    with by_http.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        with pytest.raises(MachineError, match="run the same command again"):
            attempt.sink().stage(block([by_http.result(0, "a.jpg")]))
        publisher.publish_complete()
        assert by_http.visible() == set()
        folder.unlink()
    with by_http.attempt() as attempt, pytest.raises(KeysWaitingError):
        attempt.run([[by_http.result(0, "a.jpg")]], 1)
    assert len(by_http.rows()) == 1


def test_what_a_killed_attempt_left_with_the_service_is_an_orphan_and_removed(
    by_http: Place, served: Served, named: DoorName, make_config: MakeConfig
) -> None:
    with by_http.attempt() as attempt:
        attempt.publisher().open()
        attempt.sink().stage(block([by_http.result(0, "a.jpg")]))
    (shard,) = (served.path / "inbox" / by_http.run_id).iterdir()
    config = make_config(
        keystore=None,
        ingest_key=named.ingest_key,
        inbox=named.inbox,
        token_file=named.token_file,
        photos="x",
        dataset="d",
    )
    keystore_id = by_http.keys.key.keystore_id
    manifest = Manifest(by_http.run_id, keystore_id, "d", "", "", "folder", 1, config.to_json(), "")
    manifest.write(by_http.layout.store)
    for remove in (False, True):
        found = reconcile(by_http.layout.store, None, remove=remove)
        assert shard.name in [orphan.name for orphan in found.orphans if orphan.outside]
        assert shard.exists() == (not remove)


def test_what_does_not_fit_is_said_before_anything_is_computed(
    named: DoorName, served: Served, tmp_path: Path, shared_keystore: Keystore
) -> None:
    other = IngestKey(shared_keystore.ingest_public_key, shared_keystore.audit_vkey)
    (tmp_path / "key").write_text(other.text())
    stranger = served.token_file(tmp_path / "auditor", "auditor", "eve")
    for changes, message in (
        ({"ingest_key": tmp_path / "key"}, "of another keystore than the ingest key"),
        ({"dataset": "another"}, "data set 'd', and this run hands in keys of 'another'"),
        ({"token_file": stranger}, "has the role auditor"),
        ({"token_file": None}, "give --token-file"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(named, **changes).open()
    with pytest.raises(MachineError, match="can not be reached"):
        replace(named, inbox="https://127.0.0.1:9").open()
