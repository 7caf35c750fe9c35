"""Outputs, inboxes and keystores on a disk of their own that is really full: a scheduler may run the same command again."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.blocks import RECORD_ID, SEALED
from jobs.errors import MachineError
from jobs.exit_codes import ExitCode, exit_code_of
from jobs.output.keys import KeyInbox, OwnKeystore
from jobs.output.reader import read_rows
from jobs.run.anonymize import run_anonymize
from keystore.door import IngestDoor
from keystore.embedded import Keystore
from keystore.intake.folder import FolderInbox
from tests.jobs.conftest import MakeConfig
from tests.jobs.publishing import Place, block
from tests.jobs.run.stand_in import Stopped, Workers

DISK = "size=1m,nr_inodes=256"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk can not be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """The disk has room neither for a byte nor for a name."""
    filling = disk / "filling"
    filling.mkdir()
    with pytest.raises(OSError) as bytes_left, (filling / "bytes").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError) as names_left:
        for number in range(1000):
            (filling / str(number)).touch()
    assert bytes_left.value.errno == names_left.value.errno == errno.ENOSPC
    try:
        yield
    finally:
        for path in filling.iterdir():
            path.unlink()
        filling.rmdir()


def test_a_run_that_met_a_full_disk_may_be_tried_again(
    make_config: MakeConfig, workers: Workers, tmp_path: Path, disk: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    config = make_config(keys="discard", keystore=None, fidelity=None, steps=None, output=disk / "out")
    workers.stops_after = 1
    with pytest.raises(Stopped):
        run_anonymize(config)
    with (
        full(disk),
        pytest.raises(MachineError, match=r"No space left on device.* run the same command again") as raised,
    ):
        run_anonymize(config)
    assert exit_code_of(raised.value) is ExitCode.TRY_AGAIN
    workers.stops_after = 2
    assert (run_anonymize(config).rows, len(list(read_rows(disk / "out")))) == (2, 2)


def test_what_is_staged_and_published_meets_a_full_disk(disk: Path, shared_keystore: Keystore) -> None:
    place = Place(disk, shared_keystore)
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "x.jpg")]))
        with full(disk):
            with pytest.raises(MachineError, match="No space left on device"):
                publisher.publish_complete()
            with pytest.raises(MachineError, match="No space left on device"):
                attempt.sink().stage(block([place.result(1, "y.jpg")]))
        assert place.rows() == []
        publisher.publish_complete()
        attempt.sink().stage(block([place.result(1, "y.jpg")]))
        publisher.publish_complete()
        attempt.complete(2)
    place.check_complete(2)


def test_a_full_disk_of_the_inbox_is_no_fault_of_the_run(tmp_path: Path, disk: Path, shared_keystore: Keystore) -> None:
    place = Place(tmp_path, shared_keystore)
    inbox = FolderInbox(disk)
    inbox.directory(place.run_id)
    with place.attempt() as attempt:
        attempt.publisher().open()
        sink = attempt.sink()
        sink.inbox = KeyInbox(IngestDoor(place.keys.key, inbox), place.run_id)
        with full(disk), pytest.raises(MachineError, match="no picture of this block was published"):
            sink.stage(block([place.result(0, "x.jpg")]))


def test_a_full_disk_of_the_keystore_is_no_fault_of_the_run(
    tmp_path: Path, disk: Path, shared_keystore: Keystore
) -> None:
    path, place = disk / "keystore", Place(tmp_path, shared_keystore)
    again = pytest.raises(MachineError, match=r"(full|No space left on device).* run the same command again")
    with full(disk), again, OwnKeystore.kept(path, None, create=True):
        pass
    with OwnKeystore.kept(path, None, create=True) as place.keys:
        inbox, result = place.keys.begin(place.run_id, "d"), place.result(0, "x.jpg")
        shard = inbox.hand_in("part-1", [result[SEALED]])
        with full(disk):
            with again:
                place.keys.begin("another-run", "d")
            with again:
                place.keys.take_in(place.run_id, {shard: 1})
        assert place.keys.take_in(place.run_id, {shard: 1}) == []
        assert place.keys.missing(place.run_id, [(shard, [result[RECORD_ID]])]) == set()
    with full(disk), again, OwnKeystore.kept(path, None, create=False):
        pass
