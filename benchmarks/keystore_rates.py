"""How fast the keystore is: sealing and taking in records, releasing them, and its log as that grows.

    python benchmarks/keystore_rates.py [--records N] [--shard N] [--processes N] [--releases N] [--entries N,N]

It works in a temporary directory, with a KEK in a file, and prints

- sealed: records that one process seals in a second, with the shards written and synced, and CPU time of each;
- ingested: records that this process alone, and then with others, takes in from the inbox in a second, each half of them, with
  every log entry and the witness; CPU time of each in this process; CPU time of this process and of all that it starts, and what
  the busiest one's allows: records a second where each has a core of its own and nothing waits for a lock or a disk;
- stored: bytes of the database for each record, beside those that it was sealed in;
- for a log of so many entries: seconds and peak memory (RSS) of a process that verifies the keystore with its records;
  milliseconds to write one more entry, synced, with the witness moved on; to prove an entry's inclusion, and that the log
  extends what it was at half its size, each verified; to open the keystore; and to release one image, with the verification of
  the log that comes before it: the first one since, and the median of the others.
"""

import itertools
import logging
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.log import LogWriter
from keystore.embedded import Keystore
from keystore.ingest_processes import ingest_by_processes
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import Sealer
from keystore.intake.shards import write_shard
from keystore.recipient import Recipient
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit

RUN, DATASET = "run-1", "photos"
ENTRIES_PER_TRANSACTION = 10_000
APPENDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def main(
    records: Annotated[int, typer.Option(help="Records to seal and to take in.")] = 100_000,
    shard: Annotated[int, typer.Option(help="Records in a shard.")] = 2_000,
    processes: Annotated[int, typer.Option(help="Processes that take in.")] = 2,
    releases: Annotated[int, typer.Option(help="Releases to time at each size of the log; 2 at least.")] = 10,
    entries: Annotated[str, typer.Option(help="Sizes of the log, separated by commas.")] = "1000,100000",
) -> None:
    """Measure and print."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory, Keystore.create(Path(directory) / "ks") as keystore:
        empty, sealed = _database_bytes(keystore), _seal(keystore, records, shard)
        _ingest(keystore, processes, records)
        typer.echo(
            f"stored      {(_database_bytes(keystore) - empty - sealed) / records:9.0f} bytes a record beside its own"
        )
        images = iter([one.record_id for one in keystore.find_records(run_id=RUN)])
        for size in map(int, entries.split(",")):
            _log(keystore, size, list(itertools.islice(images, releases)))


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


def _seal(keystore: Keystore, count: int, shard: int) -> int:
    """Bytes of the sealed records."""
    inbox, seconds, cpu, size = keystore.inbox(RUN, DATASET), 0.0, 0.0, 0
    for start in range(0, count, shard):
        made = [record(number) for number in range(start, min(start + shard, count))]
        begun, used = time.perf_counter(), time.process_time()
        sealer = Sealer(keystore.ingest_public_key, RUN, DATASET)
        sealed = [sealer.seal(one) for one in made]
        write_shard(inbox, f"part-{start:09d}", sealed)
        size += sum(map(len, sealed))
        seconds, cpu = seconds + time.perf_counter() - begun, cpu + time.process_time() - used
    typer.echo(
        f"sealed      {count / seconds:9.0f} records/s by one process    ({1e6 * cpu / count:.0f} us of CPU each)"
    )
    return size


def _database_bytes(keystore: Keystore) -> int:
    with keystore._database.read() as connection:
        pages, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
    return int(pages * size)


def _ingest(keystore: Keystore, processes: int, count: int) -> None:
    names = keystore.intake.pending()[RUN]
    begun, used = time.perf_counter(), time.process_time()
    here = keystore.ingest(RUN, names[::2]).ingested
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    typer.echo(
        f"ingested    {here / seconds:9.0f} records/s by this process    ({1e6 * cpu / here:.0f} us of CPU each)"
    )
    begun, used = time.perf_counter(), time.process_time()
    with _CpuOfOthers() as others:
        there = ingest_by_processes(keystore.path, None, RUN, names[1::2], processes).ingested
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    assert here + there == count, (here, there)
    busiest = max(cpu, others.total() / max(1, processes - 1))
    typer.echo(
        f"ingested    {there / seconds:9.0f} records/s by {processes} process(es), their start among it    "
        f"({cpu:.1f} s of CPU in this one, {others.total():.1f} s in others: {there / busiest:.0f} records/s on free cores)"
    )


class _CpuOfOthers:
    """CPU time of the processes below this one while a `with` statement lasts, looked at ten times a second."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "_CpuOfOthers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def total(self) -> float:
        """Seconds of all of them."""
        return sum(self._seconds.values())

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for pid in _below("self"):
                with suppress(OSError):  # it has ended
                    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    self._seconds[pid] = (int(times[11]) + int(times[12])) / TICKS


def _below(pid: int | str) -> Iterator[int]:
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listed.read_text().split()):
                yield child
                yield from _below(child)


def _release(keystore: Keystore, images: list[str]) -> list[float]:
    """Milliseconds of a release of each image."""
    requests = []
    for image in images:
        words = ("C-1", "measure how long a release takes", "benchmark 1/26")
        view = keystore.request("Alice", [image], *words, timedelta(hours=1))
        for name in ("Bob", "Carol"):
            keystore.approve(view.request_id, name, view.digest)
        requests.append(view.request_id)
    key = Recipient.generate().public_key
    return _time_each([lambda one=one: keystore.release(one, key, "Alice") for one in requests])  # type: ignore[misc]


def _log(keystore: Keystore, size: int, images: list[str]) -> None:
    _grow(keystore, size)
    append = statistics.median(_time_each([lambda: _append(keystore, 1)] * APPENDS))
    with ServedKeystore.open(keystore.path) as served:
        proof = statistics.median(_time_each([lambda: served.inclusion(size // 3)] * APPENDS))
        consistency = statistics.median(_time_each([lambda: served.consistency(size // 2)] * APPENDS))
    first, *others = _release(keystore, images)
    opened = statistics.median(_time_each([lambda: Keystore.open(keystore.path).close()] * 3))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, mebibytes, ok = pool.submit(_verify, keystore.path).result()
    assert ok
    typer.echo(
        f"log of      {_size(keystore):9d} entries: verified in {seconds:.1f} s with {mebibytes:.0f} MiB; "
        f"one more in {append:.1f} ms, proved in {proof:.1f} ms, consistency in {consistency:.1f} ms, "
        f"opened in {opened:.0f} ms, released in {first:.0f} ms, then in "
        f"{statistics.median(others):.0f} ms"
    )


def _grow(keystore: Keystore, size: int) -> None:
    while (missing := size - _size(keystore)) > 0:
        _append(keystore, min(missing, ENTRIES_PER_TRANSACTION))


def _size(keystore: Keystore) -> int:
    return open_checkpoint(keystore.checkpoint(), keystore.audit_vkey).size


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


def _time_each(works: list[Callable[[], object]]) -> list[float]:
    """Milliseconds of each of these."""
    milliseconds = []
    for work in works:
        begun = time.perf_counter()
        work()
        milliseconds.append(1000 * (time.perf_counter() - begun))
    return milliseconds


if __name__ == "__main__":
    typer.run(main)
