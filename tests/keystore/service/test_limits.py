"""Tries are counted by key, and come back with time."""

from __future__ import annotations

import pytest

from keystore.service.limits import MAX_KEYS, Rates


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def test_as_many_tries_as_said_and_then_one_after_the_other(clock: Seconds) -> None:
    rates = Rates(clock)
    assert [rates.take("a", 3, 60) for _ in range(3)] == [0, 0, 0]
    assert rates.take("a", 3, 60) == pytest.approx(20)
    assert rates.take("b", 3, 60) == 0, "another key has tries of its own"
    clock.now += 19.9
    assert rates.take("a", 3, 60) == pytest.approx(0.1)
    clock.now += 0.2
    assert rates.take("a", 3, 60) == 0
    assert rates.take("a", 3, 60) > 0
    clock.now += 10_000
    assert [rates.take("a", 3, 60) for _ in range(3)] == [0, 0, 0], "and never more than that"
    assert rates.take("a", 3, 60) > 0


def test_to_look_uses_nothing_up(clock: Seconds) -> None:
    rates = Rates(clock)
    assert [rates.wait("a", 1, 60) for _ in range(5)] == [0] * 5
    assert rates.take("a", 1, 60) == 0
    assert rates.wait("a", 1, 60) == pytest.approx(60)


def test_keys_without_number_do_not_fill_the_memory(clock: Seconds) -> None:
    rates = Rates(clock)
    rates.take("early", 1, 1000)
    for number in range(MAX_KEYS + 10):
        clock.now += 0.001
        rates.take(number, 1, 1000)
        assert rates.wait(number, 1, 1000) > 0, "what was used a moment ago is remembered"
    assert len(rates._buckets) <= MAX_KEYS
