"""What an opening of the keystore holds in memory: the private keys that it needs, and no others.

The service decides and releases, and can open no sealed shard. Ingest opens shards and stores records, and can neither read a
record that is stored nor sign a decision. An auditor has no private key at all (keystore.auditor). How far that goes with one
KEK is in docs/keystore.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, select

from keystore.audit.signers import IngestSigner, LogSigner, certified_ingest_vkey
from keystore.crypto.hybrid import RecipientKey
from keystore.errors import SchemaError, TamperedError
from keystore.kek.provider import KeyEncryptionKey
from keystore.storage import schema
from keystore.storage.database import Database
from keystore.vault import ingest_keys
from keystore.vault.keyring import (
    AUDIT_KIND,
    INDEX_KIND,
    INGEST_LOG_KIND,
    INGEST_PURPOSES,
    OWN_SECRET,
    SERVICE_PURPOSES,
    Keyring,
)


@dataclass(frozen=True)
class ServiceKeys:
    """Of the service: audit, index, approvers' and shred keys."""

    keystore_id: str
    keyring: Keyring = field(repr=False)
    signer: LogSigner = field(repr=False)
    index_key: bytes = field(repr=False)


@dataclass(frozen=True)
class IngestKeys:
    """Of an ingest: the ingest keys, its own signing key, and the index key that owners are filed under."""

    keystore_id: str
    keyring: Keyring = field(repr=False)
    signer: IngestSigner = field(repr=False)
    index_key: bytes = field(repr=False)
    ingest_keys: Sequence[RecipientKey] = field(repr=False)  # not retired, the present one last


def unlock_service(database: Database, kek: KeyEncryptionKey) -> ServiceKeys:
    """Unwrap what the service needs. Raises TamperedError, AuditError when rows were altered or exchanged."""
    with database.read() as connection:
        keystore_id, audit_vkey, keyring = _begin(connection, kek, SERVICE_PURPOSES)
        key = Ed25519PrivateKey.from_private_bytes(_secret(connection, keyring, AUDIT_KIND))
        ingest_vkey = certified_ingest_vkey(connection, audit_vkey)
        signer = LogSigner(keystore_id, key, () if ingest_vkey is None else (ingest_vkey,))
        _check_public_key(signer.vkey, audit_vkey)
        return ServiceKeys(keystore_id, keyring, signer, _secret(connection, keyring, INDEX_KIND))


def unlock_ingest(database: Database, kek: KeyEncryptionKey) -> IngestKeys:
    """Unwrap what an ingest needs. Raises TamperedError, AuditError; SchemaError: the keystore was not brought up to date."""
    with database.read() as connection:
        keystore_id, audit_vkey, keyring = _begin(connection, kek, INGEST_PURPOSES)
        ingest_vkey = certified_ingest_vkey(connection, audit_vkey)
        if ingest_vkey is None:
            raise SchemaError(
                f"keystore {database.name} is of an older version; open it once with the service, which brings it up "
                "to date"
            )
        key = Ed25519PrivateKey.from_private_bytes(_secret(connection, keyring, INGEST_LOG_KIND))
        certificate = connection.execute(select(schema.identity.c.ingest_certificate)).scalar_one()
        signer = IngestSigner(keystore_id, key, audit_vkey, certificate)
        _check_public_key(signer.vkey, ingest_vkey)
        index_key = _secret(connection, keyring, INDEX_KIND)
        return IngestKeys(keystore_id, keyring, signer, index_key, ingest_keys.load(connection, keyring))


def _begin(connection: Connection, kek: KeyEncryptionKey, purposes: frozenset[str]) -> tuple[str, str, Keyring]:
    identity = connection.execute(select(schema.identity)).one()
    version = connection.execute(
        select(schema.kek_versions.c.version).order_by(schema.kek_versions.c.version.desc()).limit(1)
    ).scalar_one()
    return identity.keystore_id, identity.audit_vkey, Keyring(kek, identity.keystore_id, version, purposes)


def _secret(connection: Connection, keyring: Keyring, kind: str) -> bytes:
    row = connection.execute(select(schema.secrets).where(schema.secrets.c.name == kind)).first()
    if row is None:
        raise TamperedError("a key of the keystore is missing from the database; restore it from a backup")
    return keyring.unwrap(connection, row.epoch_id, row.wrapped, kind, OWN_SECRET)


def _check_public_key(found: str, expected: str) -> None:
    if found != expected:
        raise TamperedError("a public key in the database is not that of its private key; restore it from a backup")
