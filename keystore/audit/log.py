"""Writing the log: canonical JSON leaves, and one signed checkpoint per transaction, in the transaction of what they record.

A leaf is `{"seq", "time", "type", ...}`. Names are never in it: people appear as commitments, free text as the
request's salted digest.

Time in the log comes from the machine's clock, and a permission is worth what that clock is worth. A clock behind the log writes
nothing: were the log's own time taken instead, a clock set forward once would stop time, and a permission of two hours would live
until the clock caught up. A clock far ahead of the log writes nothing either, until an operator confirms it (an entry `clock`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from keystore.audit.checkpoint import Checkpoint, open_checkpoint
from keystore.audit.merkle import Frontier, leaf_hash
from keystore.audit.signers import LogSigner
from keystore.audit.tree import stored_nodes
from keystore.crypto.canonical import canonical_json, parse_timestamp, timestamp
from keystore.errors import AuditError, ClockError
from keystore.storage import schema
from keystore.storage.bulk import insert_many

CLOCK_TOLERANCE = timedelta(seconds=5)  # by which a clock that is being corrected may lie behind the log
MAX_SILENCE = timedelta(days=92)  # after the last entry; a longer one may be a clock set forward
Clock = Callable[[], datetime]


def latest_note(connection: Connection) -> str:
    """Return the latest signed checkpoint. Raises AuditError when there is none."""
    note = connection.execute(
        select(schema.checkpoints.c.note).order_by(schema.checkpoints.c.size.desc()).limit(1)
    ).scalar()
    if note is None:
        raise AuditError("the audit log has no checkpoint; the database was altered, restore it")
    return str(note)


def grown(connection: Connection, frontier: Frontier, size: int) -> Frontier:
    """Return the tree of `frontier` with the stored leaves after it, up to `size`; a shorter one where a leaf is missing."""
    leaves = select(schema.log).where(schema.log.c.seq >= frontier.size, schema.log.c.seq < size)
    for seq, leaf in connection.execute(leaves.order_by(schema.log.c.seq).execution_options(yield_per=1000)):
        if seq != frontier.size:
            break
        frontier = frontier.append(leaf_hash(bytes(leaf)))
    return frontier


def check_grown(connection: Connection, old: Checkpoint, new: Checkpoint) -> None:
    """Raise AuditError unless the stored log takes the tree `old` to the tree `new`; reads what was added since only.

    From the right edge of the old tree, which its root vouches for, the leaves after it must lead to the new root.
    """
    table = schema.checkpoints
    data = connection.execute(select(table.c.frontier).where(table.c.size == old.size)).scalar()
    try:
        before = Frontier.from_bytes(old.size, data or b"")
    except ValueError:
        before = Frontier()
    after = grown(connection, before, new.size)
    if (before.size, before.root(), after.size, after.root()) != (old.size, old.root, new.size, new.root):
        raise AuditError(
            f"the log was rolled back or forked: its {new.size} entries do not continue what was seen at entry {old.size}; "
            "restore the newest database. A grant used since then must not work again"
        )


def check_clock(now: datetime, last_time: datetime) -> None:
    """Raise ClockError unless an entry may be written `now`, after one of `last_time`."""
    if now < last_time - CLOCK_TOLERANCE:
        raise ClockError(
            f"the clock says {timestamp(now)}, and the log's last entry is of {timestamp(last_time)}: set the clock right. If it "
            "is right and was ahead before, confirm it (keyanon keystore confirm-clock), which ends all open requests"
        )
    if now > last_time + MAX_SILENCE:
        raise ClockError(
            f"the clock says {timestamp(now)}, more than {MAX_SILENCE.days} days after the log's last entry of "
            f"{timestamp(last_time)}. If that is right, confirm it: keyanon keystore confirm-clock"
        )


def load_end(connection: Connection, vkeys: Sequence[str]) -> tuple[Frontier, datetime | None]:
    """Return the log's frontier and the time of its last entry, checked against its last checkpoint. Raises AuditError."""
    last_seq = connection.execute(select(func.max(schema.log.c.seq))).scalar()
    size = 0 if last_seq is None else int(last_seq) + 1
    row = connection.execute(select(schema.checkpoints).order_by(schema.checkpoints.c.size.desc()).limit(1)).first()
    if size == 0 and row is None:
        return Frontier(), None
    wrong = AuditError(
        "the audit log and its last checkpoint disagree; run the audit verification before anything else"
    )
    if row is None or row.size != size:
        raise wrong
    checkpoint = open_checkpoint(row.note, *vkeys)
    try:
        frontier = Frontier.from_bytes(row.size, row.frontier)
        last = connection.execute(select(schema.log.c.leaf).where(schema.log.c.seq == size - 1)).scalar_one_or_none()
        last_time = parse_timestamp(json.loads(last or b"")["time"])
    except (ValueError, KeyError, TypeError):
        raise wrong from None
    if (checkpoint.size, checkpoint.root) != (size, frontier.root()):
        raise wrong
    return frontier, last_time


class LogWriter:
    """Appends to the log within one writing transaction. `finish` must be called before the commit, if anything was appended.

    Raises ClockError unless the clock fits the log's last entry, or an operator has `confirmed` it; AuditError.
    """

    def __init__(self, connection: Connection, signer: LogSigner, clock: Clock, *, confirmed: bool = False) -> None:
        self._connection = connection
        self._signer = signer
        self._frontier, self.last_time = load_end(connection, signer.vkeys)
        self._start = self._frontier.size
        self._attached: dict[str, dict[str, Any]] = {}
        self.now = clock()
        if self.last_time is not None and not confirmed:
            check_clock(self.now, self.last_time)
            self.now = max(self.now, self.last_time)

    @property
    def size(self) -> int:
        """The number of leaves, with those appended here."""
        return self._frontier.size

    def attach(self, subject: str, name: str, values: dict[str, Any]) -> None:
        """Let the next entry say `values` of `name` in its field `subject`, whatever else it is about."""
        self._attached.setdefault(subject, {})[name] = values

    def append(self, kind: str, **body: Any) -> None:
        """Append one leaf, with what was attached. Raises AuditError: the signer may not write such an entry.

        Raises whatever the database raises when it can not be written.
        """
        if self._signer.entries is not None and kind not in self._signer.entries:
            raise AuditError(f"an entry {kind!r} is not for this opening of the keystore to write; nothing was changed")
        body |= self._attached
        self._attached = {}
        leaf = canonical_json({**body, "seq": self._frontier.size, "time": timestamp(self.now), "type": kind})
        insert_many(self._connection, schema.log, [{"seq": self._frontier.size, "leaf": leaf}])
        self._frontier, completed = self._frontier.grown(leaf_hash(leaf))
        insert_many(self._connection, schema.nodes, list(stored_nodes(self._frontier.size, completed)))

    def finish(self) -> None:
        """Sign and store the checkpoint of what was appended. Raises AuditError when something attached was never said."""
        if self._attached:
            raise AuditError(
                f"no entry of the log says what changed ({', '.join(self._attached)}); nothing was changed"
            )
        if self._frontier.size > self._start:
            self._connection.execute(
                schema.checkpoints.insert().values(
                    size=self._frontier.size, note=self._signer.sign(self._frontier), frontier=self._frontier.to_bytes()
                )
            )
