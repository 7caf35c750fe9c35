"""Parquet files with a column of encoded pictures; all other columns pass through to the output."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pt

from jobs.blocks import (
    BYTES_FIELD,
    ENCODED,
    FAILURE,
    GIVEN,
    ID,
    PERMANENT,
    PREFIX,
    ROW,
    SHARD_SCHEMA,
    SUBJECT,
    source_table,
)
from jobs.errors import SourceError
from jobs.names import NO_TEXT, as_text, is_text
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput, check_column, given_in_row, permanent_in_row
from jobs.sources.source import (
    ReadUnit,
    Source,
    UnitSize,
    failed,
    id_problem,
    listing_digest,
    raise_fault_of_the_machine,
)
from keystore.intake.records import MAX_NAME_CHARACTERS

RENAMED_PREFIX: Final = "source_"  # before a column whose name keyanon's own columns have
MAX_UNBACKED_ROWS: Final = 1_000_000  # rows a file may claim whatever its size; more must take a byte each at least


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file; first: number of its first row within the whole input."""

    path: str
    index: int
    first: int
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and how the user's columns are called in the output (source name -> output name)."""

    image: str
    subject: str | None
    names: Mapping[str, str]
    schema: pa.Schema
    given: GivenInput


class ParquetSource(Source):
    """Parquet files of one schema. Ids come from the id column, or are `<file>#<row in the file>`."""

    kind = "parquet"

    def __init__(
        self, filesystem: pafs.FileSystem, root: str, paths: list[str], config: InputConfig, given: GivenInput
    ) -> None:
        for name, file in (("boxes", given.boxes), ("keep", given.keep)):
            if file is not None:
                raise SourceError(
                    f"{name} {file} is for pictures in a folder; for Parquet name a column: {name}_column"
                )
        self._filesystem = filesystem
        self._groups: list[RowGroup] = []
        self._max_bytes = config.max_file_bytes
        ids: list[str | None] = []
        versions: list[str] = []
        schema: pa.Schema | None = None
        for path in sorted(paths):
            try:
                with pq.ParquetFile(path, filesystem=filesystem) as file:
                    self._check(path, file.schema_arrow, schema, config, given)
                    schema = schema or file.schema_arrow
                    info = filesystem.get_file_info(path)
                    _check_rows(file, path, info.size)
                    ids.extend(self._ids(file, path, root, config))
                    self._add_groups(file, path)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise SourceError(
                    f"{path} can not be read as Parquet ({error}); repair it or take it out of the input"
                ) from error
            versions.append(f"{_below(root, path)}\0{info.size}\0{info.mtime_ns}")
        if schema is None or not ids:
            raise SourceError(f"{config.photos} holds no rows")
        self.total = len(ids)
        self.size_bytes = sum(group.size_bytes for group in self._groups)
        self._ids_by_row, self._failures = _name_rows(ids)
        ids_are_text = all(i is None or is_text(i) for i in ids)
        self._columns = _columns(schema, config, given, ids_are_text=ids_are_text)
        self.schema = pa.schema(
            [_nullable(field.with_name(self._columns.names[field.name])) for field in schema]
        ).remove_metadata()
        self.renamed = {old: new for old, new in self._columns.names.items() if old != new}
        self.image_column = self._columns.names[config.image_column]
        self.digest = listing_digest([*versions, *self._ids_by_row])

    def units(self, finished: Collection[int], size: UnitSize) -> Iterator[ReadUnit]:
        rows_per_block = size(self.total - len(finished))
        for group in self._groups:
            rows = range(group.first, group.first + group.rows)
            wanted = [row for row in rows if row not in finished]
            if wanted:
                ids = {row: self._ids_by_row[row] for row in wanted}
                failures = {row: self._failures[row] for row in wanted if row in self._failures}
                size_bytes = group.size_bytes * len(wanted) // group.rows
                reader = partial(
                    _read, self._filesystem, group, self._columns, ids, failures, rows_per_block, self._max_bytes
                )
                yield ReadUnit(reader, len(wanted), size_bytes)

    @staticmethod
    def _check(path: str, schema: pa.Schema, first: pa.Schema | None, config: InputConfig, given: GivenInput) -> None:
        """Raise SourceError for a file whose columns can not be used; before anything runs."""
        own = {setting: getattr(config, setting) for setting in ("image_column", "id_column", "subject_column")}
        for setting, name in {**own, **given.columns()}.items():
            count = schema.names.count(name)
            if name is not None and count != 1:
                raise SourceError(
                    f"{path} has {count or 'no'} column called {name!r} ({setting}); "
                    f"its columns are {', '.join(schema.names)}"
                )
        kind = schema.field(config.image_column).type
        if not _holds_pictures(kind):
            raise SourceError(
                f"{path}: column {config.image_column!r} is {kind}; "
                "it must hold encoded pictures as binary or struct<bytes>"
            )
        for name in (config.id_column, config.subject_column):
            if name is not None and not _is_name(schema.field(name).type):
                raise SourceError(
                    f"{path}: column {name!r} is {schema.field(name).type}; an id must be text or a whole number"
                )
        for setting, name in given.columns().items():
            check_column(path, setting, schema.field(name))
        if len(set(schema.names)) != len(schema.names):
            raise SourceError(f"{path} has two columns of one name; rename one")
        if first is not None and not schema.equals(first):
            raise SourceError(
                f"{path} has other columns or types than the files before it; run it apart, with its own output"
            )

    def _ids(self, file: pq.ParquetFile, path: str, root: str, config: InputConfig) -> list[str | None]:
        """The id of each row of a file, in order; only the id column is read."""
        if config.id_column is None:
            return [f"{_below(root, path)}#{position}" for position in range(file.metadata.num_rows)]
        values = file.read(columns=[config.id_column]).column(0)
        if len(values) != file.metadata.num_rows:
            raise SourceError(f"{path} is damaged: {len(values)} ids for {file.metadata.num_rows} rows; repair it")
        return _texts(values)

    def _add_groups(self, file: pq.ParquetFile, path: str) -> None:
        for index in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(index)
            first = self._groups[-1].first + self._groups[-1].rows if self._groups else 0
            if group.num_rows:
                self._groups.append(RowGroup(path, index, first, group.num_rows, group.total_byte_size))


def _check_rows(file: pq.ParquetFile, path: str, size_bytes: int) -> None:
    """Raise SourceError for a number of rows that can not be right, before a name is made for each."""
    rows = file.metadata.num_rows
    in_groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    if rows != sum(in_groups) or min(in_groups, default=0) < 0 or rows > max(size_bytes, MAX_UNBACKED_ROWS):
        raise SourceError(
            f"{path} is damaged: it claims {rows} rows, its row groups {sum(in_groups)}, in {size_bytes} bytes; repair it"
        )


def _read(
    filesystem: pafs.FileSystem,
    group: RowGroup,
    columns: Columns,
    ids: Mapping[int, str],
    failures: Mapping[int, str],
    rows_per_block: int,
    max_bytes: int,
) -> Iterator[pa.Table]:
    """The read task: the wanted rows of one row group, in blocks. A group that can not be read becomes rows that say
    so."""
    done = group.first
    try:
        with pq.ParquetFile(group.path, filesystem=filesystem) as file:
            for batch in file.iter_batches(rows_per_block, row_groups=[group.index]):
                rows = range(done, done + batch.num_rows)
                table = pa.Table.from_batches([batch]).filter(pa.array([row in ids for row in rows]))
                if table.num_rows:
                    yield _block([row for row in rows if row in ids], table, columns, ids, failures, max_bytes)
                done += batch.num_rows
            if done < group.first + group.rows:  # a damaged page can end a column early, and nothing is raised
                raise pa.ArrowInvalid(f"{done - group.first} of {group.rows} rows")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, group.path)
        lost = [row for row in ids if row >= done]
        own = pa.table(
            {columns.names[f.name]: pa.nulls(len(lost), f.type) for f in columns.schema if f.name != columns.image}
        )
        reason = f"unreadable: row group {group.index} of its file is damaged ({type(error).__name__})"
        yield source_table([failed(row, ids[row], reason) for row in lost], own)


def _block(
    rows: list[int],
    table: pa.Table,
    columns: Columns,
    ids: Mapping[int, str],
    failures: Mapping[int, str],
    max_bytes: int,
) -> pa.Table:
    pictures, own = table.column(columns.image), table
    if pt.is_struct(pictures.type):
        # The bytes travel once; the struct's other fields (a path) stay with the user's columns.
        own = _without_bytes(table, columns.image)
        pictures = pa.chunked_array([chunk.field(BYTES_FIELD) for chunk in _masked(pictures)])
    else:
        own = table.drop_columns([columns.image])
    subjects = _texts(table.column(columns.subject)) if columns.subject else [None] * len(rows)
    given, entries = columns.given, []
    boxes, keep = _cells(table, given.boxes_column), _cells(table, given.keep_column)
    permanent = _cells(table, given.permanent_column, otherwise=False)
    for at, (row, encoded) in enumerate(zip(rows, pictures.to_pylist(), strict=True)):
        said, bad_faces = given_in_row(boxes[at], keep[at])
        forgotten, bad_permanent = permanent_in_row(permanent[at])
        subject = subjects[at]
        reason = failures.get(row, "") or _problem(encoded, subject, max_bytes) or bad_faces or bad_permanent
        entry = failed(row, ids[row], reason) if reason else {ROW: row, ID: ids[row], ENCODED: encoded, FAILURE: ""}
        subject = None if subject is None else as_text(subject)
        entries.append({**entry, SUBJECT: subject, GIVEN: said, PERMANENT: forgotten})
    return source_table(entries, own.rename_columns([columns.names[name] for name in own.column_names]))


def _cells(table: pa.Table, column: str | None, otherwise: Any = None) -> list[Any]:
    """The values of a column, or one value for each row when none is asked for."""
    return table.column(column).to_pylist() if column is not None else [otherwise] * table.num_rows


def _problem(encoded: bytes | None, subject: str | None, max_bytes: int) -> str:
    if encoded is None:
        return "null_image: the cell holds no picture"
    if len(encoded) > max_bytes:
        return f"too_large: the cell has {len(encoded)} bytes, more than the {max_bytes} allowed"
    if subject is not None and not is_text(subject):
        return f"bad_subject: the subject is {NO_TEXT}"
    if subject is not None and not 0 < len(subject) <= MAX_NAME_CHARACTERS:
        return f"bad_subject: a subject must have 1 to {MAX_NAME_CHARACTERS} characters"
    return ""


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Names as text. Parquet promises UTF-8 and nobody checks: bytes that are none become surrogates, as in file names."""
    if pt.is_integer(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    binary = pa.large_binary() if pt.is_large_string(column.type) else pa.binary()
    values = column.cast(binary).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]


def _id_problem(image_id: str) -> str:
    """Why a row can not have this id, under which nothing but a restored picture is ever named; "" when it can."""
    if not is_text(image_id):
        return f"bad_id: the id is {NO_TEXT}"
    if image_id in (".", ".."):
        return "bad_id: no restored picture can be named by this id"
    return id_problem(image_id)


def _nullable(field: pa.Field) -> pa.Field:
    """The field as it is published: a row without a picture, or one that could not be read, has nulls in it."""
    if pt.is_struct(field.type):
        field = field.with_type(pa.struct([_nullable(part) for part in field.type]))
    return field.with_nullable(True)


def _masked(column: pa.ChunkedArray) -> list[pa.StructArray]:
    """Chunks whose fields are null where the struct is."""
    return [pa.StructArray.from_arrays(chunk.flatten(), names=[f.name for f in chunk.type]) for chunk in column.chunks]


def _without_bytes(table: pa.Table, image: str) -> pa.Table:
    """The table with the bytes of its struct column emptied; the column keeps its place and type."""
    kept = []
    for chunk in table.column(image).chunks:
        fields = [
            pa.nulls(len(chunk), field.type) if field.name == BYTES_FIELD else values
            for field, values in zip(chunk.type, chunk.flatten(), strict=True)
        ]
        kept.append(pa.StructArray.from_arrays(fields, fields=list(chunk.type)))
    at = table.column_names.index(image)
    return table.set_column(at, table.schema.field(at), pa.chunked_array(kept, table.schema.field(at).type))


def _name_rows(ids: list[str | None]) -> tuple[list[str], dict[int, str]]:
    """An id for every row, and why rows are quarantined before they are read: missing, unusable and repeated ids."""
    named: list[str] = []
    failures: dict[int, str] = {}
    first_of: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        named.append(f"row {row}" if image_id is None else as_text(image_id))
        reason = "missing_id: the id column is null here" if image_id is None else _id_problem(image_id)
        if not reason and first_of.setdefault(named[row], row) != row:
            reason = f"duplicate_id: row {first_of[named[row]]} has the same id"
        if reason:
            failures[row] = reason
    return named, failures


def _columns(schema: pa.Schema, config: InputConfig, given: GivenInput, *, ids_are_text: bool) -> Columns:
    """Output names: the user's own, with a prefix where keyanon's columns have the name already and say another thing."""
    names: dict[str, str] = {}
    for field in schema:
        same = (ids_are_text and field.name == "image_id" == config.id_column and pt.is_string(field.type)) or (
            field.name == "permanent" == given.permanent_column
        )
        taken = not same and (field.name in SHARD_SCHEMA.names or field.name.startswith(PREFIX))
        names[field.name] = f"{RENAMED_PREFIX}{field.name}" if taken else field.name
        while names[field.name] != field.name and names[field.name] in schema.names:
            names[field.name] = RENAMED_PREFIX + names[field.name]
    return Columns(config.image_column, config.subject_column, names, schema, given)


def _holds_pictures(kind: pa.DataType) -> bool:
    if pt.is_struct(kind):
        at = kind.get_field_index(BYTES_FIELD)
        return at >= 0 and _is_binary(kind.field(at).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _is_name(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_integer(kind))


def _below(root: str, path: str) -> str:
    return path.removeprefix(root.rstrip("/") + "/") if path != root else path.rsplit("/", 1)[-1]
