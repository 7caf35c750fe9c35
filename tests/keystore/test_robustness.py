"""Bad days: killed processes, two at once, full disks, damaged files, missing directories. Real processes, real files."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import keystore as keystore_package
from keystore import opening
from keystore.decisions.lifecycle import State
from keystore.embedded import Keystore
from keystore.errors import GrantError, KekError, KeystoreError, SchemaError, StorageError, TamperedError, WrongKekError
from keystore.kek.provider import create_kek
from keystore.recipient import Expected, Recipient
from keystore.storage import schema
from keystore.storage.sqlite import SqliteDatabase
from keystore.verification.verify import verify_audit
from tests.keystore.killing import contents, copy_files, in_a_process, killed_at_each_step
from tests.keystore.postgres import ON_BOTH, copy_keystore

REPOSITORY = Path(keystore_package.__file__).parent.parent


def run_python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


BUSY = """
import sys
from datetime import timedelta
from keystore.embedded import Keystore
from keystore.recipient import Recipient
with Keystore.open(sys.argv[1]) as keystore:
    while True:
        request = keystore.request("Alice", ["a.png"], "C-1", "identify a missing person", "court-order: 12", timedelta(hours=1))
        print("requested", request.request_id, flush=True)
        keystore.approve(request.request_id, "Bob", request.digest)
        keystore.approve(request.request_id, "Carol", request.digest)
        keystore.release(request.request_id, Recipient.generate().public_key, "Alice")
        print("released", request.request_id, flush=True)
"""


@ON_BOTH
def test_kill_9_at_any_point_leaves_a_consistent_keystore(keystore) -> None:
    keystore.close()
    for pause in (0.0, 0.07, 0.19):
        process = run_python(BUSY, keystore.path)
        seen = [process.stdout.readline()]
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        seen += process.communicate()[0].splitlines()
        assert seen[0].startswith("requested")
        with Keystore.open(keystore.path) as again:
            report = verify_audit(again.path)
            assert report.ok, report.problems
            for line in seen:
                if line.startswith("released"):
                    assert again.show(line.split()[1]).state is State.RELEASED, "what was reported done is done"


@ON_BOTH
def test_a_release_killed_at_any_step_is_on_record_or_was_not_made(keystore, make, tmp_path: Path, clock) -> None:
    """As in `service/test_killed.py`, without the server."""
    request_id, recipient, hour = make.approved(keystore, "a.png"), Recipient.generate(), timedelta(hours=1)
    keystore.close()
    seen = set()

    def release(opened: Keystore) -> bytes:
        return opened.release(request_id, recipient.public_key, "Alice", keep_reply=hour)

    for copy in killed_at_each_step(keystore.path, tmp_path, lambda path: Keystore.open(path, clock=clock), release):
        with Keystore.open(copy, clock=clock) as again:
            leaves = [json.loads(leaf)["type"] for leaf in again.audit_entries()]
            released = leaves.count("release")
            assert again.show(request_id).state is (State.RELEASED if released else State.APPROVED)
            assert recipient.open(release(again), Expected.of(again.show(request_id), again.audit_vkey))
            seen.add(released)
        report = verify_audit(copy)
        assert report.ok, report.problems
    assert seen == {0, 1}


def test_a_kill_leaves_of_files_what_lies_there(keystore, make, tmp_path: Path, clock) -> None:
    """What `killed_at_each_step` rests on: a copy made at a step is what a process that is killed there leaves."""
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    keystore.close()
    killed = 0
    for last in range(1, 200, 6):
        left, copied = copy_keystore(keystore.path, tmp_path / f"left-{last}"), tmp_path / f"copied-{last}"

        def kill_at_last(step: int, last: int = last, left: Path = left, copied: Path = copied) -> None:
            if step == last:
                copy_files(left, copied)
                os.kill(os.getpid(), signal.SIGKILL)

        if not in_a_process(
            left,
            kill_at_last,
            lambda path: Keystore.open(path, clock=clock),
            lambda opened: opened.release(request_id, recipient.public_key, "Alice"),
        ):
            break
        assert contents(copied) == contents(left)
        killed += 1
    assert killed > 2


def test_a_creation_killed_before_its_transaction_is_completed_later(tmp_path: Path) -> None:
    path = tmp_path / "ks"
    code = """
import os, signal, sys
from keystore import opening
opening.write_first_state = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from keystore.embedded import Keystore
Keystore.create(sys.argv[1])
"""
    process = run_python(code, path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StorageError, match="never completed"):
        Keystore.open(path)
    with Keystore.open_or_create(path) as keystore:
        assert verify_audit(keystore.path).ok


@ON_BOTH
def test_an_ingest_killed_between_commit_and_cleanup_is_finished_later(keystore, make) -> None:
    for number in range(3):
        make.deposit(keystore, [make.record(f"{number}.png")], f"part-{number}")
    keystore.close()
    code = """
import os, signal, sys
from keystore.intake.inbox import Inbox
Inbox.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from keystore.embedded import Keystore
Keystore.open(sys.argv[1]).ingest("run-1")
"""
    process = run_python(code, keystore.path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with Keystore.open(keystore.path) as again:
        report = again.ingest("run-1")
        assert (report.ingested, report.already_present) == (2, 1)
        assert len(again.find_records()) == 6
        assert verify_audit(again.path).ok


def test_processes_that_create_at_once_share_one_keystore(tmp_path: Path) -> None:
    code = """
import sys
from keystore.embedded import Keystore
with Keystore.open_or_create(sys.argv[1]) as keystore:
    print(keystore.id, len(keystore.warnings))
"""
    processes = [run_python(code, tmp_path / "ks") for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({stdout.split()[0] for stdout, _ in outputs}) == 1
    assert sum(int(stdout.split()[1]) for stdout, _ in outputs) == 1, "the KEK was created, and announced, once"
    assert verify_audit(tmp_path / "ks").ok


def _release(path: Path, request_id: str, start: object, results: object) -> None:
    with Keystore.open(path) as keystore:
        start.wait()
        try:
            keystore.release(request_id, Recipient.generate().public_key, "Alice")
            results.put("released")
        except GrantError as error:
            results.put(error.code)


def test_two_processes_that_release_one_grant_get_it_once(tmp_path: Path, template: Path, make) -> None:
    shutil.copytree(template, tmp_path / "ks")
    context = multiprocessing.get_context("spawn" if sys.platform != "linux" else "fork")
    with Keystore.open(tmp_path / "ks") as keystore:
        request_id = make.approved(keystore)
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_release, args=(tmp_path / "ks", request_id, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == ["released", "used", "used", "used"]
    assert verify_audit(tmp_path / "ks").ok


def test_the_wrong_kek_is_refused_before_anything_else(keystore, tmp_path: Path) -> None:
    keystore.close()
    other = f"file:{tmp_path}/other.key"
    create_kek(other)
    shutil.rmtree(keystore.path / "witness")  # would be refused too, but the KEK is asked first
    with sqlite3.connect(keystore.path / "keystore.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(WrongKekError, match="not the one this keystore is wrapped under"):
        Keystore.open(keystore.path, other)
    shutil.copy(tmp_path / "other.key", keystore.path / "kek.key")
    with pytest.raises(WrongKekError):
        Keystore.open(keystore.path)


def test_a_kek_kept_elsewhere_is_found_again(tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/safe/kek.key"
    with Keystore.create(tmp_path / "ks", uri) as keystore:
        assert str(tmp_path / "safe/kek.key") in keystore.warnings[0]
        assert "beside the data" not in keystore.warnings[0]
    assert not (tmp_path / "ks" / "kek.key").exists()
    with Keystore.open(tmp_path / "ks") as keystore:
        assert keystore.warnings == ()
    (tmp_path / "safe/kek.key").unlink()
    with pytest.raises(KekError, match="missing"):
        Keystore.open(tmp_path / "ks")
    with pytest.raises(KekError, match="missing"):
        Keystore.open_or_create(tmp_path / "ks")
    assert not (tmp_path / "safe/kek.key").exists(), "a new KEK is never made for an old keystore"


def test_the_first_use_warns_where_the_kek_lives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Keystore.open_or_create(tmp_path / "ks") as keystore:
        assert str(tmp_path / "ks" / "kek.key") in keystore.warnings[0]
        assert "beside the data" in keystore.warnings[0]
    assert keystore.warnings[0] in caplog.text
    key = (tmp_path / "ks" / "kek.key").read_text().split()[1]
    assert key not in caplog.text


def test_a_moved_directory_opens(keystore, tmp_path: Path) -> None:
    keystore.close()
    shutil.move(keystore.path, tmp_path / "moved #1?")
    with Keystore.open(tmp_path / "moved #1?") as moved:
        assert len(moved.find_records()) == 3
    assert verify_audit(tmp_path / "moved #1?").ok


def test_an_existing_keystore_is_not_created_again(keystore) -> None:
    with pytest.raises(StorageError, match="already"):
        Keystore.create(keystore.path)


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_directory_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="not a keystore"):
        Keystore.open(tmp_path / place)
    with pytest.raises(StorageError, match="can not be used"):
        Keystore.create(tmp_path / "file" / "ks")
    assert not (tmp_path / "missing").exists(), "opening creates nothing"


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "empty"])
def test_a_damaged_database_is_an_error_with_a_remedy(keystore, damage: str) -> None:
    keystore.close()
    database = keystore.path / "keystore.db"
    data = database.read_bytes()
    middle = bytearray(data)
    middle[4096 : len(data) - 4096] = b"\xa5" * (len(data) - 8192)
    damaged = {"garbage": b"garbage " * 4000, "header": b"X" * 16 + data[16:], "middle": bytes(middle), "empty": b""}
    database.write_bytes(damaged[damage])
    with pytest.raises(KeystoreError) as refused:
        Keystore.open(keystore.path)
    assert "restore" in str(refused.value) or "create" in str(refused.value)
    try:
        assert not verify_audit(keystore.path).ok
    except StorageError as error:
        assert "restore" in str(error) or "create" in str(error)


def test_a_newer_schema_is_refused(keystore) -> None:
    keystore.close()
    with sqlite3.connect(keystore.path / "keystore.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match=r"9999.*upgrade keyanon"):
        Keystore.open(keystore.path)


def test_the_migrations_build_exactly_the_tables_of_the_schema(keystore) -> None:
    with keystore._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_a_full_disk_is_an_error_with_a_remedy_and_changes_nothing(keystore, make) -> None:
    request_id = make.approved(keystore)
    with keystore._database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="free space"):
        for number in range(200):
            make.request(keystore, purpose=f"a long purpose {'x y z ' * 600} {number}")
    with keystore._database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert verify_audit(keystore.path).ok
    assert len(make.take(keystore, request_id)) == 1


FULL = """
import resource, sys
from keystore.errors import StorageError
from keystore.recipient import Recipient
from keystore.embedded import Keystore
with Keystore.open(sys.argv[1]) as keystore:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        keystore.release(sys.argv[2], Recipient.generate().public_key, "Alice")
    except StorageError as error:
        print(error)
"""


def test_a_disk_that_takes_no_byte_releases_nothing(tmp_path: Path, template: Path, make) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    shutil.copytree(template, tmp_path / "ks")
    with Keystore.open(tmp_path / "ks") as keystore:
        request_id = make.approved(keystore)
    stdout, stderr = run_python(FULL, tmp_path / "ks", request_id).communicate()
    assert "free space" in stdout, stderr
    with Keystore.open(tmp_path / "ks") as keystore:
        assert keystore.show(request_id).state is State.APPROVED
        assert len(make.take(keystore, request_id)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the account that may not write")
def test_a_read_only_directory_is_an_error_with_a_remedy(used_by_another: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(KeystoreError, match=r"permission|account"):
            Keystore.open(used_by_another)
        with pytest.raises(StorageError, match="permissions"):
            Keystore.create(used_by_another / "new")
        assert verify_audit(used_by_another).ok, "an auditor may read and need not write"
    finally:
        os.seteuid(0)


@pytest.fixture
def used_by_another(keystore) -> Path:
    keystore.close()
    path = keystore.path
    for directory in [path, *path.parents]:
        if directory != Path("/") and directory.stat().st_uid == 0 and directory != Path("/tmp"):
            directory.chmod(0o755)
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    (path / "kek.key").chmod(0o600)
    return path


def test_another_process_holding_the_database_is_an_error_with_a_remedy(
    keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = sqlite3.connect(keystore.path / "keystore.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with keystore._database.read() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with pytest.raises(StorageError, match="another process"):
        make.request(keystore)
    holder.execute("ROLLBACK")
    holder.close()
    make.request(keystore)


def test_exchanged_keys_in_the_database_are_refused(keystore, tmp_path: Path) -> None:
    keystore.close()
    database = keystore.path / "keystore.db"
    for statement in (
        "UPDATE secrets SET wrapped = (SELECT wrapped FROM secrets WHERE name = 'subject-index') WHERE name = 'audit-signing'",
        "UPDATE ingest_keys SET public_key = zeroblob(1216)",
        "UPDATE ingest_keys SET wrapped = 'text'",
        "DELETE FROM ingest_keys",
        "DELETE FROM secrets",
    ):
        data = database.read_bytes()
        with sqlite3.connect(database) as connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(TamperedError), Keystore.open(keystore.path) as again:
            assert again.intake.pending() == {}
        database.write_bytes(data)
    with Keystore.open(keystore.path) as again:
        assert again.intake.pending() == {}


def test_the_ingest_key_file_is_what_workers_need(keystore) -> None:
    assert opening.read_public_key(keystore.path / "ingest.pub") == keystore.ingest_public_key
    (keystore.path / "ingest.pub").write_text("not base64!")
    with pytest.raises(TamperedError):
        opening.read_public_key(keystore.path / "ingest.pub")
    with pytest.raises(StorageError):
        opening.read_public_key(keystore.path / "nowhere")


def test_no_secret_shows_in_a_repr(keystore) -> None:
    shown = repr(keystore) + repr(keystore._keys) + repr(keystore._vault) + repr(Recipient.generate())
    shown += repr(keystore.intake) + repr(keystore.intake._keys)
    for secret in (keystore._keys.index_key, keystore.intake._keys.ingest_keys[-1].secret_bytes()):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def test_views_are_json(keystore, make) -> None:
    make.request(keystore)
    for view in (*keystore.requests(), *keystore.find_records(), verify_audit(keystore.path)):
        assert json.loads(view.model_dump_json())


def test_a_database_opened_without_create_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can not be opened"):
        SqliteDatabase(tmp_path / "new.db").has_table("log")
    assert not (tmp_path / "new.db").exists()
