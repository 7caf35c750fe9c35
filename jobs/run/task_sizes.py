"""How many pictures one task of a run holds.

A task's faces go through the prior together, `face_batch` at a time. What is left over after the full batches, and the few
faces that the gate turns back, go in calls that are not full; the more pictures a task holds, the less that weighs. At the
end of a run the tasks shrink, so that no worker is still at a long one when the others have nothing left: guided
self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36(12), 1987), in which a task is a share of
what is left. Where each worker has more than one, its first task is small, so that whoever started the run soon sees pictures.
"""

from dataclasses import dataclass
from typing import Final, Self

from jobs.config import AnonymizeConfig
from jobs.sources.source import Source, UnitSize

FIRST_PICTURES: Final = 1  # of a worker's first task
SMALLEST_BATCHES: Final = 2  # of faces, at one a picture
LARGEST_BATCHES: Final = 8
TASK_BYTES: Final = 32 * 1024 * 1024  # of encoded pictures, about: a task is one block of the object store
SHARES: Final = 8  # of what is left, for each worker
SEGMENT_WORKERS: Final = 40  # to whom a segment of the usual size is enough beside the loading of their models
MOST_SEGMENTS: Final = 5  # of the usual size in one: a row planned is some 800 bytes of the driver (docs/scale.md)
SEGMENT_TASKS: Final = (
    16_384  # in one that is larger than usual: a task planned is a millisecond until the first picture
)


@dataclass(frozen=True)
class TaskSizes:
    """smallest, largest: pictures of a task. workers: processes that take tasks."""

    smallest: int
    largest: int
    workers: int

    @classmethod
    def of(cls, config: AnonymizeConfig, source: Source, workers: int) -> Self:
        """`pictures_per_task` bounds a task; left to us, the bound follows the batch and the size of the pictures."""
        fitting = max(TASK_BYTES * source.total // max(source.size_bytes, 1), 1)
        batch = max(config.face_batch // source.frames_of_a_row, 1)
        largest = config.pictures_per_task or min(LARGEST_BATCHES * batch, fitting)
        return cls(min(SMALLEST_BATCHES * batch, largest), largest, workers)

    def workers_for(self, left: int, most: int | None = None) -> int:
        """Workers that get a task when `left` pictures are to be done: the others would load a prior for nothing. most: there
        may be in the end, where more may come."""
        return min(most or self.workers, -(-left // self.smallest))

    def segment(self, usual: int) -> int:
        """Rows that are planned at a time, for which every worker loads its models once. usual: for few workers."""
        wanted = usual * self.workers // SEGMENT_WORKERS
        return max(min(wanted, usual * MOST_SEGMENTS, SEGMENT_TASKS * self.largest), usual)

    def begins_small(self, whole: int) -> bool:
        """True when each worker has more than one task of the `whole` pictures, so that its first one is small."""
        return whole > self.smallest * self.workers

    def beginning_with(self, whole: int) -> UnitSize:
        """Sizes of the tasks of a run that has `whole` pictures to do, asked for in turn."""
        if not self.begins_small(whole):
            return self.next
        first = min(FIRST_PICTURES, self.smallest)
        small = whole - first * self.workers

        def size(left: int) -> int:
            return min(first, left) if left > small else self.next(left)

        return size

    def next(self, left: int) -> int:
        """Pictures of the next task when `left` pictures are, 0 when none is."""
        share = -(-left // (SHARES * self.workers))
        return min(max(share, self.smallest), self.largest, left)
