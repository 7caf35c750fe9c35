"""Sets of row numbers, a byte for each number up to the largest: rows are numbered densely, and there may be millions."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from jobs.sources.ids import RowNumbers

_GROWTH: Final = 1.5
_AT_ONCE: Final = 1 << 20  # numbers; numpy makes 8 bytes of each narrower one that it looks at

Numbers = npt.NDArray[np.int64]


class RowSet(Collection[int]):
    """A set of numbers from 0. Numbers are given as arrays, or as anything that gives them one by one."""

    def __init__(self, rows: "Iterable[int] | RowNumbers" = ()) -> None:
        self._there = np.zeros(0, np.bool_)
        self.add(rows)

    @classmethod
    def of(cls, there: npt.NDArray[np.bool_]) -> Self:
        """Of the numbers at which this is true; it is not copied."""
        found = cls()
        found._there = there
        return found

    def add(self, rows: "Iterable[int] | RowNumbers") -> None:
        """Put numbers in."""
        if isinstance(rows, RowSet):
            longer = max(len(self._there), len(rows._there))
            self._there = self.among(longer) | rows.among(longer)
            return
        numbers = _array(rows)
        if len(numbers):
            if (largest := int(numbers.max())) >= len(self._there):
                self._there = np.concatenate(
                    [
                        self._there,
                        np.zeros(max(largest + 1, int(len(self._there) * _GROWTH)) - len(self._there), np.bool_),
                    ]
                )
            for start in range(0, len(numbers), _AT_ONCE):
                self._there[numbers[start : start + _AT_ONCE]] = True

    def has(self, rows: "Iterable[int] | RowNumbers") -> npt.NDArray[np.bool_]:
        """For each of some numbers whether it is in the set."""
        numbers = _array(rows)
        inside = (numbers >= 0) & (numbers < len(self._there))
        found = np.zeros(len(numbers), np.bool_)
        found[inside] = self._there[numbers[inside]]
        return found

    def numbers(self) -> Numbers:
        """All of them, sorted."""
        return np.flatnonzero(self._there)

    def among(self, total: int) -> npt.NDArray[np.bool_]:
        """For each number below `total` whether it is in the set."""
        found = np.zeros(total, np.bool_)
        found[: len(self._there)] = self._there[:total]
        return found

    def without(self, others: "RowSet") -> Numbers:
        """Those that are not among others, sorted."""
        return np.flatnonzero(self._there & ~others.among(len(self._there)))

    def free(self, count: int) -> Numbers:
        """So many numbers that are not in the set, the smallest."""
        return np.flatnonzero(~self.among(len(self) + count))[:count]

    def isdisjoint(self, rows: "Iterable[int] | RowNumbers") -> bool:
        """Whether none of some numbers is in the set."""
        return not self.has(rows).any()

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int | np.integer) and bool(0 <= row < len(self._there) and self._there[row])

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers().tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self._there))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Collection) and len(self) == len(other) and all(row in self for row in other)

    __hash__ = None  # type: ignore[assignment]  # it changes


def _array(rows: "Iterable[int] | RowNumbers") -> RowNumbers:
    if isinstance(rows, RowSet):
        return rows.numbers()
    return rows if isinstance(rows, np.ndarray) else np.fromiter(rows, np.int64)
