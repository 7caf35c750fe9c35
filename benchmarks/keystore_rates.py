"""How fast the keystore is: sealing and taking in records, releasing them, and its log as that grows.

    python benchmarks/keystore_rates.py [--records N] [--shard N] [--processes N] [--releases N] [--entries N,N]

It works in a temporary directory, with a KEK in a file, and prints

- sealed: records that one process seals in a second, with the shards written and synced, and CPU time of each;
- ingested: records that so many processes take in from the inbox in a second, with every log entry and the witness;
- released: releases of one image in a second, each with the verification of the whole log that comes before it;
- for a log of so many entries: seconds and peak memory (RSS) of a process that verifies the keystore with its records, and
  milliseconds to write one more entry, synced, with the witness moved on.
"""

import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from keystore.audit.log import LogWriter
from keystore.ingest_processes import ingest_by_processes
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import Sealer
from keystore.intake.shards import write_shard
from keystore.recipient import Recipient
from keystore.service import Keystore
from keystore.verification.verify import verify_audit

RUN, DATASET = "run-1", "photos"
ENTRIES_PER_TRANSACTION = 10_000
APPENDS = 20


def main(
    records: Annotated[int, typer.Option(help="Records to seal and to take in.")] = 100_000,
    shard: Annotated[int, typer.Option(help="Records in a shard.")] = 2_000,
    processes: Annotated[int, typer.Option(help="Processes that take in.")] = 2,
    releases: Annotated[int, typer.Option(help="Releases to time.")] = 20,
    entries: Annotated[str, typer.Option(help="Sizes of the log, separated by commas.")] = "1000,100000",
) -> None:
    """Measure and print."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory, Keystore.create(Path(directory) / "ks") as keystore:
        _seal(keystore, records, shard)
        _ingest(keystore, processes, records)
        _release(keystore, releases)
        for size in map(int, entries.split(",")):
            _log(keystore, size)


def record(number: int) -> KeyRecord:
    """A record as the job makes it, of one face, its mask of some hundred bytes."""
    face = FaceRecord(
        index=0,
        attempt=0,
        box=(1.5, 2.25, 90.0, 120.125),
        affine=(0.1, 0.2, 3.3, -0.2, 0.1, 4.4),
        scale=1.8,
        mask=bytes(range(256)),
        mask_shape=(512, 512),
    )
    return KeyRecord(
        run_id=RUN,
        dataset=DATASET,
        image_id=f"folder/picture-{number:09d}.jpg",
        source_sha256=f"{number:064x}",
        image_key=number.to_bytes(32, "big"),
        faces=[face],
        method="exact",
        transform="rotation",
        inversion="none",
        steps=6,
        grid=(0, 20, 40, 60, 80, 100, 120),
        fidelity="latent",
        prior_digest="0" * 64,
        environment={"torch": "2", "device": "cpu", "dtype": "float32"},
        created_at=datetime.now(UTC),
    )


def _seal(keystore: Keystore, count: int, shard: int) -> None:
    inbox, seconds, cpu = keystore.inbox(RUN, DATASET), 0.0, 0.0
    for start in range(0, count, shard):
        made = [record(number) for number in range(start, min(start + shard, count))]
        begun, used = time.perf_counter(), time.process_time()
        sealer = Sealer(keystore.ingest_public_key, RUN, DATASET)
        write_shard(inbox, f"part-{start:09d}", [sealer.seal(one) for one in made])
        seconds, cpu = seconds + time.perf_counter() - begun, cpu + time.process_time() - used
    typer.echo(
        f"sealed      {count / seconds:9.0f} records/s by one process    ({1e6 * cpu / count:.0f} us of CPU each)"
    )


def _ingest(keystore: Keystore, processes: int, count: int) -> None:
    names = keystore.intake.pending()[RUN]
    before, begun = _children(), time.perf_counter()
    report = ingest_by_processes(keystore.path, None, RUN, names, processes)
    seconds, cpu = time.perf_counter() - begun, _children() - before
    assert report.ingested == count, report
    typer.echo(
        f"ingested    {count / seconds:9.0f} records/s by {processes} process(es), {len(names)} shards    "
        f"({1e6 * cpu / count:.0f} us of CPU each, with {processes} starts of a process)"
    )


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _release(keystore: Keystore, count: int) -> None:
    images = [one.record_id for one in keystore.find_records(run_id=RUN)[:count]]
    requests = []
    for image in images:
        words = ("C-1", "measure how long a release takes", "benchmark 1/26")
        view = keystore.request("Alice", [image], *words, timedelta(hours=1))
        for name in ("Bob", "Carol"):
            keystore.approve(view.request_id, name, view.digest)
        requests.append(view.request_id)
    key = Recipient.generate().public_key
    seconds = _time_each([lambda one=one: keystore.release(one, key, "Alice") for one in requests])  # type: ignore[misc]
    typer.echo(f"released    {1 / seconds:9.1f} releases/s beside {len(keystore.audit_entries())} entries")


def _log(keystore: Keystore, size: int) -> None:
    _grow(keystore, size)
    append = _time_each([lambda: _append(keystore, 1)] * APPENDS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, mebibytes, ok = pool.submit(_verify, keystore.path).result()
    assert ok
    typer.echo(
        f"log of      {len(keystore.audit_entries()):9d} entries: verified in {seconds:.1f} s with {mebibytes:.0f} MiB; "
        f"one more in {1000 * append:.1f} ms"
    )


def _grow(keystore: Keystore, size: int) -> None:
    while (missing := size - len(keystore.audit_entries())) > 0:
        _append(keystore, min(missing, ENTRIES_PER_TRANSACTION))


def _append(keystore: Keystore, count: int) -> None:
    with keystore._ledger.transaction("benchmark", None, None) as (_, log):
        for _ in range(count):
            _refusal(log)


def _refusal(log: LogWriter) -> None:
    log.append("refused", action="benchmark", by=None, code="benchmark", request=None)


def _verify(path: Path) -> tuple[float, float, bool]:
    begun = time.perf_counter()
    report = verify_audit(path)
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report.ok


def _time_each(works: list[Callable[[], object]]) -> float:
    """Median seconds of these."""
    seconds = []
    for work in works:
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


if __name__ == "__main__":
    typer.run(main)
