"""How a run is watched: a counter in the cluster that workers report to, and its display in the terminal.

The counter informs people and the manifest, and remembers which rows processes had in hand when they died; what is finished
is decided by the row shards alone, so that a lost count is harmless. It is told row numbers, never a picture or a key.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.errors import MachineError
from jobs.run.process_deaths import Fault, Plan, StageRecord
from keyanon_core.errors import KeyanonError

POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class RunState:
    """How far a run is. rows: finished ones, with those of an earlier attempt; fresh_rows, faces: of this attempt."""

    total: int
    rows: int
    fresh_rows: int
    faces: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.fresh_rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def faces_per_second(self) -> float:
        return self.faces / self.seconds if self.seconds > 0 else 0.0


ProgressCallback = Callable[[RunState], None]


class _Counter:
    """The actor behind `Monitor`."""

    def __init__(self) -> None:
        self._rows = 0
        self._faces = 0
        self._keys_tried = 0
        self._faces_keyed = 0
        self._facts: list[dict[str, Any]] = []
        self._failures: list[KeyanonError] = []
        self._stages: defaultdict[str, StageRecord] = defaultdict(StageRecord)

    def published(self, rows: int, faces: int) -> None:
        self._rows += rows
        self._faces += faces

    def keyed(self, keys_tried: int, faces: int) -> None:
        self._keys_tried += keys_tried
        self._faces_keyed += faces

    def keys(self) -> tuple[int, int]:
        return self._keys_tried, self._faces_keyed

    def add_facts(self, facts: dict[str, Any]) -> None:
        if facts not in self._facts:
            self._facts.append(facts)

    def counts(self) -> tuple[int, int]:
        return self._rows, self._faces

    def facts(self) -> list[dict[str, Any]]:
        return self._facts

    def add_failure(self, failure: KeyanonError) -> None:
        self._failures.append(failure)

    def failures(self) -> list[KeyanonError]:
        return self._failures

    def process_started(self, stage: str, process: str) -> str:
        self._stages[stage].started(process)
        return self._stages[stage].exhausted()

    def plan(self, stage: str, rows: list[int]) -> Plan:
        return self._stages[stage].plan(rows)

    def hold(self, stage: str, process: str, rows: list[int], witnesses: int) -> None:
        self._stages[stage].hold(process, rows, witnesses)

    def process_leaves(self, stage: str, process: str, fault: Fault) -> None:
        self._stages[stage].leaves(process, fault)


class Monitor:
    """Handle of a run's counter; travels to the workers."""

    def __init__(self) -> None:
        self._actor = ray.remote(num_cpus=0)(_Counter).remote()

    def report_published(self, rows: int, faces: int) -> None:
        """From the publisher: rows that have just become visible."""
        self._actor.published.remote(rows, faces)

    def report_keys(self, tried: int, faces: int) -> None:
        """From an anonymizing actor: keys tried on so many faces. Sums only: how many one face needed depends on its source."""
        self._actor.keyed.remote(tried, faces)

    def keys(self) -> tuple[int, int]:
        """Keys tried in this attempt, and on how many faces."""
        tried, faces = ray.get(self._actor.keys.remote())
        return int(tried), int(faces)

    def report_facts(self, facts: dict[str, Any]) -> None:
        """From an anonymizing actor: what it loaded. Waits, so that the facts are there when the run ends."""
        ray.get(self._actor.add_facts.remote(facts))

    def counts(self) -> tuple[int, int]:
        """Rows and faces published so far in this attempt."""
        rows, faces = ray.get(self._actor.counts.remote())
        return int(rows), int(faces)

    def facts(self) -> list[dict[str, Any]]:
        """The different facts reported; more than one entry when workers differ."""
        found: list[dict[str, Any]] = ray.get(self._actor.facts.remote())
        return found

    @contextlib.contextmanager
    def reporting_failures(self) -> Iterator[None]:
        """Around the loading of an actor: of an actor that dies while it is made, Ray hands on the text of the error only."""
        try:
            yield
        except KeyanonError as error:
            self.report_failure(error)
            raise

    def report_failure(self, failure: KeyanonError) -> None:
        """From any worker: why the run is about to end. Waits; Ray hands on the text of most errors only."""
        ray.get(self._actor.add_failure.remote(failure))

    def process_started(self, stage: str, process: str) -> None:
        """From a worker: it begins, or takes the place of one of that name that died.

        Raises:
            MachineError: more processes of the stage died than rows can be blamed for; the run must end.
        """
        exhausted: str = ray.get(self._actor.process_started.remote(stage, process))
        if exhausted:
            raise MachineError(
                f"stage {stage}: {exhausted}; no picture is to blame: see to memory, disk, device and drivers of the "
                "machines, then run the same command again: it goes on where it stopped"
            )

    def plan(self, stage: str, rows: Sequence[int]) -> Plan:
        """From a worker: how to work through the rows of a block, after what happened to processes that had them."""
        plan: Plan = ray.get(self._actor.plan.remote(stage, list(rows)))
        return plan

    def hold(self, stage: str, process: str, rows: Sequence[int], witnesses: int) -> None:
        """From a worker: the rows it works on from now, and how many went the whole way since it said so last.

        Waits: the process may die in the next moment.
        """
        ray.get(self._actor.hold.remote(stage, process, list(rows), witnesses))

    def process_leaves(self, stage: str, process: str, fault: Fault) -> None:
        """From a worker: it is about to end for a fault of the machine."""
        ray.get(self._actor.process_leaves.remote(stage, process, fault))

    def failure(self) -> KeyanonError | None:
        """The first reason for the run to end that a worker reported."""
        failures: list[KeyanonError] = ray.get(self._actor.failures.remote())
        return failures[0] if failures else None


class Watch:
    """Calls back with the state of a run every half second while the `with` block runs."""

    def __init__(self, monitor: Monitor, callback: ProgressCallback | None, total: int, finished: int) -> None:
        self._monitor, self._callback = monitor, callback
        self._total, self._finished = total, finished
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="keyanon-progress", daemon=True)

    def __enter__(self) -> Self:
        if self._callback is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._callback is not None:
            self._thread.join()
            if error is None:
                self._report()

    def _poll(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            try:
                self._report()
            except ray.exceptions.RayError:  # the cluster is going down; the run itself says why
                return

    def _report(self) -> None:
        rows, faces = self._monitor.counts()
        seconds = time.monotonic() - self._started
        if self._callback is not None:
            self._callback(RunState(self._total, self._finished + rows, rows, faces, seconds))


class ProgressBar:
    """A bar on stderr with images and faces per second and the time left; usable as `run_anonymize(progress=...)`."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("anonymizing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[images]:.2f} images/s  {task.fields[faces]:.2f} faces/s"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("anonymizing", total=None, images=0.0, faces=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, state: RunState) -> None:
        self._progress.update(
            self._task,
            total=state.total,
            completed=state.rows,
            images=state.images_per_second,
            faces=state.faces_per_second,
        )
