"""Cells of Parquet that hold clips, or name them: telling them from pictures, and reading them.

Parquet has no way to a cell but through those before it in its row group.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pt

from jobs.blocks import BYTES_FIELD
from jobs.names import suffix_of
from jobs.sources.clip_files import buffered, unreadable
from jobs.sources.parquet import holds_pictures
from jobs.sources.parquet_names import column_of_names
from jobs.sources.parquet_rows import READ_AHEAD_BYTES
from jobs.sources.source import CLIP_SUFFIXES, raise_fault_of_the_machine
from keyanon_core.clips.form import suffix_by_content
from keyanon_core.errors import PictureError

LOOKED_AT: Final = 16  # values of a column, the first ones, that tell clips from pictures
LOOKED_THROUGH: Final = 1024  # rows, for so many values
BEGIN_BYTES: Final = 64  # of a clip, which tell its container
_PICTURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""First bytes of JPEG, PNG, WebP, GIF, BMP and TIFF."""

PEEKED_BYTES: Final = 64 * 1024
"""Of a column: headers of its first page and of its compressor, and the beginning of its first value."""

_PEEKED: Final = re.compile(
    rb"(\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP)|ftyp|\x1a\x45\xdf\xa3", re.DOTALL
)
"""A picture, as a group, or a clip."""

NO_CLIP: Final = "the cell holds no clip"


class Cell(NamedTuple):
    """path: of the Parquet file. row: within its row group."""

    path: str
    group: int
    row: int


def hold_clips(filesystem: pafs.FileSystem, paths: Collection[str], column: str) -> bool:
    """Whether the first clip or picture in a column of these Parquet files is a clip. False as well for what can not be told or
    read: whoever reads it as pictures says why."""
    left, rows = LOOKED_AT, LOOKED_THROUGH
    for path in sorted(paths):
        try:
            with open_parquet(filesystem, path) as file:
                schema = file.schema_arrow
                if schema.names.count(column) != 1 or not holds_pictures(schema.field(column).type):
                    return False
                names = column_of_names(file, schema, column)
                if names is None and _begins_with_a_picture(filesystem, path, file.metadata, leaf_of(schema, column)):
                    return False
                for value in islice(_values(file, names or leaf_of(schema, column)), rows):
                    rows -= 1
                    is_clip = _is_clip(value) if names is None else _names_clip(value)
                    if is_clip is not None:
                        return is_clip
                    left -= value.is_valid
                    if not left:
                        return False
        except (OSError, ValueError, pa.ArrowException):
            return False
        if not rows:
            return False
    return False


def read_cells(
    filesystem: pafs.FileSystem, leaf: str, cells: Mapping[str, Cell], max_bytes: int
) -> Iterator[tuple[str, BinaryIO | PictureError]]:
    """A `ClipReader` of clips in cells, in the order in which they lie. leaf: see `leaf_of`. cells: by their paths."""
    of_group: dict[tuple[str, int], dict[int, str]] = {}
    for at, cell in sorted(cells.items(), key=lambda item: item[1]):
        of_group.setdefault((cell.path, cell.group), {})[cell.row] = at
    for (path, group), wanted in of_group.items():
        try:
            file = open_parquet(filesystem, path)
        except (OSError, ValueError, pa.ArrowException) as error:
            yield from ((at, unreadable(error, path)) for at in wanted.values())
            continue
        with file:
            for row, value in enumerate(group_values(file, path, leaf, group, max(wanted) + 1)):
                if row in wanted:
                    yield wanted[row], value if isinstance(value, PictureError) else cell_file(value, max_bytes)


def group_values(file: pq.ParquetFile, path: str, leaf: str, group: int, rows: int) -> Iterator[Any]:
    """The first rows of a row group: each a scalar, or PictureError from where it is damaged. Raises MachineError."""
    done, said = 0, "it has fewer rows"
    try:
        for value in islice(_values(file, leaf, group), rows):
            yield value
            done += 1
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, path)
        said = type(error).__name__
    for _ in range(rows - done):
        yield PictureError("unreadable", f"row group {group} of its file is damaged ({said})")


def _values(file: pq.ParquetFile, leaf: str, group: int | None = None) -> Iterator[Any]:
    """A column's values as scalars, one at a time: each may be large."""
    groups = range(file.metadata.num_row_groups) if group is None else [group]
    for batch in file.iter_batches(1, row_groups=groups, columns=[leaf]):
        column = batch.column(0)
        if pt.is_struct(column.type):
            column = pc.struct_field(column, leaf.rpartition(".")[2])
        yield from column


def leaf_of(schema: pa.Schema, column: str) -> str:
    """What is read of a column that holds clips."""
    kind = schema.field(column).type
    return f"{column}.{BYTES_FIELD}" if pt.is_struct(kind) else column


def _begins_with_a_picture(filesystem: pafs.FileSystem, path: str, metadata: pq.FileMetaData, leaf: str) -> bool:
    """Whether that is plain before a page is read, which may have some hundred megabytes: most compressors leave the first bytes
    as they are. Raises OSError."""
    if not metadata.num_row_groups:
        return False
    columns = map(metadata.row_group(0).column, range(metadata.num_columns))
    first = next(one for one in columns if one.path_in_schema == leaf)
    offsets = [first.data_page_offset, first.dictionary_page_offset]
    with filesystem.open_input_file(path) as file:
        begin = file.read_at(PEEKED_BYTES, min(at for at in offsets if at))
    found = _PEEKED.search(begin)
    return found is not None and found.group(1) is not None


def _is_clip(value: Any) -> bool | None:
    """Whether a cell holds a clip; None where it holds neither a clip nor a picture."""
    begin = value.as_buffer()[:BEGIN_BYTES].to_pybytes() if value.is_valid else b""
    if suffix_by_content(begin):
        return True
    return False if begin.startswith(_PICTURES) or begin[4:8] == b"ftyp" else None


def _names_clip(value: Any) -> bool | None:
    name = text_of(value)
    return None if name is None else suffix_of(name) in CLIP_SUFFIXES


def text_of(value: Any) -> str | None:
    """A cell's name, as `texts` gives it."""
    return value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape") if value.is_valid else None


def cell_file(value: Any, max_bytes: int) -> BinaryIO | PictureError:
    """The file that a cell holds. value: a scalar of bytes."""
    if not value.is_valid:
        return PictureError("null_image", NO_CLIP)
    content = value.as_buffer()
    if not len(content):
        return PictureError("not_a_clip", "the cell has 0 bytes")
    if len(content) > max_bytes:
        return PictureError("too_large", f"the cell has {len(content)} bytes, more than the {max_bytes} allowed")
    file: BinaryIO = buffered(pa.BufferReader(content))
    return file


def open_parquet(filesystem: pafs.FileSystem, path: str) -> pq.ParquetFile:
    """A file of large cells, none of which is read ahead. Raises OSError, ArrowException."""
    return pq.ParquetFile(path, filesystem=filesystem, pre_buffer=False, buffer_size=READ_AHEAD_BYTES)
