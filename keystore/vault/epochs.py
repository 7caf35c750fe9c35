"""Epoch keys: each wraps a bounded number of keys of one purpose, and is itself wrapped under the KEK.

They make two things cheap. A new KEK wraps epoch keys again and nothing below them. And what is to be gone for good is gone with
a few bytes: the epoch's other keys move under a new epoch key, and the wrapped form of the old one is destroyed, so that no
copy of a row that a disk, a write-ahead log or a dump kept behind opens any more without that wrapped form.

States are those of NIST SP 800-57 Part 1 Rev. 5 section 7, as far as they occur: *active* (wraps and unwraps), *deactivated*
(unwraps only), *destroyed* (its wrapped form is gone; the row stays). The database refuses any other way (migration 0003).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, bindparam, func, select

from keystore.audit.log import LogWriter
from keystore.crypto import envelope
from keystore.crypto.canonical import timestamp
from keystore.errors import TamperedError
from keystore.storage import schema
from keystore.vault.accounts import account, epoch_digest, key_digest, own_keys_account, pseudonym_digest
from keystore.vault.keyring import (
    APPROVER_KIND,
    AUDIT_PURPOSE,
    INDEX_PURPOSE,
    INGEST_KIND,
    INGEST_PURPOSE,
    OWN_SECRET,
    PEOPLE_PURPOSE,
    PSEUDONYM_KIND,
    PSEUDONYMS_PURPOSE,
    PURPOSE_OF,
    RECORDS_PURPOSE,
    SHRED_KIND,
    Epoch,
    Keyring,
    kek_was_changed,
)

EPOCH_KEYS = 1000  # of records or pseudonyms under one epoch key: what an erasure has to wrap again, about 0.1 s
EPOCHS_PER_ENTRY = 500  # that one entry of the log lists when the KEK is rotated
EPOCH_ID_BYTES = 16
DESTROYED = b""  # in the place of a wrapped epoch key


class EpochState(StrEnum):
    """Where an epoch key stands in its life."""

    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    DESTROYED = "destroyed"


# The log shows a state where an entry ends, and one entry may take several steps.
LOGGED_STEPS = {
    None: {EpochState.ACTIVE, EpochState.DEACTIVATED},
    EpochState.ACTIVE: {EpochState.ACTIVE, EpochState.DEACTIVATED, EpochState.DESTROYED},
    EpochState.DEACTIVATED: {EpochState.DEACTIVATED, EpochState.DESTROYED},
    EpochState.DESTROYED: set[EpochState](),
}


@dataclass(frozen=True)
class _Holder:
    """The table whose rows hold keys of a purpose, and under which kind and name each is wrapped."""

    table: Table
    ident: Column[Any]
    kind: str | None  # None: the row's own name is its kind
    digest: Callable[[Mapping[str, Any]], str] | None = None  # of rows that the log accounts for one by one
    name: Column[Any] | None = None  # unset: `ident`

    def names(self, row: Row[Any]) -> tuple[str, str]:
        name = str(row._mapping[self.ident if self.name is None else self.name])
        return (name, OWN_SECRET) if self.kind is None else (self.kind, name)


_SECRETS = _Holder(schema.secrets, schema.secrets.c.name, None)
_HOLDERS = {
    AUDIT_PURPOSE: _SECRETS,
    INDEX_PURPOSE: _SECRETS,
    INGEST_PURPOSE: _Holder(schema.ingest_keys, schema.ingest_keys.c.key_id, INGEST_KIND),
    PEOPLE_PURPOSE: _Holder(schema.people, schema.people.c.person, APPROVER_KIND),
    RECORDS_PURPOSE: _Holder(schema.shred_keys, schema.shred_keys.c.shred_key_id, SHRED_KIND, key_digest),
    PSEUDONYMS_PURPOSE: _Holder(
        schema.pseudonyms,
        schema.pseudonyms.c.pseudonym_id,
        PSEUDONYM_KIND,
        pseudonym_digest,
        name=schema.pseudonyms.c.owner,
    ),
}


def new() -> Epoch:
    """Return a fresh epoch key, which is nowhere yet."""
    return Epoch(os.urandom(EPOCH_ID_BYTES).hex(), os.urandom(envelope.KEY_BYTES))


def begin(connection: Connection, log: LogWriter, keyring: Keyring, purpose: str, epoch: Epoch | None = None) -> Epoch:
    """Make `epoch`, or a fresh one, an active epoch key; the log's next entry says so.

    Raises WrongKekError: the KEK was changed meanwhile.
    """
    if connection.execute(select(func.max(schema.kek_versions.c.version))).scalar() != keyring.kek_version:
        raise kek_was_changed()  # what is wrapped under the old one would be lost with it
    epoch = epoch or new()
    connection.execute(
        schema.epoch_keys.insert().values(
            epoch_id=epoch.epoch_id,
            purpose=purpose,
            state=EpochState.ACTIVE.value,
            wrapped=keyring.wrap_epoch(epoch.key, purpose, epoch.epoch_id),
            kek_version=keyring.kek_version,
            created_at=timestamp(log.now),
        )
    )
    _say(connection, log, epoch.epoch_id)
    return epoch


def active(connection: Connection, log: LogWriter, keyring: Keyring, purpose: str) -> Epoch:
    """Return the active epoch key of a purpose other than records, made at need. Raises TamperedError."""
    table = schema.epoch_keys
    query = select(table.c.epoch_id).where(table.c.purpose == purpose, table.c.state == EpochState.ACTIVE.value)
    ident = connection.execute(query.order_by(table.c.created_at.desc()).limit(1)).scalar()
    return begin(connection, log, keyring, purpose) if ident is None else keyring.epoch(connection, ident, purpose)


def wrap(
    connection: Connection, log: LogWriter, keyring: Keyring, secret: bytes, kind: str, name: str
) -> dict[str, Any]:
    """Return the columns `epoch_id` and `wrapped` of a secret that is not a shred key. Raises TamperedError.

    Each secret of ingest has an epoch of its own, so that the service makes and ends them and unwraps none.
    """
    purpose = PURPOSE_OF[kind]
    fresh = purpose == INGEST_PURPOSE
    epoch = (begin if fresh else active)(connection, log, keyring, purpose)
    return {"epoch_id": epoch.epoch_id, "wrapped": keyring.seal(epoch, secret, kind, name)}


def is_active(connection: Connection, epoch_id: str) -> bool:
    """Return whether keys may still be wrapped under an epoch key."""
    table = schema.epoch_keys
    state = connection.execute(select(table.c.state).where(table.c.epoch_id == epoch_id)).scalar()
    return bool(state == EpochState.ACTIVE.value)


def deactivate(connection: Connection, log: LogWriter, epoch_ids: Iterable[str]) -> None:
    """Let active epoch keys wrap nothing more; the log's next entry says so."""
    table = schema.epoch_keys
    for ident in epoch_ids:
        ended = connection.execute(
            table.update()
            .where(table.c.epoch_id == ident, table.c.state == EpochState.ACTIVE.value)
            .values(state=EpochState.DEACTIVATED.value, deactivated_at=timestamp(log.now))
        )
        if ended.rowcount:
            _say(connection, log, ident)


def active_of_records(connection: Connection) -> list[str]:
    """Return the active epochs of shred keys: of ingests that go on, or that ended without a word."""
    table = schema.epoch_keys
    query = select(table.c.epoch_id).where(table.c.purpose == RECORDS_PURPOSE, table.c.state == EpochState.ACTIVE.value)
    return list(connection.execute(query).scalars())


def renew(connection: Connection, log: LogWriter, keyring: Keyring, epoch_id: str) -> int:
    """Wrap every key under an epoch again, under a new one, and destroy the old one's wrapped form. Return how many moved.

    All in the caller's transaction: what was deleted under this epoch before is gone with its commit, or nothing is.
    The log's next entry accounts for it. Raises TamperedError when a key under it does not open.
    """
    table = schema.epoch_keys
    purpose = connection.execute(select(table.c.purpose).where(table.c.epoch_id == epoch_id)).scalar_one()
    holder = _HOLDERS[purpose]
    rows = connection.execute(select(holder.table).where(holder.table.c.epoch_id == epoch_id)).all()
    if rows:
        old = keyring.epoch(connection, epoch_id, purpose)
        new = begin(connection, log, keyring, purpose)
        _move(connection, log, keyring, holder, rows, old, new)
        if purpose == RECORDS_PURPOSE:  # an ingest that is under way begins another one
            deactivate(connection, log, [new.epoch_id])
    deactivate(connection, log, [epoch_id])
    connection.execute(
        table.update()
        .where(table.c.epoch_id == epoch_id)
        .values(state=EpochState.DESTROYED.value, wrapped=DESTROYED, destroyed_at=timestamp(log.now))
    )
    _say(connection, log, epoch_id)
    return len(rows)


def adopt(connection: Connection, log: LogWriter, keyring: Keyring) -> int:
    """Bring the keys that an older schema kept under the KEK itself under epoch keys. Return how many did not open.

    Those stay as they are, for the verifier to find. The log's next entry accounts for the others.
    """
    unopened = 0
    for holder in (_SECRETS, *(_HOLDERS[purpose] for purpose in (INGEST_PURPOSE, PEOPLE_PURPOSE, RECORDS_PURPOSE))):
        column = holder.table.c
        rows = connection.execute(
            select(holder.table).where(
                column.epoch_id.is_(None), column.wrapped.is_not(None), column.wrapped != DESTROYED
            )
        ).all()
        opened: list[tuple[Row[Any], bytes]] = []
        for row in rows:
            try:
                opened.append((row, keyring.unwrap(connection, None, row.wrapped, *holder.names(row))))
            except TamperedError:
                unopened += 1
        for start in range(0, len(opened), EPOCH_KEYS):
            _adopt_some(connection, log, keyring, holder, opened[start : start + EPOCH_KEYS])
    return unopened


def lacks_epochs(connection: Connection) -> bool:
    """Return whether this keystore was written before there were epoch keys."""
    return (
        connection.execute(select(schema.secrets.c.name).where(schema.secrets.c.epoch_id.is_(None))).first() is not None
    )


def rotate(connection: Connection, log: LogWriter, keyring: Keyring, renewed: Keyring, by: str) -> int:
    """Wrap every epoch key that is not destroyed under the KEK of `renewed`, and log it. Return how many.

    Raises TamperedError when one does not open.
    """
    table = schema.epoch_keys
    rows = connection.execute(select(table).where(table.c.state != EpochState.DESTROYED.value)).all()
    for start in range(0, max(1, len(rows)), EPOCHS_PER_ENTRY):
        for row in rows[start : start + EPOCHS_PER_ENTRY]:
            epoch = keyring.epoch(connection, row.epoch_id, row.purpose)
            wrapped = renewed.wrap_epoch(epoch.key, row.purpose, row.epoch_id)
            connection.execute(
                table.update()
                .where(table.c.epoch_id == row.epoch_id)
                .values(wrapped=wrapped, kek_version=renewed.kek_version)
            )
            _say(connection, log, row.epoch_id)
        log.append("rotate", by=by, own_keys=own_keys_account(connection), version=renewed.kek_version)
    return len(rows)


def account_for_keys(log: LogWriter, epoch_id: str, digests: list[str], table: Table = schema.shred_keys) -> None:
    """Let the log's next entry account for shred keys, or for pseudonyms' secrets, that were stored under an epoch."""
    log.attach(table.name, epoch_id, {"account": account(digests), "keys": len(digests)})


def _adopt_some(
    connection: Connection, log: LogWriter, keyring: Keyring, holder: _Holder, opened: list[tuple[Row[Any], bytes]]
) -> None:
    purpose = PURPOSE_OF[holder.names(opened[0][0])[0]]
    if purpose == RECORDS_PURPOSE:
        epoch = begin(connection, log, keyring, purpose)
        _rewrap(connection, log, keyring, holder, opened, epoch)
        deactivate(connection, log, [epoch.epoch_id])
        return
    for row, secret in opened:  # the secrets of one table are of several purposes
        purpose = PURPOSE_OF[holder.names(row)[0]]
        epoch = (begin if purpose == INGEST_PURPOSE else active)(connection, log, keyring, purpose)
        _rewrap(connection, log, keyring, holder, [(row, secret)], epoch)


def _move(
    connection: Connection,
    log: LogWriter,
    keyring: Keyring,
    holder: _Holder,
    rows: Iterable[Row[Any]],
    old: Epoch,
    new: Epoch,
) -> None:
    opened = [(row, keyring.unseal(old, row.wrapped, *holder.names(row))) for row in rows]
    _rewrap(connection, log, keyring, holder, opened, new)


def _rewrap(
    connection: Connection,
    log: LogWriter,
    keyring: Keyring,
    holder: _Holder,
    opened: list[tuple[Row[Any], bytes]],
    epoch: Epoch,
) -> None:
    changes: list[dict[str, Any]] = []
    digests: list[str] = []
    for row, secret in opened:
        wrapped = keyring.seal(epoch, secret, *holder.names(row))
        change = {"ident": row._mapping[holder.ident], "new_epoch": epoch.epoch_id, "new_wrapped": wrapped}
        if holder.digest is not None:
            change["new_entry"] = log.size
            digests.append(holder.digest({**row._mapping, "epoch_id": epoch.epoch_id, "wrapped": wrapped}))
        changes.append(change)
    values: Mapping[str, Any] = {"epoch_id": bindparam("new_epoch"), "wrapped": bindparam("new_wrapped")}
    if holder.digest is not None:
        values = {**values, "entry": bindparam("new_entry")}
        account_for_keys(log, epoch.epoch_id, digests, holder.table)
    connection.execute(holder.table.update().where(holder.ident == bindparam("ident")).values(**values), changes)


def _say(connection: Connection, log: LogWriter, epoch_id: str) -> None:
    table = schema.epoch_keys
    row = connection.execute(select(table).where(table.c.epoch_id == epoch_id)).one()
    log.attach("epochs", epoch_id, {"digest": epoch_digest(row._asdict()), "purpose": row.purpose, "state": row.state})
