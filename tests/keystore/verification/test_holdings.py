"""The verifier accounts for what is held: records, envelopes, shred keys, owners, the keystore's own keys, people, policies."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from keystore.decisions import stored_policy
from keystore.decisions.policy import Policy
from keystore.embedded import Keystore
from keystore.verification.verify import verify_audit


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path / "keystore.db")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, statement
    connection.commit()
    connection.close()


A, B = ("(SELECT {} FROM records WHERE image_id = '" + name + "')" for name in ("a.png", "b.png"))
ROW = (
    "run_id, dataset, image_id, source_sha256, record_version, envelope_version, shred_key_id, envelope, sealed_sha256"
)
ORIGIN = "shard_name, shard_sha256, ingested_at"
INVENTED_ID = "'00000000-0000-4000-8000-000000000000'"
TAMPERING = {
    "zeroed envelope": ["UPDATE records SET envelope = zeroblob(length(envelope)) WHERE image_id = 'a.png'"],
    "envelope of another record": [
        f"UPDATE records SET envelope = {B.format('envelope')} WHERE image_id = 'a.png'",
    ],
    "emptied envelopes": ["UPDATE records SET envelope = x''"],
    "dropped record": ["DELETE FROM records WHERE image_id = 'a.png'"],
    "invented row": [
        f"INSERT INTO records (record_id, {ROW}, {ORIGIN}, entry) "
        f"SELECT {INVENTED_ID}, {ROW}, {ORIGIN}, entry FROM records WHERE image_id = 'a.png'"
    ],
    "invented row without an entry": [
        f"INSERT INTO records (record_id, {ROW}, {ORIGIN}) "
        f"SELECT {INVENTED_ID}, {ROW}, {ORIGIN} FROM records WHERE image_id = 'a.png'"
    ],
    "exchanged row": [
        "DELETE FROM records WHERE image_id = 'b.png'",
        f"INSERT INTO records (record_id, {ROW}, {ORIGIN}, entry) "
        f"SELECT {INVENTED_ID}, {ROW}, {ORIGIN}, entry FROM records WHERE image_id = 'a.png'",
    ],
    "renamed image": ["UPDATE records SET image_id = 'z.png' WHERE image_id = 'a.png'"],
    "record of another shard": ["UPDATE records SET shard_name = 'part-9' WHERE image_id = 'a.png'"],
    "record under another key": [
        f"UPDATE records SET shred_key_id = {B.format('shred_key_id')} WHERE image_id = 'a.png'",
    ],
    "dropped shred key": [f"DELETE FROM shred_keys WHERE shred_key_id = {A.format('shred_key_id')}"],
    "zeroed shred key": ["UPDATE shred_keys SET wrapped = zeroblob(length(wrapped))"],
    "swapped owners": [  # in three steps, because data set and owner are unique together
        f"UPDATE shred_keys SET dataset = 'aside' WHERE shred_key_id = {A.format('shred_key_id')}",
        "UPDATE shred_keys AS b SET owner = (SELECT owner FROM shred_keys WHERE dataset = 'aside'), entry = -1 "
        f"WHERE shred_key_id = {B.format('shred_key_id')}",
        "UPDATE shred_keys SET dataset = 'photos', owner = 'that of b' WHERE dataset = 'aside'",
        "UPDATE shred_keys SET entry = 3 WHERE entry = -1",
    ],
    "key of another data set": ["UPDATE shred_keys SET dataset = 'other'"],
    "entry renumbered": ["UPDATE records SET entry = entry + 1"],
    "key's entry forgotten": ["UPDATE shred_keys SET entry = NULL"],
    "exchanged secret": ["UPDATE secrets SET wrapped = zeroblob(length(wrapped)) WHERE name = 'subject-index'"],
    "added ingest key": [
        "INSERT INTO ingest_keys (key_id, public_key, wrapped, epoch_id, created_at) "
        "SELECT 'x', public_key, wrapped, epoch_id, created_at FROM ingest_keys"
    ],
    "key without an epoch": ["UPDATE shred_keys SET epoch_id = NULL"],
    "zeroed epoch key": ["UPDATE epoch_keys SET wrapped = zeroblob(length(wrapped)) WHERE purpose = 'records'"],
    "epoch of another purpose": ["UPDATE epoch_keys SET purpose = 'people' WHERE purpose = 'records'"],
    "epoch ended by hand": [
        "UPDATE epoch_keys SET state = 'deactivated', deactivated_at = created_at WHERE purpose = 'records'"
    ],
    "dropped epoch": ["DELETE FROM epoch_keys WHERE purpose = 'ingest'"],
    "invented epoch": [
        "INSERT INTO epoch_keys SELECT 'x', purpose, state, wrapped, kek_version, created_at, NULL, NULL "
        "FROM epoch_keys WHERE purpose = 'records'"
    ],
    "another kek": ["UPDATE kek_versions SET kek_id = 'file-00'"],
    "invented person": ["INSERT INTO people (person, tag) VALUES ('x', 'y')"],
}


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING.keys())
def test_what_is_held_and_not_what_the_log_says_is_found(keystore, statements: list[str]) -> None:
    assert verify_audit(keystore.path).ok
    keystore.close()
    edit(keystore.path, *statements)
    report = verify_audit(keystore.path)
    assert not report.ok


def test_each_finding_names_what_and_where(keystore) -> None:
    keystore.close()
    edit(keystore.path, *TAMPERING["zeroed envelope"], *TAMPERING["dropped shred key"], *TAMPERING["another kek"])
    problems = " / ".join(verify_audit(keystore.path).problems)
    for expected in ("the records that entry 3 stored", "the keys that entry 3 stored", "own wrapped keys"):
        assert expected in problems


def test_records_of_several_shards_are_told_apart(keystore, make) -> None:
    make.deposit(keystore, [make.record("d.png"), make.record("e.png")], "part-1")
    keystore.ingest(make.RUN)
    assert verify_audit(keystore.path).ok
    keystore.close()
    edit(keystore.path, "UPDATE records SET entry = 3 WHERE image_id = 'd.png'")
    assert sum("that entry" in problem for problem in verify_audit(keystore.path).problems) == 2


def weak_policy(keystore: Keystore, *people: str) -> None:
    """Write, as a program with the KEK could, a policy that this program's own functions refuse."""
    weak = Policy.model_construct(**{**Policy().model_dump(), "approvals": 1})
    with keystore._ledger.transaction("policy", None, None) as (connection, log):
        persons = [keystore._people.find_or_add(connection, name) for name in people]
        stored_policy.write(connection, log, weak, persons)


def test_a_policy_of_one_approval_set_by_one_person_is_found(keystore) -> None:
    weak_policy(keystore, "Mallory")
    problems = " / ".join(verify_audit(keystore.path).problems)
    assert "one person alone can approve" in problems
    assert "changes the policy by one person alone" in problems


def test_a_grant_on_one_approval_is_found(keystore, make) -> None:
    weak_policy(keystore, "Mallory", "Olga")
    request_id = "00000000-0000-4000-8000-000000000001"
    with keystore._ledger.transaction("test", None, None) as (connection, log):
        policy = keystore_policy_digest(connection)
        common = {"digest": "d", "request": request_id}
        later = "2099-01-01T00:00:00.000000Z"
        log.append(
            "request",
            approvals_required=1,
            expires_at=later,
            policy=policy,
            records=1,
            requester="r",
            revision=1,
            **common,
        )
        log.append("approve", approver="a", signature="", **common)
        log.append("grant", expires_at=later, grant="g", **common)
    assert any("needed one person's approval only" in problem for problem in verify_audit(keystore.path).problems)


def keystore_policy_digest(connection) -> str:
    return connection.exec_driver_sql("SELECT digest FROM policies ORDER BY version DESC").scalar()


def test_a_request_under_another_policy_than_that_of_its_time_is_found(keystore) -> None:
    with keystore._ledger.transaction("test", None, None) as (_, log):
        log.append(
            "request",
            approvals_required=2,
            digest="d",
            expires_at="2099-01-01T00:00:00.000000Z",
            policy="of another day",
            records=1,
            request="r",
            requester="x",
            revision=1,
        )
    assert any("not under the policy of its time" in problem for problem in verify_audit(keystore.path).problems)
