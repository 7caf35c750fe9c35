"""The read task of Parquet: the wanted rows of one row group, in blocks; a row that can not be used says why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pt

from jobs.blocks import BYTES_FIELD, ENCODED, GIVEN, PERMANENT, SUBJECT, VERSION, source_table
from jobs.names import NO_TEXT, as_text, is_text
from jobs.sources.given_faces import GivenInput, given_in_row, permanent_in_row
from jobs.sources.partitions import Partitions, add_partitions
from jobs.sources.references import References
from jobs.sources.source import failed, raise_fault_of_the_machine
from keystore.intake.records import MAX_NAME_CHARACTERS

# Of a row group that is read as it is gone through: as much of each column is held, and its page; the whole group would be else.
READ_AHEAD_BYTES: Final = 8 * 1024 * 1024
PATH_FIELD: Final = "path"
NAMED_PICTURE: Final = pa.struct([(BYTES_FIELD, pa.binary()), (PATH_FIELD, pa.string())])
"""What a column of names becomes, as Hugging Face data sets store pictures. path: the name, of a picture that was read."""

_NO_BYTES: Final = (
    "null_image: the cell names a picture and holds none, and others of its file do; embed it, or give names alone"
)


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file. first: number of its first row within the whole input. size_bytes: of its pictures, about.
    partitions: what its folders say."""

    path: str
    index: int
    first: int
    rows: int
    size_bytes: int
    partitions: Partitions


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and how the user's columns are called in the output (source name -> output name). schema: of a
    file and its folders. references: reads the pictures where the image column names them."""

    image: str
    subject: str | None
    names: Mapping[str, str]
    schema: pa.Schema
    given: GivenInput
    references: References | None


class WantedRow(NamedTuple):
    """One row that a read task reads. number: what it is called in blocks. version: see `version_of`. failure: why its picture is
    not looked at, or ""."""

    number: int
    image_id: str
    version: int
    failure: str


def read_group(
    filesystem: pafs.FileSystem,
    group: RowGroup,
    columns: Columns,
    wanted: Mapping[int, WantedRow],
    rows_per_block: int,
    max_bytes: int,
) -> Iterator[pa.Table]:
    """The wanted rows of one row group, by position, in blocks. A group that can not be read becomes rows that say so."""
    done, last = group.first, max(wanted)
    try:
        with pq.ParquetFile(group.path, filesystem=filesystem, pre_buffer=False, buffer_size=READ_AHEAD_BYTES) as file:
            for batch in file.iter_batches(rows_per_block, row_groups=[group.index]):
                at = range(done, done + batch.num_rows)
                table = pa.Table.from_batches([batch]).filter(pa.array([one in wanted for one in at]))
                if table.num_rows:
                    rows = [wanted[one] for one in at if one in wanted]
                    yield _block(rows, add_partitions(table, group.partitions), columns, group.path, max_bytes)
                done += batch.num_rows
                if done > last:
                    return
        # a damaged page can end a column early, and nothing is raised
        raise pa.ArrowInvalid(f"{done - group.first} of {group.rows} rows")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, group.path)
        lost = [row for at, row in wanted.items() if at >= done]
        kept = [field for field in columns.schema if field.name != columns.image]
        values = [pa.array([group.partitions.get(field.name)] * len(lost), field.type) for field in kept]
        own = pa.table(values, names=[columns.names[field.name] for field in kept])
        reason = f"unreadable: row group {group.index} of its file is damaged ({type(error).__name__})"
        yield source_table([{**failed(row.number, row.image_id, reason), VERSION: row.version} for row in lost], own)


def _block(rows: list[WantedRow], table: pa.Table, columns: Columns, path: str, max_bytes: int) -> pa.Table:
    pictures, reasons, own = _pictures(rows, table, columns, path)
    subjects = texts(table.column(columns.subject)) if columns.subject else [None] * len(rows)
    given, entries = columns.given, []
    boxes, keep = _cells(table, given.boxes_column), _cells(table, given.keep_column)
    permanent = _cells(table, given.permanent_column, otherwise=False)
    for at, (row, encoded) in enumerate(zip(rows, pictures, strict=True)):
        said, bad_faces = given_in_row(boxes[at], keep[at])
        forgotten, bad_permanent = permanent_in_row(permanent[at])
        subject = subjects[at]
        reason = row.failure or reasons[at] or _problem(encoded, subject, max_bytes) or bad_faces or bad_permanent
        entry = failed(row.number, row.image_id, reason)
        entry = entry if reason else {**entry, ENCODED: encoded}
        subject = None if subject is None else as_text(subject)
        entries.append({**entry, SUBJECT: subject, GIVEN: said, PERMANENT: forgotten, VERSION: row.version})
    return source_table(entries, own.rename_columns([columns.names[name] for name in own.column_names]))


def _pictures(
    rows: list[WantedRow], table: pa.Table, columns: Columns, path: str
) -> tuple[list[bytes | None], list[str], pa.Table]:
    """The encoded picture of each row, or None and why; and the user's columns without them: bytes travel once."""
    cells, at = table.column(columns.image), table.column_names.index(columns.image)
    if columns.references is not None:
        said = texts(paths_of(cells))
        names = [None if row.failure else name for row, name in zip(rows, said, strict=True)]
        found = columns.references.read_all(names, path.rpartition("/")[0])
        # A name is published of what was read and of nothing else: what leads nowhere may be a secret, or the picture itself.
        kept = [
            None if encoded is None else {PATH_FIELD: name} for name, (encoded, _) in zip(names, found, strict=True)
        ]
        own = table.set_column(at, columns.image, pa.array(kept, NAMED_PICTURE))
        return [encoded for encoded, _ in found], [reason for _, reason in found], own
    if not pt.is_struct(cells.type):
        return cells.to_pylist(), [""] * len(rows), table.drop_columns([columns.image])
    own = _without_bytes(table, columns.image)
    pictures = pc.struct_field(cells, BYTES_FIELD).to_pylist()
    named = [False] * len(rows)
    if cells.type.get_field_index(PATH_FIELD) >= 0:
        named = pc.is_valid(pc.struct_field(cells, PATH_FIELD)).to_pylist()
    reasons = [_NO_BYTES if one is None and path else "" for one, path in zip(pictures, named, strict=True)]
    return pictures, reasons, own


def paths_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names in a column of them, or of structs that have them as their path."""
    return pc.struct_field(column, PATH_FIELD) if pt.is_struct(column.type) else column


def _cells(table: pa.Table, column: str | None, otherwise: Any = None) -> list[Any]:
    """The values of a column, or one value for each row when none is asked for."""
    return table.column(column).to_pylist() if column is not None else [otherwise] * table.num_rows


def _problem(encoded: bytes | None, subject: str | None, max_bytes: int) -> str:
    if encoded is None:
        return "null_image: the cell holds no picture"
    if len(encoded) > max_bytes:
        return f"too_large: the cell has {len(encoded)} bytes, more than the {max_bytes} allowed"
    return subject_problem(subject)


def subject_problem(subject: str | None) -> str:
    """Why no key can be filed under a cell's subject; "" when one can, or none is said."""
    if subject is not None and not is_text(subject):
        return f"bad_subject: the subject is {NO_TEXT}"
    if subject is not None and not 0 < len(subject) <= MAX_NAME_CHARACTERS:
        return f"bad_subject: a subject must have 1 to {MAX_NAME_CHARACTERS} characters"
    return ""


def texts(column: pa.ChunkedArray) -> list[str | None]:
    """Names as text. Parquet promises UTF-8 and nobody checks: bytes that are none become surrogates, as in file names."""
    if pt.is_integer(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    binary = pa.large_binary() if pt.is_large_string(column.type) else pa.binary()
    values = column.cast(binary).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]


def _without_bytes(table: pa.Table, image: str) -> pa.Table:
    """The table with the bytes of its struct column emptied; the column keeps its place, its type and its nulls."""
    kept = []
    for chunk in table.column(image).chunks:
        fields = [
            pa.nulls(len(chunk), field.type) if field.name == BYTES_FIELD else values
            for field, values in zip(chunk.type, chunk.flatten(), strict=True)
        ]
        kept.append(pa.StructArray.from_arrays(fields, fields=list(chunk.type), mask=chunk.is_null()))
    at = table.column_names.index(image)
    return table.set_column(at, table.schema.field(at), pa.chunked_array(kept, table.schema.field(at).type))
