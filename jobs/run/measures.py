"""What a run counts while it works, and the same as metrics for whoever watches the cluster.

Sums over blocks only, under the run's id: neither names of pictures nor anything of one picture alone. Ray shows the metrics to
Prometheus where its dashboard's libraries are installed (`pip install "ray[default]"`), under the names of `exported`.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import ray
from ray.util import get_node_ip_address, metrics

RUN_TAG: Final = "run"


class Time(StrEnum):
    """What a process of a stage does with its time."""

    WORKING = "working"
    WAITING = "waiting"  # for pictures of the stage before it


@dataclass(frozen=True)
class Metric:
    """One metric beside its name. tags: what it is told apart by, beside the run."""

    help: str
    tags: tuple[str, ...] = ()


ROWS: Final = "keyanon_rows"
FACES: Final = "keyanon_faces"
DEVICE_FACES: Final = "keyanon_device_faces"
KEYS_TRIED: Final = "keyanon_keys_tried"
EVALUATIONS: Final = "keyanon_evaluations"
STAGE_SECONDS: Final = "keyanon_stage_seconds"
COUNTERS: Final[Mapping[str, Metric]] = {
    ROWS: Metric("Rows that became visible in this attempt, by status.", ("status",)),
    FACES: Metric("Faces anonymized in them."),
    DEVICE_FACES: Metric("Faces that the processes of a device were through with, published or not.", ("device",)),
    KEYS_TRIED: Metric("Keys tried, published or not."),
    EVALUATIONS: Metric("Evaluations of the denoiser, one for each face of each call."),
    STAGE_SECONDS: Metric("Seconds of the processes of a stage, working and waiting.", ("stage", "time")),
}
ROWS_LEFT: Final = "keyanon_rows_left"
GAUGES: Final[Mapping[str, Metric]] = {ROWS_LEFT: Metric("Rows that this attempt has still to make visible.")}


def exported() -> dict[str, Metric]:
    """The metrics by the names under which Prometheus finds them."""
    counters = {f"ray_{name}_total": metric for name, metric in COUNTERS.items()}
    return counters | {f"ray_{name}": metric for name, metric in GAUGES.items()}


@dataclass
class Measures:
    """Sums of one attempt. run: its id; "" makes no metrics. wanted: rows that are to be done. device_faces: by device, see
    `device_here`. seconds: by stage, and what they were spent on. subjects: whose pseudonyms pictures show, published or not."""

    run: str = ""
    wanted: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    keys_tried: int = 0
    faces_keyed: int = 0
    evaluations: int = 0
    subjects: int = 0
    device_faces: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def published(self, statuses: Mapping[str, int], faces: int) -> None:
        """Rows have become visible."""
        self.statuses.update(statuses)
        self.faces += faces
        for status, rows in statuses.items():
            self._count(ROWS, rows, status=status)
        self._count(FACES, faces)

    def keyed(self, device: str, keys_tried: int, faces: int, evaluations: int) -> None:
        """An anonymizing process on a device has done some pictures together."""
        self.device_faces[device] += faces
        self._count(DEVICE_FACES, faces, device=device)
        self.keys_tried += keys_tried
        self.faces_keyed += faces
        self.evaluations += evaluations
        self._count(KEYS_TRIED, keys_tried)
        self._count(EVALUATIONS, evaluations)

    def spent(self, stage: str, waited: float, worked: float) -> None:
        """A process of a stage has worked on a block, and waited for it before."""
        for time, seconds in ((Time.WAITING, waited), (Time.WORKING, worked)):
            self.seconds[stage, time] += seconds
            self._count(STAGE_SECONDS, seconds, stage=stage, time=time)
        if self.run:  # again and again: Ray forgets a gauge once it has handed it on
            _metric(metrics.Gauge, ROWS_LEFT, GAUGES).set(self.wanted - self.statuses.total(), {RUN_TAG: self.run})

    def waiting_share(self, stage: str) -> float | None:
        """Of the time of a stage's processes so far, what they waited; None before any of them ended a block."""
        waited, worked = (self.seconds[stage, time] for time in (Time.WAITING, Time.WORKING))
        return waited / (waited + worked) if waited + worked else None

    def _count(self, name: str, value: float, **tags: str) -> None:
        if self.run and value > 0:
            _metric(metrics.Counter, name, COUNTERS).inc(value, {RUN_TAG: self.run, **tags})


def device_here(device: str) -> str:
    """What a process's device is called in the cluster: its machine's address, and `cpu` or `cuda:N` there. device: as torch
    names it in a process, which sees no other GPU than the one that Ray reserved."""
    reserved = ray.get_runtime_context().get_accelerator_ids().get("GPU", []) if device.startswith("cuda") else []
    return f"{get_node_ip_address()}/{f'cuda:{reserved[0]}' if reserved and device == 'cuda' else device}"


_made: dict[str, Any] = {}


def _metric(kind: Any, name: str, known: Mapping[str, Metric]) -> Any:
    """This process's metric of that name."""
    if name not in _made:
        _made[name] = kind(name, description=known[name].help, tag_keys=(RUN_TAG, *known[name].tags))
    return _made[name]
