"""Which faces of the frames of one scene are one face, by where they are: tracklets.

Each open tracklet predicts where its face is next, by its velocity, and the faces of a frame are given to the tracklets so that
the sum of costs is least (`scipy.optimize.linear_sum_assignment`). The cost is the overlap that the boxes lack and the distance
of the landmarks in sizes of the face. Identity vectors have the last word where both sides have one: different people never
become one tracklet however near they are, and the same person may have moved farther than a place alone would be believed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Embedding = npt.NDArray[np.float32]
SamePerson = Callable[[Embedding, Embedding], bool]
Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MAX_GAP_SECONDS: Final = 1.0  # that a face may be unseen and still be continued by its place
SAME_TIME: Final = 1e-6  # s, to which times are compared
REACH: Final = 0.6  # sizes of the face that its landmarks may be from where they are predicted
REACH_PER_SECOND: Final = 1.0  # sizes that this grows by in each second without a detection
KNOWN_REACH: Final = 2.0  # times as far, where the vectors are one person's
SURE_OVERLAP: Final = 0.5  # IoU at which boxes may be one face's whatever the landmarks say
MAX_SIZE_RATIO: Final = 2.0
VELOCITY_MEMORY: Final = 0.1  # s over which a velocity is averaged
VELOCITY_DECAY: Final = 0.3  # s in which a face that is not seen is believed to slow down
GAP_COST: Final = 0.5  # a second: of two tracklets at one place, the one seen last goes on
KNOWN_BONUS: Final = 1.0
UNMATCHED_COST: Final = (
    1.5  # of a face that no tracklet takes: more than two that fit well, less than two that hardly do
)


@dataclass(frozen=True, eq=False)
class Detections:
    """The n faces of a clip, one frame's after the other's.

    points: (n, 7, 2) px: two corners of the box, five landmarks. frames: (n,) of the clip. times: (n,) s. scenes: (n,) numbers
    of the scenes they are in. embeddings: n identity vectors, None where not known.
    """

    points: Floats
    frames: Numbers
    times: Floats
    scenes: Numbers
    embeddings: Sequence[Embedding | None]

    @cached_property
    def sizes(self) -> Floats:
        """(n,) px, root of the boxes' areas."""
        sides = np.maximum(self.points[:, 1] - self.points[:, 0], np.finfo(np.float32).tiny)
        return np.asarray(np.sqrt(sides[:, 0] * sides[:, 1]), np.float64)

    @cached_property
    def centres(self) -> Floats:
        """(n, 2) px, of the boxes."""
        return np.asarray(self.points[:, :2].mean(1), np.float64)

    @cached_property
    def known(self) -> Flags:
        """(n,) whether they have identity vectors."""
        return np.array([one is not None for one in self.embeddings], np.bool_)

    def differ(self, first: int, second: int, same_person: SamePerson) -> bool:
        """Whether two faces that both have identity vectors are different people's."""
        one, other = self.embeddings[first], self.embeddings[second]
        return one is not None and other is not None and not same_person(one, other)


def tracklets(detections: Detections, same_person: SamePerson) -> list[list[int]]:
    """The rows of the detections of each tracklet, one a frame at most; in the order in which they begin. Each row is in one."""
    open_ = _Open(detections, same_person)
    bounds = np.flatnonzero(np.diff(detections.frames)) + 1
    for rows in np.split(np.arange(len(detections.frames)), bounds):
        if len(rows):
            open_.see(rows)
    return open_.tracklets


class _Open:
    """The tracklets that may go on, a row in each of its arrays, and all that there have been."""

    def __init__(self, detections: Detections, same_person: SamePerson) -> None:
        self.tracklets: list[list[int]] = []
        self._detections, self._same_person = detections, same_person
        self._numbers = np.zeros(0, np.int64)
        self._last = np.zeros(0, np.int64)  # rows of their last detections
        self._vectors = np.zeros(0, np.int64)  # rows of their last identity vectors, -1 for none
        self._velocities = np.zeros((0, 2))  # px / s
        self._lengths = np.zeros(0, np.int64)

    def see(self, rows: Numbers) -> None:
        """Give the faces of the next frame that has some to the tracklets that they continue; the others begin new ones."""
        seen = self._detections
        last = self._last
        gaps = seen.times[rows[0]] - seen.times[last]
        self._keep((gaps <= MAX_GAP_SECONDS + SAME_TIME) & (seen.scenes[last] == seen.scenes[rows[0]]))
        places, taken = self._assigned(rows)
        self._continue(places, rows[taken])
        self._begin(np.delete(rows, taken))

    def _keep(self, still: Flags) -> None:
        if not still.all():
            self._numbers, self._last, self._vectors = self._numbers[still], self._last[still], self._vectors[still]
            self._velocities, self._lengths = self._velocities[still], self._lengths[still]

    def _assigned(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """Which open tracklets (m,) take which of the frame's faces (m,)."""
        if not len(self._last):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        seen = self._detections
        gaps = (seen.times[rows[0]] - seen.times[self._last])[:, None]
        way = self._velocities * VELOCITY_DECAY * -np.expm1(-gaps / VELOCITY_DECAY)
        predicted = seen.points[self._last] + way[:, None]
        overlap = overlaps(predicted[:, :2], seen.points[rows, :2])
        sizes, others = seen.sizes[self._last][:, None], seen.sizes[rows]
        apart = predicted[:, None, 2:] - seen.points[rows, 2:]
        distance = np.sqrt(np.square(apart).sum(-1)).mean(-1) / np.sqrt(sizes * others)
        reach = REACH + REACH_PER_SECOND * gaps
        alike = np.maximum(sizes, others) <= MAX_SIZE_RATIO * np.minimum(sizes, others)
        costs = 1 - overlap + distance + GAP_COST * gaps
        fits = alike & ((distance <= reach) | (overlap >= SURE_OVERLAP))
        far = alike & ((distance <= KNOWN_REACH * reach) | (overlap >= SURE_OVERLAP))
        for place, face in np.argwhere(far & (self._vectors >= 0)[:, None] & seen.known[rows]).tolist():
            fits[place, face] = not seen.differ(self._vectors[place], rows[face], self._same_person)
            costs[place, face] -= KNOWN_BONUS
        places, taken = linear_sum_assignment(np.where(fits, costs, UNMATCHED_COST))
        good = fits[places, taken]
        return places[good], taken[good]

    def _continue(self, places: Numbers, rows: Numbers) -> None:
        seen = self._detections
        last = self._last[places]
        seconds = seen.times[rows] - seen.times[last]
        newest = (seen.centres[rows] - seen.centres[last]) / seconds[:, None]
        weights = np.maximum(-np.expm1(-seconds / VELOCITY_MEMORY), 1 / self._lengths[places])
        self._velocities[places] += weights[:, None] * (newest - self._velocities[places])
        self._lengths[places] += 1
        self._last[places] = rows
        self._vectors[places] = np.where(seen.known[rows], rows, self._vectors[places])
        for number, row in zip(self._numbers[places].tolist(), rows.tolist(), strict=True):
            self.tracklets[number].append(row)

    def _begin(self, rows: Numbers) -> None:
        if not len(rows):
            return
        self._numbers = np.append(self._numbers, len(self.tracklets) + np.arange(len(rows)))
        self._last = np.append(self._last, rows)
        self._vectors = np.append(self._vectors, np.where(self._detections.known[rows], rows, -1))
        self._velocities = np.append(self._velocities, np.zeros((len(rows), 2)), axis=0)
        self._lengths = np.append(self._lengths, np.ones(len(rows), np.int64))
        self.tracklets.extend([row] for row in rows.tolist())


def overlaps(first: Floats, second: Floats) -> Floats:
    """(n, m) intersection over union of boxes (n, 2, 2) and (m, 2, 2)."""
    low = np.maximum(first[:, None, 0], second[:, 0])
    high = np.minimum(first[:, None, 1], second[:, 1])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas, others = np.prod(first[:, 1] - first[:, 0], axis=-1), np.prod(second[:, 1] - second[:, 0], axis=-1)
    return np.asarray(shared / np.maximum(areas[:, None] + others - shared, np.finfo(np.float64).tiny), np.float64)
