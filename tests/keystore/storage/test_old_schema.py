"""A keystore written under an older schema opens, keeps what it held, and is accounted for from then on.

`store_of_schema_1` was written by the version before schema 2: three records (b.png has a subject), four requests (released;
approved; pending with the approval of a person whose name was then erased by hand; pending with that of a person with a
Cyrillic name), and a shard that lies in the inbox. Its clock stood at the tests' own beginning.

`store_of_schema_2` was written by the version before epoch keys: records a, b and c (b and c of one subject), a subject that was
erased, an ingest key that was retired and one that is not the present one, requests released, approved and pending, an approver
who was erased, and a shard of records sealed one by one in the inbox.
"""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from keystore.decisions.lifecycle import State
from keystore.embedded import Keystore
from keystore.errors import ApprovalError, ClockError, SchemaError
from keystore.storage import schema
from keystore.verification.verify import verify_audit
from tests.keystore.killing import killed_at_each_step

STORES = Path(__file__).parent


def laid_out(kept: Path, path: Path) -> Path:
    """An old keystore, as it lay in its directory."""
    for directory in ("witness", "inbox/run-1"):
        (path / directory).mkdir(parents=True)
    for name, place in {
        "kek.key": "kek.key",
        "audit.pub": "audit.pub",
        "ingest.pub": "ingest.pub",
        "checkpoint": "witness/checkpoint",
        "part-1.keys": "inbox/run-1/part-1.keys",
    }.items():
        shutil.copyfile(kept / name, path / place)
    (path / "kek.key").chmod(0o600)
    connection = sqlite3.connect(path / "keystore.db")
    connection.executescript((kept / "keystore.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


@pytest.fixture
def old(tmp_path: Path, clock) -> Path:
    """The keystore of schema 1."""
    clock.now = datetime(2026, 11, 22, 12, 2, tzinfo=UTC)
    return laid_out(STORES / "store_of_schema_1", tmp_path / "old")


@pytest.fixture
def without_epochs(tmp_path: Path, clock) -> Path:
    """The keystore of schema 2."""
    clock.now = datetime(2026, 11, 24, 12, 2, tzinfo=UTC)
    return laid_out(STORES / "store_of_schema_2", tmp_path / "old")


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


@pytest.mark.parametrize("kept", ["old", "without_epochs"])
def test_an_old_keystore_gets_the_tables_and_indexes_of_a_new_one(
    kept: str, request: pytest.FixtureRequest, clock
) -> None:
    with Keystore.open(request.getfixturevalue(kept), clock=clock) as keystore, keystore._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


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


def wrapped_keys(keystore: Keystore) -> list:
    with keystore._database.read() as connection:
        return [
            row
            for table in ("secrets", "ingest_keys", "people", "shred_keys")
            for row in connection.exec_driver_sql(
                f"SELECT epoch_id, wrapped FROM {table} WHERE length(wrapped) > 0"
            ).all()
        ]


def test_a_keystore_without_epochs_gets_them_and_keeps_all_that_it_held(without_epochs: Path, make, clock) -> None:
    before = (without_epochs / "ingest.pub").read_bytes()
    with Keystore.open(without_epochs, clock=clock) as keystore:
        requests = by_case(keystore)
        assert all(row.epoch_id for row in wrapped_keys(keystore)), "nothing lies under the KEK itself any more"
        with keystore._database.read() as connection:
            states = "SELECT DISTINCT state FROM epoch_keys WHERE purpose = 'records'"
            assert connection.exec_driver_sql(states).scalars().all() == ["deactivated"]
        assert keystore.show(requests["C-17"]).state is State.RELEASED
        assert [one.image_id for one in make.take(keystore, requests["C-2"])] == ["b.png"]
        make.approve(keystore, requests["C-3"], "Dave")
        report = keystore.ingest(make.RUN)
        assert (report.ingested, report.rejected) == (2, []), "a shard of the older format is read"
        assert keystore.erase("photos", "Olga", subject="p. smith") == 3, (
            "old records and new ones of a subject go together"
        )
        assert len(make.take(keystore, make.approved_by(keystore, "d.png", "Dave", "Erin"))) == 1
        with pytest.raises(ApprovalError):
            make.approve(keystore, make.request(keystore).request_id, "Carol")
        assert len(keystore.retire_ingest_keys("Olga")) == 1
    assert (without_epochs / "ingest.pub").read_bytes() == before
    report = verify_audit(without_epochs)
    assert report.ok, report.problems
    with Keystore.open(without_epochs, clock=clock) as keystore:
        assert len(keystore.audit_entries()) == report.size, "what an old keystore needs is done once"


def test_a_keystore_without_epochs_whose_clock_is_wrong_is_read_as_it_is(without_epochs: Path, make, clock) -> None:
    clock.forward(days=400)
    with Keystore.open(without_epochs, clock=clock) as keystore:
        assert {row.epoch_id for row in wrapped_keys(keystore)} == {None}
        with pytest.raises(ClockError):
            make.request(keystore, "a.png")
        keystore.confirm_clock("Olga")
        assert len(make.take(keystore, make.approved_by(keystore, "a.png", "Bob", "Dave"))) == 1
    report = verify_audit(without_epochs)
    assert report.ok, report.problems


def test_a_key_that_does_not_open_is_counted_and_stays_for_the_verifier(without_epochs: Path, clock) -> None:
    connection = sqlite3.connect(without_epochs / "keystore.db")
    with connection:
        connection.execute(
            "UPDATE shred_keys SET wrapped = zeroblob(length(wrapped)) WHERE owner = (SELECT min(owner) FROM shred_keys)"
        )
    connection.close()
    Keystore.open(without_epochs, clock=clock).close()
    problems = " / ".join(verify_audit(without_epochs).problems)
    assert "1 keys that did not open" in problems
    assert "no entry of the log accounts for" in problems


def test_an_upgrade_killed_at_any_step_is_done_at_the_next_opening(without_epochs: Path, tmp_path: Path, clock) -> None:
    def upgraded(path: Path) -> None:
        Keystore.open(path, clock=clock).close()

    for copy in killed_at_each_step(without_epochs, tmp_path, lambda path: path, upgraded):
        with Keystore.open(copy, clock=clock) as keystore:
            assert all(row.epoch_id for row in wrapped_keys(keystore))
        report = verify_audit(copy)
        assert report.ok, report.problems
