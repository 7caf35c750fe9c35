"""What killed attempts leave is recognised and swept, whatever they died of; what counts never is."""

import shutil
from pathlib import Path

import pytest

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, LeaseError
from jobs.output.manifest import Manifest
from jobs.output.reader import OutputError
from jobs.output.reconcile import KEYS, SHARD, STAGED, TAKEN_IN, Reconciliation, reconcile
from jobs.output.segments import Segments
from jobs.output.shared_lease import lease_of
from jobs.storage.local import LocalStore
from jobs.storage.opening import open_store
from jobs.storage.store import Store
from keystore.embedded import Keystore
from keystore.intake.shards import write_shard
from tests.jobs.publishing import Place, before_operation, block, quarantined
from tests.jobs.seaweed import BUCKET, Seaweed

MOST_OPERATIONS = 500


def begun(place: Place, store: Store) -> None:
    """The manifest of a run that has begun."""
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": place.out, "keystore": place.keystore.path})
    Manifest(place.run_id, place.keystore.id, "d", "", "", "files", 9, config.to_json(), "then").write(store)


@pytest.fixture
def stopped(place: Place) -> Place:
    """A run of which two rows are visible, and that was stopped; their keys are still in the inbox."""
    place.out.mkdir()
    begun(place, LocalStore(place.out))
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "a.png"), quarantined(1, "b.png")]))
        publisher.publish_complete()
    return place


def look(place: Place, *, remove: bool = False) -> Reconciliation:
    return reconcile(LocalStore(place.out), place.keystore, remove=remove)


def counting(place: Place) -> set[str]:
    """All files that must stay."""
    return place.visible() | {"_keyanon/manifest.json"}


def test_where_nothing_is_left_nothing_is_found(stopped: Place) -> None:
    before, keys = counting(stopped), stopped.key_shards()
    assert keys
    for remove in (False, True):
        assert look(stopped, remove=remove).orphans == ()
    assert stopped.files() == before and stopped.key_shards() == keys


def test_each_kind_of_orphan_is_shown_and_then_swept(stopped: Place) -> None:
    before, keys = counting(stopped), stopped.key_shards()
    with stopped.attempt() as attempt:
        attempt.publisher().open()
        attempt.sink().stage(block([stopped.result(2, "c.png")]))  # staged, its keys in the inbox, and never published
    for name in ("images/c.png.png", "sidecars/c.png.keyanon", "images/.d.png.0123456789abcdef.tmp"):
        (stopped.out / name).write_bytes(b"left")
    everything = stopped.files()
    found = look(stopped)
    assert found.counts() == {STAGED: 4, "picture": 1, "sidecar": 1, KEYS: 1} and not found.removed
    assert stopped.files() == everything, "looking changes nothing"
    assert look(stopped, remove=True).orphans == found.orphans
    assert stopped.files() == before and stopped.key_shards() == keys
    stopped.check_visible()
    assert look(stopped).orphans == ()


def test_a_key_shard_that_was_taken_in_is_no_longer_needed(stopped: Place) -> None:
    inbox = stopped.keystore.inbox(stopped.run_id)
    (shard,) = inbox.iterdir()
    copy = shard.read_bytes()
    stopped.keystore.ingest(stopped.run_id)
    shard.write_bytes(copy)  # as if the process had died between the two
    assert look(stopped).counts() == {TAKEN_IN: 1}
    assert look(stopped, remove=True).counts() == {TAKEN_IN: 1}
    assert stopped.key_shards() == set()
    stopped.check_visible()


def test_keys_of_visible_rows_that_were_not_taken_in_stay(stopped: Place) -> None:
    write_shard(stopped.keystore.inbox(stopped.run_id), "000000007-orphan", [])
    keys = stopped.key_shards() - {"000000007-orphan"}
    assert look(stopped, remove=True).counts() == {KEYS: 1}
    assert stopped.key_shards() == keys
    stopped.check_visible()


def test_refused_while_a_run_goes_on(stopped: Place) -> None:
    with stopped.attempt() as attempt:
        attempt.publisher().open()
        attempt.sink().stage(block([stopped.result(2, "c.png")]))
        files = stopped.files()
        for remove in (False, True):
            with pytest.raises(LeaseError):
                look(stopped, remove=remove)
        assert stopped.files() == files


def test_where_a_row_shard_can_not_be_read_nothing_is_removed(stopped: Place) -> None:
    (stopped.out / "images/left.png").write_bytes(b"left")
    (shard,) = (stopped.out / "rows").iterdir()
    content = shard.read_bytes()
    shard.write_bytes(content[:-9])
    files, keys = stopped.files(), stopped.key_shards()
    with pytest.raises(OutputError, match="damaged"):
        look(stopped, remove=True)
    assert (stopped.files(), stopped.key_shards()) == (files, keys)


def test_what_is_no_run_and_what_is_another_keystore_is_refused(stopped: Place, tmp_path: Path) -> None:
    (tmp_path / "foreign/images").mkdir(parents=True)
    (tmp_path / "foreign/images/mine.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not the output"):
        reconcile(LocalStore(tmp_path / "foreign"), None, remove=True)
    assert (tmp_path / "foreign/images/mine.png").exists()
    with Keystore.create(tmp_path / "other") as other, pytest.raises(ConfigError, match="not the run's keystore"):
        reconcile(LocalStore(stopped.out), other, remove=True)


@pytest.mark.slow
def test_killed_anywhere_an_attempt_leaves_nothing_that_is_not_swept(place: Place, tmp_path: Path) -> None:
    """An attempt is killed before each of its operations; then reconcile is, before each of its own; then it runs."""
    for step in range(0, MOST_OPERATIONS, 3):
        one = Place(tmp_path / str(step), place.keystore)
        one.out.mkdir(parents=True)
        begun(one, LocalStore(one.out))
        with one.attempt() as attempt, before_operation(step) as died:
            publisher = attempt.publisher()
            publisher.open()
            attempt.sink().stage(block([one.result(0, "a.png"), quarantined(1, "b.png")]))
            publisher.publish_complete()
        visible = {row["output"] for row in one.rows()} - {None}
        with before_operation(step % 7):
            look(one, remove=True)
        look(one, remove=True)
        assert look(one).orphans == ()
        pictures = {f"images/{path.name}" for path in one.out.glob("images/*")}
        assert pictures == visible and one.key_shards() == {row["shard"] for row in one.rows()}
        one.check_visible()
        if not died():
            assert step > 8
            return
    raise AssertionError("the attempt did not end")


@pytest.mark.slow
def test_in_a_bucket_shards_of_no_segment_are_orphans(s3: Seaweed, place: Place) -> None:
    store = open_store(f"s3://{BUCKET}/reconcile")
    begun(place, store)
    with lease_of(store):
        pass
    for name in (
        "rows/000000000-0123456789abcdef-0123456789ab.parquet",
        "images/left.png",
        "_keyanon/attempts/x/y.picture",
    ):
        store.create(name, b"left")
    found = reconcile(store, None, remove=False)
    assert found.counts() == {SHARD: 1, "picture": 1, STAGED: 1}
    assert reconcile(store, None, remove=True).counts() == found.counts()
    assert reconcile(store, None, remove=False).orphans == ()
    assert Segments.read(store).visible == set()
    with lease_of(store), pytest.raises(LeaseError):
        reconcile(store, None, remove=True)


def test_a_copy_without_its_lease_is_swept_as_well(stopped: Place, tmp_path: Path) -> None:
    shutil.copytree(stopped.out, tmp_path / "copy")
    (tmp_path / "copy/_keyanon/lease").unlink()
    (tmp_path / "copy/images/left.png").write_bytes(b"left")
    done = reconcile(LocalStore(tmp_path / "copy"), None, remove=True)
    assert done.counts() == {"picture": 1}
