"""Erasure: the shred key of a subject goes, with every record under it, and comes back by no copy of a shard.

What stays is a list: keyed tags of whom and what was erased, against which every record is held that ingest meets, and the
digests by which the log can still be reconciled with what is left. A keystore's backups, and shards kept together with an
ingest key that was not retired, still hold what was erased (docs/keystore.md says what to do about both).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, sha256_hex, timestamp
from keystore.errors import ErasureError
from keystore.storage import schema
from keystore.vault.accounts import KEY_KIND, RECORD_KIND, account, key_digest, record_digest
from keystore.vault.keyring import owner_tag


def record_tag(index_key: bytes, record_id: str) -> str:
    """Return the keyed hash under which an erased record's id is remembered."""
    return hmac.new(
        index_key, canonical_json({"record_id": record_id, "type": "keyanon erased record v1"}), hashlib.sha256
    ).hexdigest()


def erasure_digest(dataset: str, owner: str, erased_at: str) -> str:
    """Return what the log says of one line of the erasure list."""
    return sha256_hex(
        canonical_json({"dataset": dataset, "erased_at": erased_at, "owner": owner, "type": "keyanon erasure v1"})
    )


def erase(
    connection: Connection,
    log: LogWriter,
    index_key: bytes,
    dataset: str,
    subject: str | None,
    image_id: str,
    by: str,
) -> int:
    """Erase a subject of a data set, or an image that has none, and remember it. Return how many records went.

    Raises ErasureError for an image that lies under its subject's key: the subject is what can be erased.
    """
    owner = owner_tag(index_key, dataset, subject, image_id)
    keys, records = schema.shred_keys, schema.records
    if subject is None:
        _check_no_subject(connection, dataset, image_id, owner)
    entry, now = log.size, timestamp(log.now)
    digests, gone = [], []
    key = connection.execute(select(keys).where(keys.c.dataset == dataset, keys.c.owner == owner)).first()
    if key is not None:
        for row in connection.execute(select(records).where(records.c.shred_key_id == key.shred_key_id)):
            digest, tag = record_digest(row._asdict()), record_tag(index_key, row.record_id)
            gone.append({"digest": digest, "kind": RECORD_KIND, "entry": row.entry, "erased_entry": entry, "tag": tag})
        digest = key_digest(key._asdict())
        gone.append({"digest": digest, "kind": KEY_KIND, "entry": key.entry, "erased_entry": entry, "tag": None})
        connection.execute(schema.erased.insert(), gone)
        connection.execute(records.delete().where(records.c.shred_key_id == key.shred_key_id))
        connection.execute(keys.delete().where(keys.c.shred_key_id == key.shred_key_id))
        digests = [str(one["digest"]) for one in gone]
    connection.execute(schema.erasures.insert().values(dataset=dataset, owner=owner, entry=entry, erased_at=now))
    log.append(
        "erase",
        account=account(digests),
        by=by,
        erasure=erasure_digest(dataset, owner, now),
        keys=int(key is not None),
        records=max(0, len(digests) - 1),
    )
    return max(0, len(digests) - 1)


def erased_among(connection: Connection, index_key: bytes, record_ids: Iterable[str]) -> set[str]:
    """Return those of the records that were here and were erased."""
    tags = set(connection.execute(select(schema.erased.c.tag).where(schema.erased.c.tag.is_not(None))).scalars())
    return {record_id for record_id in record_ids if tags and record_tag(index_key, record_id) in tags}


class ErasureList:
    """What was erased so far, to hold many records against within one transaction."""

    def __init__(self, connection: Connection, index_key: bytes) -> None:
        self._connection = connection
        self._index_key = index_key
        self._empty = connection.execute(select(schema.erasures.c.entry).limit(1)).first() is None

    def holds(self, record_id: str, owner: str, made_at: datetime) -> bool:
        """Return whether a record is one that was erased, or was made of an erased owner before the erasure."""
        if self._empty:
            return False
        erased, erasures = schema.erased, schema.erasures
        tag = record_tag(self._index_key, record_id)
        if self._connection.execute(select(erased.c.digest).where(erased.c.tag == tag)).first() is not None:
            return True
        later = (erasures.c.owner == owner) & (erasures.c.erased_at >= timestamp(made_at))
        return self._connection.execute(select(erasures.c.entry).where(later)).first() is not None


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
