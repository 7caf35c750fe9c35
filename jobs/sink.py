"""The only place that publishes.

For each block, in this order: the sealed keys, durable in the keystore's inbox; the pictures and sidecars; the row
shard, whose appearance marks the block as finished (invariants I1, I2). Key shard and row shard have the same base
name. A name is used once, so a write that Ray repeats overwrites nothing; a write whose rows are visible already is not
repeated at all.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from ray.data import Datasink
from ray.data.block import BlockAccessor

from jobs.blocks import (
    BYTES_FIELD,
    FACE_COUNT,
    ID,
    KEPT_COUNT,
    OUTPUT,
    OUTPUT_SHA256,
    PERMANENT,
    REASON,
    RECORD_ID,
    RESULT_SCHEMA,
    ROW,
    SEALED,
    SHARD_SCHEMA,
    SIDECAR,
    SOURCE_HMAC,
    STATUS,
    passthrough,
)
from jobs.errors import PublishError
from jobs.lease import LeaseToken
from jobs.output_names import image_name, sidecar_name
from jobs.progress import Monitor
from keystore import durable
from keystore.errors import KeystoreError
from keystore.sealing import write_shard

ROWS: Final = "rows"
SHARD_SUFFIX: Final = ".parquet"
DIRECTORY_MODE: Final = 0o755
_NAME: Final = re.compile(r"(\d{9}-[0-9a-f]{16})-[0-9a-f]{12}")


@dataclass(frozen=True)
class OutputLayout:
    """How rows are published. schema, image_column: the user's columns by their output names, for Parquet; None for
    files."""

    root: Path
    output_format: str
    schema: pa.Schema | None = None
    image_column: str | None = None

    @property
    def rows(self) -> Path:
        return self.root / ROWS

    def shard(self, name: str) -> Path:
        """Path of the row shard of that base name."""
        return self.rows / (name + SHARD_SUFFIX)


class PairedDatasink(Datasink[str]):  # type: ignore[misc]  # Ray ships no types
    """Publishes blocks of results as pairs of a key shard and a row shard; the pictures between the two. inbox: None in a run
    that discards its keys."""

    def __init__(
        self, layout: OutputLayout, inbox: Path | None, lease: LeaseToken, monitor: Monitor | None = None
    ) -> None:
        self.layout, self.inbox, self.lease, self.monitor = layout, inbox, lease, monitor

    def get_name(self) -> str:
        return "Publish"

    def write(self, blocks: Iterable[Any], ctx: Any) -> str:
        """Publish the blocks of one write task; the base name of its shards, "" when there were no rows.

        Raises:
            PublishError: inbox or output can not be written, or the lease was lost; the rows are not visible.
        """
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        return self.publish(pa.concat_tables(tables, promote_options="permissive")) if tables else ""

    def publish(self, table: pa.Table) -> str:
        """Publish one table of results; see `write`."""
        identity = shard_identity(table.column(ROW).to_pylist())
        done = sorted(self.layout.rows.glob(f"{identity}-*{SHARD_SUFFIX}"))
        if done:  # a repeated write task: replacing its pictures would part them from the keys that are visible
            return done[0].name.removesuffix(SHARD_SUFFIX)
        name = f"{identity}-{uuid.uuid4().hex[:12]}"
        results = table.select(RESULT_SCHEMA.names).to_pylist()
        self.lease.check()
        sealed = [row[SEALED] for row in results if row[SEALED] is not None]
        if sealed:
            if self.inbox is None:
                raise PublishError("a sealed key came out of a run that discards its keys; nothing of it was published")
            try:
                write_shard(self.inbox, name, sealed)
            except KeystoreError as error:
                raise PublishError(f"{error}; no picture of this block was published") from error
        try:
            if self.layout.schema is None:
                for row in results:
                    self._write_files(row)
            self.lease.check()
            _write_parquet(self.layout.shard(name), shard_table(self.layout, table, results))
        except OSError as error:
            raise PublishError(
                f"output {self.layout.root} can not be written ({error.strerror or error}); "
                "make room or mend its permissions, then run the same command again"
            ) from error
        if self.monitor is not None:
            self.monitor.report_published(
                len(results), sum(row[FACE_COUNT] for row in results if row[STATUS] == "anonymized")
            )
        return name

    def _write_files(self, row: dict[str, Any]) -> None:
        """The sidecar first: a visible picture always has its sidecar."""
        names = published_names(self.layout, row)
        for name, content in zip(reversed(names), (row[SIDECAR], row[OUTPUT]), strict=True):
            if name is not None and content is not None:
                path = self.layout.root / name
                durable.make_directory(path.parent, DIRECTORY_MODE)
                durable.replace(path, content)


def shard_identity(rows: Sequence[int]) -> str:
    """The part of a shard's name that its rows decide: lowest row number and a digest over all."""
    digest = hashlib.sha256(",".join(map(str, sorted(rows))).encode()).hexdigest()
    return f"{min(rows):09d}-{digest[:16]}"


def is_shard_name(name: str) -> bool:
    """True for base names that `PairedDatasink` gives."""
    return _NAME.fullmatch(name) is not None


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
        "faces": [row[FACE_COUNT] for row in results],
        "kept": [row[KEPT_COUNT] or 0 for row in results],
        "permanent": [bool(row[PERMANENT]) for row in results],
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
    """A struct column with its bytes replaced and its other fields (a path) kept."""
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
    return pa.chunked_array([pa.StructArray.from_arrays(arrays, fields=list(field.type))])


def _write_parquet(path: Path, table: pa.Table) -> None:
    """Publish a row shard: not visible, then whole and durable. Raises OSError."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    durable.make_directory(path.parent, DIRECTORY_MODE)
    durable.write_new(path, buffer.getvalue())
