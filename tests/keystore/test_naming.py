"""A run's actors get their subjects' pseudonyms from the keeper's process, through a socket that only this account reaches."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import stat
from collections.abc import Collection
from pathlib import Path

import pytest

from keystore.errors import InvalidRecordError, PassingError, StorageError
from keystore.keeper import Keeper
from keystore.naming import NamingServer, PseudonymDoor
from keystore.vault.pseudonym_limits import MAX_SUBJECTS
from keystore.vault.pseudonyms import PseudonymSecret
from keystore.verification.verify import verify_audit


def test_who_holds_the_address_gets_secrets_beside_an_ingest_and_its_pickle_holds_none(keystore, make) -> None:
    # Before the keeper begins: the clock of `keystore` stands still, and the keeper's does not.
    make.deposit(keystore, [make.record("p.png", subject="Jane")], "part-9")
    with Keeper(keystore.path) as keeper:
        keeper.begin(make.RUN, "photos")
        address = keeper.naming()
        assert keeper.naming() == address
        door = PseudonymDoor(address, "photos")
        first = door.secrets(["Jane", "John", "Jane"])
        assert {subject: (len(secret), number) for subject, (secret, number) in first.items()} == {
            "Jane": (32, None),
            "John": (32, None),
        }
        keeper.take_in_soon(make.RUN, ["part-9"])
        again: PseudonymDoor = pickle.loads(pickle.dumps(door))
        assert again.settle("Jane", 4) == 4
        assert door.settle("Jane", 5) == 4
        assert again.secrets(["Jane"]) == {"Jane": (first["Jane"][0], 4)}
        assert first["Jane"][0] not in pickle.dumps(door)
        assert PseudonymDoor(address, "other").secrets(["Jane"]) != door.secrets(["Jane"])
        with pytest.raises(InvalidRecordError, match="has no pseudonym"):
            door.settle("nobody", 1)
        assert keeper.ingest(make.RUN).failed_shards == {}
        place = Path(address)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert not place.parent.exists()
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_a_keeper_that_ended_is_a_fault_that_may_pass(keystore) -> None:
    with Keeper(keystore.path) as keeper:
        door = PseudonymDoor(keeper.naming(), "photos")
        os.kill(keeper.pid, signal.SIGKILL)
        keeper._process.wait()
        with pytest.raises(PassingError, match="does not answer for pseudonyms"):
            door.secrets(["Jane"])


def test_a_run_without_pseudonyms_opens_no_socket(keystore) -> None:
    with Keeper(keystore.path) as keeper:
        keeper.begin("run-2", "photos")
        opened = [str(one.readlink()) for one in Path(f"/proc/{keeper.pid}/fd").iterdir()]
    assert not [one for one in opened if one.startswith("socket:")]


def test_where_no_socket_can_be_made_the_directory_is_named(
    keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with Keeper(keystore.path) as keeper, pytest.raises(StorageError, match="let TMPDIR name a short path"):
        keeper.naming()
    assert list(long.iterdir()) == []


def test_another_accounts_process_is_told_nothing(keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keeper(keystore.path) as keeper:
        door = PseudonymDoor(keeper.naming(), "photos")
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(PassingError, match="another account"):
            door.secrets(["Jane"])


def test_nonsense_ends_its_own_connection_alone(keystore) -> None:
    with Keeper(keystore.path) as keeper:
        door = PseudonymDoor(keeper.naming(), "photos")
        for line in (b"\n", b"{}\n", b'{"call": "drop", "dataset": "photos"}\n', b"\xff\n", b"x" * 70_000):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(door.address)
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1000) == b""
        assert len(door.secrets(["Jane"])) == 1


class _Told:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def secrets(self, dataset: str, subjects: Collection[str]) -> dict[str, PseudonymSecret]:
        self.asked.append(list(subjects))
        return {subject: PseudonymSecret(bytes(32)) for subject in subjects}

    def settle(self, dataset: str, subject: str, number: int) -> int:
        return number


def test_a_server_answers_no_process_of_another_account(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _Told()
    with NamingServer(told) as server, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        connection.connect(server.address)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # closed with what it was sent unread
            connection.sendall(b'{"call": "secrets", "dataset": "photos", "subjects": ["Jane"]}\n')
            assert connection.recv(1000) == b""
    assert told.asked == []


def test_many_subjects_are_asked_for_in_calls_of_as_many_as_one_may_name() -> None:
    told = _Told()
    subjects = [f"{number:04d}" for number in range(2 * MAX_SUBJECTS + 1)]
    with NamingServer(told) as server:
        assert sorted(PseudonymDoor(server.address, "photos").secrets(subjects)) == subjects
    assert list(map(len, told.asked)) == [MAX_SUBJECTS, MAX_SUBJECTS, 1]
