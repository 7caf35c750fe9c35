"""The offline verifier and the witness: every edit, drop, reordering, truncation, rollback and fork is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from keystore.audit import merkle
from keystore.audit.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from keystore.audit.signers import LogSigner
from keystore.auditor import Auditor
from keystore.embedded import Keystore
from keystore.errors import AuditError, KeystoreError, StorageError, TamperedError
from keystore.verification.verify import verify_audit


def edit(path: Path, *statements: str) -> None:
    """Edit the database as its operator could: triggers dropped first."""
    connection = sqlite3.connect(path / "keystore.db")
    for table in ("log", "checkpoints", "releases"):
        for action in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_{action}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.fixture(scope="module")
def used_template(template: Path, tmp_path_factory: pytest.TempPathFactory, make) -> Path:
    """A keystore with a release, a denial and a pending request behind it."""
    path = tmp_path_factory.mktemp("used") / "ks"
    shutil.copytree(template, path)
    with Keystore.open(path) as keystore:
        make.take(keystore, make.approved(keystore, "a.png"))
        keystore.deny(make.request(keystore, "b.png").request_id, "Dora")
        make.approve(keystore, make.request(keystore, "c.png").request_id, "Bob")
    return path


@pytest.fixture
def used(used_template: Path, tmp_path: Path) -> Path:
    """A directory of this test's own with such a keystore."""
    shutil.copytree(used_template, tmp_path / "used")
    return tmp_path / "used"


def test_an_untouched_log_verifies_without_the_kek(used: Path) -> None:
    (used / "kek.key").unlink()
    report = verify_audit(used)
    assert report.ok, report.problems
    assert report.problems == []
    assert report.size == report.witnessed_size
    assert report.origin.startswith("keyanon.keystore/")
    assert report.size == open_checkpoint(report.checkpoint, (used / "audit.pub").read_text()).size


def test_a_keystore_in_use_verifies(keystore, make) -> None:
    make.request(keystore)
    assert verify_audit(keystore.path).ok


LAST = "(SELECT max(seq) FROM log)"
EDITS = {
    "edited entry": [
        "UPDATE log SET leaf = CAST(replace(CAST(leaf AS TEXT), '\"records\":1', '\"records\":2') AS BLOB)"
    ],
    "edited last entry": [
        f"UPDATE log SET leaf = CAST(replace(CAST(leaf AS TEXT), 'approve', 'refused') AS BLOB) WHERE seq = {LAST}"
    ],
    "entry of another type": ["UPDATE log SET leaf = 'text' WHERE seq = 3"],
    "entry that is no JSON": ["UPDATE log SET leaf = x'00' WHERE seq = 3"],
    "dropped entry": ["DELETE FROM log WHERE seq = 4"],
    "dropped and renumbered": ["DELETE FROM log WHERE seq = 4", "UPDATE log SET seq = seq - 1 WHERE seq > 4"],
    "swapped entries": [
        "UPDATE log SET seq = -1 WHERE seq = 5",
        "UPDATE log SET seq = 5 WHERE seq = 6",
        "UPDATE log SET seq = 6 WHERE seq = -1",
    ],
    "truncated": [f"DELETE FROM log WHERE seq = {LAST}"],
    "truncated with its checkpoint": [
        f"DELETE FROM checkpoints WHERE size > {LAST} - 2",
        f"DELETE FROM log WHERE seq >= {LAST} - 2",
    ],
    "emptied": ["DELETE FROM log", "DELETE FROM checkpoints"],
    "appended": ["INSERT INTO log SELECT max(seq) + 1, leaf FROM log"],
    "forged checkpoint": ["UPDATE checkpoints SET note = replace(note, 'keyanon', 'KEYANON')"],
    "forged frontier": ["UPDATE checkpoints SET frontier = zeroblob(length(frontier))"],
    "no checkpoints": ["DELETE FROM checkpoints"],
    "edited node": ["DROP TRIGGER nodes_no_update", "UPDATE nodes SET hash = zeroblob(32)"],
    "edited node of another type": ["DROP TRIGGER nodes_no_update", "UPDATE nodes SET hash = 'text'"],
    "dropped node": ["DROP TRIGGER nodes_no_delete", "DELETE FROM nodes"],
    "added node": ["INSERT INTO nodes VALUES (4, 99, zeroblob(32))"],
    "added node of another height": ["INSERT INTO nodes VALUES (3, 0, zeroblob(32))"],
    "altered request": ["UPDATE requests SET purpose = 'harmless'"],
    "altered state": ["UPDATE requests SET state = 'approved' WHERE state = 'released'"],
    "undenied": ["UPDATE requests SET state = 'pending', denied_by = NULL WHERE state = 'denied'"],
    "deleted approval": ["DELETE FROM approvals"],
    "forged approval": [
        "INSERT INTO approvals SELECT request_id, digest, requester, zeroblob(64), created_at, NULL, NULL, NULL "
        "FROM requests WHERE state = 'pending'"
    ],
    "longer grant": ["UPDATE grants SET expires_at = '2099-01-01T00:00:00.000000Z'"],
    "forgotten release": ["DELETE FROM releases"],
    "other recipient": ["UPDATE releases SET recipient = 'someone'"],
    "exchanged name": ["UPDATE people SET name = 'mallory' WHERE name = 'bob'"],
    "exchanged approver key": ["UPDATE people SET public_key = zeroblob(32) WHERE name = 'bob'"],
    "weaker policy": ["UPDATE policies SET document = CAST(replace(CAST(document AS TEXT), ':2', ':1') AS BLOB)"],
    "added policy": ["INSERT INTO policies SELECT version + 1, document, digest, set_at FROM policies"],
    "dropped record": ["DELETE FROM records WHERE image_id = 'a.png'"],
    "forgotten shard": ["DELETE FROM shards"],
    "other identity": ["UPDATE identity SET keystore_id = 'other'"],
    "no identity": ["DELETE FROM identity"],
    "value of a wrong type": ["UPDATE approvals SET signature = 'text'"],
    "time of a wrong type": ["UPDATE grants SET expires_at = 7"],
}


@pytest.mark.parametrize("statements", EDITS.values(), ids=EDITS.keys())
def test_every_edit_of_log_or_tables_is_found(used: Path, statements: list[str]) -> None:
    edit(used, *statements)
    report = verify_audit(used)
    assert not report.ok
    assert report.problems


LOGGED_TABLES = (" log", " checkpoints", " identity")
LOG_EDITS = [name for name, edits in EDITS.items() if any(table in edits[0] for table in LOGGED_TABLES)]


@pytest.mark.parametrize("name", LOG_EDITS)
def test_a_keystore_with_an_edited_log_does_not_open(used: Path, name: str) -> None:
    edit(used, *EDITS[name])
    with pytest.raises(KeystoreError):
        Keystore.open(used)


def roll_back(keystore: Keystore, make) -> tuple[Path, str]:
    """Use a grant, then put back the database from before its use. Return the directory and the grant's request."""
    request_id = make.approved(keystore)
    keystore.close()
    backup = keystore.path.parent / "backup.db"
    shutil.copy(keystore.path / "keystore.db", backup)
    with Keystore.open(keystore.path, clock=keystore._clock) as again:
        make.take(again, request_id)
    for name in ("keystore.db", "keystore.db-wal", "keystore.db-shm"):
        (keystore.path / name).unlink(missing_ok=True)
    shutil.copy(backup, keystore.path / "keystore.db")
    return keystore.path, request_id


def test_a_rolled_back_database_is_refused_and_its_spent_grant_stays_spent(keystore, make) -> None:
    path, _ = roll_back(keystore, make)
    with pytest.raises(AuditError, match="rolled back"):
        Keystore.open(path)
    assert any("rolled back" in problem for problem in verify_audit(path).problems)


def test_a_forked_database_is_refused(keystore, make) -> None:
    path, _ = roll_back(keystore, make)
    seen = (path / "witness" / "checkpoint").read_bytes()
    (path / "witness" / "checkpoint").unlink()
    note = (
        sqlite3.connect(path / "keystore.db").execute("SELECT note FROM checkpoints ORDER BY size DESC").fetchone()[0]
    )
    with Keystore.open(path, checkpoint=note) as forked:
        for _ in range(3):
            make.request(forked, "b.png")
    (path / "witness" / "checkpoint").write_bytes(seen)
    with pytest.raises(AuditError, match="forked"):
        Keystore.open(path)
    assert any("forked" in problem for problem in verify_audit(path).problems)


def test_a_missing_witness_is_refused_unless_a_kept_checkpoint_stands_in(keystore, make) -> None:
    make.request(keystore)
    kept = keystore.checkpoint()
    keystore.close()
    (keystore.path / "witness" / "checkpoint").unlink()
    assert any("witness is missing" in problem for problem in verify_audit(keystore.path).problems)
    with pytest.raises(AuditError, match="witness"):
        Keystore.open(keystore.path)
    Keystore.open(keystore.path, checkpoint=kept).close()
    Keystore.open(keystore.path).close()
    assert verify_audit(keystore.path, kept).intact


def test_a_witness_that_lags_behind_a_crash_is_brought_forward(keystore, make) -> None:
    before = (keystore.path / "witness" / "checkpoint").read_bytes()
    make.request(keystore)
    keystore.close()
    (keystore.path / "witness" / "checkpoint").write_bytes(before)  # as if the process died between commit and witness
    report = verify_audit(keystore.path)
    assert report.ok
    assert report.witnessed_size is not None
    assert report.witnessed_size < report.size
    with Keystore.open(keystore.path) as again:
        assert verify_audit(again.path).witnessed_size == len(again.audit_entries())


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xff", b"keyanon.keystore/x\n1\nAAAA\n\n"])
def test_a_damaged_witness_is_refused(used: Path, content: bytes) -> None:
    (used / "witness" / "checkpoint").write_bytes(content)
    assert not verify_audit(used).ok
    with pytest.raises(AuditError):
        Keystore.open(used)


def test_a_database_exchanged_while_open_releases_nothing(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = make.approved(keystore)
    with keystore._database.write() as connection:
        for statement in ("DROP TRIGGER log_no_delete", "DROP TRIGGER checkpoints_no_delete"):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)")
        connection.exec_driver_sql("DELETE FROM log WHERE seq >= (SELECT max(size) FROM checkpoints)")
    with pytest.raises(AuditError, match="rolled back or exchanged"):
        make.take(keystore, request_id)


def test_truncation_is_found_against_a_kept_checkpoint_even_without_a_witness(used: Path) -> None:
    kept = verify_audit(used).checkpoint
    edit(used, *EDITS["truncated with its checkpoint"])
    shutil.rmtree(used / "witness")
    assert any(problem.startswith("the checkpoint given") for problem in verify_audit(used, kept).problems)


def test_a_checkpoint_of_another_keystore_does_not_verify(used: Path, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other") as other:
        foreign = other.checkpoint()
        foreign_key = other.audit_vkey
    assert any("another keystore" in problem for problem in verify_audit(used, foreign).problems)
    assert not verify_audit(used, vkey=foreign_key).ok
    assert verify_audit(used, vkey=(used / "audit.pub").read_text()).ok


def test_a_forged_checkpoint_given_does_not_verify(used: Path) -> None:
    note = verify_audit(used).checkpoint
    lines = note.split("\n")
    lines[1] = str(int(lines[1]) - 1)
    assert not verify_audit(used, "\n".join(lines)).ok
    assert not verify_audit(used, "nonsense").ok


def test_exchanged_public_files_are_noticed(used: Path, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other") as other:
        foreign = other.path
    for name in ("audit.pub", "ingest.pub"):
        good = (used / name).read_bytes()
        shutil.copy(foreign / name, used / name)
        with pytest.raises((AuditError, TamperedError), match="exchanged"):
            Keystore.open(used)
        (used / name).write_bytes(good)
    shutil.copy(foreign / "audit.pub", used / "audit.pub")
    assert not verify_audit(used).ok


def test_missing_public_files_are_written_again(used: Path) -> None:
    good = {name: (used / name).read_bytes() for name in ("audit.pub", "ingest.pub")}
    for name in good:
        (used / name).unlink()
    Keystore.open(used).close()
    assert {name: (used / name).read_bytes() for name in good} == good


def test_an_erased_name_leaves_a_log_that_verifies(used: Path) -> None:
    with Keystore.open(used) as again:
        again.erase_person("Bob", "Olga")
    assert verify_audit(used).ok
    with Keystore.open(used) as again:
        released = [one for one in again.requests() if one.state == "released"]
        assert {one.approver for one in released[0].approvals} == {"carol", "(erased)"}


def test_proofs_of_the_stored_log_verify_against_its_checkpoint(keystore, make) -> None:
    old = open_checkpoint(keystore.checkpoint(), keystore.audit_vkey)
    make.take(keystore, make.approved(keystore))
    new, auditor = open_checkpoint(keystore.checkpoint(), keystore.audit_vkey), Auditor(keystore.path)
    merkle.verify_consistency(old.size, old.root, new.size, new.root, auditor.prove_consistency(old.size))
    for index, leaf in enumerate(keystore.audit_entries()):
        merkle.verify_inclusion(merkle.leaf_hash(leaf), index, new.size, auditor.prove_inclusion(index), new.root)
    for call in (lambda: auditor.prove_inclusion(new.size), lambda: auditor.prove_consistency(new.size + 1)):
        with pytest.raises(AuditError):
            call()


def test_a_log_that_breaks_the_rules_is_found_even_when_it_is_signed(keystore, make) -> None:
    # The operator of embedded mode holds the signing key: what it signs must still follow the rules.
    request_id = make.request(keystore).request_id
    digest = keystore.show(request_id).digest
    with keystore._ledger.transaction("test", None, None) as (_, log):
        log.append("grant", digest=digest, expires_at="2099-01-01T00:00:00.000000Z", grant="g", request=request_id)
        log.append("release", by="someone", digest=digest, grant="g", recipient="r", request=request_id)
        log.append("approve", approver="someone", digest="other", request=request_id, signature="")
        log.append("policy", by=None, digest="d", policy={}, version=2)
        log.append("sudo")
        log.append("deny", by="x", request="unknown")
    problems = " / ".join(verify_audit(keystore.path).problems)
    for expected in (
        "before enough people agreed",
        "no grant that allows it",
        "another content",
        "policies",
        "unknown type 'sudo'",
        "malformed",
    ):
        assert expected in problems


def test_the_log_is_append_only_for_honest_programs(keystore) -> None:
    tables = ("log", "checkpoints")
    changes = [f"DELETE FROM {table}" for table in tables] + [
        "UPDATE log SET seq = 7",
        "UPDATE checkpoints SET size = 7",
    ]
    for statement in changes:
        with pytest.raises(StorageError, match="append-only"), keystore._database.write() as connection:
            connection.exec_driver_sql(statement)


def test_something_that_is_no_keystore_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not a keystore"):
        verify_audit(tmp_path)
    (tmp_path / "keystore.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError, match="not a keystore database"):
        verify_audit(tmp_path)


def test_leaves_are_canonical_json_with_sequence_time_and_type(keystore) -> None:
    for index, leaf in enumerate(keystore.audit_entries()):
        document = json.loads(leaf)
        assert document["seq"] == index
        assert document["time"].endswith("Z")
        assert leaf == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_a_checkpoint_signed_for_a_forged_tree_does_not_open_the_keystore(used: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stranger = LogSigner(verify_audit(used).origin.split("/")[1], Ed25519PrivateKey.generate())
    note = sign_checkpoint(Checkpoint(stranger.origin, 3, b"r" * 32), stranger._key)
    with pytest.raises(AuditError):
        Keystore.open(used, checkpoint=note)
