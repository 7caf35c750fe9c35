"""The embedded keystore: one directory, one object, every operation a transaction whose log entry commits with it.

    keystore.db  kek.key  ingest.pub  audit.pub  witness/checkpoint  inbox/<run>/<shard>.keys

What an operation means is in the modules it calls; how it is committed together with its log entry is in ledger.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, select

from keystore import opening, upgrade
from keystore.audit.log import Clock, latest_note, leaf_hashes
from keystore.audit.merkle import inclusion_proof
from keystore.audit.witness import WITNESS_DIRECTORY
from keystore.crypto.canonical import sha256_hex, utc_now
from keystore.crypto.hybrid import key_id
from keystore.decisions import reading, stored_policy
from keystore.decisions.people import People
from keystore.decisions.policy import Policy
from keystore.decisions.release import seal_release
from keystore.decisions.requests import RequestDesk, Words, find_images, images_of
from keystore.decisions.views import RequestView
from keystore.errors import AuditError, ErasureError
from keystore.ingest_opening import IngestOpening
from keystore.intake.inbox import INBOX_NAME, holds_shards
from keystore.intake.report import IngestReport
from keystore.kek.provider import KeyEncryptionKey, create_kek
from keystore.ledger import Ledger
from keystore.storage import schema
from keystore.storage.database import DATABASE_NAME, Database, close_to_others
from keystore.unlocking import ServiceKeys, unlock_service
from keystore.vault import epochs, erasure, ingest_keys
from keystore.vault.catalogue import RecordView, record_views
from keystore.vault.keyring import ALL_PURPOSES
from keystore.vault.records import RecordVault
from keystore.verification.verify import log_problems

_LOGGER = logging.getLogger(__name__)


class Keystore:
    """An open keystore. Make one with `create`, `open` or `open_or_create`; use it in a `with` statement, or `close` it."""

    def __init__(self, path: Path, database: Database, kek_uri: str | None, keys: ServiceKeys, clock: Clock) -> None:
        self.path = path
        self.warnings: tuple[str, ...] = ()
        self._database = database
        self._kek_uri = kek_uri
        self._keys = keys
        self._clock = clock
        self._people = People(keys.index_key)
        self._ledger = Ledger(database, keys.signer, path / WITNESS_DIRECTORY, clock, self._people)
        self._vault = RecordVault(keys.keystore_id, keys.keyring)
        self._desk = RequestDesk(keys.keystore_id, keys.keyring)
        self._intake: IngestOpening | None = None  # opened when something is taken in, with keys of its own

    @classmethod
    def create(
        cls, path: Path | str, kek_uri: str | None = None, *, policy: Policy | None = None, clock: Clock = utc_now
    ) -> Self:
        """Create a keystore; the KEK file too, on first use (see `warnings`). Raises StorageError if there is one, KekError."""
        return cls._create(Path(path), kek_uri, policy or Policy(), clock, must_be_new=True)

    @classmethod
    def open_or_create(
        cls, path: Path | str, kek_uri: str | None = None, *, policy: Policy | None = None, clock: Clock = utc_now
    ) -> Self:
        """Open the keystore, or create it where there is none; `policy` is that of a new one. Raises KeystoreError."""
        directory = Path(path)
        if (directory / DATABASE_NAME).exists():
            try:
                return cls.open(directory, kek_uri, clock=clock)
            except opening.NeverCompletedError:
                pass
        return cls._create(directory, kek_uri, policy or Policy(), clock, must_be_new=False)

    @classmethod
    def open(
        cls, path: Path | str, kek_uri: str | None = None, *, checkpoint: str | None = None, clock: Clock = utc_now
    ) -> Self:
        """Open an existing keystore; the KEK is where it was at creation, unless `kek_uri` says otherwise.

        `checkpoint` is a signed checkpoint kept elsewhere: the log must extend it. It starts a lost witness again, which is
        logged and ends every open request.
        Raises WrongKekError and KekError before anything else, StorageError, SchemaError, TamperedError, AuditError.
        """
        directory = Path(path)
        database = opening.existing(directory)
        try:
            kek = opening.open_matching_kek(database, directory, kek_uri)
            if close_to_others(database.path):
                _LOGGER.warning("%s was open to others and is not any more; ask who has read it", database.path)
            database.migrate()
            keystore = cls(directory, database, kek_uri, unlock_service(database, kek), clock)
            opening.publish_public_keys(directory, keystore._public_keys(), keystore.audit_vkey)
            keystore._ledger.check_witness(checkpoint)
            keystore._bring_up_to_date(kek)
        except BaseException:
            database.close()
            raise
        return keystore

    @classmethod
    def _create(cls, directory: Path, kek_uri: str | None, policy: Policy, clock: Clock, *, must_be_new: bool) -> Self:
        warning = opening.create(directory, kek_uri, policy, clock, must_be_new=must_be_new)
        keystore = cls.open(directory, kek_uri, clock=clock)
        if warning is not None:
            _LOGGER.warning("%s", warning)
            keystore.warnings = (warning,)
        return keystore

    def _bring_up_to_date(self, kek: KeyEncryptionKey) -> None:
        with self._database.read() as connection:
            untagged = self._people.has_untagged(connection)
            needed = upgrade.needed(connection)
        if untagged:
            with self._database.write() as connection:
                self._people.file_tags(connection)
        if needed and self._ledger.clock_fits():  # else nothing is written yet, but it can be read
            keyring = self._keys.keyring.for_purposes(ALL_PURPOSES)
            with self._ledger.transaction("inventory", None, None) as (connection, log):
                inbox = self.path / INBOX_NAME
                upgrade.bring_up_to_date(connection, log, keyring, self._keys.signer, self._vault, inbox)
            self._database.fold()
            self._use(unlock_service(self._database, kek))

    def _use(self, keys: ServiceKeys) -> None:
        self._keys = keys
        self._ledger = Ledger(self._database, keys.signer, self.path / WITNESS_DIRECTORY, self._clock, self._people)
        self._vault = RecordVault(keys.keystore_id, keys.keyring)
        self._desk = RequestDesk(keys.keystore_id, keys.keyring)
        self._close_intake()

    def _close_intake(self) -> None:
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def _public_keys(self) -> list[bytes]:
        with self._database.read() as connection:
            return ingest_keys.public_keys(connection)

    def close(self) -> None:
        """Close the database."""
        self._close_intake()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Keystore({str(self.path)!r}, id {self.id})"

    @property
    def id(self) -> str:
        """The keystore's random id (32 hexadecimal digits)."""
        return self._keys.keystore_id

    @property
    def ingest_public_key(self) -> bytes:
        """The X-Wing public key (1,216 bytes) that workers seal to; also in `ingest.pub`."""
        return self._public_keys()[-1]

    @property
    def audit_vkey(self) -> str:
        """The verifier key of the log; publish it where the operator of this keystore can not change it."""
        return self._keys.signer.vkey

    # Taking keys in: the ingest opening's work, here for one machine that does everything

    @property
    def intake(self) -> IngestOpening:
        """The ingest opening of the same keystore, with keys of its own. Raises KeystoreError when it can not be opened."""
        if self._intake is None:
            self._intake = IngestOpening.open(self.path, self._kek_uri, clock=self._clock)
        return self._intake

    def inbox(self, run_id: str, dataset: str | None = None) -> Path:
        """See IngestOpening.inbox."""
        return self.intake.inbox(run_id, dataset)

    def ingest(self, run_id: str, shard_names: Sequence[str] | None = None) -> IngestReport:
        """See IngestOpening.ingest."""
        return self.intake.ingest(run_id, shard_names)

    def reconcile(self, run_id: str, committed: Sequence[str]) -> list[str]:
        """See IngestOpening.reconcile."""
        return self.intake.reconcile(run_id, committed)

    def find_records(
        self, image_ids: Sequence[str] | None = None, dataset: str | None = None, run_id: str | None = None
    ) -> list[RecordView]:
        """Return what is known of stored records without opening them, filtered, ordered by data set and image."""
        with self._database.read() as connection:
            return record_views(connection, image_ids, dataset, run_id)

    # Erasing

    def erased_among(self, record_ids: Iterable[str]) -> set[str]:
        """Return those of the records that were stored here and erased since, or that came erased and were refused."""
        with self._database.read() as connection:
            return erasure.erased_among(connection, self._keys.index_key, record_ids)

    def erase(self, dataset: str, by: str, *, subject: str | None = None, image_id: str | None = None) -> int:
        """Erase a subject of a data set with all its records, or an image that has no subject. Return how many records went.

        No copy of a shard brings them back: what was made before this moment is not taken in again. Raises ErasureError (an image
        that lies under its subject's key, or neither a subject nor an image given), ApprovalError (a bad name).
        """
        with self._ledger.transaction("erase", None, by) as (connection, log):
            if (subject is None) == (image_id is None):
                raise ErasureError("whom", "say whom to erase: a subject, or an image that has none")
            person = self._people.find_or_add(connection, by)
            gone = erasure.erase(
                connection, log, self._keys.keyring, self._keys.index_key, dataset, subject, image_id or "", person
            )
        self._database.fold()
        return gone

    def renew_ingest_key(self, by: str) -> None:
        """Make a new key for workers to seal to; shards sealed to older ones are taken in until those are retired."""
        with self._ledger.transaction("ingest-key", None, by) as (connection, log):
            ingest_keys.renew(connection, log, self._keys.keyring, self._people.find_or_add(connection, by))
        self._close_intake()
        opening.publish_public_keys(self.path, self._public_keys(), self.audit_vkey)

    def retire_ingest_keys(self, by: str) -> list[str]:
        """Destroy every ingest key but the present one, and return their ids: no kept shard opens with them any more.

        Not while a run that was given an older key goes on: its records could never be opened. Raises ErasureError while a shard
        lies in the inbox.
        """
        with self._ledger.transaction("retire", None, by) as (connection, log):
            if holds_shards(self.path):
                raise ErasureError(
                    "pending-shards", "shards lie in the inbox; take them in or remove them, then retire"
                )
            retired = ingest_keys.retire(connection, log, self._keys.keyring, self._people.find_or_add(connection, by))
        self._database.fold()
        self._close_intake()
        return retired

    # Asking and agreeing

    def request(
        self,
        requester: str,
        image_ids: Sequence[str],
        case: str,
        purpose: str,
        legal_basis: str,
        expires: timedelta,
        dataset: str | None = None,
        run_id: str | None = None,
    ) -> RequestView:
        """Ask for the keys of images (image ids, or record ids). Raises PolicyError, ApprovalError (a bad name),
        RecordNotFound."""
        with self._ledger.transaction("request", None, requester) as (connection, log):
            images = find_images(connection, image_ids, dataset, run_id)
            person = self._people.find_or_add(connection, requester)
            words = Words(case, purpose, legal_basis)
            request_id = self._desk.create(
                connection, log, stored_policy.read(connection), person, images, words, expires
            )
        return self.show(request_id)

    def change(
        self,
        request_id: str,
        by: str,
        *,
        case: str | None = None,
        purpose: str | None = None,
        legal_basis: str | None = None,
        expires: timedelta | None = None,
    ) -> RequestView:
        """Change the words or the expiry (from now) of one's own request; its approvals and its grant are void.
        Raises a Refusal."""
        with self._ledger.transaction("change", request_id, by) as (connection, log):
            row = self._desk.row(connection, request_id)
            words = Words(
                row.case_reference if case is None else case,
                row.purpose if purpose is None else purpose,
                row.legal_basis if legal_basis is None else legal_basis,
            )
            person = self._people.find_or_add(connection, by)
            self._desk.change(connection, log, stored_policy.read(connection), request_id, person, words, expires)
        return self.show(request_id)

    def approve(self, request_id: str, approver: str, digest: str) -> RequestView:
        """Approve as `approver` the content whose digest they were shown (`RequestView.digest`).

        Raises ApprovalError, also where the request is not that content any more; RequestNotFound.
        """
        with self._ledger.transaction("approve", request_id, approver) as (connection, log):
            person = self._people.find_or_add(connection, approver)
            self._desk.approve(connection, log, stored_policy.read(connection), request_id, person, digest)
        return self.show(request_id)

    def deny(self, request_id: str, by: str) -> RequestView:
        """End a request without release. Raises ApprovalError, RequestNotFound."""
        with self._ledger.transaction("deny", request_id, by) as (connection, log):
            self._desk.deny(connection, log, request_id, self._people.find_or_add(connection, by))
        return self.show(request_id)

    def requests(self) -> list[RequestView]:
        """Return all requests, newest first."""
        with self._database.read() as connection:
            ids = (
                connection.execute(select(schema.requests.c.request_id).order_by(schema.requests.c.created_at.desc()))
                .scalars()
                .all()
            )
            return [self._view(connection, request_id) for request_id in ids]

    def show(self, request_id: str) -> RequestView:
        """Return one request. Raises RequestNotFound."""
        with self._database.read() as connection:
            return self._view(connection, request_id)

    def policy(self) -> Policy:
        """Return the present policy."""
        with self._database.read() as connection:
            return stored_policy.read(connection)

    def set_policy(self, policy: Policy, *people: str) -> None:
        """Change the policy, by at least two people; open requests must be changed or made again.

        Raises ApprovalError for a bad name, and where it is one person only.
        """
        with self._ledger.transaction("policy", None, people[0] if people else None) as (connection, log):
            stored_policy.change(
                connection, log, policy, [self._people.find_or_add(connection, name) for name in people]
            )

    def rotate_kek(self, uri: str, by: str) -> int:
        """Wrap every epoch key under another KEK, made where there is none yet, and use that from now on. Return how many.

        Nothing below the epoch keys changes. When this returns, the old KEK opens nothing that is in the database: destroy it,
        and every older backup dies with it. Raises KekError, ApprovalError (a bad name), TamperedError.
        """
        kek, is_new = create_kek(uri)
        with self._ledger.transaction("rotate", None, by) as (connection, log):
            person = self._people.find_or_add(connection, by)
            every = self._keys.keyring.for_purposes(ALL_PURPOSES)
            renewed = opening.add_kek_version(connection, log, every, kek, uri, self.path)
            count = epochs.rotate(connection, log, every, renewed, person)
        self._database.fold()
        self._kek_uri = uri
        self._use(unlock_service(self._database, kek))
        if is_new and (warning := opening.kek_warning(kek, self.path)) is not None:
            _LOGGER.warning("%s", warning)
            self.warnings = (*self.warnings, warning)
        return count

    def erase_person(self, name: str, by: str) -> None:
        """Forget a person's name; what they did stays on record, and the name can not act here again. Raises ApprovalError."""
        with self._ledger.transaction("erase-person", None, by) as (connection, log):
            person = self._people.find_or_add(connection, by)
            self._people.erase(connection, log, self._keys.keyring, name, person)
        self._database.fold()

    def confirm_clock(self, by: str) -> None:
        """Say, on record, that the clock is right although it does not fit the log (see ClockError).

        Where it lies behind the log, every open request ends.
        """
        self._ledger.confirm_clock(by)
        self._bring_up_to_date(opening.open_matching_kek(self._database, self.path, self._kek_uri))

    # Letting keys out

    def release(self, request_id: str, recipient_public_key: bytes, by: str) -> bytes:
        """Use a request's grant, once: return its records sealed to the recipient. The log entry is on disk before this returns.

        `by` must be the requester. The whole log is verified first. Raises GrantError, RequestNotFound, RecordNotFound,
        ApprovalError (a bad name), TamperedError, AuditError, InvalidRecordError (a malformed public key), StorageError.
        """
        with self._ledger.transaction("release", request_id, by) as (connection, log):
            problems = log_problems(connection, self.audit_vkey)
            if problems:
                raise AuditError(f"nothing is released while the audit log does not verify: {'; '.join(problems[:3])}")
            person = self._people.find_or_add(connection, by)
            grant, digest = self._desk.check_release(
                connection, log, stored_policy.read(connection), request_id, person
            )
            records = self._vault.open_images(connection, images_of(connection, request_id))
            header = {"digest": digest, "grant": grant.grant_id, "keystore": self.id, "request": request_id}
            sealed = seal_release(records, header, recipient_public_key, self._keys.signer.sign_message)
            recipient = key_id(recipient_public_key)
            self._desk.use_grant(connection, log, request_id, grant.grant_id, recipient)
            log.append(
                "release",
                by=person,
                digest=digest,
                grant=grant.grant_id,
                recipient=recipient,
                records=len(records),
                request=request_id,
                sealed_sha256=sha256_hex(sealed),
            )
        return sealed

    # The audit trail

    def checkpoint(self) -> str:
        """Return the latest checkpoint (C2SP signed note), signed with the audit key too; keep copies elsewhere."""
        with self._database.read() as connection:
            return self._keys.signer.countersign(latest_note(connection))

    def audit_entries(self) -> list[bytes]:
        """Return the leaves of the log, in order."""
        with self._database.read() as connection:
            return [
                bytes(leaf)
                for leaf in connection.execute(select(schema.log.c.leaf).order_by(schema.log.c.seq)).scalars()
            ]

    def prove_inclusion(self, index: int) -> list[bytes]:
        """Return the inclusion proof of an entry in the latest checkpoint. Raises AuditError when there is no such entry."""
        with self._database.read() as connection:
            try:
                return inclusion_proof(leaf_hashes(connection), index)
            except ValueError as error:
                raise AuditError(f"{error}; ask for an entry of the log") from error

    def prove_consistency(self, old_size: int) -> list[bytes]:
        """Return the proof that the latest checkpoint extends the one of `old_size`. Raises AuditError."""
        with self._database.read() as connection:
            return self._ledger.prove_consistency(connection, old_size)

    # Reading

    def _view(self, connection: Connection, request_id: str) -> RequestView:
        row = self._desk.row(connection, request_id)
        return reading.request_view(connection, row, self._desk.life(connection, row), self._clock())
