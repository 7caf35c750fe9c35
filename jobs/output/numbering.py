"""Which row of an output each row of a listing is.

A row's identity is its id: a path below PHOTOS, a path and a row, or the user's own. Its number is what the rows of one output
are told apart by. A row that stands keeps its number, whatever the listing has become since; the others get numbers that are
free. So a source may grow between two attempts of a run, and the rows that stand are not done again. What may not be: that the
file of a row which stands is another one now, or, unless that is allowed, that it is gone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final

import numpy as np
import numpy.typing as npt

from jobs.errors import PublishError
from jobs.output.row_sets import Numbers, RowSet
from jobs.output.row_shards import StandingRows, standing_rows
from jobs.sources.ids import RowNumbers
from jobs.sources.source import NO_FILE, Source
from jobs.storage.store import Store

NAMED: Final = 5  # pictures in a message
POSITIONS_AT_ONCE: Final = 1 << 20
NARROW: Final = np.int32  # in which row numbers are held while none is larger: there may be a billion
_COLUMNS: Final = ("row", "image_id", "source_version")


@dataclass(frozen=True)
class Numbering:
    """numbers: of the output's row, for each position of the listing. done: positions whose row stands. gone: rows that stand and
    are at no position.

    unversioned: some row that stands was written by a version of keyanon that did not say what its file was.
    """

    numbers: RowNumbers
    done: RowSet
    gone: RowSet = field(default_factory=RowSet)
    unversioned: bool = False

    @classmethod
    def of(cls, store: Store, source: Source, *, keep_gone: bool = False) -> "Numbering":
        """Compare a listing with the rows that stand. keep_gone: those that are not in it any more stay as they are.

        Raises PublishError: a row that stands is not in the listing any more, or its file has changed; a shard is damaged.
        """
        parts = standing_rows(store, _COLUMNS)
        first = next(parts, None)
        if first is None:
            return cls(np.arange(source.total, dtype=NARROW if _fits(source.total, NARROW) else np.int64), RowSet())
        found = _Matching(source)
        found.add(first)
        for part in parts:
            found.add(part)
        found.tell_apart()
        if len(found.gone) and not keep_gone:
            raise PublishError(
                f"{len(found.gone)} pictures of the run in {store} are not in the input any more ({found.names_of_gone()}); "
                "put them back, let their rows stay by --gone keep, or give an empty output"
            )
        found.check_none_has_changed(store)
        done = found.numbers >= 0
        found.put(~done, found.standing.free(len(done) - int(np.count_nonzero(done))))
        return cls(found.numbers, RowSet.of(done), found.gone, found.unversioned)

    def of_positions(self, positions: RowSet) -> RowNumbers:
        """The row numbers of some positions."""
        return self.numbers[positions.among(len(self.numbers))]


class _Matching:
    """Matches the rows that stand with a listing, shard by shard. Rows of one id, which are quarantined but the first, are told
    apart by their order.

    numbers: of the row at each position, -1 for none. standing: all rows. gone: those at no position.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._places = source, source.ids.places()
        self.numbers: RowNumbers = np.full(source.total, -1, NARROW)
        self._versions = np.full(source.total, NO_FILE, np.int32)  # NO_FILE where there is nothing to compare
        self.standing, self.gone, self.unversioned = RowSet(), RowSet(), False
        self._first_gone: list[tuple[int, str]] = []
        self._aside: list[tuple[Numbers, Numbers, Numbers]] = []

    def add(self, part: StandingRows) -> None:
        """Those of one shard. Raises PublishError for one that lacks an id."""
        ids, rows = part.table.column("image_id"), part.table.column("row").to_numpy()
        if ids.null_count:
            raise PublishError(f"row shard {part.shard} is damaged: a row has no id; restore it from a backup")
        versions = part.table.column("source_version").cast("int32")
        self.unversioned |= versions.null_count > 0
        versions = versions.fill_null(NO_FILE).to_numpy()
        self.standing.add(rows)
        places = self._places.find(ids)
        known = np.flatnonzero(places >= 0)
        if len(known) < len(rows):
            lost = np.flatnonzero(places < 0)
            self._are_gone(rows[lost], lambda at: str(ids[lost[at]]))
        positions = self._first(places[known])
        new = np.zeros(len(known), np.bool_)
        new[np.unique(positions, return_index=True)[1]] = True
        new &= self.numbers[positions] < 0
        self.put(positions[new], rows[known[new]])
        self._versions[positions[new]] = versions[known[new]]
        if not new.all():
            others = known[~new]
            self._aside.append((places[others], rows[others], versions[others]))

    def put(self, at: Numbers | npt.NDArray[np.bool_], rows: Numbers) -> None:
        """Number the rows at some positions."""
        if len(rows) and not _fits(int(rows.max()), self.numbers.dtype):
            self.numbers = self.numbers.astype(np.int64)
        self.numbers[at] = rows

    def tell_apart(self) -> None:
        """Of those that stand under one id the first row is the first in the listing, the next one the next. Once, at the end."""
        if not self._aside:
            return
        places, rows, versions = (np.concatenate(one) for one in zip(*self._aside, strict=True))
        shared = np.unique(places)
        first = self._first(shared)
        places, rows = np.append(places, shared), np.append(rows, self.numbers[first])
        versions = np.append(versions, self._versions[first])
        order = np.lexsort((rows, places))
        places, rows, versions = places[order], rows[order], versions[order]
        nth = np.arange(len(places)) - np.searchsorted(places, places)
        positions = self._places.positions(places, nth)
        there = positions >= 0
        self.put(positions[there], rows[there])
        self._versions[positions[there]] = versions[there]
        lost, named = rows[~there], self._first(places[~there])
        self._are_gone(lost, lambda at: self._source.ids[int(named[at])])

    def _first(self, places: Numbers) -> Numbers:
        return self._places.positions(places, np.zeros(len(places), np.int64))

    def _are_gone(self, rows: Numbers, name: Callable[[int], str]) -> None:
        """name: of one of them, by its place among them."""
        self.gone.add(rows)
        first = [(int(rows[at]), name(at)) for at in np.argsort(rows)[:NAMED].tolist()]
        self._first_gone = nsmallest(NAMED, self._first_gone + first)

    def names_of_gone(self) -> str:
        """Of the first of them."""
        return _told([name for _, name in self._first_gone], len(self.gone))

    def check_none_has_changed(self, store: Store) -> None:
        """Raise PublishError for files that are other ones now."""
        changed, named = 0, list[int]()
        for start in range(0, len(self._versions), POSITIONS_AT_ONCE):
            then = self._versions[start : start + POSITIONS_AT_ONCE]
            now = self._source.versions[np.arange(start, start + len(then))]
            # A row that had no picture, and nothing published, may have got one: a retry does it.
            found = start + np.flatnonzero((then != NO_FILE) & (then != now))
            changed += len(found)
            named += found[: NAMED - len(named)].tolist()
        if changed:
            names = _told([self._source.ids[at] for at in named], changed)
            raise PublishError(
                f"{changed} pictures have changed since the run in {store} anonymized them ({names}): "
                "other sizes or modification times under the same names. Put them back as they were, give the new ones other "
                "names, or give an empty output"
            )


def _fits(number: int, kind: npt.DTypeLike) -> bool:
    return number <= np.iinfo(np.dtype(kind)).max


def _told(names: list[str], of: int) -> str:
    return ", ".join(names) + (", ..." if of > len(names) else "")
