"""Where a run stands, by its lease and its rows; seen from another process than the one that holds it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.errors import LeaseError
from jobs.output import shared_lease
from jobs.output.lease import Lease, living_holder
from jobs.output.reader import OutputError
from jobs.output.shared_lease import SharedLease, holder_of
from jobs.output.status import Activity, status_of
from jobs.storage.local import LocalStore
from jobs.storage.opening import open_store
from tests.jobs.publishing import Place, block, quarantined
from tests.jobs.seaweed import BUCKET, Seaweed

HOLD = """
import sys, time
from pathlib import Path
from jobs.output.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held_elsewhere() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Lets another process hold the lease of a directory."""
    started: list[subprocess.Popen[str]] = []

    def hold(directory: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_run_is_running_until_its_process_ends_however_it_ends(
    place: Place, held_elsewhere: Callable[[Path], subprocess.Popen[str]]
) -> None:
    store = LocalStore(place.out)
    with pytest.raises(OutputError, match="not the output of a keyanon run"):
        status_of(store)
    process = held_elsewhere(place.out / "_keyanon")
    found = status_of(store)
    assert (found.activity, found.rows, found.total, found.manifest) == (Activity.RUNNING, 0, None, None)
    assert found.holder is not None and found.holder["pid"] == process.pid and found.since
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert living_holder(place.out / "_keyanon") is None, "its text is still there, and nobody holds it"
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "a.jpg"), quarantined(1, "b.jpg")]], 2)
        assert holder_of(store) is not None, "by this process itself"
    assert holder_of(store) is None
    assert not (place.out / "_keyanon/manifest.json").exists()
    with pytest.raises(OutputError):
        status_of(store)


def test_rows_are_counted_as_they_stand(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "a.jpg"), quarantined(1, "b.jpg")]))
        publisher.publish_complete()
        assert status_of(LocalStore(place.out)).statuses == {"anonymized": 1, "quarantined": 1}
    with place.attempt(retry=1) as attempt:  # done again, and not yet taken from the first shard
        publisher = attempt.publisher(done=set())
        publisher.open()
        attempt.sink().stage(block([place.result(1, "b.jpg")]))
        publisher.publish_complete()
        assert status_of(LocalStore(place.out)).statuses == {"anonymized": 2}


def test_looking_keeps_no_run_from_beginning(tmp_path: Path) -> None:
    with Lease(tmp_path):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            living_holder(tmp_path)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for at in range(20):
            time.sleep(0.005)  # in which they look
            with Lease(tmp_path):
                if at == 0:  # who is refused was patient for a second first
                    with pytest.raises(LeaseError):
                        Lease(tmp_path).__enter__()
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_directory_that_is_none_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not the output"):
        status_of(LocalStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_in_a_bucket_a_holder_lives_while_the_lease_changes(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_lease, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(shared_lease, "RENEWAL_SECONDS", 0.5)
    store = open_store(f"s3://{BUCKET}/status")
    assert holder_of(store) is None
    with SharedLease(store):
        found = status_of(store)
        assert (found.activity, found.holder) == (Activity.RUNNING, {"host": os.uname().nodename, "pid": os.getpid()})
        assert found.since
        stopped = store.read("_keyanon/lease")
    assert holder_of(store) is None, "given back"
    seen = store.see("_keyanon/lease")
    assert seen is not None
    store.replace("_keyanon/lease", stopped, seen.version)  # as a killed process leaves it
    assert json.loads(stopped)["pid"] == os.getpid()
    assert holder_of(store) is None
