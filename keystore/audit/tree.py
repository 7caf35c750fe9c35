"""The log's tree as it is stored, so that a proof reads some nodes and not the log.

Kept are the roots of full subtrees of 16, 256, 4,096 ... leaves (`nodes`), as C2SP tlog-tiles do with 256: what lies between
is hashed again from 15 of them at most. Nothing rests on them: a proof is verified against the signed checkpoint before it is
given out, and the verifier computes each of them from the leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from keystore.audit.checkpoint import Checkpoint
from keystore.audit.merkle import (
    Frontier,
    ProofError,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from keystore.errors import AuditError
from keystore.storage import schema

HEIGHT = 4  # levels of the tree from one that is stored to the next


def stored_nodes(size: int, completed: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the nodes that the last leaf of a tree of `size` completed (merkle.Frontier.grown)."""
    for height in range(HEIGHT, len(completed) + 1, HEIGHT):
        yield {"height": height, "position": (size >> height) - 1, "hash": completed[height - 1]}


def prove_inclusion(connection: Connection, checkpoint: Checkpoint, index: int) -> list[bytes]:
    """Return the proof that an entry is in the tree of a checkpoint. Raises ValueError: there is no such entry; AuditError."""
    ranges = inclusion_ranges(index, checkpoint.size)
    proof = [_root(connection, start, end) for start, end in ranges]
    with _checked():
        (leaf,) = _hashes(connection, 0, index, index + 1)
        verify_inclusion(leaf, index, checkpoint.size, proof, checkpoint.root)
    return proof


def prove_consistency(connection: Connection, checkpoint: Checkpoint, old_size: int) -> list[bytes]:
    """Return the proof that the tree of a checkpoint extends that of `old_size`. Raises ValueError: it never had; AuditError."""
    ranges = consistency_ranges(old_size, checkpoint.size)
    proof = [_root(connection, start, end) for start, end in ranges]
    with _checked():
        verify_consistency(old_size, _root(connection, 0, old_size), checkpoint.size, checkpoint.root, proof)
    return proof


class _checked:
    """What a proof that does not verify means here."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ProofError):
            raise AuditError(
                f"the stored nodes or entries of the log's tree do not lead to its checkpoint ({error}): they were edited; "
                "verify the audit log before anything else"
            ) from error


def _root(connection: Connection, start: int, end: int) -> bytes:
    """Return the root of the leaves from `start` on, before `end`: a subtree of the log's tree."""
    peaks = []
    at = start
    for height in range((end - start).bit_length() - 1, -1, -1):
        if (end - start) >> height & 1:
            peaks.append(_full(connection, height, at))
            at += 1 << height
    return Frontier(end - start, tuple(peaks)).root()


def _full(connection: Connection, height: int, start: int) -> bytes:
    """Return the root of the full subtree of that height whose first leaf is `start`."""
    below = height // HEIGHT * HEIGHT
    row = _hashes(connection, below, start >> below, (start + (1 << height)) >> below)
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


def _hashes(connection: Connection, height: int, first: int, end: int) -> list[bytes]:
    """Return the hashes of stored nodes of a height, or of leaves (height 0), in order. Raises AuditError: one is missing."""
    log, nodes = schema.log.c, schema.nodes.c
    if height == 0:
        query = select(log.seq, log.leaf).where(log.seq >= first, log.seq < end).order_by(log.seq)
        rows = [(seq, leaf_hash(leaf)) for seq, leaf in connection.execute(query)]
    else:
        of_height = (nodes.height == height) & (nodes.position >= first) & (nodes.position < end)
        query = select(nodes.position, nodes.hash).where(of_height).order_by(nodes.position)
        rows = [(position, one) for position, one in connection.execute(query)]
    if [position for position, _ in rows] != list(range(first, end)):
        raise AuditError(
            f"nodes {first} to {end - 1} of height {height} of the log's tree are not all there; restore the database, and "
            "compare with a kept checkpoint"
        )
    return [one for _, one in rows]
