"""The stored nodes of the log's tree: proofs from them are those of RFC 6962, read little, and are never given out wrong."""

from __future__ import annotations

import importlib

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, select

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.log import latest_note
from keystore.audit.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from keystore.audit.tree import HEIGHT
from keystore.errors import AuditError
from keystore.storage import schema
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH


def grow(keystore, size: int) -> None:
    """Write entries until there are so many."""
    with keystore._ledger.transaction("test", None, None) as (_, log):
        while log.size < size:
            log.append("refused", action="test", by=None, code="test", request=None)


def nodes(keystore) -> list[tuple[int, int, bytes]]:
    with keystore._database.read() as connection:
        table = schema.nodes.c
        return [tuple(row) for row in connection.execute(select(schema.nodes).order_by(table.height, table.position))]


@pytest.mark.parametrize(
    ("database", "size"),
    [*(("sqlite", size) for size in (15, 16, 17, 256, 515)), ("postgresql", 300)],
    indirect=["database"],
)
def test_every_proof_is_the_one_that_all_leaves_make(keystore, size: int) -> None:
    grow(keystore, size)
    hashes = [leaf_hash(leaf) for leaf in keystore.audit_entries()]
    assert len(hashes) == size
    some = {0, 1, 15, 16, 17, 254, 255, 256, 257, size // 2, size - 2, size - 1}
    for index in sorted(one for one in some if one < size):
        note, proof = keystore.inclusion(index)
        assert proof == inclusion_proof(hashes, index)
        checkpoint = open_checkpoint(note, keystore.audit_vkey)
        verify_inclusion(hashes[index], index, size, proof, checkpoint.root)
        if index:
            _, proof = keystore.consistency(index)
            assert proof == consistency_proof(hashes, index)
            verify_consistency(index, tree_root(hashes[:index]), size, checkpoint.root, proof)
    assert keystore.consistency(size)[1] == []
    for wrong in (-1, size):
        with pytest.raises(LookupError):
            keystore.inclusion(wrong)
    for wrong in (-1, 0, size + 1):
        with pytest.raises(LookupError):
            keystore.consistency(wrong)
    assert len(nodes(keystore)) == sum(size >> height for height in range(HEIGHT, 20, HEIGHT))
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_a_proof_reads_some_entries_and_nodes_and_not_the_log(keystore) -> None:
    rows = []

    def count(size: int) -> int:
        grow(keystore, size)
        worst = 0
        for index in (0, 1, size // 2 - 1, size // 3, size - 2):
            rows.clear()
            keystore.inclusion(index)
            keystore.consistency(index + 1)
            worst = max(worst, sum(rows))
        return worst

    def fetched(connection, cursor, statement, parameters, context, executemany) -> None:
        if "FROM log" in statement or "FROM nodes" in statement:
            rows.append(len(keystore_rows(connection, statement, parameters)))

    def keystore_rows(connection, statement, parameters) -> list:
        return connection.connection.cursor().execute(statement, parameters).fetchall()

    event.listen(keystore._database._engine, "after_cursor_execute", fetched)
    small, large = count(700), count(5000)
    assert 0 < small <= 2 * 16 * 10
    assert large <= 2 * 16 * 13, "seven times the entries, three levels more"


EDITS = [
    "UPDATE nodes SET hash = zeroblob(32) WHERE height = 4 AND position = 2",
    "DELETE FROM nodes WHERE height = 4 AND position = 2",
    "UPDATE log SET leaf = x'00' WHERE seq = 33",
    "DELETE FROM log WHERE seq = 33",
]


@pytest.mark.parametrize("edit", EDITS)
def test_no_proof_is_given_out_from_an_edited_node_or_entry(keystore, edit: str) -> None:
    grow(keystore, 300)
    with keystore._database.write() as connection:
        for table in ("log", "nodes"):
            for action in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER {table}_no_{action}")
        connection.exec_driver_sql(edit)
    refused = 0
    for index in (32, 33, 40, 250, 299):  # the edited node is a sibling of some, and an ancestor of others
        for prove in (keystore.inclusion, keystore.consistency):
            try:
                _, proof = prove(index)
            except AuditError:
                refused += 1
                continue
            if prove == keystore.inclusion:
                with keystore._database.read() as connection:
                    leaf = connection.execute(select(schema.log.c.leaf).where(schema.log.c.seq == index)).scalar_one()
                    checkpoint = open_checkpoint(latest_note(connection), *keystore._keys.signer.vkeys)
                verify_inclusion(leaf_hash(leaf), index, checkpoint.size, proof, checkpoint.root)
    assert refused > 0
    report = verify_audit(keystore.path)
    assert not report.ok


@ON_BOTH
def test_the_migration_computes_the_nodes_of_a_log_that_is_there(keystore) -> None:
    grow(keystore, 530)
    expected = nodes(keystore)
    assert max(height for height, _, _ in expected) == 8
    migration = importlib.import_module("keystore.storage.migrations.versions.m0008_nodes")
    with keystore._database.write() as connection:
        connection.exec_driver_sql("DROP TABLE nodes")
        if connection.dialect.name == "postgresql":
            for action in ("update", "delete"):
                connection.exec_driver_sql(f"DROP FUNCTION nodes_no_{action}")
        with Operations.context(MigrationContext.configure(connection)):
            migration.upgrade()
    assert nodes(keystore) == expected
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
