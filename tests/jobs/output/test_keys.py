"""Where the keys of a run go: at a door, where somebody else takes them in, and to a keystore that another process has open."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import CommitError, KeysWaitingError, MachineError, PublishError
from jobs.output.doors import DoorName
from jobs.output.keys import OutsideKeystore, OwnKeystore
from keystore.auditor import Auditor
from keystore.door import IngestDoor
from keystore.embedded import Keystore
from keystore.errors import StorageError, TamperedError
from keystore.ingest_opening import IngestOpening
from keystore.intake.folder import FolderInbox
from keystore.intake.ingest_key import IngestKey
from keystore.intake.shards import read_shard, write_shard
from tests.jobs.publishing import Attempt, Place, block, quarantined


@pytest.fixture
def outside(place: Place, tmp_path: Path) -> Place:
    """The output of a run that knows a public key and a folder."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "key").write_text(Auditor(place.keystore.path).ingest_key().text())
    place.keys = DoorName(tmp_path / "key", tmp_path / "inbox", None, None, "d", patience=0.0).open()
    return place


@pytest.fixture
def taker(outside: Place, tmp_path: Path) -> Iterator[IngestOpening]:
    """The keystore's own process."""
    with IngestOpening.open(outside.keystore.path, receipts=True, inbox=tmp_path / "inbox") as opened:
        opened.inbox(outside.run_id, "d")
        yield opened


def publish(attempt: Attempt, *names: str) -> list[str]:
    """One block for each picture; the base names of their shards."""
    place, publisher = attempt.place, attempt.publisher()
    publisher.open()
    shards = [attempt.sink().stage(block([place.result(row, name)])) for row, name in enumerate(names)]
    publisher.publish_complete()
    return shards


def test_a_run_is_complete_when_every_row_has_a_receipt(outside: Place, taker: IngestOpening, tmp_path: Path) -> None:
    with outside.attempt() as attempt:
        first, _ = publish(attempt, "x.jpg", "y.jpg")
        attempt.sink().stage(block([outside.result(5, "an orphan.jpg")]))
        with pytest.raises(KeysWaitingError, match="keys of 2 rows wait"):
            attempt.complete(2)
        assert sum(1 for _ in (tmp_path / "inbox" / outside.run_id).iterdir()) == 2, "the orphan is gone"
        taker.ingest(outside.run_id, [first])
        with pytest.raises(KeysWaitingError, match="keys of 1 rows wait"):
            attempt.complete(2)
    taker.ingest(outside.run_id)
    with outside.attempt() as attempt:
        attempt.publisher().open()
        assert attempt.complete(2).keyed.total() == 2
    assert len(outside.keystore.find_records(run_id=outside.run_id)) == 2


def test_a_run_without_keys_waits_for_nobody(outside: Place) -> None:
    with outside.attempt() as attempt:
        attempt.run([[quarantined(0, "x.jpg")]], 1)


def test_an_erased_picture_is_no_missing_key(outside: Place, taker: IngestOpening) -> None:
    with outside.attempt() as attempt:
        publish(attempt, "erased early.jpg")
        outside.keystore.erase("d", "olga", image_id="erased early.jpg")
        taker.ingest(outside.run_id)
        attempt.complete(1)


def test_rows_stay_keyed_when_a_retry_puts_them_into_another_shard(outside: Place, taker: IngestOpening) -> None:
    with outside.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([outside.result(0, "x.jpg"), quarantined(1, "y.jpg")]))
        publisher.publish_complete()
        taker.ingest(outside.run_id)
        attempt.complete(2)
    with outside.attempt(retry=1) as attempt:
        publisher = attempt.publisher(done={0})
        publisher.open()
        attempt.sink().stage(block([outside.result(1, "y.jpg")]))
        publisher.publish_complete()
        taker.ingest(outside.run_id)
        attempt.complete(2)
    with outside.attempt() as attempt:
        attempt.publisher().open()
        attempt.complete(2)
    assert len(outside.rows()) == 2


def test_a_shard_that_somebody_exchanged_is_told_from_the_one_handed_in(
    outside: Place, taker: IngestOpening, tmp_path: Path
) -> None:
    """The public key is public: whoever writes into the inbox can seal other keys under the same record ids."""
    with outside.attempt() as attempt:
        (name,) = publish(attempt, "x.jpg")
        inbox = tmp_path / "inbox" / outside.run_id
        (sealed,) = read_shard(inbox / f"{name}.keys")
        (inbox / f"{name}.keys").unlink()
        write_shard(inbox, name, [sealed, sealed])
        taker.ingest(outside.run_id)
        with pytest.raises(TamperedError, match="other bytes than this run handed in"):
            attempt.complete(1)


def test_a_lost_shard_a_rejected_record_and_a_forged_receipt_are_errors(
    outside: Place, taker: IngestOpening, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox" / outside.run_id
    with outside.attempt() as attempt:
        (name,) = publish(attempt, "x.jpg")
        shard = (inbox / f"{name}.keys").read_bytes()
        (inbox / f"{name}.keys").unlink()
        with pytest.raises(CommitError, match="neither in the inbox"):
            attempt.complete(1)
        (inbox / f"{name}.keys").write_bytes(shard)
        (inbox / f"{name}.receipt").write_text("{}")
        with pytest.raises(TamperedError, match="is not one that the keystore signed"):
            attempt.complete(1)
        (inbox / f"{name}.receipt").unlink()
    with (
        Keystore.create(tmp_path / "other") as other,
        IngestOpening.open(other.path, receipts=True, inbox=inbox.parent) as wrong,
    ):
        wrong.inbox(outside.run_id)
        assert wrong.ingest(outside.run_id).rejected
    with outside.attempt() as attempt, pytest.raises(TamperedError):
        attempt.complete(1)
    (inbox / f"{name}.receipt").unlink()
    taker.ingest(outside.run_id)
    with outside.attempt() as attempt:
        attempt.publisher().open()
        attempt.complete(1)


def test_a_record_that_was_rejected_is_an_error_that_says_why(outside: Place, tmp_path: Path) -> None:
    with outside.attempt() as attempt:
        publish(attempt, "x.jpg")
        with IngestOpening.open(outside.keystore.path, receipts=True, inbox=tmp_path / "inbox") as opened:
            opened.inbox(outside.run_id, "another")
            opened.ingest(outside.run_id)
        with pytest.raises(CommitError, match=r"1 published pictures have no key .* it names data set 'd'"):
            attempt.complete(1)


def test_nothing_is_published_where_the_inbox_is_gone(outside: Place, tmp_path: Path) -> None:
    with outside.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        (tmp_path / "inbox").rmdir()
        (tmp_path / "inbox").write_text("a file")
        with pytest.raises(PublishError, match="no picture of this block was published"):
            attempt.sink().stage(block([outside.result(0, "x.jpg")]))
        publisher.publish_complete()
    assert outside.visible() == set()
    with pytest.raises(StorageError, match="is no directory"):
        DoorName(tmp_path / "key", tmp_path / "inbox", None, None, "d", 0.0).open()


@pytest.mark.parametrize("content", ["", "AAAA\n", "AAAA\nkeyanon.keystore/x+00000000+AA==\n", "ü", "a b c"])
def test_what_is_no_ingest_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(TamperedError, match="is no ingest key"):
        IngestKey.read(tmp_path / "key")
    with pytest.raises(StorageError):
        IngestKey.read(tmp_path / "none")


def test_a_run_directory_has_the_permissions_of_the_inbox(outside: Place, tmp_path: Path) -> None:
    (tmp_path / "inbox").chmod(0o2770)
    assert isinstance(outside.keys, OutsideKeystore)
    IngestDoor(outside.keys.key, FolderInbox(tmp_path / "inbox")).waiting("run-of-a-group")
    assert (tmp_path / "inbox" / "run-of-a-group").stat().st_mode & 0o7777 == 0o2770


_opened: list[str] = []
_recording = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _recording and event in ("open", "sqlite3.connect"):
        _opened.append(f"{event} {arguments[0]}")


def test_the_process_of_a_run_opens_neither_kek_nor_database(place: Place, tmp_path: Path) -> None:
    global _recording
    sys.addaudithook(_hook)
    _recording = True
    try:
        with OwnKeystore.kept(tmp_path / "keystore", None, create=True) as place.keys, place.attempt() as attempt:
            publish(attempt, "x.jpg")
            assert attempt.complete(1).keyed.total() == 1
    finally:
        _recording = False
    assert not [one for one in _opened if "kek.key" in one or "sqlite3" in one or "keystore.db" in one]
    with Keystore.open(tmp_path / "keystore") as opened:
        assert [view.image_id for view in opened.find_records()] == ["x.jpg"]


def test_a_keystores_process_that_dies_ends_the_attempt_and_the_next_one_goes_on(place: Place, tmp_path: Path) -> None:
    with OwnKeystore.kept(tmp_path / "keystore", None, create=True) as place.keys, place.attempt() as attempt:
        publish(attempt, "x.jpg")
        os.kill(place.keys._keystore.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(MachineError, match="run the same command again"):
            attempt.complete(1)
    with OwnKeystore.kept(tmp_path / "keystore", None, create=False) as place.keys, place.attempt() as attempt:
        attempt.publisher().open()
        attempt.complete(1)
