"""What a requester writes, and the files that hold it, are for the people of the keystore only."""

from __future__ import annotations

import json
import logging
import os
import stat
import traceback
from pathlib import Path

import pytest
from sqlalchemy import text

from keystore.decisions.content import Words
from keystore.embedded import Keystore
from keystore.errors import PolicyError, StorageError

CANARY = "".join(("can", "ary"))  # a traceback quotes the lines of this file; the word is in none of them
PURPOSE = f"identify the {CANARY} in the picture"
WORDS = {"purpose": PURPOSE, "legal_basis": f"court-order: {CANARY}", "case": f"{CANARY}-1"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_no_purpose_is_in_a_traceback(keystore, make) -> None:
    with keystore._database.write() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
        )
    with pytest.raises(StorageError) as caught:
        make.request(keystore, **WORDS)
    shown = "".join(traceback.format_exception(caught.value))
    assert "(disk is full)" in shown, "it is the statement that failed"
    assert CANARY not in shown


def test_no_purpose_is_in_a_repr(keystore, make) -> None:
    view = make.request(keystore, **WORDS)
    words = Words(WORDS["case"], PURPOSE, WORDS["legal_basis"])
    assert CANARY not in repr(view) + str(view) + repr(words)
    assert view.purpose == PURPOSE
    assert json.loads(view.model_dump_json())["purpose"] == PURPOSE


def test_half_a_character_is_refused_without_being_quoted(keystore, make) -> None:
    with pytest.raises(PolicyError) as caught:
        make.request(keystore, purpose=PURPOSE + "\ud800")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_a_keystore_is_its_owners_alone(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "ks"
    if before is not None:
        path.mkdir()
        path.chmod(before)
    umask = os.umask(0o022)
    try:
        with Keystore.create(path) as keystore:
            keystore.inbox("run-1")
            assert mode(path) == 0o700
            for name in ("keystore.db", "keystore.db-wal", "keystore.db-shm", "kek.key"):
                assert mode(path / name) == 0o600, name
            assert mode(path / "inbox") == mode(path / "inbox" / "run-1") == 0o700
    finally:
        os.umask(umask)


def test_a_database_that_was_open_to_others_is_closed_to_them_and_said_to_have_been(
    keystore, clock, caplog: pytest.LogCaptureFixture
) -> None:
    keystore.close()
    (keystore.path / "keystore.db").chmod(0o644)
    with caplog.at_level(logging.WARNING), Keystore.open(keystore.path, clock=clock):
        assert mode(keystore.path / "keystore.db") == 0o600
    assert "was open to others" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING), Keystore.open(keystore.path, clock=clock):
        assert caplog.text == ""


def test_no_record_id_is_in_the_log(keystore, make) -> None:
    # Public sidecars name record and image: an id in an entry would lead to a file name.
    make.take(keystore, make.approved(keystore, "a.png", "b.png"))
    keystore.change(make.request(keystore, "c.png").request_id, "Alice", purpose="something else entirely")
    leaves = b"".join(keystore.audit_entries())
    for record in keystore.find_records():
        assert record.record_id.encode() not in leaves
