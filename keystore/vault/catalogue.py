"""What may be known of stored records without opening one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, Select, func, select

from keystore.crypto.canonical import parse_timestamp
from keystore.storage import schema
from keystore.storage.bulk import rows_beginning, rows_with
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


def named(
    connection: Connection, ids: Iterable[str], dataset: str | None, run_id: str | None
) -> dict[str, list[Row[Any]]]:
    """Return the records that image ids or record ids name, by these ids, the oldest first: where they are filed, unopened."""
    table, asked, found = schema.records.c, list(dict.fromkeys(ids)), dict[str, list[Row[Any]]]()
    rows = rows_with(connection, _filed(dataset), table.image_id, asked)
    rows += rows_with(connection, _filed(None), table.record_id, asked)
    known = set(asked)
    for row in _within(rows, dataset, run_id):
        for one in known & {row.image_id, row.record_id}:
            found.setdefault(one, []).append(row)
    return found


def parts_of(
    connection: Connection, image_ids: Iterable[str], dataset: str | None, run_id: str | None = None
) -> dict[str, list[Row[Any]]]:
    """Return the records of parts of some images, by the image, as `named`."""
    parts = {one: list[Row[Any]]() for one in image_ids}
    begins = [one + PART_MARK for one in parts]
    rows = rows_beginning(connection, _filed(dataset), schema.records.c.image_id, begins)
    for row in _within(rows, dataset, run_id):
        whole = whole_id(row.image_id)
        if whole in parts:
            parts[whole].append(row)
    return {one: rows for one, rows in parts.items() if rows}


def _filed(dataset: str | None) -> Select[Any]:
    """A query of where records are filed; of images of a data set only, whose index has it behind the image's id."""
    table = schema.records.c
    query = select(table.record_id, table.run_id, table.dataset, table.image_id, table.ingested_at)
    return query if dataset is None else query.where(table.dataset == dataset)


def _within(rows: Iterable[Row[Any]], dataset: str | None, run_id: str | None) -> list[Row[Any]]:
    """Those of a data set and a run, each once, the oldest first. A database that is asked for a run may look through it all."""
    once = {row.record_id: row for row in rows if dataset in (None, row.dataset) and run_id in (None, row.run_id)}
    return sorted(once.values(), key=lambda row: (row.ingested_at, row.record_id))


def stored_among(connection: Connection, record_ids: Iterable[str]) -> set[str]:
    """Return those of the records that are stored."""
    ident, found, asked = schema.records.c.record_id, set[str](), iter(record_ids)
    while some := list(islice(asked, IDS_PER_QUERY)):
        found.update(connection.execute(select(ident).where(ident.in_(some))).scalars())
    return found
