"""The keys that workers seal to: one is present, older ones stay until they are retired, a retired one opens nothing any more."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.crypto.hybrid import HybridPrivateKey, key_id
from keystore.errors import TamperedError
from keystore.storage import schema
from keystore.vault import epochs
from keystore.vault.accounts import own_keys_account
from keystore.vault.keyring import INGEST_KIND, Keyring

RETIRED = b""  # in the place of a wrapped private key


def load(connection: Connection, keyring: Keyring) -> list[HybridPrivateKey]:
    """Return the ingest keys that are not retired, the present one last. Raises TamperedError."""
    table = schema.ingest_keys
    keys = []
    for row in connection.execute(select(table).where(table.c.retired_at.is_(None)).order_by(table.c.created_at)):
        key = HybridPrivateKey.from_secret_bytes(
            keyring.unwrap(connection, row.epoch_id, row.wrapped, INGEST_KIND, row.key_id)
        )
        if key.public_bytes != row.public_key:
            raise TamperedError("a public key in the database is not that of its private key; restore it from a backup")
        keys.append(key)
    if not keys:
        raise TamperedError("a key of the keystore is missing from the database; restore it from a backup")
    return keys


def public_keys(connection: Connection) -> list[bytes]:
    """Return the public keys of this keystore, retired ones too, the present one last. Raises TamperedError."""
    table = schema.ingest_keys
    rows = connection.execute(select(table.c.key_id, table.c.public_key).order_by(table.c.created_at)).all()
    if not rows:
        raise TamperedError("a key of the keystore is missing from the database; restore it from a backup")
    if any(key_id(row.public_key) != row.key_id for row in rows):
        raise TamperedError("a public key in the database was exchanged; restore it from a backup")
    return [row.public_key for row in rows]


def add(connection: Connection, log: LogWriter, keyring: Keyring) -> str:
    """Make a new present key and return its id."""
    table, now = schema.ingest_keys, timestamp(log.now)
    last = connection.execute(select(table.c.created_at).order_by(table.c.created_at.desc()).limit(1)).scalar()
    if last is not None and now <= last:
        now = timestamp(parse_timestamp(last) + timedelta(microseconds=1))  # the present one is the youngest
    key = HybridPrivateKey.generate()
    ident = key_id(key.public_bytes)
    connection.execute(
        table.insert().values(
            key_id=ident,
            public_key=key.public_bytes,
            created_at=now,
            **epochs.wrap(connection, log, keyring, key.secret_bytes(), INGEST_KIND, ident),
        )
    )
    return ident


def renew(connection: Connection, log: LogWriter, keyring: Keyring, by: str) -> None:
    """Make a new present key, and log it."""
    ident = add(connection, log, keyring)
    log.append("ingest-key", by=by, key=ident, own_keys=own_keys_account(connection))


def retire(connection: Connection, log: LogWriter, keyring: Keyring, by: str) -> list[str]:
    """Destroy the private part of every key but the present one, and the epoch keys they lay under; log and return their ids.

    Raises TamperedError when the present one does not open.
    """
    table = schema.ingest_keys
    query = select(table.c.key_id).where(table.c.retired_at.is_(None)).order_by(table.c.created_at)
    old = [str(ident) for ident in connection.execute(query).scalars()][:-1]
    if old:
        now = timestamp(log.now)
        under = list(connection.execute(select(table.c.epoch_id).where(table.c.key_id.in_(old)).distinct()).scalars())
        connection.execute(
            table.update().where(table.c.key_id.in_(old)).values(wrapped=RETIRED, retired_at=now, epoch_id=None)
        )
        for epoch_id in under:
            epochs.renew(connection, log, keyring, epoch_id)
        log.append("retire", by=by, keys=sorted(old), own_keys=own_keys_account(connection))
    return old
