"""Which row of an output each row of a listing is.

A row's identity is its id: a path below PHOTOS, a path and a row, or the user's own. Its number is what the rows of one output
are told apart by. A row that stands keeps its number, whatever the listing has become since; the others get numbers that are
free. So a source may grow between two attempts of a run, and the rows that stand are not done again. What may not be: that the
file of a row which stands is another one now, or, unless that is allowed, that it is gone.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import PublishError
from jobs.output.row_sets import Numbers, RowSet
from jobs.output.row_shards import standing_rows
from jobs.sources.source import NO_FILE, Source
from jobs.storage.store import Store

NAMED: Final = 5  # pictures in a message


@dataclass(frozen=True)
class Numbering:
    """numbers: of the output's row, for each position of the listing. done: positions whose row stands. gone: rows that stand and
    are at no position.

    unversioned: some row that stands was written by a version of keyanon that did not say what its file was.
    """

    numbers: Numbers
    done: RowSet
    gone: RowSet = field(default_factory=RowSet)
    unversioned: bool = False

    @classmethod
    def of(cls, store: Store, source: Source, *, keep_gone: bool = False) -> "Numbering":
        """Compare a listing with the rows that stand. keep_gone: those that are not in it any more stay as they are.

        Raises PublishError: a row that stands is not in the listing any more, or its file has changed; a shard is damaged.
        """
        standing = _standing(store)
        total = source.total
        if not standing.num_rows:
            return cls(np.arange(total, dtype=np.int64), RowSet())
        of_row = _matched(source.ids, standing.column("image_id"), standing.column("row"))
        gone = _gone(standing, of_row)
        if len(gone) and not keep_gone:
            raise PublishError(
                f"{len(gone)} pictures of the run in {store} are not in the input any more "
                f"({_names(standing.column('image_id'), gone.tolist())}); put them back, let their rows stay by --gone keep, or "
                "give an empty output"
            )
        numbers = np.full(total, -1, np.int64)
        rows = standing.column("row").to_numpy()
        found = of_row >= 0
        numbers[found] = rows[of_row[found]]
        versions = standing.column("source_version")
        _check_none_has_changed(store, source, of_row, found, versions)
        free = np.setdiff1d(np.arange(total + len(rows), dtype=np.int64), rows, assume_unique=True)
        numbers[~found] = free[: total - int(found.sum())]
        return cls(numbers, RowSet(np.flatnonzero(found)), RowSet(rows[gone]), versions.null_count > 0)

    def of_positions(self, positions: Numbers) -> Numbers:
        """The row numbers of some positions."""
        return self.numbers[positions]


def _standing(store: Store) -> pa.Table:
    """Row, id and version of every row that stands, in the order of their numbers."""
    columns = ["row", "image_id", "source_version"]
    parts = [part.table.select(columns) for part in standing_rows(store, columns)]
    schema = pa.schema([("row", pa.int64()), ("image_id", pa.large_string()), ("source_version", pa.int32())])
    if not parts:
        return schema.empty_table()
    joined = pa.concat_tables([part.replace_schema_metadata().cast(schema) for part in parts])
    return joined.sort_by("row").combine_chunks()


def _matched(listed: pa.Array, ids: pa.ChunkedArray, rows: pa.ChunkedArray) -> Numbers:
    """For each position of the listing which of the rows that stand it is, -1 for none. Rows of one id, which are quarantined but
    the first, are told apart by their order."""
    known = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    found = pc.index_in(listed.cast(known.type), value_set=known)
    of_row: Numbers = np.asarray(pc.fill_null(found, -1).cast(pa.int64()))
    used, counts = np.unique(of_row[of_row >= 0], return_counts=True)
    several = set(used[counts > 1].tolist()) | _repeated(known)
    if several:
        names = {known[at].as_py() for at in several}
        standing = defaultdict(list)
        for at, name in enumerate(known.to_pylist()):
            if name in names:
                standing[name].append(at)
        of_row = of_row.copy()
        for position in np.flatnonzero(np.isin(of_row, [standing[name][0] for name in names])).tolist():
            queue = standing[listed[position].as_py()]
            of_row[position] = queue.pop(0) if queue else -1
    return of_row


def _repeated(ids: pa.Array) -> set[int]:
    """Of ids that occur more than once, where each occurs first."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return set()
    counted = pc.value_counts(ids)
    names = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    return set(pc.index_in(names, value_set=ids).to_pylist())


def _gone(standing: pa.Table, of_row: Numbers) -> Numbers:
    """Which of the rows that stand are at no position of the listing."""
    there = np.zeros(standing.num_rows, np.bool_)
    there[of_row[of_row >= 0]] = True
    return np.flatnonzero(~there)


def _check_none_has_changed(
    store: Store, source: Source, of_row: Numbers, found: npt.NDArray[np.bool_], versions: pa.ChunkedArray
) -> None:
    positions = np.flatnonzero(found)
    before = (
        versions.to_numpy(zero_copy_only=False) if versions.null_count == 0 else np.asarray(versions.to_pylist(), float)
    )
    then, now = before[of_row[positions]], source.versions[positions]
    # A row that had no picture, and nothing published, may have got one: a retry does it.
    changed = positions[(then != now) & (then != NO_FILE) & ~np.isnan(np.asarray(then, float))].tolist()
    if changed:
        raise PublishError(
            f"{len(changed)} pictures have changed since the run in {store} anonymized them ({_names(source.ids, changed)}): "
            "other sizes or modification times under the same names. Put them back as they were, give the new ones other names, "
            "or give an empty output"
        )


def _names(ids: Any, at: list[int]) -> str:
    return ", ".join(str(ids[one].as_py()) for one in at[:NAMED]) + (", ..." if len(at) > NAMED else "")
