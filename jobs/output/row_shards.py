"""The row shards of an output: their names, the order they count in, and how they are read.

A shard is written once. A row that is done again (`keyanon quarantine retry`) stands in a shard of a later retry, and
that one counts: `standing_rows` is the one place that knows, and every reader of rows goes through it. When the command has
ended no row stands twice, so that reading `rows/*.parquet` with any other program is right as well.
"""

import hashlib
import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.blocks import ADDED_LATER
from jobs.errors import PublishError
from jobs.output.layout import ROWS, SHARD_SUFFIX

_NAME: Final = re.compile(r"\d{9,}-[0-9a-f]{16}-[0-9a-f]{12}(?:-r([1-9]\d{0,8}))?")


@dataclass(frozen=True)
class StandingRows:
    """The rows of one shard that count. positions: where they stand in it. superseded: how many others it holds."""

    shard: Path
    positions: Sequence[int]
    table: pa.Table
    superseded: int


def new_shard_name(rows: Sequence[int], retry: int) -> str:
    """A name that no shard has had: `<lowest row>-<digest of the rows>-<random>`, and `-r<number>` in a retry, 0 being none."""
    digest = hashlib.sha256(",".join(map(str, sorted(rows))).encode()).hexdigest()
    name = f"{min(rows):09d}-{digest[:16]}-{uuid.uuid4().hex[:12]}"
    return f"{name}-r{retry}" if retry else name


def retry_of(name: str) -> int:
    """The retry that made the shard of that base name; 0 for the run itself. Raises ValueError for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a row shard")
    return int(found[1] or 0)


def base_name(shard: Path) -> str:
    """A shard's name without its suffix; its sealed keys have the same."""
    return shard.name.removesuffix(SHARD_SUFFIX)


def reason_code(reason: str) -> str:
    """The part of a row's reason that is counted: `code` of `code: explanation`."""
    return reason.split(":", 1)[0]


def row_shards(root: Path) -> list[Path]:
    """The visible row shards of an output, sorted by name. Raises PublishError for a file that is none."""
    found = sorted((root / ROWS).glob(f"[!.]*{SHARD_SUFFIX}"))
    for path in found:
        if _NAME.fullmatch(base_name(path)) is None:
            raise PublishError(f"{path} was not written by this run; move it away and run the same command again")
    return found


def standing_rows(root: Path, columns: Sequence[str]) -> Iterator[StandingRows]:
    """The rows that count, shard by shard: a row that stands in several shards counts in those of the latest retry.

    columns: what is read, "row" among them.

    Raises:
        PublishError: a shard is damaged, or is none of this project.
    """
    shards = [(retry_of(base_name(path)), path) for path in row_shards(root)]
    made = {retry: set[int]() for retry, _ in shards}
    for retry, path in shards:
        if retry:
            made[retry].update(read_shard(path, ["row"]).column("row").to_pylist())
    later = {retry: set[int]().union(*(made[other] for other in made if other > retry)) for retry in made}
    for retry, path in shards:
        table = read_shard(path, columns)
        rows = table.column("row").to_pylist()
        positions = [at for at, row in enumerate(rows) if row not in later[retry]]
        kept = table if len(positions) == len(rows) else keep_positions(table, positions)
        yield StandingRows(path, positions, kept, len(rows) - len(positions))


def keep_positions(table: pa.Table, positions: Collection[int]) -> pa.Table:
    """The rows of a shard that stand at these positions."""
    wanted = set(positions)
    return table.filter(pa.array([at in wanted for at in range(table.num_rows)], pa.bool_()))


def unlisted(root: Path, names: Collection[str]) -> set[str]:
    """Those of some pictures and sidecars, by their names below the output, that no visible row lists."""
    found = set(names)
    for part in standing_rows(root, ["row", "output", "sidecar"]) if found else ():
        found.difference_update(part.table.column("output").to_pylist(), part.table.column("sidecar").to_pylist())
    return found


def read_shard(shard: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one shard, those that do not count any more included. Columns of ADDED_LATER that it lacks are null. Raises
    PublishError for a damaged one.
    """
    try:
        with pq.ParquetFile(shard) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing - ADDED_LATER:
                raise PublishError(f"row shard {shard} lacks the column {min(missing)!r}; restore it from a backup")
            found = file.read(columns=None if columns is None else [name for name in columns if name not in missing])
            for name in missing:
                found = found.append_column(name, pa.nulls(found.num_rows))
            return found
    except (OSError, pa.ArrowException) as error:
        raise PublishError(
            f"row shard {shard} is damaged ({error}); restore it from a backup, or remove it and run the same command "
            "again to make its rows anew, under new keys"
        ) from error


def to_parquet(table: pa.Table) -> Any:
    """A row shard's bytes, as a buffer."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
