"""What may be known of stored records without opening one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, Select, func, select

from keystore.crypto.canonical import parse_timestamp
from keystore.storage import schema
from keystore.vault.parts import PART_MARK, whole_id

IDS_PER_QUERY = 500


class RecordView(BaseModel):
    """What may be known of a stored key record without opening it."""

    model_config = ConfigDict(frozen=True)

    record_id: str
    run_id: str
    dataset: str
    image_id: str
    source_sha256: str
    ingested_at: datetime


def record_views(
    connection: Connection, image_ids: Sequence[str] | None, dataset: str | None, run_id: str | None
) -> list[RecordView]:
    """Return what is known of stored records without opening them."""
    table = schema.records
    columns = (
        table.c.record_id,
        table.c.run_id,
        table.c.dataset,
        table.c.image_id,
        table.c.source_sha256,
        table.c.ingested_at,
    )
    query = select(*columns).order_by(table.c.dataset, table.c.image_id, table.c.ingested_at)
    if dataset is not None:
        query = query.where(table.c.dataset == dataset)
    if run_id is not None:
        query = query.where(table.c.run_id == run_id)
    wanted = None if image_ids is None else set(image_ids)
    return [
        RecordView(**dict(row._mapping) | {"ingested_at": parse_timestamp(row.ingested_at)})
        for row in connection.execute(query)
        if wanted is None or row.image_id in wanted or row.record_id in wanted
    ]


def count_records(connection: Connection, run_id: str) -> int:
    """Return how many stored records are of a run."""
    ident = schema.records.c.run_id
    return int(connection.execute(select(func.count()).where(ident == run_id)).scalar_one())


def shards_of(connection: Connection, record_ids: Iterable[str]) -> set[str]:
    """Return the names of the shards that records came in."""
    table, found, asked = schema.records, set[str](), iter(record_ids)
    while some := list(islice(asked, IDS_PER_QUERY)):
        found.update(connection.execute(select(table.c.shard_name).where(table.c.record_id.in_(some))).scalars())
    return found


def parts_of(connection: Connection, records: Select[Any], image_ids: Collection[str]) -> dict[str, list[Row[Any]]]:
    """Return those rows of a query of records that are of parts of some images, by the image. It reads all that are of parts."""
    parts: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(records.where(schema.records.c.image_id.contains(PART_MARK, autoescape=True))):
        whole = whole_id(row.image_id)
        if whole is not None and whole in image_ids:
            parts.setdefault(whole, []).append(row)
    return parts


def stored_among(connection: Connection, record_ids: Iterable[str]) -> set[str]:
    """Return those of the records that are stored."""
    ident, found, asked = schema.records.c.record_id, set[str](), iter(record_ids)
    while some := list(islice(asked, IDS_PER_QUERY)):
        found.update(connection.execute(select(ident).where(ident.in_(some))).scalars())
    return found
