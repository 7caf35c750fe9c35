"""Reads published pictures and sidecars: files of their own, or cells of the row shards, as for Parquet input.

Of a shard the pictures and the sidecars of all its rows are read together, since that is how Parquet keeps them. The last few
stay in memory, so that whoever asks for rows in the order of their shards reads each shard once.
"""

import errno
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.blocks import SIDECAR
from jobs.output.reader import OutputError, Row, read_manifest
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from jobs.storage.store import Store
from keyanon_core.errors import SidecarError
from keyanon_core.sidecar import MAX_SIDECAR_BYTES

SHARDS_KEPT: Final = 2  # where some threads are still at one shard, others begin with the next


class PublishedPictures:
    """The pictures and sidecars of an output; may be used by several threads."""

    def __init__(self, output: Place | Store) -> None:
        self.store = output if isinstance(output, Store) else open_store(output)
        self._cells, self._reading = lru_cache(SHARDS_KEPT)(self._read_cells), Lock()
        self._numbers = lru_cache(SHARDS_KEPT)(self._read_numbers)

    def picture(self, row: Row) -> bytes:
        """The anonymized picture of a row, encoded as it was published. Raises OutputError when it can not be read."""
        if row.output is not None:
            return self._read_below(row, row.output)
        with self._reading:
            column = self._image_column
        found = self._cell(row, column)
        return bytes(found["bytes"] if isinstance(found, dict) else found)

    def sidecar(self, row: Row) -> bytes:
        """The sidecar of a row. Raises OutputError when it is missing or can not be read, SidecarError when it is too large."""
        if row.sidecar is not None:
            return self._read_below(row, row.sidecar, MAX_SIDECAR_BYTES)
        return bytes(self._cell(row, SIDECAR))

    def numbers(self, row: Row) -> dict[str, float]:
        """Every number that is published in a row, by its column, the user's own among them. Raises OutputError."""
        try:
            with self._reading:
                table = self._numbers(row.shard)
            found = table.slice(row.position, 1).to_pylist()[0]
        except (OSError, ValueError, IndexError) as error:
            raise OutputError(f"{row.image_id}: {row.shard} has no readable columns ({error})") from error
        return {name: float(value) for name, value in found.items() if value is not None}

    @cached_property
    def _image_column(self) -> str:
        return str(read_manifest(self.store).get("image_column"))

    def _cell(self, row: Row, column: str) -> Any:
        """Raises OutputError."""
        try:
            with self._reading:  # threads that come for the same shard read it once
                table = self._cells(row.shard)
            value = table.column(column)[row.position].as_py()
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise OutputError(f"{row.image_id}: {row.shard} has no readable column {column!r} ({error})") from error
        if value is None:
            raise OutputError(
                f"{row.image_id}: column {column!r} of {row.shard} is empty for it; it was not anonymized"
            )
        return value

    def _read_cells(self, shard: str) -> pa.Table:
        """Raises OSError, ValueError."""
        with self.store.open_parquet(shard) as opened:
            return pq.read_table(opened, columns=[self._image_column, SIDECAR])

    def _read_numbers(self, shard: str) -> pa.Table:
        """Raises OSError, ValueError."""
        with self.store.open_parquet(shard) as opened, pq.ParquetFile(opened) as file:
            return file.read([field.name for field in file.schema_arrow if _is_number(field.type)])

    def _read_below(self, row: Row, name: str, max_bytes: int | None = None) -> bytes:
        """A published file. Raises OutputError when it can not be read, or its name leaves the output, as an edited row's may;
        SidecarError when it has more than `max_bytes`.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise OutputError(
                f"{row.image_id}: its row names the file {name!r}, which no run writes; {row.shard} was edited"
            )
        try:
            return self.store.read(name, max_bytes)
        except OSError as error:
            whole = self.store.full(name)
            if error.errno == errno.EFBIG:
                raise SidecarError(f"{row.image_id}: {whole} exceeds a sidecar's limit of {max_bytes} bytes") from error
            raise OutputError(
                f"{row.image_id}: {whole} can not be read ({error.strerror}); restore it from a backup"
            ) from error


def _is_number(kind: pa.DataType) -> bool:
    return any(
        is_it(kind) for is_it in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    )
