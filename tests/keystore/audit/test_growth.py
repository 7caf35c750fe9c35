"""The witness follows the log by what was added since, and by nothing that does not continue what it saw."""

from __future__ import annotations

import pytest

from keystore.audit.checkpoint import Checkpoint, open_checkpoint
from keystore.audit.log import check_grown, load_end
from keystore.audit.merkle import leaf_hash, tree_root
from keystore.errors import AuditError


def checkpoints(keystore) -> list[Checkpoint]:
    with keystore._database.read() as connection:
        notes = connection.exec_driver_sql("SELECT note FROM checkpoints ORDER BY size").scalars()
        return [open_checkpoint(note, *keystore._keys.signer.vkeys) for note in notes]


def test_a_log_grows_from_every_checkpoint_to_every_later_one(keystore, make) -> None:
    make.approved(keystore)
    seen = checkpoints(keystore)
    with keystore._database.read() as connection:
        for number, old in enumerate(seen):
            for new in seen[number:]:
                check_grown(connection, old, new)
            for new in seen[:number]:
                with pytest.raises(AuditError, match="rolled back or forked"):
                    check_grown(connection, old, new)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE log SET leaf = x'00' WHERE seq = {last}",
        "DELETE FROM log WHERE seq = {last}",
        "UPDATE checkpoints SET frontier = zeroblob(length(frontier)) WHERE size = {size}",
        "UPDATE checkpoints SET frontier = x'00' WHERE size = {size}",
        "DELETE FROM checkpoints WHERE size = {size}",
    ],
)
def test_a_log_that_was_edited_does_not_grow(keystore, make, edit: str) -> None:
    old = checkpoints(keystore)[-1]
    make.request(keystore)
    new = checkpoints(keystore)[-1]
    with keystore._database.write() as connection:
        for table in ("log", "checkpoints"):
            for action in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER {table}_no_{action}")
        connection.exec_driver_sql(edit.format(last=new.size - 1, size=old.size))
    with keystore._database.read() as connection, pytest.raises(AuditError, match="rolled back or forked"):
        check_grown(connection, old, new)


@pytest.mark.parametrize("sizes", ["", " WHERE size = (SELECT max(size) FROM checkpoints)"], ids=["all", "the last"])
def test_a_log_without_its_last_checkpoint_is_not_gone_on_with(keystore, sizes: str) -> None:
    with keystore._database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER checkpoints_no_delete")
        connection.exec_driver_sql(f"DELETE FROM checkpoints{sizes}")
    with keystore._database.read() as connection, pytest.raises(AuditError, match="disagree"):
        load_end(connection, keystore._keys.signer.vkeys)


def test_another_root_of_either_end_is_no_growth(keystore, make) -> None:
    old = checkpoints(keystore)[-1]
    make.request(keystore)
    new = checkpoints(keystore)[-1]
    other = tree_root([b"x" * 32])
    with keystore._database.read() as connection:
        check_grown(connection, old, new)
        for forged in (
            (Checkpoint(old.origin, old.size, other), new),
            (old, Checkpoint(new.origin, new.size, other)),
            (old, Checkpoint(new.origin, new.size + 1, new.root)),
        ):
            with pytest.raises(AuditError):
                check_grown(connection, *forged)


def test_a_witness_is_told_without_reading_the_whole_log(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    make.approved(keystore)
    before, hashed = len(keystore.audit_entries()), 0

    def counting(leaf: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return leaf_hash(leaf)

    monkeypatch.setattr("keystore.audit.log.leaf_hash", counting)
    make.request(keystore)
    added = len(keystore.audit_entries()) - before
    assert (
        added > 0 and hashed == 2 * added < before
    )  # each new entry when it is written, and when the witness moves on
