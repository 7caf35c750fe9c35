"""Who may add to what: registered runs, one data set each; whatever lies in the inbox, ingest neither hangs nor follows it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from sqlalchemy import text

from keystore.embedded import Keystore
from keystore.errors import InvalidRecordError, StorageError, TamperedError
from keystore.intake.runs import register, run_digest
from keystore.intake.sealing import seal_record
from keystore.intake.shards import write_shard
from keystore.verification.verify import verify_audit


def by_hand(keystore: Keystore, records, run_id: str, name: str = "part-1") -> Path:
    """What somebody does who can write into the inbox and has the public key, and nothing else."""
    sealed = [seal_record(one, keystore.ingest_public_key) for one in records]
    return write_shard(keystore.path / "inbox" / run_id, name, sealed)


def test_a_run_that_nobody_opened_an_inbox_for_adds_nothing(keystore, make) -> None:
    path = by_hand(keystore, [make.record("evil.png", run_id="run-9")], "run-9")
    with pytest.raises(TamperedError, match="never opened one for"):
        keystore.ingest("run-9")
    assert path.exists()
    assert json.loads(keystore.audit_entries()[-1])["type"] == "refused"
    assert len(keystore.find_records()) == 3


def test_a_run_adds_to_its_own_data_set_only(keystore, make) -> None:
    keystore.inbox("run-2", "photos")
    stranger = make.record("evil.png", run_id="run-2", dataset="another team's")
    by_hand(keystore, [make.record("d.png", run_id="run-2"), stranger], "run-2")
    report = keystore.ingest("run-2")
    assert report.ingested == 1
    assert [one.reason for one in report.rejected] == [
        "it names data set \"another team's\", and run 'run-2' adds to another one"
    ]
    assert verify_audit(keystore.path).ok


def test_a_run_whose_data_set_was_not_said_keeps_that_of_its_first_record(keystore, make) -> None:
    make.deposit(keystore, [make.record("d.png", run_id="run-2")], run_id="run-2")
    assert keystore.ingest("run-2").ingested == 1
    make.deposit(keystore, [make.record("e.png", run_id="run-2", dataset="other")], "part-2", run_id="run-2")
    assert len(keystore.ingest("run-2").rejected) == 1
    with pytest.raises(InvalidRecordError, match="adds to another data set"):
        keystore.inbox("run-2", "other")
    assert keystore.inbox("run-2", "photos") == keystore.inbox("run-2")
    kinds = [json.loads(leaf) for leaf in keystore.audit_entries()]
    assert sum(leaf["type"] == "run" and leaf["run"] == "run-2" for leaf in kinds) == 2
    assert b"photos" not in b"".join(keystore.audit_entries())


def test_a_run_that_another_process_registered_first_is_on_record_once(keystore) -> None:
    before = keystore.audit_entries()
    with keystore._ledger.transaction("test", None, None) as (connection, log):
        for dataset in ("photos", None):
            register(connection, log, "run-1", dataset)
        with pytest.raises(InvalidRecordError, match="adds to another data set"):
            register(connection, log, "run-1", "other")
    assert keystore.audit_entries() == before


def test_one_shard_can_not_mix_data_sets(keystore, make) -> None:
    records = [make.record("d.png", run_id="run-2"), make.record("e.png", run_id="run-2", dataset="other")]
    make.deposit(keystore, records, run_id="run-2")
    report = keystore.ingest("run-2")
    assert (report.ingested, len(report.rejected)) == (1, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET dataset = 'other'",
        "DELETE FROM runs",
        "INSERT INTO runs SELECT 'run-9', dataset, salt, registered_at FROM runs",
        "UPDATE records SET dataset = 'other' WHERE image_id = 'a.png'",
    ],
)
def test_an_edited_run_is_found(keystore, statement: str) -> None:
    with keystore._database.write() as connection:
        connection.execute(text(statement))
    assert any("run" in problem for problem in verify_audit(keystore.path).problems)


def test_records_of_another_data_set_than_their_runs_are_found_even_when_the_log_was_made_to_fit(keystore) -> None:
    with keystore._ledger.transaction("test", None, None) as (connection, log):
        connection.execute(text("UPDATE runs SET dataset = 'other'"))
        salt = connection.execute(text("SELECT salt FROM runs")).scalar_one()
        log.append("run", digest=run_digest("run-1", "other", salt), run="run-1")
    assert verify_audit(keystore.path).problems == [
        "records of data set 'photos' are held of run run-1, which adds to another one"
    ]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(b"KASHARD1")
    path.symlink_to(path.parent.parent / "elsewhere")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def make_endless_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "put", [make_pipe, make_link, make_dangling_link, make_endless_link, make_directory, make_socket]
)
def test_what_is_no_plain_file_neither_hangs_ingest_nor_stops_the_other_shards(keystore, make, put) -> None:
    inbox = keystore.inbox(make.RUN)
    put(inbox / "part-1.keys")
    make.deposit(keystore, [make.record("d.png")], "part-2")
    with pytest.raises(TamperedError, match=r"part-1\.keys is a link, a pipe or a directory") as caught:
        keystore.ingest(make.RUN)
    assert caught.value.report.ingested == 1
    assert [path.name for path in inbox.iterdir()] == ["part-1.keys"]


def test_an_inbox_that_a_file_is_in_the_way_of_is_refused(keystore) -> None:
    (keystore.path / "inbox" / "run-7").write_text("")
    with pytest.raises(StorageError, match="can not be created"):
        keystore.inbox("run-7")


def test_an_inbox_that_is_a_link_is_refused(keystore, tmp_path: Path) -> None:
    (keystore.path / "inbox" / "run-7").symlink_to(tmp_path)
    with pytest.raises(InvalidRecordError, match="symbolic link"):
        keystore.inbox("run-7")
