"""A process of its own has the keystore open, and ends with whoever started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keystore.errors import InvalidRecordError, KekError, StorageError, TamperedError, WrongKekError
from keystore.intake.report import ShardsNotTakenIn
from keystore.keeper import Keeper, KeeperDiedError, KeeperProcess
from keystore.kek.provider import create_kek

RUN = "run-1"  # of the helpers' records


def test_it_takes_in_what_it_is_told_and_knows_what_is_missing(keystore, make) -> None:
    records = [make.record(name) for name in ("a.png", "b.png")]
    with Keeper(keystore.path) as keeper:
        assert (keeper.key.keystore_id, keeper.key.public_key) == (keystore.id, keystore.ingest_public_key)
        keeper.begin(make.RUN, "photos")
        for name, record in zip(("part-1", "part-2"), records, strict=True):
            make.deposit(keystore, [record], name)
        keeper.take_in_soon(make.RUN, ["part-1"])
        assert keeper.missing([one.record_id for one in records]) == {records[1].record_id}
        assert keeper.reconcile(make.RUN, []) == ["part-2"]
        assert keeper.ingest(make.RUN).shards == []


def test_a_look_opens_database_and_kek_and_writes_nothing(keystore, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in keystore.path.rglob("*")}
    assert Keeper.look(keystore.path) == keystore.id
    with pytest.raises(StorageError, match="is not a keystore"):
        Keeper.look(tmp_path / "none")
    create_kek(f"file:{tmp_path}/other.key")
    with pytest.raises(WrongKekError):
        Keeper.look(keystore.path, f"file:{tmp_path}/other.key")
    (keystore.path / "kek.key").rename(tmp_path / "kek.key")
    with pytest.raises(KekError):
        Keeper.look(keystore.path)
    (tmp_path / "kek.key").rename(keystore.path / "kek.key")
    after = {path: path.stat().st_mtime_ns for path in keystore.path.rglob("*")}
    assert {name: time for name, time in after.items() if "-shm" not in name.name} == {
        name: time for name, time in before.items() if "-shm" not in name.name
    }


def test_errors_come_over_as_what_they_are(keystore, make, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a keystore"):
        Keeper(tmp_path / "none")
    create_kek(f"file:{tmp_path}/other.key")
    with pytest.raises(WrongKekError):
        Keeper(keystore.path, f"file:{tmp_path}/other.key")
    with Keeper(keystore.path) as keeper:
        with pytest.raises(InvalidRecordError):
            keeper.begin("..", "photos")
        keeper.begin(make.RUN, "photos")
        make.deposit(keystore, [make.record("a.png")], "part-1").write_bytes(b"damaged")
        keeper.take_in_soon(make.RUN, ["part-1"])  # says nothing
        with pytest.raises(ShardsNotTakenIn, match="part-1"):
            keeper.ingest(make.RUN)
        assert issubclass(ShardsNotTakenIn, TamperedError)


def test_a_process_that_was_started_before_opens_it_and_one_that_nobody_told_ends_too(keystore) -> None:
    with KeeperProcess() as process, Keeper(keystore.path, process=process) as keeper:
        assert (keeper.pid, keeper.key.keystore_id) == (process.started.pid, keystore.id)
    with KeeperProcess() as untold:
        pass
    assert (process.started.returncode, untold.started.returncode) == (0, -signal.SIGKILL)


def test_one_that_was_killed_is_an_error_of_its_own(keystore) -> None:
    with Keeper(keystore.path) as keeper:
        keeper._process.kill()
        keeper._process.wait()
        for call in (lambda: keeper.missing([]), lambda: keeper.take_in_soon("run-1", [])):
            with pytest.raises(KeeperDiedError):
                call()


def test_it_ends_with_a_killed_process_that_started_it(keystore) -> None:
    program = f"""
import os, signal
from pathlib import Path
from keystore.keeper import Keeper
keeper = Keeper(Path({str(keystore.path)!r}))
print(keeper.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    status = Path("/proc") / ended.stdout.strip() / "stat"
    deadline = time.monotonic() + 30
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.05)


def test_a_process_that_stands_still_does_not_hold_up_who_publishes(
    keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystore.keeper.PATIENCE_SECONDS", 0.2)
    with Keeper(keystore.path) as keeper:
        keeper.begin(make.RUN, "photos")
        os.kill(keeper.pid, signal.SIGSTOP)
        with pytest.raises(KeeperDiedError, match=r"took no request for 0\.2 s"):
            for number in range(100_000):
                keeper.take_in_soon(make.RUN, [f"{number:09d}-0123456789abcdef-0123456789ab"])
        with pytest.raises(KeeperDiedError, match="has ended"):
            keeper.ingest(make.RUN)
