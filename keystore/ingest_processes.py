"""Taking shards in by several processes side by side: each opens the keystore for ingest, and takes its part of the shards.

Opening, checking and sealing records is the work. The database has one writer at a time: a process is that for its inserts only.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
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
) -> IngestReport:
    """Take in these shards of a run by so many processes. As IngestOpening.ingest, and raises what that raises."""
    parts = [part for part in (list(shard_names[first::processes]) for first in range(processes)) if part]
    context = multiprocessing.get_context("spawn")  # a fork would share what the parent has open
    with ProcessPoolExecutor(max(1, len(parts)), mp_context=context) as pool:
        reports = list(pool.map(_ingest_part, [(path, kek_uri, run_id, part, receipts) for part in parts]))
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


def _ingest_part(part: tuple[Path, str | None, str, list[str], bool]) -> IngestReport:
    path, kek_uri, run_id, names, receipts = part
    with IngestOpening.open(path, kek_uri, receipts=receipts) as opened:
        try:
            return opened.ingest(run_id, names)
        except ShardsNotTakenIn as error:
            return error.report
