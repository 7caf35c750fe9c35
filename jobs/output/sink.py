"""The end of the pipeline: each block of results is staged, for the publisher to make it visible.

For each block, in this order: the sealed keys, durable in the keystore's inbox; the pictures and sidecars; the row shard, whose
appearance says that the block is complete (invariants I1, I2). Key shard and row shard have the same base name, which is
used once, so that a write that Ray repeats is a second block; the publisher takes one of the two.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from ray.data import Datasink
from ray.data.block import BlockAccessor

from jobs.blocks import (
    BYTES_FIELD,
    FACE_COUNT,
    FIDELITY,
    FURTHER_SEALED,
    ID,
    KEPT_COUNT,
    OUTPUT,
    OUTPUT_SHA256,
    PERMANENT,
    PSEUDONYM,
    REASON,
    RECORD_ID,
    RESULT_SCHEMA,
    ROW,
    SEALED,
    SHARD_SCHEMA,
    SIDECAR,
    SOURCE_HMAC,
    STATUS,
    TRACK_RECORDS,
    VERSION,
    passthrough,
)
from jobs.errors import LeaseError, MachineError, PublishError
from jobs.faults import FaultKind, kind_of_writing
from jobs.names import image_name, sidecar_name
from jobs.output.keys import KeyInbox
from jobs.output.layout import OutputLayout
from jobs.output.row_shards import KeyShard, new_shard_name, to_parquet, with_key_shard
from jobs.output.shared_lease import Token
from jobs.output.staging import PICTURE_PART, SIDECAR_PART, Staging
from jobs.output.unwritable import unwritable
from keystore.errors import KeystoreError


class PairedDatasink(Datasink[str]):  # type: ignore[misc]  # Ray ships no types
    """Stages blocks of results as pairs of a key shard and a row shard; the pictures between the two.

    inbox: None in a run that discards its keys. retry: number of the retry whose rows these are, 0 in the run itself.
    """

    def __init__(self, layout: OutputLayout, inbox: KeyInbox | None, lease: Token, retry: int) -> None:
        self.layout, self.inbox, self.lease, self.retry = layout, inbox, lease, retry
        self.staging = Staging.of(layout.store, lease.attempt)

    def get_name(self) -> str:
        return "StageResults"

    def write(self, blocks: Iterable[Any], ctx: Any) -> str:
        """Stage the blocks of one write task; the base name of its shards, "" when there were no rows.

        Raises:
            PublishError: inbox or output can not be written. MachineError: not now. LeaseError: the attempt is over. No row
            became visible.
        """
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        return self.stage(pa.concat_tables(tables, promote_options="permissive")) if tables else ""

    def stage(self, table: pa.Table) -> str:
        """Stage one table of results; see `write`."""
        self.lease.check()  # spares work; what keeps a straggler from harm is that it writes into its own folder
        name = new_shard_name(table.column(ROW).to_pylist(), self.retry)
        results = table.select(RESULT_SCHEMA.names).to_pylist()
        rows = shard_table(self.layout, table, results)
        files = self.layout.schema is None
        try:
            if files:
                self.staging.open(name)
            if sealed := [one for row in results for one in _sealed(row)]:
                rows = with_key_shard(rows, self._hand_in(name, sealed))
            if files:
                self.staging.fill(name, _files_of(results))
            self.staging.finish(name, to_parquet(rows))
        except FileNotFoundError as error:
            raise LeaseError(
                f"{self.layout.store.full(self.staging.folder)} is gone: this attempt is over and publishes nothing more"
            ) from error
        except OSError as error:
            raise unwritable(self.layout.root, error) from error
        return name

    def _hand_in(self, name: str, sealed: list[bytes]) -> KeyShard:
        if self.inbox is None:
            raise PublishError("a sealed key came out of a run that discards its keys; nothing of it was published")
        try:
            return self.inbox.hand_in(name, sealed)
        except KeystoreError as error:
            fault = MachineError if kind_of_writing(error) is FaultKind.MACHINE else PublishError
            raise fault(f"{error}; no picture of this block was published") from error


def _sealed(row: dict[str, Any]) -> list[bytes]:
    return [] if row[SEALED] is None else [row[SEALED], *(row[FURTHER_SEALED] or ())]


def _files_of(results: list[dict[str, Any]]) -> Iterator[tuple[int, str, bytes]]:
    """What is staged beside the row shard: position, part, content."""
    for position, row in enumerate(results):
        for part, content in ((PICTURE_PART, row[OUTPUT]), (SIDECAR_PART, row[SIDECAR])):
            if content is not None:
                yield position, part, content


def published_names(layout: OutputLayout, row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Picture and sidecar of a result, relative to the output; None for what is not there or lies in the shard."""
    if layout.schema is not None or row[OUTPUT] is None:
        return None, None
    return image_name(row[ID], layout.output_format), sidecar_name(row[ID]) if row[SIDECAR] is not None else None


def shard_table(layout: OutputLayout, table: pa.Table, results: list[dict[str, Any]]) -> pa.Table:
    """The rows as they are published: SHARD_SCHEMA, and for Parquet input the user's columns, pictures replaced, and
    the sidecars."""
    names = [published_names(layout, row) for row in results]
    values = {
        "row": [row[ROW] for row in results],
        "image_id": [row[ID] for row in results],
        "status": [row[STATUS] for row in results],
        "reason": [row[REASON] or "" for row in results],
        "record_id": [row[RECORD_ID] for row in results],
        "output": [picture for picture, _ in names],
        "sidecar": [sidecar for _, sidecar in names],
        "source_hmac": [row[SOURCE_HMAC] for row in results],
        "output_sha256": [row[OUTPUT_SHA256] for row in results],
        "sidecar_sha256": [_sha256(row[SIDECAR]) for row in results],
        "faces": [row[FACE_COUNT] for row in results],
        "kept": [row[KEPT_COUNT] or 0 for row in results],
        "permanent": [bool(row[PERMANENT]) for row in results],
        "fidelity": [row[FIDELITY] for row in results],
        "source_version": [row[VERSION] for row in results],
        "pseudonym": [row[PSEUDONYM] for row in results],
        "track_records": [row[TRACK_RECORDS] for row in results],
    }
    own: dict[str, Any] = {}
    fields: list[pa.Field] = []
    if layout.schema is not None:
        own = {**_own_columns(layout, layout.schema, table), SIDECAR: table.column(SIDECAR)}
        fields = [*layout.schema, pa.field(SIDECAR, pa.large_binary())]
    taken = {field.name for field in fields}
    shared = [field for field in SHARD_SCHEMA if field.name not in taken]
    arrays = {field.name: pa.array(values[field.name], field.type) for field in shared}
    return pa.table({**arrays, **own}, schema=pa.schema([*shared, *fields]))


def _own_columns(layout: OutputLayout, schema: pa.Schema, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The user's columns in their types, the picture's bytes replaced by the anonymized ones (null where none are)."""
    own = passthrough(table)
    columns: dict[str, pa.ChunkedArray] = {}
    for field in schema:
        if field.name != layout.image_column:
            columns[field.name] = own.column(field.name).cast(field.type)
        elif pt.is_struct(field.type):
            columns[field.name] = _replaced_bytes(field, table.column(OUTPUT), own)
        else:
            columns[field.name] = table.column(OUTPUT).cast(field.type)
    return columns


def _replaced_bytes(field: pa.Field, pictures: pa.ChunkedArray, own: pa.Table) -> pa.ChunkedArray:
    """A struct column with its bytes replaced and its other fields (a path) kept; null where the source's is."""
    count = len(pictures)
    kept = own.column(field.name).combine_chunks() if field.name in own.column_names else pa.nulls(count, field.type)
    kept = kept.combine_chunks() if isinstance(kept, pa.ChunkedArray) else kept
    fresh = pictures.combine_chunks()
    fresh = fresh.combine_chunks() if isinstance(fresh, pa.ChunkedArray) else fresh
    parts = dict(zip([part.name for part in kept.type], kept.flatten(), strict=True))
    parts[BYTES_FIELD] = fresh
    arrays = [
        parts[part.name].cast(part.type) if part.name in parts else pa.nulls(count, part.type) for part in field.type
    ]
    nothing = pc.and_(kept.is_null(), fresh.is_null())
    return pa.chunked_array([pa.StructArray.from_arrays(arrays, fields=list(field.type), mask=nothing)])


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()
