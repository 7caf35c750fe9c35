"""The names in a Parquet file: a column of them, or a struct's, that says which pictures its rows have."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from jobs.blocks import BYTES_FIELD
from jobs.errors import SourceError
from jobs.sources.ids import ROWS_AT_ONCE
from jobs.sources.parquet_rows import PATH_FIELD, paths_of, texts
from jobs.sources.references import References


@dataclass(frozen=True)
class Looked:
    """What is there of the pictures that a file names, by its rows. failures: why some can not be read."""

    versions: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    failures: dict[int, str]


def column_of_names(file: pq.ParquetFile, columns: pa.Schema, image: str) -> str | None:
    """The column that names a file's pictures; None where the image column holds some of them.

    A struct of bytes and path, as Hugging Face data sets have it, names them when no bytes are there; the footer says so.
    """
    kind = columns.field(image).type
    if is_text_type(kind):
        return image
    if not pt.is_struct(kind) or {part.name for part in kind} != {BYTES_FIELD, PATH_FIELD}:
        return None
    if not is_text_type(kind.field(PATH_FIELD).type):
        return None
    has_bytes, has_path = (_has_some(file, f"{image}.{name}") for name in (BYTES_FIELD, PATH_FIELD))
    return f"{image}.{PATH_FIELD}" if has_path and not has_bytes else None


def _has_some(file: pq.ParquetFile, leaf: str) -> bool:
    """Whether a column may have values that are not null."""
    metadata = file.metadata
    at = next(at for at in range(metadata.num_columns) if metadata.schema.column(at).path == leaf)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    counted = [(group.num_rows, group.column(at).statistics) for group in groups]
    return any(said is None or not said.has_null_count or said.null_count < rows for rows, said in counted)


def look(references: References, file: pq.ParquetFile, path: str, column: str, max_bytes: int) -> Looked:
    """Look after the picture of each row of the file at `path`. column: of names. max_bytes: what a size counts for at most.

    Raises SourceError: the column is damaged; MachineError.
    """
    rows, folder = file.metadata.num_rows, path.rpartition("/")[0]
    versions, sizes = np.empty(rows, np.int32), np.empty(rows, np.int64)
    failures: dict[int, str] = {}
    for start, names in texts_of(file, path, column):
        for at, found in enumerate(references.look_all(names, folder), start):
            versions[at], sizes[at] = found.version, min(found.size, max_bytes)
            if found.failure:
                failures[at] = found.failure
    return Looked(versions, sizes, failures)


def texts_of(file: pq.ParquetFile, path: str, name: str) -> Iterator[tuple[int, list[str | None]]]:
    """A column whose values are names, in parts: in which row each begins, and the names; nothing else is read.

    Raises SourceError: it has not as many values as the file has rows.
    """
    found, rows = 0, file.metadata.num_rows
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[name]):
        values = batch.column(0)
        if found + len(values) <= rows:
            yield found, texts(paths_of(pa.chunked_array([values])))
        found += len(values)
    if found != rows:
        raise SourceError(f"{path} is damaged: {name!r} of {found} rows out of {rows}; repair it")


def is_text_type(kind: pa.DataType) -> bool:
    """Whether values of a column are text."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind))
