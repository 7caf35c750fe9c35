"""Taking shards in by several processes side by side: each opens the keystore for ingest, and takes its part of the shards.

Opening, checking and sealing records is the work. The database has one writer at a time: a process is that for its inserts only.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from keystore.ingest_opening import IngestOpening
from keystore.intake.report import IngestReport, ShardsNotTakenIn


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
    """Take in these shards of a run by so many processes. As IngestOpening.ingest, and raises what that raises."""
    parts = [part for part in (list(shard_names[first::processes]) for first in range(processes)) if part]
    # A fork would share what the parent has open; a server that is forked has nothing open, and imports once for all of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    # The server keeps the environment that it began with; its processes get this one's (where a KEK or a database is found).
    begin = partial(_begin, dict(os.environ))
    with ProcessPoolExecutor(max(1, len(parts)), mp_context=context, initializer=begin) as pool:
        reports = list(pool.map(_ingest_part, [(path, kek_uri, run_id, part, receipts, inbox) for part in parts]))
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


def _ingest_part(part: tuple[Path, str | None, str, list[str], bool, Path | None]) -> IngestReport:
    path, kek_uri, run_id, names, receipts, inbox = part
    with IngestOpening.open(path, kek_uri, receipts=receipts, inbox=inbox) as opened:
        try:
            return opened.ingest(run_id, names)
        except ShardsNotTakenIn as error:
            return error.report
