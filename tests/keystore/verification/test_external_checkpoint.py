"""What only a checkpoint kept elsewhere can show, and that nothing is called intact without one."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.merkle import Frontier, leaf_hash
from keystore.crypto.canonical import canonical_json
from keystore.decisions.lifecycle import State
from keystore.embedded import Keystore
from keystore.errors import AuditError, GrantError
from keystore.verification.verify import verify_audit


def rewrite_log_without_the_release(keystore: Keystore) -> None:
    """What the holder of database and KEK can do: drop the release, renumber, sign again, and overwrite the witness."""
    leaves = [json.loads(leaf) for leaf in keystore.audit_entries()]
    kept = [leaf for leaf in leaves if leaf["type"] != "release"]
    signer = keystore._keys.signer
    connection = sqlite3.connect(keystore.path / "keystore.db")
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in (
        "DELETE FROM log",
        "DELETE FROM checkpoints",
        "DELETE FROM releases",
        "UPDATE requests SET state = 'approved' WHERE state = 'released'",
    ):
        connection.execute(statement)
    frontier, note = Frontier(), ""
    for seq, leaf in enumerate(kept):
        data = canonical_json({**leaf, "seq": seq})
        connection.execute("INSERT INTO log VALUES (?, ?)", (seq, data))
        frontier = frontier.append(leaf_hash(data))
        note = signer.sign(frontier)
        connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (seq + 1, note, frontier.to_bytes()))
    connection.commit()
    connection.close()
    (keystore.path / "witness" / "checkpoint").write_text(note, encoding="utf-8")


def test_a_log_rewritten_by_the_holder_of_the_kek_is_called_intact_by_nobody(keystore, make, clock) -> None:
    request_id = make.approved(keystore)
    make.take(keystore, request_id)
    kept = keystore.checkpoint()
    assert verify_audit(keystore.path, kept).intact
    rewrite_log_without_the_release(keystore)
    keystore.close()
    with Keystore.open(keystore.path, clock=clock) as again:
        assert len(make.take(again, request_id)) == 1, "the attack works: nothing in the directory can stop it"
    alone = verify_audit(keystore.path)
    assert (alone.ok, alone.intact, alone.vouched_size) == (True, False, None)
    assert any("KEK" in limit for limit in alone.limits)
    against = verify_audit(keystore.path, kept)
    assert not against.ok
    assert not against.intact
    assert any("the checkpoint given: the log was forked" in problem for problem in against.problems)
    with pytest.raises(AuditError, match="forked"):
        Keystore.open(keystore.path, checkpoint=kept, clock=clock)


def test_an_audit_says_how_far_it_reaches(keystore, make) -> None:
    kept, key = keystore.checkpoint(), keystore.audit_vkey
    size = open_checkpoint(kept, key).size
    whole = verify_audit(keystore.path, kept, key)
    assert (whole.intact, whole.vouched_size, whole.limits) == (True, size, [])
    make.request(keystore)
    later = verify_audit(keystore.path, kept, key)
    assert (later.intact, later.vouched_size, later.size) == (True, size, size + 1)
    assert later.limits == [
        f"entries {size} to {size} were written after the checkpoint given; only a later one can vouch for them"
    ]
    (limit,) = verify_audit(keystore.path, keystore.checkpoint()).limits
    assert "verifier key was read from the keystore's own directory" in limit


def first_note(path: Path) -> str:
    connection = sqlite3.connect(path / "keystore.db")
    try:
        return str(connection.execute("SELECT note FROM checkpoints ORDER BY size").fetchone()[0])
    finally:
        connection.close()


def test_the_logs_own_first_note_starts_a_witness_again_on_record_and_no_grant_outlives_it(
    keystore, make, clock
) -> None:
    approved, pending = make.approved(keystore), make.request(keystore, "b.png").request_id
    denied = make.request(keystore, "c.png").request_id
    keystore.deny(denied, "Dora")
    keystore.close()
    (keystore.path / "witness" / "checkpoint").unlink()
    note = first_note(keystore.path)
    with Keystore.open(keystore.path, checkpoint=note, clock=clock) as again:
        last = json.loads(again.audit_entries()[-1])
        assert (last["type"], last["kept_size"]) == ("witness", open_checkpoint(note, again.audit_vkey).size)
        for request_id in (approved, pending):
            assert again.show(request_id).state is State.DENIED
            with pytest.raises(GrantError, match="denied"):
                make.take(again, request_id)
        assert again.show(denied).denied_by == "dora"
        assert len(make.take(again, make.approved(again))) == 1
    assert verify_audit(keystore.path).ok


def test_a_process_killed_while_it_starts_a_witness_again_leaves_none_without_its_entry(
    keystore, make, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.approved(keystore)
    note, size = keystore.checkpoint(), len(keystore.audit_entries())
    keystore.close()
    (keystore.path / "witness" / "checkpoint").unlink()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keystore.ledger.Witness.remember", killed)
        with pytest.raises(KeyboardInterrupt):
            Keystore.open(keystore.path, checkpoint=note, clock=clock)
    assert not (keystore.path / "witness" / "checkpoint").exists()
    with pytest.raises(AuditError, match="witness"):
        Keystore.open(keystore.path, clock=clock)
    with Keystore.open(keystore.path, checkpoint=note, clock=clock) as again:
        assert [json.loads(leaf)["type"] for leaf in again.audit_entries()[size:]] == ["witness", "witness"]


def test_a_checkpoint_beside_a_witness_ends_no_request(keystore, make, clock) -> None:
    request_id = make.approved(keystore)
    size = len(keystore.audit_entries())
    keystore.close()
    with Keystore.open(keystore.path, checkpoint=first_note(keystore.path), clock=clock) as again:
        assert len(again.audit_entries()) == size
        assert again.show(request_id).state is State.APPROVED
