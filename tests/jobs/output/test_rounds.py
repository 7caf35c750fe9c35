"""The rounds of publishing beside a run, and the one at its end."""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tests.jobs.publishing import Place, block


def test_the_last_round_waits_for_the_one_that_is_under_way(place: Place) -> None:
    """Else both would publish the same block."""
    admitted: list[str] = []
    begun = threading.Event()

    def admit(rows: Iterable[Mapping[str, Any]]) -> None:
        admitted.append(threading.current_thread().name)
        begun.set()
        publisher._over.wait(60)
        time.sleep(0.5)  # in which a last round that did not wait would begin

    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher._admit = admit
        with publisher:
            attempt.sink().stage(block([place.result(0, "x.jpg")]))
            assert begun.wait(60)
        assert attempt.complete(1).rows == 1
    assert admitted == ["keyanon-publisher"]
    place.check_complete(1)
