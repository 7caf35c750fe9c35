"""Clips in a column of Parquet: their bytes, or names of their files. What a column begins with says that it holds clips.

Listing goes through the column once; a read task goes through the row groups of its clips, once each, up to the last of them.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.errors import SourceError
from jobs.names import as_text, suffix_of
from jobs.sources.clip_cells import (
    BEGIN_BYTES,
    NO_CLIP,
    Cell,
    cell_file,
    group_values,
    leaf_of,
    open_parquet,
    read_cells,
    text_of,
)
from jobs.sources.clip_files import ClipListing, ClipReader, ListedClip, buffered, read_in_turn, unreadable
from jobs.sources.clip_names import ClipNames, clip_id_problem, piece_problem
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput
from jobs.sources.parquet import below_root, check_columns, check_rows, references_of
from jobs.sources.parquet_names import column_of_names, texts_of
from jobs.sources.parquet_rows import subject_problem
from jobs.sources.partitions import Partitions, partitions_of, with_partitions
from jobs.sources.references import References, RefusedError
from jobs.sources.source import CLIP_NAMES, CLIP_SUFFIXES, raise_fault_of_the_machine
from keyanon_core.clips.form import suffix_by_content
from keyanon_core.errors import PictureError

ROWS_AT_ONCE: Final = 1024  # of all columns but that of clips


class NamedFile(NamedTuple):
    """A clip that a cell names. folder: of the Parquet file."""

    name: str
    folder: str


class ClipCells(ClipListing):
    """The name of a clip is its id, or `<file>#<row in the file>`, with the suffix of its container. A row that can have no name
    of its own is called as the latter, without a suffix."""

    def __init__(
        self, filesystem: pafs.FileSystem, root: str, paths: Collection[str], config: InputConfig, given: GivenInput
    ) -> None:
        """Raises SourceError for what is said of faces, which of clips is not read."""
        if given.subjects is not None:
            raise SourceError(f"{given.subjects} is for clips in a folder; for Parquet name a column: subject_column")
        files = {name: file for name in ("boxes", "keep") if (file := getattr(given, name)) is not None}
        for setting, said in {**files, **given.columns()}.items():
            raise SourceError(
                f"{setting} {said} is of pictures, and {config.photos} holds clips, whose faces are found from frame to frame; "
                "leave it out"
            )
        self.filesystem, self._root, self._paths, self._config = filesystem, root, sorted(paths), config
        self.prefix = (root.rpartition("/")[0] if root in paths else root).rstrip("/") + "/"
        self.subjects = self._subjects = dict[str, str]()
        self._cells: dict[str, Cell] = {}
        self._named: dict[str, NamedFile] = {}
        self._references: References | None = None
        self._is_named: bool | None = None
        self._names = ClipNames()
        self._schema = pa.schema([])
        self._called: dict[str, list[str]] = {}

    def listed(self) -> Iterator[ListedClip]:
        schema: pa.Schema | None = None
        rows = 0
        for path in self._paths:
            below = as_text(below_root(self._root, path))
            partitions = partitions_of(path, below)
            try:
                with open_parquet(self.filesystem, path) as file:
                    columns = with_partitions(path, file.schema_arrow, partitions)
                    check_columns(path, columns, partitions, schema, self._config, GivenInput())
                    info = self.filesystem.get_file_info(path)
                    check_rows(file, path, info.size)
                    schema, rows = columns, rows + file.metadata.num_rows
                    yield from self._of_file(file, path, below, partitions, info.mtime_ns or 0)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise_fault_of_the_machine(error, path)
                raise SourceError(
                    f"{path} can not be read as Parquet ({error}); repair it or take it out of the input"
                ) from error
        if schema is None or not rows:
            raise SourceError(f"{self._config.photos} holds no rows")
        self._schema = schema

    def reader(self, paths: Collection[str]) -> ClipReader:
        if self._references is not None:
            return partial(read_in_turn, partial(_open_named, self._references), {at: self._named[at] for at in paths})
        cells = {at: self._cells[at] for at in paths}
        leaf = leaf_of(self._schema, self._config.image_column)
        return partial(read_cells, self.filesystem, leaf, cells, self._config.max_file_bytes)

    def rows(self, published: Mapping[str, str]) -> tuple[pa.Schema, Iterator[pa.Table]]:
        at = self._schema.get_field_index(self._config.image_column)
        schema = self._schema.set(at, pa.field(self._config.image_column, pa.string()))
        return schema, self._rows(schema, published)

    def _rows(self, schema: pa.Schema, published: Mapping[str, str]) -> Iterator[pa.Table]:
        for path, called in self._called.items():
            said = dict(partitions_of(path, below_root(self._root, path)))
            others = [name for name in schema.names if name != self._config.image_column and name not in said]
            done = 0
            with open_parquet(self.filesystem, path) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=others):
                    some = slice(done, done + batch.num_rows)
                    done += batch.num_rows
                    columns = {name: batch.column(name) for name in others}
                    columns |= {name: [value] * batch.num_rows for name, value in said.items()}
                    columns[self._config.image_column] = [published.get(name) for name in called[some]]
                    yield pa.table(columns, schema=schema)
            if done != len(called):
                raise ValueError(f"{path} has {done} rows, and had {len(called)}")

    def _of_file(
        self, file: pq.ParquetFile, path: str, below: str, partitions: Partitions, modified_ns: int
    ) -> Iterator[ListedClip]:
        """The clips of one file, one for each of its rows."""
        names = column_of_names(file, file.schema_arrow, self._config.image_column)
        if file.metadata.num_rows:
            self._check_names(names, path)
        ids, subjects = (
            _texts(file, path, name, partitions) for name in (self._config.id_column, self._config.subject_column)
        )
        leaf, at = names or leaf_of(file.schema_arrow, self._config.image_column), -1
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for row, value in enumerate(group_values(file, path, leaf, group, rows)):
                at += 1
                own, key = f"{below}#{at}", f"{path}#{at}"
                self._cells[key] = Cell(path, group, row)
                subject = None if subjects is None else subjects[at]
                problem = (clip_id_problem(ids[at]) if ids is not None else "") or subject_problem(subject)
                with ExitStack() as closing:
                    clip = self._content(value, key, path, closing)
                    clip = self._named_clip(clip, own, own if ids is None else str(ids[at]), problem)
                    self._called.setdefault(path, []).append(clip.name)
                    if subject is not None:
                        self._subjects[clip.name] = subject
                    yield replace(clip, modified_ns=clip.modified_ns or modified_ns)

    def _check_names(self, names: str | None, path: str) -> None:
        """Raise SourceError for a file that holds clips where they are to be read by their names, or the other way round."""
        config = self._config
        if names is None and config.image_root is not None:
            raise SourceError(f"{path}: column {config.image_column!r} holds clips and no names; leave out image_root")
        if self._is_named is not None and self._is_named != (names is not None):
            raise SourceError(
                f"{path}: column {config.image_column!r} of one of the files holds clips, and of another one names alone; run "
                "them apart, each with its own output"
            )
        if names is not None and self._references is None:
            self._references = references_of(names, config, self.filesystem, self._root, path)
        self._is_named = names is not None

    def _content(self, value: Any, key: str, path: str, closing: ExitStack) -> ListedClip:
        """What a cell holds, or names, as a clip without a name. modified_ns: 0 where that is the Parquet file's."""
        if isinstance(value, PictureError):
            return ListedClip("", key, 0, 0, value)
        if self._references is None:
            size = len(value.as_buffer()) if value.is_valid else 0
            return ListedClip("", key, size, 0, cell_file(value, self._config.max_file_bytes))
        if (name := text_of(value)) is None:
            return ListedClip("", key, 0, 0, PictureError("null_image", NO_CLIP))
        named = self._named[key] = NamedFile(name, path.rpartition("/")[0])
        (looked,) = self._references.look_all(named[:1], named.folder)
        if looked.failure:
            return ListedClip("", key, looked.size, looked.version, _as_error(looked.failure))
        content: BinaryIO | PictureError
        try:
            content = closing.enter_context(buffered(_open_named(self._references, named)))
        except PictureError as error:
            content = error
        except (OSError, ValueError, pa.ArrowException) as error:
            content = unreadable(error, key)
        return ListedClip("", key, looked.size, looked.version, content)

    def _named_clip(self, clip: ListedClip, own: str, image_id: str, problem: str) -> ListedClip:
        """A clip by its name. own: what it is called where it can have no other. problem: why it is not looked at."""
        content = _as_error(problem) if problem else clip.file
        suffix = ""
        if not isinstance(content, PictureError):
            try:
                suffix = suffix_by_content(content.peek(BEGIN_BYTES))  # type: ignore[attr-defined]  # it is buffered
                if not suffix:
                    content = PictureError(
                        "not_a_clip", f"it does not begin as {CLIP_NAMES} do; pictures are run apart"
                    )
            except (OSError, ValueError, pa.ArrowException) as error:
                content = unreadable(error, clip.path)
        name = image_id if suffix_of(image_id) in CLIP_SUFFIXES else image_id + suffix
        problem = problem or piece_problem(name) or self._names.problem(name, image_id)
        return replace(
            clip,
            name=self._names.take(own, own) if problem else self._names.take(name, own, image_id),
            file=_as_error(problem) if problem else content,
        )


def _open_named(references: References, named: NamedFile) -> pa.NativeFile:
    """Raises PictureError for what may not be read, OSError."""
    try:
        return references.opened(*named)
    except RefusedError as refused:
        raise _as_error(str(refused)) from refused


def _texts(file: pq.ParquetFile, path: str, column: str | None, partitions: Partitions) -> list[str | None] | None:
    """The names in a column, by row; None where none is asked for."""
    if column is None:
        return None
    if column in partitions:
        return [partitions[column]] * file.metadata.num_rows
    return [one for _, some in texts_of(file, path, column) for one in some]


def _as_error(said: str) -> PictureError:
    """`code: explanation` as an error."""
    code, _, explanation = said.partition(": ")
    return PictureError(code, explanation)
