"""Several things at a time, for what waits on a server, in their order and without holding all results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE: Final = 16
BYTES_AT_ONCE: Final = 128 * 1024 * 1024  # of things that are weighed
_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


def ahead(
    act: Callable[[_Thing], _Result],
    things: Iterable[_Thing],
    at_once: int = AT_ONCE,
    weigh: Callable[[_Thing], int] | None = None,
) -> Generator[_Result, None, None]:
    """The results in order; so many are begun before they are asked for, no more things are taken. Of one at a time `act` is
    called in the caller's thread. Closed before its end, it waits for what was begun.

    weigh: a thing's bytes: once BYTES_AT_ONCE are in hand no other thing is begun.

    Raises what `act` does, and what taking a thing does, after the results of those before it.
    """
    if at_once == 1:
        yield from map(act, things)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="keyanon-ahead")

    def begin() -> Iterator[tuple[Future[_Result], int]]:
        try:
            for thing in things:
                yield pool.submit(act, thing), 0 if weigh is None else weigh(thing)
        except Exception as error:  # noqa: BLE001  raised when it is its turn
            failed = Future[_Result]()
            failed.set_exception(error)
            yield failed, 0

    begun, held = deque[tuple[Future[_Result], int]](), 0
    try:
        for future, weight in begin():
            begun.append((future, weight))
            held += weight
            while begun and (len(begun) >= at_once or held >= BYTES_AT_ONCE):
                future, weight = begun.popleft()
                held -= weight
                yield future.result()
        while begun:
            yield begun.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
