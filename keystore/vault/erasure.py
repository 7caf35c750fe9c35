"""Erasure: the shred keys of a subject go, with every record under them, and come back by no copy of a shard. So does its
pseudonym's secret.

What stays is a list: keyed tags of whom and what was erased, against which every record is held that ingest meets, and the
digests by which the log can still be reconciled with what is left. A keystore's backups, and shards kept together with an
ingest key that was not retired, still hold what was erased (docs/keystore.md says what to do about both).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_flat, canonical_json, sha256_hex, timestamp
from keystore.errors import ErasureError
from keystore.storage import schema
from keystore.storage.bulk import insert_many
from keystore.vault import epochs
from keystore.vault.accounts import (
    KEY_KIND,
    RECORD_KIND,
    REFUSED_KIND,
    account,
    key_digest,
    pseudonym_digest,
    record_digest,
    refused_digest,
)
from keystore.vault.catalogue import parts_of
from keystore.vault.keyring import Keyring, owner_tag

TAGS_PER_QUERY = 500


def record_tag(index_key: bytes, record_id: str) -> str:
    """Return the keyed hash under which an erased record's id is remembered."""
    what = {"record_id": record_id, "type": "keyanon erased record v1"}
    return hmac.digest(index_key, canonical_flat(what), "sha256").hex()


def erasure_digest(dataset: str, owner: str, erased_at: str) -> str:
    """Return what the log says of one line of the erasure list."""
    return sha256_hex(
        canonical_json({"dataset": dataset, "erased_at": erased_at, "owner": owner, "type": "keyanon erasure v1"})
    )


def erase(
    connection: Connection,
    log: LogWriter,
    keyring: Keyring,
    index_key: bytes,
    dataset: str,
    subject: str | None,
    image_id: str,
    by: str,
) -> int:
    """Erase a subject of a data set, or an image that has none, and remember it. Return how many records went.

    Its shred keys and its pseudonym's secret are deleted, every other key under their epochs is wrapped under a new epoch key,
    and the old one is destroyed, all in the caller's transaction.
    Raises ErasureError for an image that lies under its subject's key: the subject is what can be erased; and for one whose parts
    have records, which are erased one by one. TamperedError: a key of those epochs does not open.
    """
    owner = owner_tag(index_key, dataset, subject, image_id)
    keys, records = schema.shred_keys, schema.records
    if subject is None:
        _check_no_subject(connection, dataset, image_id, owner)
        _check_no_parts(connection, dataset, image_id)
    entry, now = log.size, timestamp(log.now)
    gone: list[dict[str, Any]] = []
    shred_keys, pseudonyms = (
        connection.execute(select(table).where(table.c.dataset == dataset, table.c.owner == owner)).all()
        for table in (keys, schema.pseudonyms)
    )
    owned = [*shred_keys, *pseudonyms]
    for key in shred_keys:
        for row in connection.execute(select(records).where(records.c.shred_key_id == key.shred_key_id)):
            digest, tag = record_digest(row._asdict()), record_tag(index_key, row.record_id)
            gone.append({"digest": digest, "kind": RECORD_KIND, "entry": row.entry, "erased_entry": entry, "tag": tag})
        digest = key_digest(key._asdict())
        gone.append({"digest": digest, "kind": KEY_KIND, "entry": key.entry, "erased_entry": entry, "tag": None})
        connection.execute(records.delete().where(records.c.shred_key_id == key.shred_key_id))
        connection.execute(keys.delete().where(keys.c.shred_key_id == key.shred_key_id))
    for one in pseudonyms:
        digest = pseudonym_digest(one._asdict())
        gone.append({"digest": digest, "kind": KEY_KIND, "entry": one.entry, "erased_entry": entry, "tag": None})
        table = schema.pseudonyms
        connection.execute(table.delete().where(table.c.pseudonym_id == one.pseudonym_id))
    if gone:
        connection.execute(schema.erased.insert(), gone)
    for epoch_id in sorted({key.epoch_id for key in owned if key.epoch_id is not None}):
        epochs.renew(connection, log, keyring, epoch_id)
    connection.execute(schema.erasures.insert().values(dataset=dataset, owner=owner, entry=entry, erased_at=now))
    log.append(
        "erase",
        account=account(str(one["digest"]) for one in gone),
        by=by,
        erasure=erasure_digest(dataset, owner, now),
        keys=len(owned),
        records=len(gone) - len(owned),
    )
    return len(gone) - len(owned)


def erased_among(connection: Connection, index_key: bytes, record_ids: Iterable[str]) -> set[str]:
    """Return those of the records that were here and were erased, or came too late and were refused for that."""
    tag, found = schema.erased.c.tag, set[str]()
    asked = iter(record_ids)
    while some := {record_tag(index_key, record_id): record_id for record_id in islice(asked, TAGS_PER_QUERY)}:
        found |= {some[one] for one in connection.execute(select(tag).where(tag.in_(some))).scalars()}
    return found


def remember_refused(connection: Connection, log: LogWriter, index_key: bytes, record_ids: Iterable[str]) -> str:
    """Remember records that ingest refuses as erased, those that are not remembered yet. Return their account, for the log.

    A record whose owner was erased before it came was never stored, so nothing else would tell later that it is missing by right.
    """
    asked = list(dict.fromkeys(record_ids))
    known = erased_among(connection, index_key, asked)
    tags = [record_tag(index_key, record_id) for record_id in asked if record_id not in known]
    rows = [
        {
            "digest": refused_digest(tag, log.size),
            "kind": REFUSED_KIND,
            "entry": log.size,
            "erased_entry": log.size,
            "tag": tag,
        }
        for tag in tags
    ]
    insert_many(connection, schema.erased, rows)
    return account(str(row["digest"]) for row in rows)


class ErasureList:
    """What was erased so far, to hold many records against within one transaction."""

    def __init__(self, connection: Connection, index_key: bytes) -> None:
        self._connection = connection
        self._index_key = index_key
        self._empty = connection.execute(select(schema.erasures.c.entry).limit(1)).first() is None

    def among(self, records: Iterable[tuple[str, str, datetime]]) -> set[str]:
        """Return the ids of those records (id, owner, when made) that were erased, or made of an erased owner before that."""
        if self._empty:
            return set()
        asked = list(records)
        gone = erased_among(self._connection, self._index_key, (record_id for record_id, _, _ in asked))
        table = schema.erasures
        query = select(table.c.owner, func.max(table.c.erased_at))
        query = query.where(table.c.owner.in_({owner for _, owner, _ in asked})).group_by(table.c.owner)
        last = {row[0]: row[1] for row in self._connection.execute(query)}
        return gone | {one for one, owner, made_at in asked if timestamp(made_at) <= last.get(owner, "")}


def _check_no_parts(connection: Connection, dataset: str, image_id: str) -> None:
    if parts := parts_of(connection, [image_id], dataset).get(image_id):
        names = ", ".join(sorted({repr(row.image_id) for row in parts}))
        raise ErasureError(
            "in-parts", f"the keys of this image are of one person each; erase those that are to go: {names}"
        )


def _check_no_subject(connection: Connection, dataset: str, image_id: str, owner: str) -> None:
    keys, records = schema.shred_keys, schema.records
    under_subject = (
        select(records.c.record_id)
        .join(keys, keys.c.shred_key_id == records.c.shred_key_id)
        .where(records.c.dataset == dataset, records.c.image_id == image_id, keys.c.owner != owner)
    )
    if connection.execute(under_subject).first() is not None:
        raise ErasureError(
            "under-subject",
            "the key of this image is its subject's, so that it can not be erased alone; erase the subject, with all its images",
        )
