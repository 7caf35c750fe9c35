"""What the HTTP service asks of a keystore besides: tokens, stale replies, runs, pseudonyms, pages and proofs of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy import Connection, func, select

from keystore import opening
from keystore.audit.checkpoint import Checkpoint, open_checkpoint
from keystore.audit.log import latest_note
from keystore.audit.tree import prove_consistency, prove_inclusion
from keystore.decisions import reading, replies
from keystore.decisions.api_token import Role, TokenView
from keystore.decisions.bindings import BindingView, Identity, binding_views
from keystore.decisions.lifecycle import State
from keystore.decisions.tokens import Caller, token_views
from keystore.emergency import EmergencyKeystore
from keystore.errors import BindingError
from keystore.intake import runs
from keystore.intake.ingest_key import IngestKey
from keystore.naming_opening import PseudonymDesk
from keystore.storage import schema
from keystore.vault.pseudonyms import PseudonymVault
from keystore.verification.verify import broken_glass


class ServedKeystore(EmergencyKeystore):
    """An open keystore as the service holds it."""

    # Whom the service knows

    def issue_token(self, person: str, role: Role, lifetime: timedelta, by: str, *, dataset: str | None = None) -> str:
        """Make a token for the service and return it; only its digest is kept. Raises TokenError, ApprovalError (a bad name)."""
        with self._ledger.transaction("token", None, by) as (connection, log):
            operator = self._people.find_or_add(connection, by)
            holder = self._people.find_or_add(connection, person)
            return self._tokens.issue(connection, log, holder, role, dataset, lifetime, operator)

    def revoke_token(self, token_id: str, by: str) -> None:
        """End a token now. Raises TokenError, ApprovalError (a bad name)."""
        with self._ledger.transaction("revoke-token", None, by) as (connection, log):
            self._tokens.revoke(connection, log, token_id, self._people.find_or_add(connection, by))

    def tokens(self) -> list[TokenView]:
        """Return all tokens that were ever issued, newest first."""
        with self._database.read() as connection:
            return token_views(connection)

    def authenticate(self, token: str) -> Caller | None:
        """Return who holds this token, None for one that is not good now. Nothing is logged."""
        with self._database.read() as connection:
            return self._tokens.authenticate(connection, token, self._clock())

    def holder(self, token_id: str) -> Caller | None:
        """Return whose token of this id is good now, None where it is none any more."""
        with self._database.read() as connection:
            return self._tokens.holder(connection, token_id, self._clock())

    def bind_identity(self, identity: Identity, person: str, role: Role, by: str, *, dataset: str | None = None) -> str:
        """Let a provider's identity stand for a person in a role; return the binding's id. Raises BindingError, ApprovalError."""
        with self._ledger.transaction("bind-identity", None, by) as (connection, log):
            operator = self._people.find_or_add(connection, by)
            holder = self._people.find_or_add(connection, person)
            return self._bindings.bind(connection, log, identity, holder, role, dataset, operator)

    def unbind_identity(self, binding_id: str, by: str) -> None:
        """End a binding now, and the tokens that came from it. Raises BindingError, ApprovalError (a bad name)."""
        with self._ledger.transaction("unbind-identity", None, by) as (connection, log):
            operator = self._people.find_or_add(connection, by)
            self._bindings.unbind(connection, log, self._tokens, binding_id, operator)

    def bindings(self) -> list[BindingView]:
        """Return all bindings that there ever were, newest first."""
        with self._database.read() as connection:
            return binding_views(connection)

    def bindings_of(self, identity: Identity) -> list[BindingView]:
        """Return what an identity is bound to now. Nothing is logged."""
        with self._database.read() as connection:
            return self._bindings.of(connection, identity)

    def issue_to(self, binding: BindingView, lifetime: timedelta) -> str:
        """Make a token for who signed in by a binding. Raises BindingError: it ended meanwhile; TokenError."""
        with self._ledger.transaction("token", None, None) as (connection, log):
            person = self._bindings.live(connection, binding.binding_id)
            if person is None:
                raise BindingError("unbound", "this identity is not bound any more, or its person was erased")
            return self._tokens.issue(
                connection, log, person, binding.role, binding.dataset, lifetime, person, binding.binding_id
            )

    # What its people ask

    def count_open(self, requester: str) -> int:
        """Return how many requests of a person have not ended. Raises ApprovalError (a bad name)."""
        with self._database.read() as connection:
            person = self._people.find(connection, requester)
            return 0 if person is None else reading.count_open(connection, person, self._clock())

    def count_requests(
        self, requester: str | None, dataset: str | None, most: int, *, only_changes: bool = False
    ) -> Mapping[State, int]:
        """Return how many of the requests that `requests` lists are in each state, up to `most` of each."""
        with self._database.read() as connection:
            listing = self._listing(connection, requester, dataset, only_changes)
            return reading.count_requests(connection, listing, most, self._clock())

    def count_unreviewed(self) -> int:
        """Return how many times the glass was broken (keystore.emergency) and nobody has reviewed that."""
        with self._database.read() as connection:
            return len(broken_glass(connection, self.audit_vkey))

    def drop_stale_replies(self) -> int:
        """Drop the replies that may not be fetched any more; return how many."""
        now = self._clock()
        with self._database.read() as connection:
            if not replies.any_before(connection, now):
                return 0
        with self._database.write() as connection:
            return replies.drop(connection, before=now)

    # Runs that hand their keys in from elsewhere

    def announce_run(self, run_id: str, dataset: str) -> None:
        """Register a run and its one data set. Raises InvalidRecordError: it has another."""
        with self._ledger.transaction("run", None, None) as (connection, log):
            runs.register(connection, log, run_id, dataset)

    def run_dataset(self, run_id: str) -> tuple[bool, str | None]:
        """Return whether a run is registered, and its data set."""
        with self._database.read() as connection:
            row = runs.find(connection, run_id)
            return row is not None, None if row is None else row.dataset

    @property
    def pseudonyms(self) -> PseudonymDesk:
        """Those of its data sets' subjects."""
        vault = PseudonymVault(self._keys.keyring, self._keys.index_key)
        return PseudonymDesk(self._database, self._ledger, vault)

    def ingest_key(self) -> IngestKey:
        """Return what a run needs to hand its keys in here. Raises TamperedError: the published files say another key than the
        database; StorageError."""
        key = IngestKey(self.ingest_public_key, self.audit_vkey)
        opening.check_public_keys(self.path, key.public_key, key.audit_vkey)
        return key

    def check_ready(self) -> None:
        """Raise KeystoreError unless something could be written now."""
        self._ledger.check_ready()

    # The audit trail

    def log_page(self, start: int, limit: int) -> tuple[int, list[bytes]]:
        """Return the log's size, and its leaves from `start` on, `limit` at most."""
        with self._database.read() as connection:
            size, leaf = schema.log.c.seq, schema.log.c.leaf
            last = connection.execute(select(func.max(size))).scalar()
            page = select(leaf).where(size >= start).order_by(size).limit(limit)
            return (0 if last is None else last + 1), [bytes(one) for one in connection.execute(page).scalars()]

    def inclusion(self, index: int) -> tuple[str, list[bytes]]:
        """Return the latest checkpoint and the proof that an entry is in it. Raises LookupError: there is no such entry."""
        with self._database.read() as connection:
            return self._proof(connection, lambda last: prove_inclusion(connection, last, index))

    def consistency(self, old_size: int) -> tuple[str, list[bytes]]:
        """Return the latest checkpoint and the proof that it extends that of `old_size`. Raises LookupError."""
        with self._database.read() as connection:
            return self._proof(connection, lambda last: prove_consistency(connection, last, old_size))

    def _proof(self, connection: Connection, prove: Callable[[Checkpoint], list[bytes]]) -> tuple[str, list[bytes]]:
        note = self._keys.signer.countersign(latest_note(connection))
        try:
            return note, prove(open_checkpoint(note, self.audit_vkey))
        except ValueError as error:
            raise LookupError(str(error)) from error
