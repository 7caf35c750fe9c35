"""The offline verifier: is the log whole, is it the one that was witnessed, and do the tables agree with it? Needs no KEK.

Whoever holds the KEK can write another log, sign it and replace database, witness and audit.pub together: from inside of the
directory that can not be seen. Therefore "intact" is said only against a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, func, select

from keystore.audit.checkpoint import AUDIT_KEY_NAME, Checkpoint, open_checkpoint
from keystore.audit.merkle import Frontier
from keystore.audit.signers import LogSigner, origin_of
from keystore.audit.witness import WITNESS_DIRECTORY, Witness
from keystore.decisions.changes import SIGNED_TOO
from keystore.errors import AuditError, StorageError, TamperedError
from keystore.storage import schema
from keystore.storage.places import check_exists, reading
from keystore.verification.decisions import decisions_problems
from keystore.verification.holdings import holdings_problems
from keystore.verification.milestone import EVERY, Milestone, believed_milestone, last_milestone, store_milestone
from keystore.verification.nodes import NodeCheck
from keystore.verification.reading import read_log, trusted_vkeys
from keystore.verification.replay import LoggedState, Replay, full_replay
from keystore.verification.replay_break_glass import unreviewed
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision, living
from keystore.verification.report import AuditReport

GIVEN = "the checkpoint given"
MOST_NAMED = 20  # entries, in one line of a report


def verify_audit(
    path: Path | str, checkpoint: str | Sequence[str] | None = None, vkey: str | None = None, quorum: int | None = None
) -> AuditReport:
    """Verify the audit trail of the keystore directory `path`, against its witness and, when given, checkpoints kept elsewhere.

    Without `checkpoint` the log can be found wrong but not intact. Of several, each from another place, all must be of this log,
    and what `quorum` of them (all, if None) reach is vouched for. `vkey` is the verifier key from a place you trust; without it,
    `audit.pub` of the directory is taken. The report's `limits` say what is not vouched for. Memory: of the state that the log
    leads to, and not of the log.
    Raises StorageError when the database can not be read at all; everything else is in the report's `problems`.
    """
    directory = Path(path)
    check_exists(directory)
    problems: list[str] = []
    # Before the database: a keystore in use may move both on in between, and never the other way round.
    witness_note = _witness_note(directory, problems)
    with reading(directory) as connection:
        stored_vkey = str(connection.execute(select(schema.identity.c.audit_vkey)).scalar() or "")
        key = vkey or _published_key(directory, problems) or stored_vkey
        if key.strip() != stored_vkey:
            problems.append("the verifier key is not the one in the database")
        vkeys = trusted_vkeys(connection, key, [])
        witnessed = _opened(witness_note, vkeys, "witness", problems)
        notes = [checkpoint] if isinstance(checkpoint, str) else checkpoint or []
        kept = [one for note in notes if (one := _opened(note, vkeys, GIVEN, problems)) is not None]
        replay = full_replay()
        watch = _Watch(connection, key, replay, [*kept, *([] if witnessed is None else [witnessed])], problems)
        frontier = read_log(connection, key, replay, problems, reached=watch)
        logged = replay.state
        problems += logged.problems + logged.weaknesses
        problems += decisions_problems(connection, logged) + holdings_problems(connection, logged)
        watch.end(frontier)
        if witnessed is not None:
            watch.check(witnessed, "witness", frontier)
        sizes = sorted((one.size for one in kept if watch.check(one, GIVEN, frontier)), reverse=True)
        needed = max(1, len(notes) if quorum is None else quorum)
        vouched = sizes[needed - 1] if len(sizes) >= needed else None
        keystore_id = connection.execute(select(schema.identity.c.keystore_id)).scalar()
        return AuditReport(
            ok=not problems,
            intact=not problems and vouched is not None,
            origin=origin_of(str(keystore_id or "")),
            size=frontier.size,
            root=frontier.root().hex(),
            checkpoint=_last_note(connection),
            witnessed_size=None if witnessed is None else witnessed.size,
            vouched_size=vouched,
            problems=problems,
            limits=[
                *_limits(frontier.size, vouched, given_key=vkey is not None),
                *(f"request {one} broke the glass, and nobody has reviewed it" for one in unreviewed(logged)),
                *_unsigned(logged),
                *_by_names(logged),
            ],
        )


def log_problems(connection: Connection, vkey: str, signer: LogSigner | None = None) -> list[str]:
    """Return what is wrong with the log and with what it says is not over: nothing, when all is well.

    Read from the last milestone on; with the audit key's `signer`, another one is set where that is worth while.
    """
    return logged_decisions(connection, vkey, signer)[0]


def logged_decisions(
    connection: Connection, vkey: str, signer: LogSigner | None = None
) -> tuple[list[str], LoggedDecisions]:
    """As `log_problems`, with what the log says was decided and is not over: worth something where there are no problems."""
    begin, problems = believed_milestone(connection, vkey), list[str]()
    end = _read_from(connection, vkey, begin, problems)
    if begin.frontier.size and (end.decisions.went_back or end.decisions.problems):
        # What was over at that milestone may not be so any more, or was not by the tables: the whole log says which.
        begin, problems = Milestone(), []
        end = _read_from(connection, vkey, begin, problems)
    end.decisions = living(end.decisions, end.last_time)
    problems += end.decisions.problems + decisions_problems(connection, end.decisions, end.last_time)
    if signer is not None and not problems and end.frontier.size >= begin.frontier.size + EVERY:
        store_milestone(connection, end, signer)
    return problems, end.decisions


def broken_glass(connection: Connection, vkey: str) -> list[str]:
    """Return the requests that broke the glass and were not reviewed, by the log alone, read from the last milestone on."""
    return unreviewed(_read_from(connection, vkey, believed_milestone(connection, vkey), []).decisions)


def _read_from(connection: Connection, vkey: str, begin: Milestone, problems: list[str]) -> Milestone:
    """Return where the log leads to from a milestone on, with all that was decided since."""
    replay = Replay(begin.decisions, apply_decision, begin.frontier.size, begin.last_time)
    frontier = read_log(connection, vkey, replay, problems, start=begin.frontier)
    return Milestone(frontier, replay.last_time, replay.state)


def is_far_from_milestone(connection: Connection, vkey: str) -> bool:
    """Whether so much was written since the last milestone that another one is worth while."""
    return _size(connection) >= believed_milestone(connection, vkey).frontier.size + EVERY


def keep_milestone(connection: Connection, signer: LogSigner) -> int:
    """Set another milestone where that is worth while. Return at which size of the log to ask again.

    The service does so at the end of its transactions: a release never has more than `EVERY` of its entries to verify.
    """
    size = _size(connection)
    since = believed_milestone(connection, signer.vkey).frontier.size
    if size >= since + EVERY:
        log_problems(connection, signer.vkey, signer)
        since = size  # also where there are problems: they are no fewer the next time, and a release reads them all
    return since + EVERY


def _size(connection: Connection) -> int:
    return int(connection.execute(select(func.max(schema.checkpoints.c.size))).scalar() or 0)


class _Watch:
    """Sees a whole log go by, and notes what the witness, a kept checkpoint and the milestone said of the points it passes."""

    def __init__(
        self,
        connection: Connection,
        vkey: str,
        replay: Replay[LoggedState],
        seen: list[Checkpoint],
        problems: list[str],
    ) -> None:
        self._replay, self._problems = replay, problems
        self._roots: dict[int, bytes | None] = {one.size: None for one in seen}
        self._nodes = NodeCheck(connection, problems)
        self._milestone: Milestone | None = None
        try:
            self._milestone = last_milestone(connection, vkey)
        except (AuditError, TamperedError) as error:
            problems.append(str(error))

    def __call__(self, frontier: Frontier, completed: list[bytes]) -> None:
        self._nodes.reach(frontier.size, completed)
        if frontier.size in self._roots:
            self._roots[frontier.size] = frontier.root()
        if self._milestone is not None and frontier.size == self._milestone.frontier.size:
            last_time = self._replay.last_time
            here = Milestone(frontier, last_time, living(self._replay.state, last_time))
            if here.to_bytes() == self._milestone.to_bytes():
                self._milestone = None

    def end(self, frontier: Frontier) -> None:
        """Say what was not passed as it was foreseen."""
        self._nodes.end(frontier.size)
        if self._milestone is not None:
            self._problems.append(
                f"the milestone at entry {self._milestone.frontier.size}, which releases rest on, is not what the log says there"
            )

    def check(self, old: Checkpoint, what: str, frontier: Frontier) -> bool:
        """Whether the log begins with the tree that a note vouches for; a problem where it does not."""
        if old.size > frontier.size:
            self._problems.append(
                f"{what}: the database was rolled back: its log has {frontier.size} entries and the {what} is of {old.size}. "
                "Restore the newest database; a grant used since then must not work again"
            )
        elif self._roots[old.size] != old.root:
            self._problems.append(f"{what}: the log was forked: it does not continue what was seen at entry {old.size}")
        return self._roots[old.size] == old.root


def _published_key(directory: Path, problems: list[str]) -> str | None:
    try:
        return (directory / AUDIT_KEY_NAME).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        problems.append(
            f"{AUDIT_KEY_NAME} is missing or unreadable; the key in the database was taken, which proves less"
        )
        return None


def _witness_note(directory: Path, problems: list[str]) -> str | None:
    try:
        note = Witness(directory / WITNESS_DIRECTORY, "").note()
    except (AuditError, StorageError) as error:
        problems.append(f"witness: {error}")
        return None
    if note is None:
        problems.append("the witness is missing: a rolled-back database could not be told from a current one")
    return note


def _opened(note: str | None, vkeys: list[str], what: str, problems: list[str]) -> Checkpoint | None:
    if note is None:
        return None
    try:
        return open_checkpoint(note, *vkeys)
    except AuditError as error:
        problems.append(f"{what}: {error}")
        return None


def _limits(size: int, vouched: int | None, *, given_key: bool) -> list[str]:
    limits = []
    if vouched is None:
        limits.append(
            "no checkpoint kept elsewhere vouches for this log: whoever holds the KEK could have rewritten it, its signatures "
            "and its witness together, unseen by this audit. Give one from where the keystore's account can not write"
        )
    elif vouched < size:
        limits.append(
            f"entries {vouched} to {size - 1} were written after the checkpoint given; only a later one can vouch for them"
        )
    if not given_key:
        limits.append(
            "the verifier key was read from the keystore's own directory: that this is the log whose key was once published "
            "is not shown. Give the key that was kept elsewhere"
        )
    return limits


def _unsigned(logged: LoggedDecisions) -> list[str]:
    """Return what is to be said of changes of who decides that no approver signed: nothing, where none ever had a key to."""
    said = [
        f"entry {one} says that approvers' keys are lost, by people's names alone: ask the approvers whether that is so"
        for one in logged.lost_keys
    ]
    if logged.approver_keys and logged.by_names:
        since = (
            "they do not have to" if logged.signed_from is None else f"they have to since entry {logged.signed_from}"
        )
        entries = ", ".join(map(str, logged.by_names[:MOST_NAMED]))
        more = f" and {len(logged.by_names) - MOST_NAMED} more" if len(logged.by_names) > MOST_NAMED else ""
        said.append(
            f"entries {entries}{more} changed the policy or the approvers' keys by names alone, as whoever had the keystore's "
            f"account could: no approver signed them ({since})"
        )
    return said


def _by_names(logged: LoggedDecisions) -> list[str]:
    """Return what is to be said of what no approver signs, whoever has keys."""
    said = []
    unsigned = sorted(set(SIGNED_TOO) - set(logged.signed_too))
    if logged.signed_from is not None and unsigned:
        said.append(
            f"approvers sign changes of who decides since entry {logged.signed_from}, and not what entries {', '.join(unsigned)} "
            "say, as in older versions: names do that until the next change is filed"
        )
    if logged.approver_keys and not logged.own_keys_of_policy:
        said.append(
            "the policy lets people approve who have no key of their own: the keystore signs for them, and who has its account "
            "approves in their names (keyanon keystore policy set --own-keys)"
        )
    if logged.tokens or logged.bindings:
        said.append(
            f"nobody signs whom the service lets in: {len(logged.tokens)} token(s) were issued and {len(logged.bindings)} "
            "identity(ies) bound, in the name and role that whoever has the keystore's account said. They can file, read, and "
            "take what is granted to that person; they sign for nobody who has a key of their own"
        )
    return said


def _last_note(connection: Connection) -> str:
    table = schema.checkpoints
    return str(connection.execute(select(table.c.note).order_by(table.c.size.desc()).limit(1)).scalar() or "")
