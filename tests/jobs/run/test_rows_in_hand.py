"""How a process takes a failing batch apart: with the real monitor, in this process, whose place no other can take."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayError

from jobs.errors import DefectError, MachineError, UnansweredError
from jobs.run.process_deaths import Fault
from jobs.run.progress import Monitor
from jobs.run.rows_in_hand import RowsInHand
from keyanon_core.errors import KeyanonError, NotReversibleError, PictureError

pytestmark = pytest.mark.slow

Hands = RowsInHand[str, str]


@pytest.fixture
def monitor(ray_cluster: Path) -> Monitor:
    return Monitor()


def hands(monitor: Monitor, work: Callable[[Sequence[str]], list[str]]) -> Hands:
    return Hands(
        "stage",
        monitor,
        work=work,
        quarantine=lambda row, reason: f"{row}: {reason.split(':')[0]}",
        is_witness=lambda result: result.startswith("done"),
    )


def rows(count: int) -> dict[int, str]:
    return {10 + at: f"row {10 + at}" for at in range(count)}


class Work:
    """Does every row, but raises `error` when `fails` says so of the rows in hand. Remembers what it was given."""

    def __init__(
        self, error: Exception | None = None, fails: Callable[[Sequence[str]], bool] = lambda part: True
    ) -> None:
        self.error, self.fails, self.parts = error, fails, list[list[str]]()

    def __call__(self, part: Sequence[str]) -> list[str]:
        self.parts.append(list(part))
        if self.error is not None and self.fails(part):
            raise self.error
        return [f"done {row}" for row in part]

    @property
    def sizes(self) -> list[int]:
        return list(map(len, self.parts))


def test_every_row_gets_its_own_result_in_one_call(monitor: Monitor) -> None:
    work = Work()
    assert hands(monitor, work).work_through(rows(3)) == {10: "done row 10", 11: "done row 11", 12: "done row 12"}
    assert work.sizes == [3]
    assert hands(monitor, work).work_through({}) == {} and work.sizes == [3]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PictureError("corrupt", "x"), "corrupt"),
        (KeyanonError("x"), "unusable"),
        (ZeroDivisionError(), "internal_error"),
    ],
)
def test_what_follows_a_row_is_that_rows_alone(
    monitor: Monitor, caplog: pytest.LogCaptureFixture, error: Exception, code: str
) -> None:
    work = Work(error, lambda part: "row 13" in part)
    with caplog.at_level(logging.ERROR):
        found = hands(monitor, work).work_through(rows(8))
    assert found == {**{row: f"done {name}" for row, name in rows(8).items()}, 13: f"row 13: {code}"}
    assert sorted(work.sizes) == [1, 1, 2, 2, 4, 4, 8], "halves, down to the row"
    assert bool(caplog.text) == (code == "internal_error"), "a defect is told to the operator, a bad picture is not"


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(monitor: Monitor) -> None:
    work = Work(MemoryError(), lambda part: len(part) > 2)
    assert hands(monitor, work).work_through(rows(8)) == {row: f"done {name}" for row, name in rows(8).items()}
    assert max(len(part) for part in work.parts[-2:]) == 2


@pytest.mark.parametrize("count", [1, 8])
def test_want_of_memory_for_one_row_is_of_the_machine(monitor: Monitor, count: int) -> None:
    work = Work(MemoryError("a secret"))
    with pytest.raises(MachineError, match=r"stage stage met MemoryError at test_rows_in_hand\.py:\d+;") as caught:
        process = hands(monitor, work)
        with process.reporting_faults():
            process.work_through(rows(count))
    assert work.sizes[-1] == 1 and "secret" not in str(caught.value)
    reported = monitor.failure()
    assert isinstance(reported, MachineError) and str(reported) == str(caught.value)


def test_a_broken_device_is_not_asked_again(monitor: Monitor) -> None:
    work = Work(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(MachineError):
        hands(monitor, work).work_through(rows(8))
    assert work.sizes == [8]


def test_what_is_of_the_run_is_raised_as_it_is_and_never_halved(monitor: Monitor) -> None:
    work = Work(NotReversibleError("came back at 12 dB"))
    process = hands(monitor, work)
    with pytest.raises(NotReversibleError), process.reporting_faults():
        process.work_through(rows(8))
    assert work.sizes == [8] and isinstance(monitor.failure(), NotReversibleError)


def test_what_nobody_answered_ends_the_run_in_its_own_words_and_no_other_process_asks_again(monitor: Monitor) -> None:
    work = Work(UnansweredError("keystore k did not answer"))
    process = hands(monitor, work)
    with pytest.raises(UnansweredError), process.reporting_faults():
        process.work_through(rows(8))
    assert work.sizes == [8] and str(monitor.failure()) == "keystore k did not answer"


def test_results_that_do_not_match_the_rows_are_never_published(monitor: Monitor) -> None:
    found = hands(monitor, lambda part: ["done"] * (len(part) + 1)).work_through(rows(2))
    assert found == {10: "row 10: internal_error", 11: "row 11: internal_error"}


def test_errors_outside_of_the_rows_are_reported_by_their_kind(monitor: Monitor) -> None:
    process = hands(monitor, Work())
    with pytest.raises(ZeroDivisionError), process.reporting_faults():
        raise ZeroDivisionError("a secret")
    reported = monitor.failure()
    assert isinstance(reported, DefectError) and "ZeroDivisionError at test_rows" in str(reported)
    assert "secret" not in str(reported)
    with pytest.raises(MachineError), process.reporting_faults():
        raise OSError(28, "No space left on device")


def test_only_rows_that_went_the_whole_way_witness_for_the_machine(monitor: Monitor) -> None:
    """A picture that is turned down at its header needs no memory: it says nothing about a machine that has none."""
    monitor.process_started("stage", "another")

    def starve() -> None:
        monitor.hold("stage", "another", [7], 0)
        monitor.process_leaves("stage", "another", Fault("MemoryError at x.py:1", memory=True))
        monitor.process_started("stage", "another")

    starve()
    hands(monitor, lambda part: ["turned down" for _ in part]).work_through(rows(4))
    starve()
    assert monitor.plan("stage", [7]).verdicts == {}
    hands(monitor, Work()).work_through(rows(1))
    assert monitor.plan("stage", [7]).verdicts[7].startswith("out_of_memory: 2 processes")


def test_processes_that_begin_again_and_again_end_the_run(monitor: Monitor) -> None:
    with pytest.raises(MachineError, match=r"10 processes ended before a row got through.*no picture is to blame"):
        for _ in range(11):
            monitor.process_started("stage", "one")


def test_a_monitor_that_can_not_be_reached_ends_the_process_and_is_no_verdict(monitor: Monitor) -> None:
    process = hands(monitor, Work())
    ray.kill(monitor._actor)
    with pytest.raises(RayError), process.reporting_faults():
        process.work_through(rows(2))
