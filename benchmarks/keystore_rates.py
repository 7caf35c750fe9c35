"""How fast the keystore is: sealing and taking in records, releasing them, and its log as that grows.

    python benchmarks/keystore_rates.py [--records N] [--shard N] [--processes N] [--releases N] [--entries N,N] [--finished N,N]

It works in a temporary directory, with a KEK in a file, and prints

- sealed: records that one process seals in a second, with the shards written and synced, and CPU time of each;
- ingested: records that this process alone, and then with others, takes in from the inbox in a second, each half of them, with
  every log entry and the witness; CPU time of each in this process; CPU time of this process and of all that it starts, and what
  the busiest one's allows: records a second where each has a core of its own and nothing waits for a lock or a disk;
- stored: bytes of the database for each record, beside those that it was sealed in;
- for a log of so many entries: seconds and peak memory (RSS) of a process that verifies the keystore with its records;
  milliseconds to write one more entry, synced, with the witness moved on; to prove an entry's inclusion, and that the log
  extends what it was at half its size, each verified; to open the keystore; and to release one image, with the verification of
  the log that comes before it: the first one since, and the median of the others;
- filed: milliseconds, and those of CPU time, to file a request for 100 images by their image ids, the median of 5;
- for a keystore of so many finished requests for 1,000 images, each approved by two people and released, 100 an hour:
  milliseconds, and those of CPU time, to open it, to release one image (as above), and to show a request.
"""

import base64
import itertools
import logging
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Table, select

from keystore.audit.checkpoint import open_checkpoint
from keystore.audit.log import LogWriter
from keystore.crypto.canonical import timestamp
from keystore.decisions import people, signatures, stored_policy
from keystore.decisions.content import Words, request_digest
from keystore.embedded import Keystore
from keystore.ingest_processes import ingest_by_processes
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import Sealer
from keystore.intake.shards import write_shard
from keystore.recipient import Recipient
from keystore.served import ServedKeystore
from keystore.storage import schema
from keystore.storage.bulk import insert_many
from keystore.vault.keyring import APPROVER_KIND
from keystore.vault.records import ImageRow
from keystore.verification.verify import verify_audit

RUN, DATASET = "run-1", "photos"
ENTRIES_PER_TRANSACTION = 10_000
REQUESTS_AN_HOUR = 100
IMAGES_ASKED_FOR, FILINGS = 100, 5
APPENDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def main(
    records: Annotated[int, typer.Option(help="Records to seal and to take in.")] = 100_000,
    shard: Annotated[int, typer.Option(help="Records in a shard.")] = 2_000,
    processes: Annotated[int, typer.Option(help="Processes that take in.")] = 2,
    releases: Annotated[int, typer.Option(help="Releases to time at each size of the log; 2 at least.")] = 10,
    entries: Annotated[str, typer.Option(help="Sizes of the log, separated by commas.")] = "1000,100000",
    finished: Annotated[str, typer.Option(help="Numbers of finished requests, separated by commas.")] = "",
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
        for size in map(int, filter(None, entries.split(","))):
            _log(keystore, size, list(itertools.islice(images, releases)))
        _file(keystore, records)
    for count in map(int, filter(None, finished.split(","))):
        with tempfile.TemporaryDirectory() as directory:
            _finished(Path(directory) / "ks", count, releases)


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
    requests = [_ask(keystore, image) for image in images]
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


def _file(keystore: Keystore, count: int) -> None:
    apart = max(1, count // IMAGES_ASKED_FOR)
    asked = [record(number).image_id for number in range(0, count, apart)][:IMAGES_ASKED_FOR]
    words = ("C-1", "measure how long a filing takes", "own-data: benchmark 1/26", timedelta(hours=1))
    taken = _each([lambda: keystore.request("Alice", asked, *words)] * FILINGS)
    typer.echo(f"filed       a request for {len(asked)} of {count} images in {_said(taken)}")


def _finished(path: Path, count: int, releases: int) -> None:
    hours = -(-count // REQUESTS_AN_HOUR)
    begin = datetime.now(UTC) - timedelta(hours=hours + 2)  # it ends two hours ago
    passed = [0]
    with Keystore.create(path, clock=lambda: begin + timedelta(hours=passed[0])) as keystore:
        sealer = Sealer(keystore.ingest_public_key, RUN, DATASET)
        write_shard(keystore.inbox(RUN, DATASET), "part", [sealer.seal(record(number)) for number in range(1000)])
        keystore.ingest(RUN)
        images = [(one.record_id, one.dataset, one.image_id) for one in keystore.find_records(run_id=RUN)]
        keystore._ledger._milestone_at = 10 * count + 1000  # else each of its transactions would set one
        for passed[0], start in enumerate(range(0, count, REQUESTS_AN_HOUR)):
            asked = range(start, min(count, start + REQUESTS_AN_HOUR))
            _finish(keystore, [images[number % len(images)] for number in asked])
    with Keystore.open(path):
        pass  # which sets a milestone
    opened = _each([lambda: Keystore.open(path).close()] * 3)
    with Keystore.open(path) as keystore:
        requests = [_ask(keystore, images[0][0]) for _ in range(releases)]
        key = Recipient.generate().public_key
        first, *others = [_each([lambda one=one: keystore.release(one, key, "Alice")]) for one in requests]  # type: ignore[misc]
        shown = _each([lambda: keystore.show(requests[0])] * 5)
        size = _size(keystore)
    then = statistics.median(wall for wall, _ in others), statistics.median(cpu for _, cpu in others)
    typer.echo(
        f"finished    {count:9d} requests ({size} entries): opened in {_said(opened)}; released in {_said(first)}, "
        f"then in {_said(then)}; one shown in {_said(shown)}"
    )


def _finish(keystore: Keystore, images: Sequence[ImageRow]) -> None:
    """A request for each of these images, approved and released; nothing is sealed."""
    desk, made = keystore._desk, dict[Table, list[dict[str, object]]]()
    words = Words("C-1", "measure how long a release takes", "own-data: benchmark 1/26")
    with keystore._ledger.transaction("benchmark", None, None) as (connection, log):
        policy, now = stored_policy.read(connection), timestamp(log.now)
        alice, bob, carol = (keystore._people.find_or_add(connection, name) for name in ("Alice", "Bob", "Carol"))
        keys = {person: _kept_key(keystore, connection, log, person) for person in (bob, carol)}
        for record_id, dataset, image_id in images:
            row = desk._new_row(log, policy, alice, words, timedelta(minutes=30), os.urandom(32).hex())
            row |= {"digest": request_digest(keystore.id, row, [(record_id, dataset, image_id)]), "state": "released"}
            of = {"request_id": str(row["request_id"]), "digest": str(row["digest"])}
            told = {"request": of["request_id"], "digest": of["digest"]}
            grant, until = {"grant_id": str(uuid4())}, {"expires_at": row["expires_at"]}
            desk._log_content(log, "request", row, alice, 1)
            image = {"request_id": row["request_id"], "record_id": record_id, "dataset": dataset, "image_id": image_id}
            rows: list[tuple[Table, dict[str, object]]] = [(schema.requests, row), (schema.request_images, image)]
            for person, key in keys.items():
                signature = key.sign(
                    signatures.approval_message(keystore.id, of["request_id"], of["digest"], person, now)
                )
                rows.append((schema.approvals, {**of, "approver": person, "signature": signature, "approved_at": now}))
                log.append("approve", approver=person, signature=base64.b64encode(signature).decode(), **told)
            rows.append((schema.grants, {**grant, **of, "created_at": now, **until}))
            log.append("grant", grant=grant["grant_id"], **until, **told)
            used = {"recipient": "0" * 64}
            rows.append((schema.releases, {**grant, **used, "released_at": now}))
            log.append("release", by=alice, grant=grant["grant_id"], records=1, sealed_sha256="0" * 64, **used, **told)
            for table, one in rows:
                made.setdefault(table, []).append(one)
        for table, several in made.items():
            insert_many(connection, table, several)


def _kept_key(keystore: Keystore, connection: Connection, log: LogWriter, person: str) -> Ed25519PrivateKey:
    people.sign_as(connection, keystore._keys.keyring, log, person, b"")  # makes it, at first
    row = connection.execute(select(schema.people).where(schema.people.c.person == person)).one()
    secret = keystore._keys.keyring.unwrap(connection, row.epoch_id, row.wrapped, APPROVER_KIND, person)
    return Ed25519PrivateKey.from_private_bytes(secret)


def _ask(keystore: Keystore, image: str) -> str:
    words = ("C-1", "measure how long a release takes", "own-data: benchmark 1/26")
    view = keystore.request("Alice", [image], *words, timedelta(hours=1))
    for name in ("Bob", "Carol"):
        keystore.approve(view.request_id, name, view.digest)
    return view.request_id


def _each(works: list[Callable[[], object]]) -> tuple[float, float]:
    """Median milliseconds of these, and of this process's CPU time."""
    wall, cpu = [], []
    for work in works:
        begun, used = time.perf_counter(), time.process_time()
        work()
        wall.append(1000 * (time.perf_counter() - begun))
        cpu.append(1000 * (time.process_time() - used))
    return statistics.median(wall), statistics.median(cpu)


def _said(taken: tuple[float, float]) -> str:
    return f"{taken[0]:.0f} ms ({taken[1]:.0f} ms of CPU)"


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
