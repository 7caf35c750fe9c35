"""Bringing a keystore directory into being, and into memory: KEK first, then schema, identity, keys, witness.

Creation is one database transaction under a lock file, so that a killed process leaves either no keystore or a whole one; the
files that can be derived (ingest.pub, audit.pub) are written after it, and again at any open that finds them missing.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, select

from keystore.audit.checkpoint import AUDIT_KEY_NAME
from keystore.audit.log import Clock, LogWriter
from keystore.audit.signers import LogSigner
from keystore.crypto.canonical import timestamp
from keystore.decisions import stored_policy
from keystore.decisions.policy import Policy
from keystore.errors import AuditError, KekError, StorageError, TamperedError, WrongKekError
from keystore.kek.file import FILE_SCHEME
from keystore.kek.provider import KeyEncryptionKey, create_kek, default_uri, kek_path, open_kek
from keystore.storage import durable, schema
from keystore.storage.database import Database
from keystore.storage.places import database_of, new_database, remember_database
from keystore.vault import epochs, ingest_keys, ingest_signer
from keystore.vault.accounts import own_keys_account
from keystore.vault.keyring import AUDIT_KIND, INDEX_KIND, OWN_SECRET, Keyring

INGEST_KEY_NAME = "ingest.pub"
LOCK_NAME = ".lock"
INDEX_KEY_BYTES = 32
MAX_PUBLIC_BYTES = 16 * 1024
PRIVATE_DIRECTORY_MODE = 0o700
FIRST_KEK_VERSION = 1


def existing(directory: Path) -> Database:
    """Return the database of a keystore whose creation was completed; the caller closes it.

    Raises StorageError, NeverCompletedError.
    """
    database = database_of(directory)
    try:
        if not is_created(database):
            raise NeverCompletedError(f"the keystore in {directory} was never completed; create it again")
    except BaseException:
        database.close()
        raise
    return database


class NeverCompletedError(StorageError):
    """The database is there, but creation was interrupted before its one transaction."""


def create(
    directory: Path, kek_uri: str | None, database_uri: str | None, policy: Policy, clock: Clock, *, must_be_new: bool
) -> str | None:
    """Create a keystore, one process at a time; return the warning about a KEK file that was made for it.

    `database_uri`: of PostgreSQL; None for SQLite in the directory. A keystore that another process completed meanwhile is left
    as it is, or is a StorageError if this one `must_be_new`.
    """
    try:
        durable.make_directory(directory)
        with durable.locked(directory / LOCK_NAME):
            database = new_database(directory, database_uri)
            try:
                if is_created(database):
                    if must_be_new:
                        raise StorageError(
                            f"there is a keystore in {database.name} already; open it, or choose another directory"
                            + ("" if database_uri is None else " and another database")
                        )
                    return None
                directory.chmod(PRIVATE_DIRECTORY_MODE)  # it may have been there before, open to others
                kek, is_new = create_kek(kek_uri or default_uri(directory))
                if database_uri is not None:
                    remember_database(directory, database_uri)
                database.migrate()
                with database.write() as connection:
                    write_first_state(connection, kek, stored_uri(kek_uri, directory), policy, clock)
                return kek_warning(kek, directory) if is_new else None
            finally:
                database.close()
    except OSError as error:
        raise StorageError(
            f"keystore directory {directory} can not be used ({error.strerror}); check its path, permissions and disk"
        ) from error


def is_created(database: Database) -> bool:
    """Return whether the creation of this keystore was completed."""
    if not database.has_table("identity"):
        return False
    with database.read() as connection:
        return connection.execute(select(schema.identity.c.only)).first() is not None


def stored_uri(uri: str | None, directory: Path) -> str:
    """Return the KEK URI as the database keeps it: absolute, or a bare name in the keystore's directory, which may be moved."""
    path = kek_path(uri or default_uri(directory))
    if path is None:
        return str(uri)
    return FILE_SCHEME + (path.name if path.absolute().parent == directory.absolute() else str(path.absolute()))


def _present_uri(stored: str, directory: Path) -> str:
    path = kek_path(stored)
    return stored if path is None or path.is_absolute() else FILE_SCHEME + str(directory / path)


def write_first_state(connection: Connection, kek: KeyEncryptionKey, uri: str, policy: Policy, clock: Clock) -> None:
    """Write identity, keys, policy and the first log entries of a new keystore."""
    keystore_id = uuid4().hex
    keyring = Keyring(kek, keystore_id, FIRST_KEK_VERSION)
    audit_key = Ed25519PrivateKey.generate()
    signer = LogSigner(keystore_id, audit_key)
    log = LogWriter(connection, signer, clock)
    now = timestamp(log.now)
    connection.execute(
        schema.identity.insert().values(only=1, keystore_id=keystore_id, created_at=now, audit_vkey=signer.vkey)
    )
    connection.execute(
        schema.kek_versions.insert().values(version=FIRST_KEK_VERSION, kek_id=kek.kek_id, uri=uri, created_at=now)
    )
    for kind, secret in ((AUDIT_KIND, audit_key.private_bytes_raw()), (INDEX_KIND, os.urandom(INDEX_KEY_BYTES))):
        wrapped = epochs.wrap(connection, log, keyring, secret, kind, OWN_SECRET)
        connection.execute(schema.secrets.insert().values(name=kind, **wrapped))
    ingest_id = ingest_keys.add(connection, log, keyring)
    ingest_signer.add(connection, log, keyring, signer, keystore_id)
    log.append(
        "created",
        ingest_key=ingest_id,
        kek=kek.kek_id,
        keystore=keystore_id,
        own_keys=own_keys_account(connection),
        vkey=signer.vkey,
    )
    stored_policy.write(connection, log, policy, None)
    log.finish()


def add_kek_version(
    connection: Connection, log: LogWriter, keyring: Keyring, kek: KeyEncryptionKey, uri: str, directory: Path
) -> Keyring:
    """Make `kek` the present KEK and return the keyring under it; nothing is wrapped under it yet.

    Raises KekError when it is the present one already.
    """
    table = schema.kek_versions
    present = connection.execute(select(table).order_by(table.c.version.desc()).limit(1)).one()
    if present.kek_id == kek.kek_id:
        raise KekError(f"the KEK at {kek.uri} is the present one; name a place where there is none yet")
    version = present.version + 1
    connection.execute(
        table.insert().values(
            version=version, kek_id=kek.kek_id, uri=stored_uri(uri, directory), created_at=timestamp(log.now)
        )
    )
    return keyring.under(kek, version)


def open_matching_kek(database: Database, directory: Path, uri: str | None) -> KeyEncryptionKey:
    """Open the KEK this keystore is wrapped under. Raises WrongKekError, KekError; nothing else of the keystore was looked at."""
    columns = (
        schema.kek_versions.c.kek_id,
        schema.kek_versions.c.uri,
    )  # few, so that an older schema can still be asked
    with database.read() as connection:
        row = connection.execute(select(*columns).order_by(schema.kek_versions.c.version.desc()).limit(1)).first()
    if row is None:
        raise StorageError(f"the keystore in {directory} was never completed; create it again")
    kek = open_kek(uri or _present_uri(row.uri, directory))
    if kek.kek_id != row.kek_id:
        raise WrongKekError(
            f"the KEK at {kek.uri} ({kek.kek_id}) is not the one this keystore is wrapped under ({row.kek_id}); "
            "give the right one with kek_uri"
        )
    return kek


def publish_public_keys(directory: Path, public_keys: list[bytes], audit_vkey: str) -> None:
    """Write ingest.pub and audit.pub where they are missing, and ingest.pub where it is that of an older key.

    `public_keys`: all that workers were ever given, the present one last.
    Raises TamperedError, AuditError when one was exchanged, StorageError.
    """
    former = {_public_file(key).encode() for key in public_keys}
    for name, text in ((INGEST_KEY_NAME, _public_file(public_keys[-1])), (AUDIT_KEY_NAME, audit_vkey + "\n")):
        path = directory / name
        try:
            present = path.read_bytes() if path.exists() else None
            if present is None or (name == INGEST_KEY_NAME and present != text.encode() and present in former):
                present = None
                durable.replace(path, text.encode())
        except OSError as error:
            raise StorageError(f"{path} can not be read or written ({error.strerror}); mend the permissions") from error
        if present is not None and present != text.encode():
            # An exchanged ingest key would have the workers seal to someone else.
            kind = AuditError if name == AUDIT_KEY_NAME else TamperedError
            raise kind(
                f"{path} is not the key of this keystore: it was exchanged or damaged; find out why, then delete the file"
            )


def check_public_keys(directory: Path, ingest_key: bytes, audit_vkey: str) -> None:
    """Raise TamperedError unless ingest.pub and audit.pub are these keys: one of the two, or the database, was exchanged."""
    for name, text in ((INGEST_KEY_NAME, _public_file(ingest_key)), (AUDIT_KEY_NAME, audit_vkey + "\n")):
        try:
            present = durable.read_regular(directory / name, MAX_PUBLIC_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise StorageError(
                f"{directory / name} can not be read ({error.strerror}); open the keystore once to write it again"
            ) from error
        if present != text:
            raise TamperedError(
                f"{directory / name} is not the key that the database of the keystore names; find out why before any job is "
                "given one (where it was just renewed, open the keystore once)"
            )


def _public_file(key: bytes) -> str:
    return base64.b64encode(key).decode() + "\n"


def kek_warning(kek: KeyEncryptionKey, directory: Path) -> str | None:
    """Return what an operator must know about where a new KEK file is, None for a KEK that is not a file."""
    try:
        path = kek_path(kek.uri)
    except KekError:
        return None
    if path is None:
        return None
    beside = (
        " It lies beside the data it protects: move it elsewhere for anything but a trial."
        if path.parent == directory
        else ""
    )
    return (
        f"A new key-encryption key was created in {path} (mode 0600). Whoever has this file and the database has every key; "
        f"without it no face can ever be restored. Back it up apart from the keystore.{beside}"
    )


def read_public_key(path: Path) -> bytes:
    """Return the ingest public key from an ingest.pub file. Raises StorageError, TamperedError."""
    try:
        return base64.b64decode(path.read_text(encoding="ascii").strip(), validate=True)
    except OSError as error:
        raise StorageError(
            f"ingest key {path} can not be read ({error.strerror}); open the keystore once to write it again"
        ) from error
    except ValueError as error:
        raise TamperedError(
            f"ingest key {path} is damaged; delete it and open the keystore once to write it again"
        ) from error
