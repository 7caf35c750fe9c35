"""What the rows of a listing are called, and which row is called so: of a billion rows it has to be told, not held.

Where a row is one of a file, all of it follows from the file's name and its number of rows. Where names were listed, they are
found again by digests of 128 bits, in one sorted table of 24 bytes a row.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ROWS_AT_ONCE: Final = 65_536  # whose ids or names are objects of Python's, where they are gone through
_COUNTED: Final = r"\A(?P<file>(?s:.*))#(?P<row>0|[1-9][0-9]{0,17})\z"
_DIGEST: Final = 16  # bytes
_ENTRY: Final = np.dtype([("digest", f"S{_DIGEST}"), ("position", ">i8")])
_BYTES: Final = f"S{_ENTRY.itemsize}"  # as which numpy sorts entries quickly, by digest and then by position

Numbers = npt.NDArray[np.int64]
RowNumbers = npt.NDArray[np.signedinteger[Any]]  # of an output's rows: 32 bits each while those do


@dataclass(frozen=True)
class OfFiles:
    """One value for all rows of a file. starts: position of each file's first row; a file may have none."""

    starts: Numbers
    values: npt.NDArray[np.int32]

    def __getitem__(self, positions: Numbers | int) -> npt.NDArray[np.int32]:
        return self.values[np.searchsorted(self.starts, positions, "right") - 1]


class Places(ABC):
    """Finds rows by their ids. A place is a number of this object's for all rows of one id."""

    @abstractmethod
    def find(self, ids: pa.Array | pa.ChunkedArray) -> Numbers:
        """The place of each id, -1 for what no row is called. ids: strings without nulls."""

    @abstractmethod
    def positions(self, places: Numbers, nth: Numbers) -> Numbers:
        """Of the row that is at each place the nth, from 0, in the listing's order; -1 where fewer rows are called so."""


class Ids(ABC):
    """The ids of a listing's rows, by their positions."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, positions: Numbers) -> list[str]:
        """Those at some positions, which are objects of Python's: not of many at once."""

    @abstractmethod
    def parts(self) -> Iterator[list[str]]:
        """All of them in order, up to ROWS_AT_ONCE at a time."""

    @abstractmethod
    def places(self) -> Places:
        """What finds rows by them."""

    def __getitem__(self, position: int) -> str:
        return self.take(np.array([position]))[0]


class CountedIds(Ids, Places):
    """Of rows that are called `<file>#<row in the file>`; a place is a position."""

    def __init__(self, files: Sequence[tuple[str, int]]) -> None:
        """files: name and number of rows of each, in the listing's order; no two have one name."""
        self._names = [name for name, _ in files]
        self._starts = np.array([0, *accumulate(rows for _, rows in files)], np.int64)
        self._at = {name: at for at, name in enumerate(self._names)}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, positions: Numbers) -> list[str]:
        files = np.searchsorted(self._starts, positions, "right") - 1
        rows = positions - self._starts[files]
        return [f"{self._names[file]}#{row}" for file, row in zip(files.tolist(), rows.tolist(), strict=True)]

    def parts(self) -> Iterator[list[str]]:
        for name, count in zip(self._names, np.diff(self._starts).tolist(), strict=True):
            for first in range(0, count, ROWS_AT_ONCE):
                yield [f"{name}#{row}" for row in range(first, min(first + ROWS_AT_ONCE, count))]

    def places(self) -> Places:
        return self

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Numbers:
        split = pc.extract_regex(ids, _COUNTED)
        files = pc.struct_field(split, "file").dictionary_encode()
        if isinstance(files, pa.ChunkedArray):
            files = files.combine_chunks()
        # One more than the names: of what has none. Of a file that is not listed the rows are 0.
        at = np.array([self._at.get(name, -1) for name in files.dictionary.to_pylist()] + [-1])
        file = at[pc.fill_null(files.indices, len(at) - 1).to_numpy()]
        row = pc.fill_null(pc.struct_field(split, "row").cast(pa.int64()), 0).to_numpy()
        there = (file >= 0) & (row < np.diff(self._starts, append=self._starts[-1])[file])
        found: Numbers = np.where(there, self._starts[file] + row, -1)
        return found

    def positions(self, places: Numbers, nth: Numbers) -> Numbers:
        return np.where(nth == 0, places, -1)


class ListedIds(Ids):
    """Of rows whose names were listed, and may be the same."""

    def __init__(self, arrays: Sequence[pa.Array]) -> None:
        """arrays: of large strings without nulls, in the listing's order."""
        self._arrays = [array for array in arrays if len(array)]
        self._starts = [0, *accumulate(map(len, self._arrays))]

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, positions: Numbers) -> list[str]:
        found = []
        for position in positions.tolist():
            at = bisect_right(self._starts, position) - 1
            found.append(self._arrays[at][position - self._starts[at]].as_py())
        return found

    def parts(self) -> Iterator[list[str]]:
        for array in self._arrays:
            for start in range(0, len(array), ROWS_AT_ONCE):
                yield array.slice(start, ROWS_AT_ONCE).to_pylist()

    def places(self) -> "DigestPlaces":
        return DigestPlaces(self)


class DigestPlaces(Places):
    """Finds rows by digests of their ids. A place is where those of one digest begin in a table sorted by it, and by position."""

    def __init__(self, ids: Ids) -> None:
        self._entries = np.empty(len(ids), _ENTRY)
        start = 0
        for part in ids.parts():
            entries = self._entries[start : start + len(part)]
            entries["digest"], entries["position"] = _digests(part), np.arange(start, start + len(part))
            start += len(part)
        self._entries.view(_BYTES).sort()

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Numbers:
        wanted = np.zeros(len(ids), _ENTRY)  # before which all smaller digests are, and behind which all of the same
        wanted["digest"] = _digests(ids.to_pylist())
        places = np.searchsorted(self._entries.view(_BYTES), wanted.view(_BYTES))
        return np.where(self._are(places, wanted["digest"]), places, -1)

    def positions(self, places: Numbers, nth: Numbers) -> Numbers:
        at = np.minimum(places + nth, len(self._entries) - 1)
        there = (at == places + nth) & self._are(at, self._entries["digest"][places])
        return np.where(there, self._entries["position"][at], -1)

    def repeated(self, usable: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Of the usable rows, by position, each that is called as an earlier one is; and the first that is."""
        entries = self._entries
        if not usable.all():
            entries = entries[usable[entries["position"]]]
        same = np.flatnonzero(entries["digest"][1:] == entries["digest"][:-1]) + 1
        begins = np.maximum.accumulate(np.where(np.diff(same, prepend=-1) > 1, same - 1, 0))
        yield from zip(entries["position"][same].tolist(), entries["position"][begins].tolist(), strict=True)

    def _are(self, at: Numbers, digests: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
        there = at < len(self._entries)
        there[there] = self._entries["digest"][at[there]] == digests[there]
        return there


def _digests(ids: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Of each id, 128 bits of BLAKE2b: nobody makes two ids that have one."""
    digests = b"".join(blake2b(one.encode(), digest_size=_DIGEST).digest() for one in ids)
    return np.frombuffer(digests, f"S{_DIGEST}")
