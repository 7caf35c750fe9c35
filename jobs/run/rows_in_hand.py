"""How a process of a stage works through a block: it says which rows it has in hand, and takes apart what fails.

A batch that fails is halved down to the row that it fails for. A process that meets a fault of the machine gives its place
to a new one, on this machine or another; what it had in hand is worked on there, in smaller parts.
"""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Generic, NoReturn, TypeVar

import ray
from ray.exceptions import RayError

from jobs.errors import DefectError, MachineError, UnansweredError
from jobs.faults import FaultKind, describe, is_short_of_memory, kind_of, reason_of
from jobs.run.process_deaths import Fault
from jobs.run.progress import Monitor
from keyanon_core.errors import KeyanonError

logger = logging.getLogger("keyanon.stages")

LEFT_FOR_THE_MACHINE: Final = (
    75  # status of a process that ends for another to take its place; people see it in Ray's logs
)


Row = TypeVar("Row")
Result = TypeVar("Result")


class RowsInHand(Generic[Row, Result]):
    """The rows that this process of a stage is working on."""

    def __init__(
        self,
        stage: str,
        monitor: Monitor,
        *,
        work: Callable[[Sequence[Row]], list[Result]],
        quarantine: Callable[[Row, str], Result],
        is_witness: Callable[[Result], bool],
    ) -> None:
        """Say that the process begins.

        work: a result for each of several rows, in order. quarantine: the result of a row that is kept out, for a reason.
        is_witness: True for a result that took the whole way through the stage: the machine is well enough for that.

        Raises MachineError when too many processes of the stage have died.
        """
        self._stage, self._monitor = stage, monitor
        self._work, self._quarantine, self._is_witness = work, quarantine, is_witness
        actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
        self._is_replaceable = actor is not None
        self._process: str = actor or uuid.uuid4().hex  # an actor keeps its id when Ray starts its process anew
        self._witnesses = 0  # since the monitor was told
        with self.reporting_faults():
            monitor.process_started(stage, self._process)
        self._idle_since = time.monotonic()

    def await_turn(self) -> None:
        """Before the process loads: return when those that began before it have had their start. See `Monitor.await_turn`."""
        with self.reporting_faults():
            self._monitor.await_turn(self._process)
        self._idle_since = time.monotonic()

    @contextlib.contextmanager
    def reporting_faults(self) -> Iterator[None]:
        """Around all that the process does: of an error that ends a run, Ray hands on little more than the text.

        A fault of the machine ends the process, so that another takes its place.
        """
        try:
            yield
        except RayError:  # the monitor can not be reached: the cluster is going down
            raise
        except Exception as error:
            if kind_of(error) is FaultKind.MACHINE and not isinstance(error, MachineError):
                self._leave(error)
            known = (
                error
                if isinstance(error, KeyanonError)
                else DefectError(
                    f"a defect ended stage {self._stage} ({describe(error)}); run again with -v and report what it prints"
                )
            )
            self._monitor.report_failure(known)
            raise

    def work_through(self, rows: Mapping[int, Row]) -> dict[int, Result]:
        """A result for each row, by its number.

        Raises what is of the run; MachineError for a fault of the machine where no process can take this one's place.
        """
        begun = time.monotonic()
        plan = self._monitor.plan(self._stage, list(rows))
        results = {row: self._quarantine(rows[row], reason) for row, reason in plan.verdicts.items()}
        for part in plan.parts:
            results.update(self._work_on(part, rows))
        if plan.parts:
            self._hold([])
        ended = time.monotonic()
        self._monitor.report_seconds(self._stage, waited=begun - self._idle_since, worked=ended - begun)
        self._idle_since = ended
        return results

    def _work_on(self, part: list[int], rows: Mapping[int, Row]) -> dict[int, Result]:
        self._hold(part)
        try:
            results = self._work([rows[row] for row in part])
            if len(results) != len(part):
                raise RuntimeError(f"{len(part)} rows gave {len(results)} results")
        except Exception as error:
            kind = kind_of(error)
            if kind is FaultKind.RUN or isinstance(error, UnansweredError):
                raise
            if kind is FaultKind.MACHINE and (len(part) == 1 or not is_short_of_memory(error)):
                self._leave(error)
            if len(part) == 1:
                return {part[0]: self._quarantine(rows[part[0]], reason_of(error))}
        else:
            self._witnesses += sum(map(self._is_witness, results))
            return dict(zip(part, results, strict=True))
        # Out of the handler, whose error keeps the memory of the whole part.
        middle = len(part) // 2
        return {**self._work_on(part[:middle], rows), **self._work_on(part[middle:], rows)}

    def _hold(self, part: list[int]) -> None:
        self._monitor.hold(self._stage, self._process, part, self._witnesses)
        self._witnesses = 0

    def _leave(self, error: Exception) -> NoReturn:
        """End this process for a fault of the machine: what a device or an allocator is left in does not mend in place."""
        fault = Fault(describe(error), is_short_of_memory(error))
        logger.error("stage %s: a process ends for a fault of the machine: %s", self._stage, fault.description)
        self._monitor.process_leaves(self._stage, self._process, fault)
        if self._is_replaceable:
            os._exit(LEFT_FOR_THE_MACHINE)
        raise MachineError(
            f"stage {self._stage} met {fault.description}; see to memory, disk and device, then run the same command again"
        ) from error
