"""Several things at a time, in their order."""

import threading
from collections.abc import Iterator

import pytest

from jobs import ahead as module
from jobs.ahead import ahead


def test_ahead_keeps_order_takes_no_more_than_it_is_told_and_stops_at_an_error() -> None:
    taken: list[int] = []

    def things() -> Iterator[int]:
        for at in range(100):
            taken.append(at)
            yield at

    results = ahead(lambda at: 10 // (at - 20), things(), at_once=4)
    assert [next(results) for _ in range(10)] == [10 // (at - 20) for at in range(10)] and len(taken) == 13
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(taken) < 30


def test_what_a_thing_raises_comes_after_the_results_of_those_before_it() -> None:
    def things() -> Iterator[int]:
        yield from range(3)
        raise KeyError

    results = ahead(lambda at: at, things(), at_once=16)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_one_at_a_time_is_done_in_the_thread_of_who_asks() -> None:
    assert set(ahead(lambda _: threading.get_ident(), range(3), at_once=1)) == {threading.get_ident()}
    assert threading.get_ident() not in set(ahead(lambda _: threading.get_ident(), range(3), at_once=2))


def test_no_more_is_begun_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 10)
    taken: list[int] = []

    def things() -> Iterator[int]:
        for weight in (4, 4, 4, 100, 1, 1, 1):
            taken.append(weight)
            yield weight

    results = ahead(lambda weight: weight, things(), weigh=lambda weight: weight)
    assert (next(results), taken) == (4, [4, 4, 4])
    assert (next(results), next(results), next(results), taken) == (4, 4, 100, [4, 4, 4, 100]), "alone"
    assert list(results) == [1, 1, 1]


def test_what_was_begun_is_over_when_it_is_closed() -> None:
    over: list[int] = []
    go_on = threading.Event()

    def act(at: int) -> int:
        if at:
            go_on.wait(60)
        over.append(at)
        return at

    results = ahead(act, range(100), at_once=4)
    assert next(results) == 0
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert sorted(over) == list(range(len(over))) and 4 <= len(over) < 100
