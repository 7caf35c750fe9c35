"""Parquet files with a column of encoded pictures, or of their names; all other columns pass through to the output."""

import hashlib
from collections.abc import Collection, Iterator
from functools import partial
from itertools import accumulate, chain
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pt

from jobs.blocks import BYTES_FIELD, PREFIX, SHARD_SCHEMA
from jobs.errors import SourceError
from jobs.names import NO_TEXT, as_text, is_text
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput, check_column
from jobs.sources.ids import CountedIds, DigestPlaces, Ids, ListedIds, OfFiles, RowNumbers
from jobs.sources.parquet_names import Looked, column_of_names, is_text_type, look, texts_of
from jobs.sources.parquet_rows import NAMED_PICTURE, Columns, RowGroup, WantedRow, read_group
from jobs.sources.partitions import Partitions, partitions_of, with_partitions
from jobs.sources.references import References
from jobs.sources.source import (
    ReadUnit,
    Source,
    UnitSize,
    id_problem,
    listing_digest,
    unfinished,
    version_of,
)

RENAMED_PREFIX: Final = "source_"  # before a column whose name keyanon's own columns have
MAX_UNBACKED_ROWS: Final = 1_000_000  # rows a file may claim whatever its size; more must take a byte each at least
NAMED_AT_ONCE: Final = 4096  # pictures of one read task that reads each by its name; it reads the row group up to them


class ParquetSource(Source):
    """Parquet files of one schema. Ids come from the id column, or are `<file>#<row in the file>`."""

    kind = "parquet"

    def __init__(
        self, filesystem: pafs.FileSystem, root: str, paths: list[str], config: InputConfig, given: GivenInput
    ) -> None:
        for column, file in (
            ("boxes_column", given.boxes),
            ("keep_column", given.keep),
            ("subject_column", given.subjects),
        ):
            if file is not None:
                raise SourceError(f"{file} is for pictures in a folder; for Parquet name a column: {column}")
        self._filesystem = filesystem
        self._groups: list[RowGroup] = []
        self._max_bytes = config.max_file_bytes
        self._references: References | None = None
        ids: list[pa.Array] = []
        files: list[tuple[str, int]] = []
        self._failures: dict[int, str] = {}
        unread: dict[int, str] = {}
        ids_are_text, rows = True, 0
        listed: list[str] = []
        versions: list[npt.NDArray[np.int32]] = []
        schema: pa.Schema | None = None
        for path in sorted(paths):
            below = below_root(root, path)
            partitions = partitions_of(path, below)
            try:
                with pq.ParquetFile(path, filesystem=filesystem) as file:
                    columns = with_partitions(path, file.schema_arrow, partitions)
                    check_columns(path, columns, partitions, schema, config, given)
                    info = filesystem.get_file_info(path)
                    check_rows(file, path, info.size)
                    names = column_of_names(file, columns, config.image_column)
                    if schema is None:
                        schema, self._references = columns, references_of(names, config, filesystem, root, path)
                    self._check_names(path, names, config)
                    files.append((below, file.metadata.num_rows))
                    if config.id_column is None:
                        self._check_file_name(*files[-1], rows)
                    else:
                        for at, said in texts_of(file, path, config.id_column):
                            ids_are_text = ids_are_text and all(one is None or is_text(one) for one in said)
                            ids.append(self._named(said, rows, at, below))
                    looked = None
                    if self._references is not None and names is not None:
                        looked = look(self._references, file, path, names, config.max_file_bytes)
                    self._add_groups(file, path, partitions, looked)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise SourceError(
                    f"{path} can not be read as Parquet ({error}); repair it or take it out of the input"
                ) from error
            listed.append(f"{below}\0{info.size}\0{info.mtime_ns}")
            version = np.array([version_of(below, info.size or 0, info.mtime_ns or 0)], np.int32)
            versions.append(version if looked is None else looked.versions)
            unread.update({} if looked is None else {rows + at: why for at, why in looked.failures.items()})
            rows += files[-1][1]
        if schema is None or not rows:
            raise SourceError(f"{config.photos} holds no rows")
        if len(unread) == rows:
            raise SourceError(
                f"{config.photos}: no row of its column {config.image_column!r} names a picture that can be read "
                f"({unread[0]}); relative names begin at their file's folder, or at image_root"
            )
        self.total, self.size_bytes = rows, sum(group.size_bytes for group in self._groups)
        if config.id_column is None:
            self.ids: Ids = CountedIds(files)
        else:
            self.ids = ListedIds(ids)
            self._find_duplicates(self.ids.places())
        of_all, starts = np.concatenate(versions), list(accumulate((count for _, count in files[:-1]), initial=0))
        self.versions = of_all if self._references is not None else OfFiles(np.array(starts), of_all)
        self._failures = unread | self._failures
        self._columns = _columns(schema, config, given, self._references, ids_are_text=ids_are_text)
        self.schema = pa.schema(
            [_nullable(field.with_name(self._columns.names[field.name])) for field in schema]
        ).remove_metadata()
        self.renamed = {old: new for old, new in self._columns.names.items() if old != new}
        self.image_column = self._columns.names[config.image_column]
        if self._references is not None:
            at = self.schema.get_field_index(self.image_column)
            self.schema = self.schema.set(at, pa.field(self.image_column, NAMED_PICTURE))
            listed.append(hashlib.sha256(of_all.tobytes()).hexdigest())
        self.digest = listing_digest(chain(listed, chain.from_iterable(self.ids.parts())))

    def units(self, finished: Collection[int], size: UnitSize, numbers: RowNumbers | None = None) -> Iterator[ReadUnit]:
        rows_per_block = size(self.total - len(finished))
        left = unfinished(self.total, finished)
        for group in self._groups:
            of_group = group.first + np.flatnonzero(left[group.first : group.first + group.rows])
            at_once = group.rows if self._references is None else NAMED_AT_ONCE
            for start in range(0, len(of_group), at_once):
                wanted = of_group[start : start + at_once]
                size_bytes = group.size_bytes * len(wanted) // group.rows
                rows = self._wanted(wanted, wanted if numbers is None else numbers[wanted])
                reader = partial(
                    read_group, self._filesystem, group, self._columns, rows, rows_per_block, self._max_bytes
                )
                yield ReadUnit(reader, len(wanted), size_bytes)

    def _wanted(self, positions: npt.NDArray[np.int64], numbers: RowNumbers) -> dict[int, WantedRow]:
        facts = zip(
            positions.tolist(),
            numbers.tolist(),
            self.ids.take(positions),
            self.versions[positions].tolist(),
            strict=True,
        )
        return {at: WantedRow(row, name, version, self._failures.get(at, "")) for at, row, name, version in facts}

    def _check_names(self, path: str, names: str | None, config: InputConfig) -> None:
        """Raise SourceError for a file that holds pictures where they are to be read by their names."""
        if names is None and config.image_root is not None:
            raise SourceError(
                f"{path}: column {config.image_column!r} holds pictures and no names; leave out image_root"
            )
        if names is None and self._references is not None:
            raise SourceError(
                f"{path}: column {config.image_column!r} holds pictures, and in the files before it names alone; run it apart, "
                "with its own output"
            )

    def _check_file_name(self, below: str, rows: int, first: int) -> None:
        """Why rows that are called by their file are quarantined, where its name is too long for the last of them."""
        if rows and _id_problem(f"{below}#{rows - 1}"):
            problems = ((at, _id_problem(f"{below}#{at}")) for at in range(rows))
            self._failures.update((first + at, reason) for at, reason in problems if reason)

    def _named(self, ids: list[str | None], first: int, start: int, below: str) -> pa.Array:
        """An id for some rows of a file, whose first has that position; why some are quarantined before they are read. start: the
        row in the file that these begin with."""
        named = []
        for at, image_id in enumerate(ids, start):
            named.append(f"{below}#{at}" if image_id is None else as_text(image_id))
            if reason := "missing_id: the id column is null here" if image_id is None else _id_problem(image_id):
                self._failures[first + at] = reason
        return pa.array(named, pa.large_string())

    def _find_duplicates(self, places: DigestPlaces) -> None:
        """Quarantine all rows of an id but the first."""
        usable = np.ones(self.total, np.bool_)
        usable[list(self._failures)] = False
        for at, first in places.repeated(usable):
            self._failures[at] = f"duplicate_id: row {first} has the same id"

    def _add_groups(self, file: pq.ParquetFile, path: str, partitions: Partitions, looked: Looked | None) -> None:
        start = 0
        for index in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(index)
            first, rows = self._groups[-1].first + self._groups[-1].rows if self._groups else 0, group.num_rows
            size = group.total_byte_size if looked is None else int(looked.sizes[start : start + rows].sum())
            if rows:
                self._groups.append(RowGroup(path, index, first, rows, size, partitions))
            start += rows


def check_columns(
    path: str,
    schema: pa.Schema,
    partitions: Partitions,
    first: pa.Schema | None,
    config: InputConfig,
    given: GivenInput,
) -> None:
    """Raise SourceError for a file whose columns can not be used; before anything runs."""
    own = {setting: getattr(config, setting) for setting in ("image_column", "id_column", "subject_column")}
    for setting, name in {**own, **given.columns()}.items():
        count = schema.names.count(name)
        if name is not None and count != 1:
            raise SourceError(
                f"{path} has {count or 'no'} column called {name!r} ({setting}); "
                f"its columns are {', '.join(schema.names)}"
            )
    for setting in ("image_column", "id_column"):
        if own[setting] in partitions:
            raise SourceError(f"{path}: {setting} {own[setting]!r} is a folder's, the same for all rows of the file")
    kind = schema.field(config.image_column).type
    if not holds_pictures(kind):
        raise SourceError(
            f"{path}: column {config.image_column!r} is {kind}; "
            "it must hold encoded pictures or clips as binary or struct<bytes>, or their names as text"
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
            f"{path} has other columns or types, those of its folders among them, than the files before it; run it apart, "
            "with its own output"
        )


def references_of(
    names: str | None, config: InputConfig, filesystem: pafs.FileSystem, root: str, path: str
) -> References | None:
    """What reads named pictures or clips; None where the column holds them. path: of a file, which may be the root."""
    if names is None:
        return None
    return References.of(config, filesystem, root.rpartition("/")[0] if root == path else root)


def check_rows(file: pq.ParquetFile, path: str, size_bytes: int) -> None:
    """Raise SourceError for a number of rows that can not be right, before a name is made for each."""
    rows = file.metadata.num_rows
    in_groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    if rows != sum(in_groups) or min(in_groups, default=0) < 0 or rows > max(size_bytes, MAX_UNBACKED_ROWS):
        raise SourceError(
            f"{path} is damaged: it claims {rows} rows, its row groups {sum(in_groups)}, in {size_bytes} bytes; repair it"
        )


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


def _columns(
    schema: pa.Schema, config: InputConfig, given: GivenInput, references: References | None, *, ids_are_text: bool
) -> Columns:
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
    return Columns(config.image_column, config.subject_column, names, schema, given, references)


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold encoded files, or name them."""
    if pt.is_struct(kind):
        at = kind.get_field_index(BYTES_FIELD)
        return at >= 0 and _is_binary(kind.field(at).type)
    return _is_binary(kind) or is_text_type(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _is_name(kind: pa.DataType) -> bool:
    return is_text_type(kind) or bool(pt.is_integer(kind))


def below_root(root: str, path: str) -> str:
    """A file's path below what the user named."""
    return path.removeprefix(root.rstrip("/") + "/") if path != root else path.rsplit("/", 1)[-1]
