"""Whose faces are whose, where a data set says so: two pictures of one person are no pair of strangers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.integer]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class People:
    """Whom n faces show.

    person: (n,) int64, one number for each person whom pictures are said to show, -1 where nothing is said. alone: (n,) bool,
    whether the face is the only one of its picture: only then it is known to be that person's, else it may be somebody's beside.
    """

    person: npt.NDArray[np.int64]
    alone: Bits

    @classmethod
    def unknown(cls, count: int) -> "People":
        """So many faces of whom nothing is said: each is taken for another person's."""
        return cls(np.full(count, -1, np.int64), np.ones(count, np.bool_))

    @classmethod
    def joined(cls, parts: Sequence["People"]) -> "People":
        """Of all parts, in their order."""
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(part.person for part in parts)]),
            np.concatenate([np.zeros(0, np.bool_), *(part.alone for part in parts)]),
        )

    def rows(self, which: npt.NDArray[Any]) -> "People":
        """Of some faces, by index or by a mask."""
        return People(self.person[which], self.alone[which])

    @property
    def known(self) -> Bits:
        """(n,): faces of whom it is known whose they are."""
        return (self.person >= 0) & self.alone

    def apart(self, first: Places, second: Places) -> Bits:
        """Which pairs of different faces, two lists of places (k,), are of two people. A face beside others in a picture of
        somebody may be theirs: with that person's faces it is no pair of either kind."""
        return np.asarray((self.person[first] < 0) | (self.person[first] != self.person[second]))

    def related(self, faces: Places) -> tuple[Bits, Bits]:
        """For k faces, by their places: which of all n (k, n) show the same person, the face itself among them, and which show
        another one."""
        same = (self.person[faces, None] >= 0) & (self.person[faces, None] == self.person)
        itself = faces[:, None] == np.arange(len(self.person))
        return itself | (same & self.known[faces, None] & self.known), ~(same | itself)

    def others(self) -> Places:
        """(n,): the next face of the same person, round and round; -1 of a face whose person has no other one."""
        following = np.full(len(self.person), -1, np.int64)
        places = np.flatnonzero(self.known)
        order = places[np.argsort(self.person[places], kind="stable")]
        _, starts = np.unique(self.person[order], return_index=True)
        for of_one in np.split(order, starts[1:]):
            if len(of_one) > 1:
                following[of_one] = np.roll(of_one, -1)
        return following
