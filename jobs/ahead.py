"""Several things at a time, for what waits on a server, in their order and without holding all results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

AT_ONCE: Final = 16
_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


def ahead(act: Callable[[_Thing], _Result], things: Iterable[_Thing], at_once: int = AT_ONCE) -> Iterator[_Result]:
    """The results in order; so many are begun before they are asked for, no more things are taken. Raises what `act` does."""
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="keyanon-ahead")
    try:
        begun: deque[Future[_Result]] = deque()
        for thing in things:
            begun.append(pool.submit(act, thing))
            if len(begun) >= at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
