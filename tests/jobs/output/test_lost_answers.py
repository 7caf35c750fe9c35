"""A bucket whose server does what it is asked and whose answers are lost, or that answers nothing for a while: an attempt that
holds the output goes on."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest

from jobs.errors import LeaseError, MachineError
from jobs.output import publisher as publishing
from jobs.output import shared_lease
from jobs.output.commit import complete
from jobs.output.layout import LEASE, SEGMENTS, OutputLayout
from jobs.output.publisher import Publisher
from jobs.output.segments import Segments
from jobs.output.shared_lease import SharedLease, lease_of
from jobs.output.sink import PairedDatasink
from jobs.storage import connections
from jobs.storage.connections import forget_clients
from jobs.storage.s3 import S3Store
from jobs.storage.store import ChangedError
from tests.jobs.publishing import Place, block, finished_rows
from tests.jobs.seaweed import BUCKET, Seaweed

PATIENCE = 60.0  # seconds after which a test fails
pytestmark = pytest.mark.slow


@pytest.fixture
def layout(s3: Seaweed, place: Place, monkeypatch: pytest.MonkeyPatch) -> OutputLayout:
    monkeypatch.setattr(shared_lease, "RENEWAL_SECONDS", 0.2)
    return OutputLayout(f"s3://{BUCKET}/lost-{place.run_id}", "png")


def held(layout: OutputLayout) -> SharedLease:
    lease = lease_of(layout.store)
    assert isinstance(lease, SharedLease)
    return lease


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lose_answers(monkeypatch: pytest.MonkeyPatch, call: str, to: str, times: int) -> list[str]:
    """Let the answers to so many calls for names that begin so be lost; the names that were called for."""
    asked, made = list[str](), getattr(S3Store, call)

    def lost(store: S3Store, name: str, *arguments: Any) -> str:
        answer: str = made(store, name, *arguments)
        if name.startswith(to):
            asked.append(name)
            if len(asked) <= times:
                raise MachineError("the answer is lost")
        return answer

    monkeypatch.setattr(S3Store, call, lost)
    return asked


def test_a_renewal_whose_answer_was_lost_is_known_as_ones_own(
    layout: OutputLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(layout) as lease:
        asked = lose_answers(monkeypatch, "replace", LEASE, 1)
        until(lambda: len(asked) > 3)
        lease.check()
        taken_over(layout)
        until(lease._over.is_set)
        with pytest.raises(LeaseError):
            lease.check()


def taken_over(layout: OutputLayout) -> None:
    """Another attempt holds the lease."""
    with contextlib.suppress(ChangedError):  # it was renewed in between
        seen = layout.store.see(LEASE)
        assert seen is not None
        layout.store.replace(LEASE, b'{"attempt": "another"}', seen.version)
        return
    taken_over(layout)


@contextlib.contextmanager
def standing_still(server: Seaweed) -> Iterator[None]:
    """The server takes connections and answers nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_lease_is_given_back_or_goes_on_while_a_server_answers_nothing(
    layout: OutputLayout, s3: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HURRIED_READ_SECONDS", 0.5)
    forget_clients()
    with held(layout) as lease:
        beat, before = lease._beat, lease._renewed
        with standing_still(s3):
            until(lambda: lease._beat > beat + 2)  # renewals are begun and given up
        until(lambda: lease._renewed > before)
        lease.check()
        with standing_still(s3):
            giving_back = threading.Thread(target=lease.withdraw)
            giving_back.start()
            giving_back.join(PATIENCE)
            assert not giving_back.is_alive()


def test_a_round_that_meets_a_server_s_fault_is_made_again(
    layout: OutputLayout, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ROUND_SECONDS", 0.1)
    admitted, shown = list[int](), Counter[str]()

    def admit(rows: Iterable[Mapping[str, Any]]) -> None:
        admitted.extend(row["row"] for row in rows)

    with held(layout) as lease:
        sink = PairedDatasink(layout, place.keys.begin(place.run_id, "d"), lease.token, 0)
        with Publisher(layout, lease, set(), lambda rows, _: shown.update(rows), admit):
            asked = lose_answers(monkeypatch, "create", SEGMENTS, 2)
            sink.stage(block([place.result(0, "x.jpg")]))
            until(lambda: len(asked) >= 3)
            sink.stage(block([place.result(1, "y.jpg")]))
        assert (finished_rows(layout), sorted(admitted), shown) == ({0, 1}, [0, 1], {"anonymized": 2})
        complete(layout, lease, place.keys, place.run_id, 2)


def test_a_round_that_fails_again_and_again_ends_the_attempt(
    layout: OutputLayout, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "ROUNDS_AGAIN", 2)
    with held(layout) as lease:
        sink = PairedDatasink(layout, place.keys.begin(place.run_id, "d"), lease.token, 0)
        publisher = Publisher(layout, lease, set())
        with pytest.raises(MachineError, match="the answer is lost"), publisher:
            lose_answers(monkeypatch, "create", SEGMENTS, 1000)
            sink.stage(block([place.result(0, "x.jpg")]))
            until(lambda: publisher._failure is not None)
        with pytest.raises(LeaseError):
            lease.check()


def test_a_segment_whose_answer_was_lost_counts_when_the_next_one_is_written(
    layout: OutputLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Segments(layout.store, "mine")
    with monkeypatch.context() as patched:
        lose_answers(patched, "create", SEGMENTS, 1)
        with pytest.raises(MachineError):
            mine.append(["a"])
    mine.append(["b"])
    mine.append(["a"])  # once more, as its writer does not know
    assert mine.count == 2
    mine.append(["c"], ["a"])
    assert mine.visible == {"b", "c"} and mine.count == 3
    other = Segments.read(layout.store, "other")
    assert (other.visible, other.count) == ({"b", "c"}, 3)
    other.append(["d"])
    with pytest.raises(LeaseError, match="another attempt goes on"):
        mine.append(["e"])
    assert Segments.read(layout.store).visible == {"b", "c", "d"}
