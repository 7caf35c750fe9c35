"""Taking shards in by several processes side by side: each opens the keystore for ingest, and takes one share after the other.

The process that asks takes in too, and begins at once, while the others start.

Opening, checking and sealing records is the work. The database has one writer at a time: a process is that for its inserts only.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import forkserver
from multiprocessing.util import Finalize
from pathlib import Path

from keystore.ingest_opening import IngestOpening
from keystore.intake.report import IngestReport, ShardsNotTakenIn

_SAFE_PATH = "PYTHONSAFEPATH"


@dataclass(frozen=True)
class _Place:
    """What to open for ingest: see `IngestOpening.open`."""

    path: Path
    kek_uri: str | None
    receipts: bool
    inbox: Path | None

    def open(self) -> IngestOpening:
        return IngestOpening.open(self.path, self.kek_uri, receipts=self.receipts, inbox=self.inbox)


def ingest_by_processes(
    path: Path,
    kek_uri: str | None,
    run_id: str,
    shard_names: Sequence[str],
    processes: int,
    *,
    receipts: bool = False,
    inbox: Path | None = None,
) -> IngestReport:
    """Take in these shards of a run by so many processes, this one among them. As IngestOpening.ingest, and raises the same."""
    shares = _shares(shard_names, processes)
    others = min(processes, len(shares)) - 1
    place = _Place(path, kek_uri, receipts, inbox)
    reports: list[IngestReport] = []
    with ExitStack() as stack:
        opened = stack.enter_context(place.open())
        lent = []
        if others > 0:
            pool = stack.enter_context(_pool(others))
            lenders = stack.enter_context(ThreadPoolExecutor(others))

            def submit(names: list[str]) -> Future[IngestReport]:
                return pool.submit(_take_in_there, place, run_id, names)

            first = [submit(shares.pop()) for _ in range(others)]  # small ones: they wait for a process that starts
            lent = [lenders.submit(_lend, submit, shares, one) for one in first]
        try:
            reports += (_take_in(opened, run_id, names) for names in _left(shares))
            reports += (report for one in lent for report in one.result())
        finally:
            shares.clear()  # what ended one ends the others after what they have in hand
    report = IngestReport(
        run_id=run_id,
        shards=list(shard_names),
        ingested=sum(one.ingested for one in reports),
        already_present=sum(one.already_present for one in reports),
        rejected=[rejected for one in reports for rejected in one.rejected],
        erased=[erased for one in reports for erased in one.erased],
        failed_shards={name: reason for one in reports for name, reason in one.failed_shards.items()},
    )
    if report.failed_shards:
        raise ShardsNotTakenIn.of(report)
    return report


def _shares(shard_names: Sequence[str], processes: int) -> deque[list[str]]:
    """The shards in shares, ever smaller ones: who begins later takes fewer, and nobody waits long for the last."""
    shares: deque[list[str]] = deque()
    left = list(shard_names)
    while left:
        size = max(1, len(left) // (2 * processes))
        shares.append(left[:size])
        del left[:size]
    return shares


def _left(shares: deque[list[str]]) -> Iterator[list[str]]:
    """Yield what nobody has taken yet, whichever thread asks."""
    with suppress(IndexError):
        while True:
            yield shares.popleft()


def _lend(
    submit: Callable[[list[str]], Future[IngestReport]], shares: deque[list[str]], first: Future[IngestReport]
) -> list[IngestReport]:
    """Give the pool one share after the other, as one process has done the one before."""
    return [first.result(), *(submit(names).result() for names in _left(shares))]


def _take_in(opened: IngestOpening, run_id: str, names: list[str]) -> IngestReport:
    try:
        return opened.ingest(run_id, names)
    except ShardsNotTakenIn as error:
        return error.report


def _pool(processes: int) -> ProcessPoolExecutor:
    # A fork would share what the parent has open; a server that is forked has nothing open, and imports once for all of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    with _safe_path():
        forkserver.ensure_running()
    # The server keeps the environment that it began with; its processes get this one's (where a KEK or a database is found).
    begin = partial(_begin, dict(os.environ))
    return ProcessPoolExecutor(processes, mp_context=context, initializer=begin)


@contextmanager
def _safe_path() -> Iterator[None]:
    """A Python that is started here imports nothing from the directory that it is started in, as `python -P`."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]
        os.environ |= {} if before is None else {_SAFE_PATH: before}


def _begin(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    gc.freeze()  # what was imported stays: no collection has to go through it again for the records that come and go
    _end_with_parent()


def _end_with_parent() -> None:
    """End this process when the one that started it does, however that is: the pool's own would wait for work for ever."""

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@cache  # by the first share of a process, which then keeps it: each opening fills epochs of its own
def _opened_once(place: _Place) -> IngestOpening:
    opened = place.open()
    Finalize(None, opened.close, exitpriority=0)
    return opened


def _take_in_there(place: _Place, run_id: str, names: list[str]) -> IngestReport:
    return _take_in(_opened_once(place), run_id, names)
