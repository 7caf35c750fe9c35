"""What a run counts, and what it says of itself with that."""

import threading
from collections import Counter
from typing import cast

import pytest
from ray.runtime_context import RuntimeContext
from ray.util import get_node_ip_address

from jobs.commands.progress import line_of
from jobs.run import measures, progress
from jobs.run.measures import Measures, device_here
from jobs.run.progress import ANONYMIZING_STAGE, Monitor, Phase, RunState, Watch


def test_reports_of_many_workers_are_added_up(ray_cluster: object) -> None:
    monitor = Monitor("run-of-a-test", 10)
    for _ in range(2):
        monitor.report_published({"anonymized": 2, "quarantined": 1}, 3)
        monitor.report_keys("10.0.0.7/cuda:1", 5, 3, 20)
        monitor.report_seconds(ANONYMIZING_STAGE, waited=1.0, worked=3.0)
    monitor.report_keys("10.0.0.8/cpu", 0, 3, 0)
    monitor.report_seconds("detect", waited=9.0, worked=0.0)
    found = monitor.measures()
    assert found.statuses == {"anonymized": 4, "quarantined": 2}
    assert (found.faces, found.keys_tried, found.faces_keyed, found.evaluations) == (6, 10, 9, 40)
    assert (found.waiting_share(ANONYMIZING_STAGE), found.waiting_share("detect")) == (0.25, 1.0)
    state = RunState.of(found, total=20, finished=4, seconds=3.0, phase=Phase.ANONYMIZING)
    assert (state.rows, state.fresh_rows, state.images_per_second, state.faces_per_second) == (10, 6, 2.0, 2.0)
    assert state.device_faces_per_second == {"10.0.0.7/cuda:1": 2.0, "10.0.0.8/cpu": 1.0}
    assert line_of(state)["device_faces_per_second"] == state.device_faces_per_second
    assert state.seconds_left == pytest.approx(5.0)


def test_nothing_is_claimed_before_anything_was_done() -> None:
    state = RunState.of(Measures(), total=5, finished=0, seconds=0.0, phase=Phase.STARTING)
    assert state.device_faces_per_second == {}
    assert (state.seconds_left, state.waiting_share, state.images_per_second) == (None, None, 0.0)
    assert RunState().seconds_left is None and RunState().faces_per_second == 0.0
    begun = RunState(total=3, rows=1, fresh_rows=1, faces=2, seconds=0.5)
    assert (begun.images_per_second, begun.faces_per_second, begun.seconds_left) == (2.0, 4.0, 1.0)


class _Metric:
    """Keeps what a metric of Ray's would be told."""

    def __init__(self, told: dict[tuple[str, ...], float], name: str) -> None:
        self._told, self._name = told, name

    def inc(self, value: float, tags: dict[str, str]) -> None:
        told_of = (self._name, *tags.values())
        self._told[told_of] = self._told.get(told_of, 0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._told[self._name, *tags.values()] = value


def test_the_metrics_are_told_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[tuple[str, ...], float] = {}
    monkeypatch.setattr(measures, "_metric", lambda kind, name, known: _Metric(told, name))
    for run in ("", "run-1"):
        found = Measures(run, 9)
        for _ in range(2):
            found.published({"anonymized": 2, "quarantined": 1}, 3)
            found.keyed("10.0.0.7/cpu", 5, 3, 20)
            found.spent("detect", waited=1.0, worked=3.0)
    assert told == {
        ("keyanon_rows", "run-1", "anonymized"): 4,
        ("keyanon_rows", "run-1", "quarantined"): 2,
        ("keyanon_faces", "run-1"): 6,
        ("keyanon_device_faces", "run-1", "10.0.0.7/cpu"): 6,
        ("keyanon_keys_tried", "run-1"): 10,
        ("keyanon_evaluations", "run-1"): 40,
        ("keyanon_stage_seconds", "run-1", "detect", "waiting"): 2.0,
        ("keyanon_stage_seconds", "run-1", "detect", "working"): 6.0,
        ("keyanon_rows_left", "run-1"): 3,
    }
    assert {name for name, *_ in told} == {*measures.COUNTERS, *measures.GAUGES}


class _Counted:
    """What a watch asks a monitor."""

    def measures(self) -> Measures:
        return Measures(statuses=Counter(anonymized=2))


def test_whoever_watches_is_told_while_the_run_goes_on_and_once_more_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    told: list[RunState] = []
    meanwhile = threading.Event()

    def tell(state: RunState) -> None:
        told.append(state)
        meanwhile.set()

    with Watch(cast(Monitor, _Counted()), tell, total=5, finished=1):
        assert meanwhile.wait(60)
        before = len(told)
    assert len(told) > before and {(state.rows, state.total) for state in told} == {(3, 5)}


def test_only_so_many_processes_load_before_a_row_is_visible() -> None:
    counter = progress._Counter("", 0, loading=1)
    assert [counter.may_load(process) for process in ("first", "second", "first")] == [True, False, True]
    counter.published({"quarantined": 1}, 0)
    assert counter.may_load("second")
    assert progress._Counter("", 0, loading=None).may_load("any")


def test_a_process_does_not_wait_for_ever_to_load(ray_cluster: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TURN_SECONDS", 0.0)
    monitor = Monitor(loading=1)
    for process in ("one that dies", "the next"):
        monitor.await_turn(process)


def test_a_device_is_called_by_its_machine_and_by_the_gpu_that_ray_reserved(
    ray_cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = get_node_ip_address()
    assert (device_here("cpu"), device_here("cuda:1"), device_here("cuda")) == tuple(
        f"{here}/{name}" for name in ("cpu", "cuda:1", "cuda")
    )
    monkeypatch.setattr(RuntimeContext, "get_accelerator_ids", lambda self: {"GPU": ["3"]})
    assert (device_here("cuda"), device_here("cuda:0")) == (f"{here}/cuda:3", f"{here}/cuda:0")
