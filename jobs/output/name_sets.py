"""Sets of file names, eight bytes for each: an output may have tens of millions, and a name as text takes ten times that."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

_AT_ONCE = 4096  # names that are asked for together
_BYTES = 8  # a name that is not there is taken for one that is once in 2**64 / size


class NameSet:
    """A set that is filled first and asked then: the first question after names were put in sorts them all."""

    def __init__(self) -> None:
        self._added = array("Q")
        self._sorted: npt.NDArray[np.uint64] | None = None

    def add(self, names: Iterable[str]) -> None:
        """Put names in."""
        self._added.extend(map(_number, names))
        self._sorted = None

    def strays(self, sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        """Those of some files, by name and bytes, that are not in the set, in their order."""
        files = iter(sizes)
        while some := list(islice(files, _AT_ONCE)):
            there = self.has([name for name, _ in some])
            yield from (file for file, known in zip(some, there, strict=True) if not known)

    def has(self, names: Sequence[str]) -> list[bool]:
        """For each of some names whether it is in the set."""
        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(self._added, np.uint64))
        asked = np.fromiter(map(_number, names), np.uint64, len(names))
        at = np.searchsorted(self._sorted, asked)
        found = np.zeros(len(names), np.bool_)
        inside = at < len(self._sorted)
        found[inside] = self._sorted[at[inside]] == asked[inside]
        return list(found.tolist())


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=_BYTES).digest())
