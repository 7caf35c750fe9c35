"""The ledger: what every operation of the keystore goes through, so that nothing happens without its log entry.

One writing transaction: the witness is asked whether this is still the database it saw, the operation runs in a
savepoint, its leaves and a signed checkpoint are written, all is committed, and the witness moves on. A refused attempt
is rolled back to the savepoint and its refusal is committed in its place. When the log can not be written, nothing
happened and no key leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, select

from keystore.audit.checkpoint import Checkpoint, open_checkpoint
from keystore.audit.elsewhere import WitnessAheadError, WitnessElsewhere, asked_witnesses
from keystore.audit.log import Clock, LogWriter, check_clock, check_grown, grown, latest_note, load_end
from keystore.audit.signers import LogSigner
from keystore.audit.tree import prove_consistency
from keystore.audit.witness import Witness
from keystore.decisions import reading
from keystore.decisions.ending import void_open
from keystore.decisions.people import People
from keystore.errors import ApprovalError, AuditError, ClockError, KeystoreError, Refusal, TamperedError
from keystore.storage import schema
from keystore.storage.database import Database
from keystore.verification.milestone import believed_milestone
from keystore.verification.verify import keep_milestone

FIRST_LOG_SIZE = 2  # entries of a new keystore: created, policy


class Ledger:
    """The transactions, the log and the witness of one open keystore."""

    def __init__(
        self, database: Database, signer: LogSigner, witness_directory: Path, clock: Clock, people: People | None
    ) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._people = people
        self._witness = Witness(witness_directory, *signer.vkeys)
        self._witness_directory = witness_directory
        self._milestone_at = 0  # size of the log at which another milestone may be worth while

    @contextmanager
    def transaction(
        self, action: str, request_id: str | None, by: str | None, *, witness: bool = True
    ) -> Iterator[tuple[Connection, LogWriter]]:
        """One operation. `action`, `request_id` and `by` are what the log says of it if it is refused.

        Without `witness` the caller makes it move on (`remember`), once for many transactions.
        """
        refusal: KeystoreError | None = None
        with self._database.write() as connection:
            self._check_not_rolled_back(connection)
            log = LogWriter(connection, self._signer, self._clock)
            savepoint = connection.begin_nested()
            try:
                yield connection, log
                savepoint.commit()
            except (Refusal, TamperedError) as error:
                savepoint.rollback()
                refusal = error
                log = LogWriter(connection, self._signer, self._clock)
                self._log_refusal(connection, log, action, request_id, by, error)
            log.finish()
            if self._signer.entries is None and log.size >= self._milestone_at:  # ingest signs none
                self._milestone_at = keep_milestone(connection, self._signer)
        if witness:
            self.remember()
        if refusal is not None:
            raise refusal

    def confirm_clock(self, by: str) -> None:
        """Write on although the clock does not fit the log, because an operator says that it is right.

        Behind the log, time goes back: every open request ends, since its expiry was set by the clock that was wrong.
        """
        with self._database.write() as connection:
            self._check_not_rolled_back(connection)
            log = LogWriter(connection, self._signer, self._clock, confirmed=True)
            person = None if self._people is None else self._people.find_or_add(connection, by)
            goes_back = log.last_time is not None and log.now < log.last_time
            if goes_back:
                void_open(connection)
            log.append("clock", back=goes_back, by=person)
            log.finish()
        self.remember()

    def clock_fits(self) -> bool:
        """Return whether something could be written now."""
        try:
            self.check_clock()
        except ClockError:
            return False
        return True

    def check_ready(self) -> None:
        """Raise KeystoreError unless something could be written now: database and witness agree, and the clock fits."""
        with self._database.read() as connection:
            self._check_not_rolled_back(connection)
        self.check_clock()

    def check_clock(self) -> None:
        """Raise ClockError unless something could be written now."""
        with self._database.read() as connection:
            _, last_time = load_end(connection, self._signer.vkeys)
        if last_time is not None:
            check_clock(self._clock(), last_time)

    def _log_refusal(
        self,
        connection: Connection,
        log: LogWriter,
        action: str,
        request_id: str | None,
        by: str | None,
        error: KeystoreError,
    ) -> None:
        known = None if request_id is None else reading.known_request(connection, request_id)
        try:
            person = None if by is None or self._people is None else self._people.find_or_add(connection, by)
        except ApprovalError:
            person = None  # a name that was refused for what it hides does not go on file
        code = error.code if isinstance(error, Refusal) else "tampered"
        log.append("refused", action=action, by=person, code=code, request=known)

    def check_witness(self, checkpoint: str | None) -> None:
        """Check the stored log against its last checkpoint, the witness, and a checkpoint kept elsewhere. Raises AuditError.

        Entries before the last milestone are not read again: nothing rests on them but an audit, which reads them all.
        Where the witness is lost, the checkpoint starts a new one. It can not show that the database was not rolled back to
        some state after it (it may be the log's own first note), so every open request ends, and the log says what happened.
        """
        # Asked before the database is read: another process may move both on in between, and never the other way round.
        last = self._witness.last()
        kept = None if checkpoint is None else open_checkpoint(checkpoint, *self._signer.vkeys)
        with self._database.read() as connection:
            end, _ = load_end(connection, self._signer.vkeys)
            verified = believed_milestone(connection, self._signer.vkeys[0]).frontier
            if grown(connection, verified, end.size) != end:
                raise AuditError(
                    "the audit log is not the one its last checkpoint was signed for: entries were edited, dropped or added"
                )
            note = latest_note(connection)
            latest = open_checkpoint(note, *self._signer.vkeys)
            for seen in (kept, last):
                if seen is not None:
                    check_grown(connection, seen, latest)
        if last is None and latest.size > FIRST_LOG_SIZE:
            if kept is None:
                raise AuditError(
                    f"the witness of {self._database.name} is missing, so a rolled-back database could not be told "
                    "from a current one; put back a copy, or start it again from a checkpoint you kept, which ends all open "
                    "requests (keyanon keystore restore-witness)"
                )
            self._start_witness_again(kept)
            return
        self.remember()

    def _start_witness_again(self, kept: Checkpoint) -> None:
        # Committed before the witness is written: a process killed in between is asked for a checkpoint again.
        # Whatever the clock says: where no request stays open, there is nothing that it could revive.
        with self._database.write() as connection:
            log = LogWriter(connection, self._signer, self._clock, confirmed=True)
            void_open(connection)
            log.append("witness", kept_root=kept.root.hex(), kept_size=kept.size)
            log.finish()
        self.remember()

    def _check_not_rolled_back(self, connection: Connection) -> None:
        last = self._witness.last()
        if last is None:
            raise AuditError("the witness disappeared while the keystore was open; put back a copy before going on")
        stored = connection.execute(
            select(schema.checkpoints.c.note).where(schema.checkpoints.c.size == last.size)
        ).scalar()
        if stored is None or open_checkpoint(stored, *self._signer.vkeys) != last:
            raise AuditError(
                "the database was rolled back or exchanged while the keystore was open; restore the newest one"
            )

    def remember(self) -> None:
        """Move the witness on to the latest checkpoint, and those elsewhere that are asked. Raises AuditError, StorageError."""
        with self._database.read() as connection:
            note = latest_note(connection)
            self._witness.remember(note, lambda old, new: check_grown(connection, old, new))
        if self._signer.entries is None:  # ingest, whose signature no witness elsewhere knows, leaves it to the service
            for elsewhere in asked_witnesses(self._witness_directory):
                self.ask_elsewhere(elsewhere)

    def ask_elsewhere(self, witness: WitnessElsewhere) -> bool:
        """Have the latest checkpoint signed by a witness elsewhere; return whether it was. Raises AuditError, StorageError."""
        while True:
            with self._database.read() as connection:
                note = self._signer.countersign(latest_note(connection))
                try:
                    return witness.ask(note, self._signer.vkey, partial(prove_consistency, connection))
                except WitnessAheadError as error:
                    ahead = error
            with self._database.read() as connection:
                now = open_checkpoint(latest_note(connection), *self._signer.vkeys).size
            if now <= open_checkpoint(note, self._signer.vkey).size or now < ahead.seen:
                raise ahead  # else another process of this keystore wrote meanwhile, and was quicker
