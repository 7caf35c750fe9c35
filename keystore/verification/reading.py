"""Reading a log once, from its begin or from a point that is vouched for, with every checkpoint on the way held against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.merkle import Frontier, leaf_hash
from keystore.audit.signers import INGEST_ENTRIES, certified_ingest_vkey
from keystore.errors import AuditError, TamperedError
from keystore.storage import schema
from keystore.vault.epochs import EpochState
from keystore.vault.keyring import PSEUDONYMS_PURPOSE, RECORDS_PURPOSE
from keystore.verification.leaves import guarded, leaves_from
from keystore.verification.replay import Replay, State


def read_log(
    connection: Connection,
    vkey: str,
    replay: Replay[State],
    problems: list[str],
    *,
    start: Frontier | None = None,
    reached: Callable[[Frontier, list[bytes]], None] | None = None,
) -> Frontier:
    """Take every entry after the tree `start` through `replay`, and check the checkpoints that were written after it.

    vkey: the audit key's. reached: told of the tree after each entry and of the subtrees that it completed. Returns the tree of
    all entries that could be read. What is wrong is added to `problems`, beside what the replay finds.
    """
    frontier = start or Frontier()
    checkpoints = _Checkpoints(connection, vkey, frontier.size, problems)
    for leaf in leaves_from(connection, frontier.size, problems):
        replay.add(leaf)
        frontier, completed = frontier.grown(leaf_hash(leaf))
        checkpoints.reach(frontier, leaf)
        if reached is not None:
            reached(frontier, completed)
    checkpoints.end(frontier)
    return frontier


def trusted_vkeys(connection: Connection, vkey: str, problems: list[str]) -> list[str]:
    """Return whose checkpoints count: the audit key's, and those of the ingest key that it vouches for."""
    try:
        ingest_vkey = certified_ingest_vkey(connection, vkey)
    except (AuditError, TamperedError) as error:
        problems.append(str(error))
        return [vkey]
    return [vkey] if ingest_vkey is None else [vkey, ingest_vkey]


class _Checkpoints:
    """The checkpoints after `size` entries, held against the entries as they come."""

    def __init__(self, connection: Connection, vkey: str, size: int, problems: list[str]) -> None:
        self._vkey, self._vkeys = vkey, trusted_vkeys(connection, vkey, problems)
        self._problems = problems
        self._rows = self._read(connection, size)
        self._next = next(self._rows, None)
        self._covered = size
        self._since: list[bytes] = []  # leaves after the last checkpoint

    def _read(self, connection: Connection, size: int) -> Iterator[Any]:
        table = schema.checkpoints
        rows = connection.execute(select(table).where(table.c.size > size).order_by(table.c.size))
        try:
            yield from rows
        except TamperedError as error:
            self._problems.append(f"a checkpoint after {self._covered} is not readable: {error}")

    def reach(self, frontier: Frontier, leaf: bytes) -> None:
        """Check the checkpoint of the tree that ends with `leaf`, if there is one."""
        self._since.append(leaf)
        while self._next is not None and self._next.size <= frontier.size:
            row, self._next = self._next, next(self._rows, None)
            guarded(lambda row=row: self._check(row, frontier), self._problems)  # type: ignore[misc]
            self._covered, self._since = row.size, []

    def _check(self, row: Any, frontier: Frontier) -> None:
        try:
            checkpoint = open_checkpoint(row.note, *self._vkeys)
        except AuditError as error:
            self._problems.append(f"checkpoint {row.size}: {error}")
            return
        if (checkpoint.size, checkpoint.root) != (frontier.size, frontier.root()):
            self._problems.append(
                f"checkpoint {row.size} has another root than the log: an entry before {row.size} was edited, dropped or moved"
            )
        elif row.frontier != frontier.to_bytes():
            self._problems.append(f"checkpoint {row.size} has another frontier than the log")
        elif not _is_signed_by(row.note, self._vkey):
            _check_ingest_entries(self._since, self._covered, self._problems)

    def end(self, frontier: Frontier) -> None:
        """Say what is missing when the log has ended."""
        for row in [self._next, *self._rows] if self._next is not None else []:
            self._problems.append(
                f"checkpoint {row.size} is of entries that the log does not have: the log was truncated"
            )
        if self._covered != frontier.size or not frontier.size:
            self._problems.append(f"the log has {frontier.size} entries and its last checkpoint covers {self._covered}")


def _is_signed_by(note: str, vkey: str) -> bool:
    try:
        open_checkpoint(note, vkey)
    except AuditError:
        return False
    return True


def _check_ingest_entries(leaves: Sequence[bytes], start: int, problems: list[str]) -> None:
    """What ingest signed is what an ingest writes: no decision, and of epoch keys those of records, or of pseudonyms, that
    begin or are full.
    """
    for seq, data in enumerate(leaves, start):
        leaf = json.loads(data)
        changed = leaf.get("epochs", {}).values()
        own = PSEUDONYMS_PURPOSE if leaf["type"] == "pseudonyms" else RECORDS_PURPOSE
        if leaf["type"] not in INGEST_ENTRIES or any(
            one["purpose"] != own or one["state"] == EpochState.DESTROYED.value for one in changed
        ):
            problems.append(f"entry {seq} ({leaf['type']}) is signed by ingest, which may not write such an entry")
