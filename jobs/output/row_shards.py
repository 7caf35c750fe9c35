"""The row shards of an output: their names, the order they count in, and how they are read.

A shard is written once. A row that is done again (`keyanon quarantine retry`) stands in a shard of a later retry, and
that one counts: `standing_rows` is the one place that knows, and every reader of rows goes through it. When the command has
ended no row stands twice, so that reading `rows/*.parquet` with any other program is right as well.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.ahead import AT_ONCE, ahead
from jobs.blocks import ADDED_LATER, SHARD_SCHEMA
from jobs.errors import JobError, MachineError, PublishError
from jobs.faults import FaultKind, describe, kind_of_reading
from jobs.output.layout import ROWS, SHARD_SUFFIX, shard_file
from jobs.output.name_sets import NameSet
from jobs.output.row_sets import Numbers, RowSet
from jobs.output.segments import Segments
from jobs.storage.store import Store

_NAME: Final = re.compile(r"\d{9,}-[0-9a-f]{16}-[0-9a-f]{12}(?:-r([1-9]\d{0,8}))?")
_Read = TypeVar("_Read")
RECORDS: Final = ("record_id", "track_records")  # the columns that name key records

# In a row shard's Parquet metadata: where the keys of its rows were handed in.
_KEY_SHARD: Final = b"keyanon.key_shard"
_KEY_SHARD_SHA256: Final = b"keyanon.key_shard_sha256"


@dataclass(frozen=True)
class KeyShard:
    """A shard of sealed keys that rows belong to. sha256: of its bytes; None of a row shard that an earlier version wrote."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class StandingRows:
    """The rows of one shard that count. shard: its base name. positions: where they stand in it. superseded: how many others
    it holds."""

    shard: str
    positions: Sequence[int]
    table: pa.Table
    superseded: int

    @property
    def key_shard(self) -> KeyShard:
        """Where the keys of these rows were handed in, if any has one."""
        return key_shard_of(self.table, self.shard)


def new_shard_name(rows: Sequence[int], retry: int) -> str:
    """A name that no shard has had: `<lowest row>-<digest of the rows>-<random>`, and `-r<number>` in a retry, 0 being none."""
    name = f"{_begin_of_name(rows)}{uuid.uuid4().hex[:12]}"
    return f"{name}-r{retry}" if retry else name


def is_named_for(name: str, rows: Sequence[int]) -> bool:
    """Whether `new_shard_name` gave that base name to a shard of these rows."""
    return name.startswith(_begin_of_name(rows))


def _begin_of_name(rows: Sequence[int]) -> str:
    digest = hashlib.sha256(",".join(map(str, sorted(rows))).encode()).hexdigest()
    return f"{min(rows):09d}-{digest[:16]}-"


def retry_of(name: str) -> int:
    """The retry that made the shard of that base name; 0 for the run itself. Raises ValueError for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a row shard")
    return int(found[1] or 0)


def reason_code(reason: str) -> str:
    """The part of a row's reason that is counted: `code` of `code: explanation`."""
    return reason.split(":", 1)[0]


def row_shards(store: Store) -> list[str]:
    """Base names of the visible row shards of an output, sorted. Raises PublishError for one that is no such name, OSError,
    MachineError."""
    if store.shared:
        found = sorted(Segments.read(store).visible)
    else:
        found = [file.removesuffix(SHARD_SUFFIX) for file in store.children(ROWS, SHARD_SUFFIX)]
    for name in found:
        if _NAME.fullmatch(name) is None:
            raise PublishError(
                f"{store.full(shard_file(name))} was not written by this run; move it away and run the same command again"
            )
    return found


class Standing:
    """Which rows of an output count, as it is now; nothing but the numbers of rows that were done again is held.

    shards: base names of the visible row shards, sorted.
    """

    def __init__(self, store: Store) -> None:
        """Raises PublishError: a shard is damaged, or is none of this project. OSError, MachineError."""
        self._store, self.shards = store, row_shards(store)
        made = {retry_of(name): RowSet() for name in self.shards}
        again = [name for name in self.shards if retry_of(name)]
        for name, rows in zip(again, each_shard(store, lambda one: _row_numbers(store, one), again), strict=True):
            made[retry_of(name)].add(rows)
        self._later: dict[int, RowSet] = {}
        for retry in made:
            self._later[retry] = RowSet()
            for other in made:
                if other > retry:
                    self._later[retry].add(made[other])

    def read(self, name: str, columns: Sequence[str]) -> StandingRows:
        """The rows of one shard that count. columns: what is read, "row" among them. Raises PublishError, MachineError."""
        table = read_shard(self._store, shard_file(name), columns)
        superseded = self._later[retry_of(name)].has(table.column("row").to_numpy())
        if not superseded.any():
            return StandingRows(name, range(table.num_rows), table, 0)
        positions = np.flatnonzero(~superseded).tolist()
        return StandingRows(name, positions, keep_positions(table, positions), int(superseded.sum()))


def _row_numbers(store: Store, name: str) -> Numbers:
    rows: Numbers = read_shard(store, shard_file(name), ["row"]).column("row").to_numpy()
    return rows


def each_shard(
    store: Store, read: Callable[[str], _Read], names: Iterable[str], at_once: int = AT_ONCE
) -> Iterator[_Read]:
    """What is read of some shards, in their order; of a bucket, where a shard is a way there and back, so many at once. On a disk
    it is computing, one after the other."""
    return ahead(read, names, at_once) if store.shared else map(read, names)


def standing_rows(
    store: Store, columns: Sequence[str], only: Collection[str] | None = None, at_once: int = AT_ONCE
) -> Iterator[StandingRows]:
    """The rows that count, shard by shard: a row that stands in several shards counts in those of the latest retry.

    columns: what is read, "row" among them. only: base names of the shards that are asked for, None for all. at_once: so many are
    held, of a bucket.

    Raises:
        PublishError: a shard is damaged, or is none of this project.
    """
    if only is not None and not only:
        return
    standing = Standing(store)
    names = [name for name in standing.shards if only is None or name in only]
    yield from each_shard(store, lambda name: standing.read(name, columns), names, at_once)


def keep_positions(table: pa.Table, positions: Collection[int]) -> pa.Table:
    """The rows of a shard that stand at these positions."""
    wanted = set(positions)
    return table.filter(pa.array([at in wanted for at in range(table.num_rows)], pa.bool_()))


def listed_files(store: Store) -> NameSet:
    """The pictures and sidecars that visible rows list, by their names below the output."""
    found = NameSet()
    for part in standing_rows(store, ["row", "output", "sidecar"]):
        for column in ("output", "sidecar"):
            found.add(part.table.column(column).drop_null().to_pylist())
    return found


def unlisted(store: Store, names: Collection[str]) -> set[str]:
    """Those of some pictures and sidecars, by their names below the output, that no visible row lists."""
    found = set(names)
    for part in standing_rows(store, ["row", "output", "sidecar"]) if found else ():
        found.difference_update(part.table.column("output").to_pylist(), part.table.column("sidecar").to_pylist())
    return found


def read_shard(store: Store, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one shard, by its name in the output, those that do not count any more included. Columns of ADDED_LATER that it
    lacks are null. Raises PublishError for a damaged one, MachineError.
    """
    try:
        opened = store.open_parquet(shard)
    except OSError as error:
        raise _unreadable(error, store.full(shard)) from error
    with opened:
        return parsed_shard(opened, store.full(shard), columns)


def parsed_shard(content: Any, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """As `read_shard`, of bytes or an open file. name: for messages."""
    try:
        source = pa.BufferReader(content) if isinstance(content, bytes) else content
        near = isinstance(
            source, pa.BufferReader | pa.OSFile
        )  # where reading ahead, and threads, cost more than they save
        with pq.ParquetFile(source, pre_buffer=not near) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing - ADDED_LATER:
                raise PublishError(f"row shard {name} lacks the column {min(missing)!r}; restore it from a backup")
            found = file.read(
                None if columns is None else [one for one in columns if one not in missing], use_threads=not near
            )
            for column in missing:
                found = found.append_column(column, pa.nulls(found.num_rows, SHARD_SCHEMA.field(column).type))
            return found
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(error, name) from error


def _unreadable(error: Exception, name: str) -> JobError:
    if kind_of_reading(error) is FaultKind.MACHINE:
        return MachineError(
            f"row shard {name} could not be read: {describe(error)}; see to the disk and the network, then run the same command "
            "again"
        )
    return PublishError(
        f"row shard {name} is damaged ({error}); restore it from a backup, or remove it and run the same command "
        "again to make its rows anew, under new keys"
    )


def key_shard_of(table: pa.Table, name: str) -> KeyShard:
    """Where the keys of the rows in a row shard of that base name were handed in."""
    said = table.schema.metadata or {}
    if _KEY_SHARD not in said:
        return KeyShard(name, None)
    return KeyShard(said[_KEY_SHARD].decode(), said[_KEY_SHARD_SHA256].decode() or None)


def named_records(table: pa.Table) -> list[str]:
    """Of all key records of some rows; table: with the columns RECORDS. A piece of a clip has one for each person in it."""
    of_tracks = pc.struct_field(pc.list_flatten(table.column("track_records")), "record_id")
    return list(dict.fromkeys([*table.column("record_id").drop_null().to_pylist(), *of_tracks.to_pylist()]))


def with_key_shard(table: pa.Table, shard: KeyShard) -> pa.Table:
    """The rows, with the shard that their keys were handed in by."""
    said = {_KEY_SHARD: shard.name.encode(), _KEY_SHARD_SHA256: (shard.sha256 or "").encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **said})


def to_parquet(table: pa.Table) -> bytes:
    """A row shard's bytes."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())
