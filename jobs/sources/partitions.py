"""Folders that say a column, as Hive lays them out: `country=de/part-0.parquet`."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import pyarrow as pa

from jobs.errors import SourceError
from jobs.names import NO_TEXT, is_text

NULL: Final = "__HIVE_DEFAULT_PARTITION__"

Partitions = Mapping[str, str | None]
"""Column and value of each such folder that a file lies in, the outermost first."""


def partitions_of(path: str, below: str) -> Partitions:
    """What the folders of a file say. path: the file, for messages. below: its path below PHOTOS, whose own folder says nothing.

    Raises SourceError: two of them say the same column, or one is no text.
    """
    found: dict[str, str | None] = {}
    for folder in below.split("/")[:-1]:
        name, sign, value = (unquote(part, errors="surrogateescape") for part in folder.partition("="))
        if not sign or not name:
            continue
        if not (is_text(name) and is_text(value)):
            raise SourceError(f"{path!r}: the folder {folder!r} says a column in {NO_TEXT}; rename it")
        if name in found:
            raise SourceError(f"{path}: two of its folders say the column {name!r}; rename one")
        found[name] = None if value == NULL else value
    return found


def with_partitions(path: str, schema: pa.Schema, partitions: Partitions) -> pa.Schema:
    """The columns of a file and of its folders. Raises SourceError where both have one."""
    for name in partitions:
        if name in schema.names:
            raise SourceError(
                f"{path} has a column {name!r}, and its folder {name}= says it as well; drop it there, or rename the folder"
            )
        schema = schema.append(pa.field(name, pa.string()))
    return schema.remove_metadata()


def add_partitions(table: pa.Table, partitions: Partitions) -> pa.Table:
    """Rows of a file with the columns of its folders."""
    for name, value in partitions.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table
