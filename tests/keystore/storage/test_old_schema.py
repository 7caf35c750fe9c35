"""A keystore written under the first schema opens, keeps what it held, and is accounted for from then on.

`store_of_schema_1` was written by the version before schema 2: three records (b.png has a subject), four requests (released;
approved; pending with the approval of a person whose name was then erased by hand; pending with that of a person with a
Cyrillic name), and a shard that lies in the inbox. Its clock stood at the tests' own beginning.
"""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keystore.decisions.lifecycle import State
from keystore.errors import ApprovalError, ClockError, SchemaError
from keystore.service import Keystore
from keystore.verification.verify import verify_audit

OLD = Path(__file__).parent / "store_of_schema_1"


@pytest.fixture
def old(tmp_path: Path, clock) -> Path:
    """The old keystore, as it lay in its directory."""
    path = tmp_path / "old"
    for directory in ("witness", "inbox/run-1"):
        (path / directory).mkdir(parents=True)
    for name, place in {
        "kek.key": "kek.key",
        "audit.pub": "audit.pub",
        "ingest.pub": "ingest.pub",
        "checkpoint": "witness/checkpoint",
        "part-1.keys": "inbox/run-1/part-1.keys",
    }.items():
        shutil.copyfile(OLD / name, path / place)
    (path / "kek.key").chmod(0o600)
    connection = sqlite3.connect(path / "keystore.db")
    connection.executescript((OLD / "keystore.sql").read_text(encoding="utf-8"))
    connection.close()
    clock.now = datetime(2026, 11, 22, 12, 2, tzinfo=UTC)
    return path


def by_case(keystore: Keystore) -> dict[str, str]:
    return {one.case: one.request_id for one in keystore.requests()}


def test_an_old_keystore_opens_verifies_and_releases(old: Path, make, clock) -> None:
    with Keystore.open(old, clock=clock) as keystore:
        requests = by_case(keystore)
        assert keystore.show(requests["C-17"]).state is State.RELEASED
        assert [one.image_id for one in make.take(keystore, requests["C-2"])] == ["b.png"]
        assert keystore.ingest(make.RUN).ingested == 2
        assert len(make.take(keystore, make.approved(keystore, "d.png"))) == 1
    report = verify_audit(old)
    assert report.ok, report.problems
    with Keystore.open(old, clock=clock) as keystore:
        assert len(keystore.audit_entries()) == report.size, "what an old keystore needs is done once"


def test_an_old_keystore_that_was_silent_for_long_opens_and_writes_once_the_clock_is_confirmed(
    old: Path, make, clock
) -> None:
    clock.forward(days=400)
    with Keystore.open(old, clock=clock) as keystore:
        assert len(keystore.find_records()) == 3
        with pytest.raises(ClockError):
            make.request(keystore, "a.png")
        keystore.confirm_clock("Olga")
        assert len(make.take(keystore, make.approved(keystore, "a.png"))) == 1
    report = verify_audit(old)
    assert report.ok, report.problems


@pytest.mark.parametrize(
    ("statement", "counted"),
    [
        (
            "UPDATE records SET envelope = zeroblob(length(envelope)) WHERE image_id = 'a.png'",
            "1 records that did not open",
        ),
        ("DELETE FROM records WHERE image_id = 'a.png'", "1 that were missing"),
    ],
)
def test_an_upgrade_does_not_launder_what_was_done_before_it(old: Path, clock, statement: str, counted: str) -> None:
    connection = sqlite3.connect(old / "keystore.db")
    with connection:
        connection.execute(statement)
    connection.close()
    Keystore.open(old, clock=clock).close()
    assert any(counted in problem for problem in verify_audit(old).problems)


def test_an_auditor_is_told_that_a_schema_is_old(old: Path) -> None:
    with pytest.raises(SchemaError, match="open it once"):
        verify_audit(old)


def test_people_of_an_old_keystore_are_found_again(old: Path, make, clock) -> None:
    with Keystore.open(old, clock=clock) as keystore:
        request_id = make.request(keystore, "a.png", requester="Alice").request_id
        with pytest.raises(ApprovalError) as refused:
            make.approve(keystore, request_id, "ALICE")
        assert refused.value.code == "self-approval"
        with pytest.raises(ApprovalError):
            make.approve(keystore, request_id, "al1ce")


def test_a_person_erased_before_the_index_does_not_count_beside_anyone(old: Path, make, clock) -> None:
    with Keystore.open(old, clock=clock) as keystore:
        request_id = by_case(keystore)["C-3"]
        for name in ("Erik", "Bob"):
            with pytest.raises(ApprovalError) as refused:
                make.approve(keystore, request_id, name)
            assert refused.value.code == "unknown-person"
        assert keystore.show(request_id).state is State.PENDING


def test_a_name_that_is_no_longer_written_keeps_its_approval(old: Path, make, clock) -> None:
    with Keystore.open(old, clock=clock) as keystore:
        request_id = by_case(keystore)["C-4"]
        assert [one.approver for one in keystore.show(request_id).approvals] == ["дарья"]
        with pytest.raises(ApprovalError):
            make.approve(keystore, request_id, "Дарья")
        make.approve(keystore, request_id, "Bob")
        assert keystore.show(request_id).state is State.APPROVED
