"""What is erased stays erased: no kept shard brings it back, and the log still accounts for what is left."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keystore.embedded import Keystore
from keystore.errors import ErasureError, RecordNotFound
from keystore.intake.sealing import seal_record
from keystore.intake.shards import read_shard, write_shard
from keystore.opening import read_public_key
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH

SUBJECT = "subject 7"
BEFORE, AFTER = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


@pytest.fixture
def kept(keystore, make, tmp_path: Path) -> Path:
    """A copy of the shard that brought two pictures of a subject and one of nobody in particular."""
    records = [make.record(name, subject=SUBJECT) for name in ("s1.png", "s2.png")] + [make.record("n.png")]
    path = make.deposit(keystore, records, "part-5")
    shutil.copy(path, tmp_path / "kept.keys")
    assert keystore.ingest(make.RUN).ingested == 3
    return tmp_path / "kept.keys"


def images(keystore: Keystore) -> set[str]:
    return {one.image_id for one in keystore.find_records()}


def put_back(keystore: Keystore, kept: Path, run_id: str, name: str = "part-5") -> Path:
    return Path(shutil.copy(kept, keystore.inbox(run_id) / f"{name}.keys"))


@ON_BOTH
def test_a_subject_is_erased_with_all_its_records_and_nothing_else(keystore, kept: Path, make) -> None:
    approved = make.approved(keystore, "s1.png")
    assert keystore.erase("photos", "Olga", subject=SUBJECT) == 2
    assert images(keystore) == {"a.png", "b.png", "c.png", "n.png"}
    with pytest.raises(RecordNotFound, match="no longer stored"):
        make.take(keystore, approved)
    assert len(make.take(keystore, make.approved(keystore, "n.png"))) == 1
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


@ON_BOTH
def test_a_kept_shard_does_not_undo_an_erasure(keystore, kept: Path, make) -> None:
    keystore.erase("photos", "Olga", subject=SUBJECT)
    for name in ("part-5", "another-name"):
        path = put_back(keystore, kept, make.RUN, name)
        report = keystore.ingest(make.RUN)
        assert (report.ingested, report.already_present, len(report.erased), report.rejected) == (0, 1, 2, [])
        assert not path.exists(), "what was erased does not stay in the inbox either"
    assert "s1.png" not in images(keystore)
    assert verify_audit(keystore.path).ok


def test_a_shard_that_was_never_taken_in_before_the_erasure_brings_nothing_of_it(keystore, make, clock) -> None:
    make.deposit(keystore, [make.record("s3.png", subject=SUBJECT, created_at=BEFORE)], "late")
    assert keystore.erase("photos", "Olga", subject=SUBJECT) == 0
    assert len(keystore.ingest(make.RUN).erased) == 1
    make.deposit(keystore, [make.record("s5.png", subject=SUBJECT, created_at=clock())], "at-that-moment")
    assert len(keystore.ingest(make.RUN).erased) == 1
    make.deposit(keystore, [make.record("s4.png", subject=SUBJECT, created_at=AFTER)], "later")
    assert keystore.ingest(make.RUN).ingested == 1, "what is made of a person after their erasure is a new matter"
    assert verify_audit(keystore.path).ok


@ON_BOTH
def test_what_came_erased_is_remembered_though_it_was_never_stored(keystore, make, clock) -> None:
    late, other = (make.record(name, subject=SUBJECT, created_at=BEFORE) for name in ("s3.png", "s4.png"))
    path = make.deposit(keystore, [late, other, make.record("d.png")], "late")
    kept = path.read_bytes()
    keystore.erase("photos", "Olga", subject=SUBJECT)
    report = keystore.ingest(make.RUN)
    assert (report.ingested, set(report.erased)) == (1, {late.record_id, other.record_id})
    keystore.close()
    with Keystore.open(keystore.path, clock=clock) as again:  # as an attempt that goes on after a kill
        asked = [late.record_id, other.record_id, make.record("never.png").record_id]
        assert again.ingest(make.RUN).erased == []
        assert again.erased_among(asked) == {late.record_id, other.record_id}
        path.write_bytes(kept)
        assert len(again.ingest(make.RUN).erased) == 2, "a copy is refused again, and remembered once"
        with again._database.read() as connection:
            query = "SELECT count(*), count(DISTINCT tag) FROM erased WHERE kind = 'refused'"
            assert tuple(connection.exec_driver_sql(query).one()) == (2, 2)
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


REFUSED_EDITS = {
    "forgotten": "DELETE FROM erased WHERE kind = 'refused'",
    "another record": "UPDATE erased SET tag = 'x' WHERE kind = 'refused'",
    "another entry": "UPDATE erased SET entry = entry - 1 WHERE kind = 'refused'",
    "invented": "INSERT INTO erased VALUES ('d', 'refused', 0, 0, 't')",
}


@pytest.mark.parametrize("statement", REFUSED_EDITS.values(), ids=REFUSED_EDITS.keys())
def test_what_was_refused_and_is_not_as_the_log_says_is_found(keystore, make, statement: str) -> None:
    make.deposit(keystore, [make.record("s3.png", subject=SUBJECT, created_at=BEFORE)], "late")
    keystore.erase("photos", "Olga", subject=SUBJECT)
    keystore.ingest(make.RUN)
    keystore.close()
    connection = sqlite3.connect(keystore.path / "keystore.db")
    for action in ("update", "delete"):
        connection.execute(f"DROP TRIGGER erased_no_{action}")
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    assert not verify_audit(keystore.path).ok


def test_a_record_id_that_was_erased_never_comes_back_whatever_its_date_says(keystore, make) -> None:
    record = make.record("s5.png", subject=SUBJECT)
    make.deposit(keystore, [record], "one")
    keystore.ingest(make.RUN)
    keystore.erase("photos", "Olga", subject=SUBJECT)
    forged = make.record("s5.png", subject="someone else", record_id=record.record_id, created_at=AFTER)
    make.deposit(keystore, [forged], "two")
    assert len(keystore.ingest(make.RUN).erased) == 1


def test_an_image_without_a_subject_is_erased_alone(keystore, kept: Path, make) -> None:
    assert keystore.erase("photos", "Olga", image_id="n.png") == 1
    assert images(keystore) == {"a.png", "b.png", "c.png", "s1.png", "s2.png"}
    with pytest.raises(ErasureError) as refused:
        keystore.erase("photos", "Olga", image_id="s1.png")
    assert refused.value.code == "under-subject"
    for arguments in ({}, {"subject": SUBJECT, "image_id": "a.png"}):
        with pytest.raises(ErasureError):
            keystore.erase("photos", "Olga", **arguments)
    assert keystore.erase("another data set", "Olga", subject=SUBJECT) == 0
    assert "s1.png" in images(keystore)
    assert verify_audit(keystore.path).ok


def test_the_erased_envelopes_and_keys_are_in_no_file_of_the_keystore(keystore, kept: Path) -> None:
    with keystore._database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT r.envelope, k.wrapped FROM records r JOIN shred_keys k USING (shred_key_id) WHERE image_id LIKE 's%'"
        ).all()
    keystore.erase("photos", "Olga", subject=SUBJECT)
    stored = b"".join(path.read_bytes() for path in keystore.path.rglob("*") if path.is_file())
    for envelope, wrapped in rows:
        assert envelope[:32] not in stored
        assert wrapped[:32] not in stored


def test_an_erasure_is_on_record_and_names_nobody(keystore, kept: Path) -> None:
    keystore.erase("photos", "Olga", subject=SUBJECT)
    leaf = keystore.audit_entries()[-1]
    assert (json.loads(leaf)["type"], json.loads(leaf)["records"], json.loads(leaf)["keys"]) == ("erase", 2, 1)
    for word in (b"subject 7", b"olga", b"photos", b"s1.png"):
        assert word not in leaf


ERASED_EDITS = {
    "dropped from the list": "DELETE FROM erasures",
    "another date": "UPDATE erasures SET erased_at = '2020-01-01T00:00:00.000000Z'",
    "another owner": "UPDATE erasures SET owner = 'x'",
    "forgotten digest": "DELETE FROM erased WHERE kind = 'record'",
    "forgotten tag": "UPDATE erased SET tag = NULL",
    "another erasure": "UPDATE erased SET erased_entry = 0",
    "invented erasure": "INSERT INTO erasures VALUES ('photos', 'y', 1, '2026-11-22T12:00:00.000000Z')",
}


@pytest.mark.parametrize("statement", ERASED_EDITS.values(), ids=ERASED_EDITS.keys())
def test_an_erasure_list_that_was_edited_is_found(keystore, kept: Path, statement: str) -> None:
    keystore.erase("photos", "Olga", subject=SUBJECT)
    keystore.close()
    connection = sqlite3.connect(keystore.path / "keystore.db")
    for table in ("erased", "erasures"):
        for action in ("update", "delete"):
            connection.execute(f"DROP TRIGGER {table}_no_{action}")
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    assert not verify_audit(keystore.path).ok


def test_a_retired_ingest_key_opens_no_kept_shard(keystore, kept: Path, make) -> None:
    old = keystore.ingest_public_key
    keystore.renew_ingest_key("Olga")
    assert keystore.ingest_public_key != old
    assert read_public_key(keystore.path / "ingest.pub") == keystore.ingest_public_key
    put_back(keystore, kept, make.RUN)
    assert keystore.ingest(make.RUN).already_present == 3, "until it is retired, the older key still opens"
    (retired,) = keystore.retire_ingest_keys("Olga")
    path = put_back(keystore, kept, make.RUN)
    report = keystore.ingest(make.RUN)
    assert [one.reason for one in report.rejected] == [
        f"it is sealed to another ingest key ({retired[:16]}), or to one that was retired"
    ] * 3
    assert path.exists()
    with keystore._database.read() as connection:
        wrapped = connection.exec_driver_sql(
            "SELECT wrapped FROM ingest_keys WHERE retired_at IS NOT NULL"
        ).scalar_one()
    assert wrapped == b""
    make.deposit(keystore, [make.record("new.png")], "part-6")
    assert keystore.ingest(make.RUN, ["part-6"]).ingested == 1
    assert verify_audit(keystore.path).ok


def test_ingest_keys_survive_reopening_and_a_publication_that_was_cut_short(keystore, kept: Path, make, clock) -> None:
    before = (keystore.path / "ingest.pub").read_bytes()
    keystore.renew_ingest_key("Olga")
    present = keystore.ingest_public_key
    keystore.close()
    (keystore.path / "ingest.pub").write_bytes(before)  # as if the process died between commit and publication
    with Keystore.open(keystore.path, clock=clock) as again:
        assert again.ingest_public_key == present
        assert read_public_key(again.path / "ingest.pub") == present
        put_back(again, kept, make.RUN)
        assert again.ingest(make.RUN).already_present == 3
        assert len(again.retire_ingest_keys("Olga")) == 1
        assert again.retire_ingest_keys("Olga") == [], "the present key is never retired"
    with Keystore.open(keystore.path, clock=clock) as again:
        assert again.ingest_public_key == present


def test_no_key_is_retired_while_a_shard_waits(keystore, make) -> None:
    sealed = [seal_record(make.record("d.png"), keystore.ingest_public_key)]
    path = write_shard(keystore.inbox(make.RUN), "waiting", sealed)
    keystore.renew_ingest_key("Olga")
    with pytest.raises(ErasureError) as refused:
        keystore.retire_ingest_keys("Olga")
    assert refused.value.code == "pending-shards"
    assert read_shard(path) == sealed
    assert keystore.ingest(make.RUN).ingested == 1


def test_a_database_whose_pages_another_process_reads_still_erases(keystore, kept: Path) -> None:
    reader = sqlite3.connect(keystore.path / "keystore.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchone()
    assert keystore.erase("photos", "Olga", subject=SUBJECT) == 2
    reader.execute("ROLLBACK")
    reader.close()
