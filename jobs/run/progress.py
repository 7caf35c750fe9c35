"""How a run is watched: a counter in the cluster that workers report to, and whoever wants to be told.

The counter informs people and the manifest, and remembers which rows processes had in hand when they died; what is finished
is decided by the row shards alone, so that a lost count is harmless. It is told row numbers, never a picture or a key.
"""

import contextlib
import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import MachineError
from jobs.run.measures import Measures
from jobs.run.process_deaths import Fault, Plan, StageRecord
from keyanon_core.errors import KeyanonError

POLL_SECONDS: Final = 0.5
TURN_SECONDS: Final = 120.0  # after which a process loads, whatever became of those that began before it
ANONYMIZING_STAGE: Final = "anonymize"


class Phase(StrEnum):
    """What a run is at."""

    LISTING = "listing"
    STARTING = "starting"
    FINDING = "finding faces"
    """Of a run over clips, before it anonymizes any; rows are their pieces."""

    SAMPLING = "sampling"
    """Of a plan."""

    ANONYMIZING = "anonymizing"
    COMMITTING = "committing"


@dataclass(frozen=True)
class RunState:
    """How far a run is. total: rows that are to be there at its end, None before they are listed. rows: finished ones, with those
    of an earlier attempt; all else is of this attempt. device_faces: that a device's processes were through with. waiting_share:
    of the anonymizing processes' time.
    """

    total: int | None = None
    rows: int = 0
    fresh_rows: int = 0
    faces: int = 0
    seconds: float = 0.0
    phase: Phase = Phase.ANONYMIZING
    statuses: Mapping[str, int] = field(default_factory=dict)
    evaluations: int = 0
    waiting_share: float | None = None
    device_faces: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Measures, *, total: int, finished: int, seconds: float, phase: Phase) -> Self:
        """From what was counted in this attempt. finished: rows of earlier ones."""
        fresh = found.statuses.total()
        return cls(
            total=total,
            rows=finished + fresh,
            fresh_rows=fresh,
            faces=found.faces,
            seconds=seconds,
            phase=phase,
            statuses=dict(sorted(found.statuses.items())),
            evaluations=found.evaluations,
            waiting_share=found.waiting_share(ANONYMIZING_STAGE),
            device_faces=dict(sorted(found.device_faces.items())),
        )

    @classmethod
    def apart(cls, phase: Phase, rows: int, total: int, begun: float, faces: int = 0) -> Self:
        """Of a phase that goes through rows of its own. begun: by `time.monotonic`."""
        return cls(total, rows, rows, faces, time.monotonic() - begun, phase)

    @property
    def images_per_second(self) -> float:
        return self.fresh_rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def faces_per_second(self) -> float:
        return self.faces / self.seconds if self.seconds > 0 else 0.0

    @property
    def device_faces_per_second(self) -> dict[str, float]:
        return {device: faces / self.seconds for device, faces in self.device_faces.items()} if self.seconds > 0 else {}

    @property
    def seconds_left(self) -> float | None:
        """At the rate of this attempt so far; None before it has one."""
        if self.total is None or not self.fresh_rows:
            return None
        return (self.total - self.rows) * self.seconds / self.fresh_rows


ProgressCallback = Callable[[RunState], None]


class _Counter:
    """The actor behind `Monitor`."""

    def __init__(self, run_id: str, wanted: int, loading: int | None) -> None:
        self._measures = Measures(run_id, wanted)
        self._loading, self._began = loading, list[str]()
        self._facts: list[dict[str, Any]] = []
        self._failures: list[KeyanonError] = []
        self._stages: defaultdict[str, StageRecord] = defaultdict(StageRecord)
        self._subjects: set[bytes] = set()

    def published(self, statuses: Mapping[str, int], faces: int) -> None:
        self._measures.published(statuses, faces)

    def keyed(self, device: str, keys_tried: int, faces: int, evaluations: int) -> None:
        self._measures.keyed(device, keys_tried, faces, evaluations)

    def shown(self, subjects: set[bytes]) -> None:
        self._subjects |= subjects
        self._measures.subjects = len(self._subjects)

    def spent(self, stage: str, waited: float, worked: float) -> None:
        self._measures.spent(stage, waited, worked)

    def measures(self) -> Measures:
        return self._measures

    def add_facts(self, facts: dict[str, Any]) -> None:
        if facts not in self._facts:
            self._facts.append(facts)

    def facts(self) -> list[dict[str, Any]]:
        return self._facts

    def add_failure(self, failure: KeyanonError) -> None:
        self._failures.append(failure)

    def failures(self) -> list[KeyanonError]:
        return self._failures

    def process_started(self, stage: str, process: str) -> str:
        self._stages[stage].started(process)
        return self._stages[stage].exhausted()

    def may_load(self, process: str) -> bool:
        if process not in self._began:
            self._began.append(process)
        first = self._loading is None or self._began.index(process) < self._loading
        return first or self._measures.statuses.total() > 0

    def plan(self, stage: str, rows: list[int]) -> Plan:
        return self._stages[stage].plan(rows)

    def hold(self, stage: str, process: str, rows: list[int], witnesses: int) -> None:
        self._stages[stage].hold(process, rows, witnesses)

    def process_leaves(self, stage: str, process: str, fault: Fault) -> None:
        self._stages[stage].leaves(process, fault)


class Monitor:
    """Handle of a run's counter; travels to the workers."""

    def __init__(self, run_id: str = "", wanted: int = 0, loading: int | None = None) -> None:
        """run_id: what the metrics of the run are told apart by; "" makes none. wanted: rows that are to be done. loading: so
        many anonymizing processes load before a row is visible; None: all."""
        # Beside the driver: an actor of no resources lands anywhere, and a run would end with that machine.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Counter).remote(run_id, wanted, loading)

    def report_published(self, statuses: Mapping[str, int], faces: int) -> None:
        """From the publisher: rows that have just become visible, by status."""
        self._actor.published.remote(dict(statuses), faces)

    def report_keys(self, device: str, tried: int, faces: int, evaluations: int) -> None:
        """From an anonymizing actor on a device: keys tried on so many faces. Sums only: how many one face needed depends on its
        source."""
        self._actor.keyed.remote(device, tried, faces, evaluations)

    def report_subjects(self, subjects: Collection[str]) -> None:
        """From an anonymizing actor: whose pseudonyms pictures show. They are counted, each once."""
        digests = {hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in subjects}
        self._actor.shown.remote(digests)

    def report_seconds(self, stage: str, *, waited: float, worked: float) -> None:
        """From a worker: seconds that it waited for a block, and worked on it."""
        self._actor.spent.remote(stage, waited, worked)

    def measures(self) -> Measures:
        """All that was reported so far in this attempt."""
        found: Measures = ray.get(self._actor.measures.remote())
        return found

    def report_facts(self, facts: dict[str, Any]) -> None:
        """From an anonymizing actor: what it loaded. Waits, so that the facts are there when the run ends."""
        ray.get(self._actor.add_facts.remote(facts))

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

    def await_turn(self, process: str) -> None:
        """From an anonymizing process: returns when it may load."""
        deadline = time.monotonic() + TURN_SECONDS
        while not ray.get(self._actor.may_load.remote(process)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

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
        if self._callback is None:
            return
        found, seconds = self._monitor.measures(), time.monotonic() - self._started
        phase = Phase.ANONYMIZING if found.seconds else Phase.STARTING  # until the first block is through a stage
        self._callback(RunState.of(found, total=self._total, finished=self._finished, seconds=seconds, phase=phase))
