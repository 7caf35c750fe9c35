"""A keystore that is open: how it comes to be, what it holds in memory, and what becomes of its keys and its clock.

keystore.db  kek.key  ingest.pub  audit.pub  witness/checkpoint  inbox/<run>/<shard>.keys
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from keystore import opening, upgrade
from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.elsewhere import WitnessElsewhere, asked_witnesses, checked_url, remember_witnesses
from keystore.audit.log import Clock, latest_note
from keystore.audit.witness import WITNESS_DIRECTORY
from keystore.crypto.canonical import utc_now
from keystore.decisions.bindings import Bindings
from keystore.decisions.people import People
from keystore.decisions.policy import Policy
from keystore.decisions.requests import RequestDesk
from keystore.decisions.tokens import Tokens
from keystore.errors import AuditError, ErasureError, StorageError
from keystore.ingest_opening import IngestOpening
from keystore.intake.folder import INBOX_NAME, holds_shards
from keystore.kek.provider import KeyEncryptionKey, create_kek
from keystore.ledger import Ledger
from keystore.storage.database import Database
from keystore.storage.places import has_database
from keystore.storage.sqlite import close_to_others
from keystore.unlocking import ServiceKeys, unlock_service
from keystore.vault import epochs, ingest_keys
from keystore.vault.keyring import ALL_PURPOSES
from keystore.vault.records import RecordVault
from keystore.verification.verify import is_far_from_milestone, log_problems

_LOGGER = logging.getLogger(__name__)


class OpenedKeystore:
    """An open keystore. Make one with `create`, `open` or `open_or_create`; use it in a `with` statement, or `close` it."""

    def __init__(self, path: Path, database: Database, kek_uri: str | None, keys: ServiceKeys, clock: Clock) -> None:
        self.path = path
        self.warnings: tuple[str, ...] = ()
        self._database = database
        self._kek_uri = kek_uri
        self._keys = keys
        self._clock = clock
        self._people = People(keys.index_key)
        self._tokens = Tokens(keys.index_key)
        self._bindings = Bindings(keys.index_key)
        self._ledger = Ledger(database, keys.signer, path / WITNESS_DIRECTORY, clock, self._people)
        self._vault = RecordVault(keys.keystore_id, keys.keyring)
        self._desk = RequestDesk(keys.keystore_id, keys.keyring)
        self._intake: IngestOpening | None = None  # opened when something is taken in, with keys of its own

    @classmethod
    def create(
        cls,
        path: Path | str,
        kek_uri: str | None = None,
        *,
        database: str | None = None,
        policy: Policy | None = None,
        clock: Clock = utc_now,
    ) -> Self:
        """Create a keystore; the KEK file too, on first use (see `warnings`). Raises StorageError if there is one, KekError.

        `database`: a URI of PostgreSQL, without a password; None for SQLite in the directory.
        """
        return cls._create(Path(path), kek_uri, database, policy or Policy(), clock, must_be_new=True)

    @classmethod
    def open_or_create(
        cls, path: Path | str, kek_uri: str | None = None, *, policy: Policy | None = None, clock: Clock = utc_now
    ) -> Self:
        """Open the keystore, or create it where there is none; `policy` is that of a new one. Raises KeystoreError."""
        directory = Path(path)
        if has_database(directory):
            try:
                return cls.open(directory, kek_uri, clock=clock)
            except opening.NeverCompletedError:
                pass
        return cls._create(directory, kek_uri, None, policy or Policy(), clock, must_be_new=False)

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
            if close_to_others(directory):
                _LOGGER.warning("%s was open to others and is not any more; ask who has read it", database.name)
            database.migrate()
            keystore = cls(directory, database, kek_uri, unlock_service(database, kek), clock)
            opening.publish_public_keys(directory, keystore._public_keys(), keystore.audit_vkey)
            keystore._ledger.check_witness(checkpoint)
            keystore._bring_up_to_date(kek)
            keystore._set_milestone()
        except BaseException:
            database.close()
            raise
        return keystore

    @classmethod
    def _create(
        cls,
        directory: Path,
        kek_uri: str | None,
        database: str | None,
        policy: Policy,
        clock: Clock,
        *,
        must_be_new: bool,
    ) -> Self:
        warning = opening.create(directory, kek_uri, database, policy, clock, must_be_new=must_be_new)
        keystore = cls.open(directory, kek_uri, clock=clock)
        if warning is not None:
            _LOGGER.warning("%s", warning)
            keystore.warnings = (warning,)
        return keystore

    def _set_milestone(self) -> None:
        """After a long ingest: else each opening would read all of it, and the next release verify it."""
        with self._database.read() as connection:
            if not is_far_from_milestone(connection, self.audit_vkey):
                return
        try:
            with self._database.write() as connection:
                log_problems(connection, self.audit_vkey, self._keys.signer)
        except StorageError as error:  # what is only read can be read without one
            _LOGGER.info("no milestone was set: %s", error)

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

    def use_witness(self, url: str, vkey: str) -> int:
        """Have every checkpoint signed by this witness elsewhere too, from now on; return how many entries it vouches for.

        Raises StorageError (also: it can not be reached), AuditError. Nothing is remembered then.
        """
        asked = WitnessElsewhere(self.path / WITNESS_DIRECTORY, url, vkey.strip())
        others = [one for one in asked_witnesses(asked.directory) if one.url != asked.url]
        if any(one.vkey == asked.vkey for one in others):
            raise AuditError("another address has this witness's key already: one witness counts once")
        if not self._ledger.ask_elsewhere(asked):
            raise StorageError(f"witness {url} can not be reached, or does not answer as one; nothing was changed")
        remember_witnesses(asked.directory, [*others, asked])
        with self._database.read() as connection:
            return open_checkpoint(latest_note(connection), *self._keys.signer.vkeys).size

    def drop_witness(self, url: str) -> None:
        """Ask the witness at this address no more. Raises StorageError: it is not asked; AuditError."""
        directory = self.path / WITNESS_DIRECTORY
        before = asked_witnesses(directory)
        others = [one for one in before if one.url != checked_url(url)]
        if len(others) == len(before):
            raise StorageError(
                f"witness {url} is not asked; asked are: {', '.join(one.url for one in before) or 'none'}"
            )
        remember_witnesses(directory, others)

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

    @property
    def intake(self) -> IngestOpening:
        """The ingest opening of the same keystore, with keys of its own. Raises KeystoreError when it can not be opened."""
        if self._intake is None:
            self._intake = IngestOpening.open(self.path, self._kek_uri, clock=self._clock)
        return self._intake

    # Its keys and its clock

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
                    "pending-shards", "shards lie in the inbox or in a spool; take them in or remove them, then retire"
                )
            retired = ingest_keys.retire(connection, log, self._keys.keyring, self._people.find_or_add(connection, by))
        self._database.fold()
        self._close_intake()
        return retired

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

    def confirm_clock(self, by: str) -> None:
        """Say, on record, that the clock is right although it does not fit the log (see ClockError).

        Where it lies behind the log, every open request ends.
        """
        self._ledger.confirm_clock(by)
        self._bring_up_to_date(opening.open_matching_kek(self._database, self.path, self._kek_uri))
