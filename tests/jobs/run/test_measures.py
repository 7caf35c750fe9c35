"""What a run counts, and what it says of itself with that."""

import pytest

from jobs.run import progress
from jobs.run.measures import Measures
from jobs.run.progress import ANONYMIZING_STAGE, Monitor, Phase, RunState


def test_reports_of_many_workers_are_added_up(ray_cluster: object) -> None:
    monitor = Monitor("run-of-a-test", 10)
    for _ in range(2):
        monitor.report_published({"anonymized": 2, "quarantined": 1}, 3)
        monitor.report_keys(5, 3, 20)
        monitor.report_seconds(ANONYMIZING_STAGE, waited=1.0, worked=3.0)
    monitor.report_seconds("detect", waited=9.0, worked=0.0)
    found = monitor.measures()
    assert found.statuses == {"anonymized": 4, "quarantined": 2}
    assert (found.faces, found.keys_tried, found.faces_keyed, found.evaluations) == (6, 10, 6, 40)
    assert (found.waiting_share(ANONYMIZING_STAGE), found.waiting_share("detect")) == (0.25, 1.0)
    state = RunState.of(found, total=20, finished=4, seconds=3.0, phase=Phase.ANONYMIZING)
    assert (state.rows, state.fresh_rows, state.images_per_second, state.faces_per_second) == (10, 6, 2.0, 2.0)
    assert state.seconds_left == pytest.approx(5.0)


def test_nothing_is_claimed_before_anything_was_done() -> None:
    state = RunState.of(Measures(), total=5, finished=0, seconds=0.0, phase=Phase.STARTING)
    assert (state.seconds_left, state.waiting_share, state.images_per_second) == (None, None, 0.0)
    assert RunState().seconds_left is None


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
