"""What a run costs besides computing: throughput over so many actors, CPU milliseconds a picture, memory by the input's size.

    python benchmarks/scaling.py [--photo FILE] [--ms 400] [--seconds 60] [--actors 1,2,4,8] [--detectors 0]
    python benchmarks/scaling.py --tables memory [--pictures 500] [--times 1,4,16] [--group-mib 16,320]

Everything is a run's own but the computing: each actor anonymizes one photograph once and then sleeps `ms` for each picture,
whose result is that one's under a key of its own; the detector sleeps a tenth of that. So what is read, sealed, written, taken
in by the keystore and settled has the size of a real run. After its first block an actor waits until the others have done theirs,
and none is still loading. Throughput counts while all work: from when a shard of each is visible until the last one of any is.
Of each actor it is the pictures of its shards after the first one over the time between them; the sum is the run's.
A machine carries more sleepers than workers: where all its cores are busy with the rest, more of them do not help. `cores` says
how many this run kept busy, `all` how many anybody did. A picture takes 15 to 25 CPU milliseconds beside its sleep, so that 8
actors which sleep 400 ms, 20 pictures a second, need half a core; at 100 ms they would need two.
Memory is what each process holds of its own (RssAnon), at most, looked at four times a second.
"""

import os
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import Process
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
import typer

import jobs.run.anonymize
from jobs.blocks import ROW
from jobs.config import AnonymizeConfig
from jobs.run.anonymize_stage import AnonymizeFaces
from jobs.run.cluster import ray_cluster
from jobs.run.detect_stage import Asked, DetectFaces, Found
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.pictures.settings import PictureResult, PictureTask

DETECTORS_SHARE = 0.1  # of the anonymizer's sleep
LOOK_SECONDS = 0.25
LEAST_SHARDS = 4  # of an actor, between which its rate is one
ROWS_SUFFIX = ".rows"
TICKS = os.sysconf("SC_CLK_TCK")
KINDS = {"SleepingFaces": "anonymizing actors", "SleepingDetector": "detecting actors", "ray::": "reading and writing"}


def main(
    photo: Annotated[
        Path | None, typer.Option(help="A photograph with a face; else one that ships in scikit-image.")
    ] = None,
    tables: Annotated[str, typer.Option(help="Which of actors, memory; with commas.")] = "actors",
    ms: Annotated[float, typer.Option(help="Milliseconds that an actor sleeps for a picture.")] = 400.0,
    seconds: Annotated[float, typer.Option(help="How long each run of the table of actors sleeps.")] = 60.0,
    actors: Annotated[str, typer.Option(help="Numbers of anonymizing actors, with commas.")] = "1,2,4,8",
    detectors: Annotated[str, typer.Option(help="Numbers of detecting actors; 0 is a run's own.")] = "0",
    pictures: Annotated[int, typer.Option(help="Pictures of the smallest input of the table of memory.")] = 500,
    times: Annotated[str, typer.Option(help="So many times as many pictures, with commas.")] = "1,4,16",
    group_mib: Annotated[str, typer.Option(help="Sizes of one Parquet row group, with commas.")] = "16,320",
) -> None:
    """Measure and print."""
    encoded = photo.read_bytes() if photo is not None else astronaut_jpeg()
    if "actors" in tables.split(","):
        pairs = [(int(one), int(beside)) for one in actors.split(",") for beside in detectors.split(",")]
        _print_actors(encoded, ms, seconds, pairs)
    if "memory" in tables.split(","):
        _print_memory(
            encoded, pictures, [int(one) for one in times.split(",")], [int(one) for one in group_mib.split(",")]
        )


def _print_actors(encoded: bytes, ms: float, seconds: float, actors: Sequence[tuple[int, int]]) -> None:
    typer.echo(
        f"{usable_cpus()} cores, load {os.getloadavg()[0]:.1f}; a picture of {len(encoded) / 1024:.0f} KiB sleeps {ms:g} ms"
    )
    typer.echo("actors  detecting  pictures  pictures/s  of sleep alone  of linear  cores   all  CPU ms a picture")
    linear: float | None = None  # pictures a second of an actor, by the first run
    for count, detecting in actors:
        with tempfile.TemporaryDirectory() as scratch:
            _fill_folder(Path(scratch) / "photos", encoded, int(count * seconds * 1000 / ms))
            run = _run(Path(scratch), ms, count, detecting)
        linear = linear or run.rate / count
        typer.echo(
            f"{count:6d}  {detecting or 'own':>9}  {run.pictures:8d}  {run.rate:10.2f}  {run.rate * ms / 1000 / count:14.3f}"
            f"  {run.rate / count / linear:9.3f}  {run.cores:5.2f}  {run.cores_of_all:4.2f}"
            f"  {1000 * sum(run.cpu.values()) / run.pictures:16.2f}"
        )
        for kind, spent in sorted(run.cpu.items(), key=lambda one: -one[1]):
            typer.echo(f"        {kind:32s} {1000 * spent / run.pictures:8.2f}")


def _print_memory(encoded: bytes, pictures: int, times: Sequence[int], group_mib: Sequence[int]) -> None:
    inputs = [(f"{count * pictures} files", count * pictures, 0) for count in times]
    inputs += [(f"row groups of {mib} MiB", (mib << 20) // len(encoded), mib) for mib in group_mib]
    typer.echo("MiB of their own that processes held, at most (of several, the largest)")
    for name, count, of_group in inputs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "photos"
            if of_group:
                folder.mkdir()
                writer = Process(target=_write_group, args=(folder / "one-group.parquet", encoded, count))
                writer.start()  # what it takes to write is not the driver's
                writer.join()
            else:
                _fill_folder(folder, encoded, count)
            watch = _watched(Path(scratch), 0.0, 1)
        peaks = ", ".join(f"{kind} {peak / 1024:.0f}" for kind, peak in sorted(watch.peaks.items()))
        typer.echo(f"  {name:24s} {peaks}")


def _write_group(path: Path, encoded: bytes, count: int) -> None:
    """Pages of 16 pictures: whoever writes them chooses, and a page is held whole."""
    table = pa.table({"image": pa.array([encoded] * count, pa.large_binary())})
    pq.write_table(table, path, row_group_size=count, write_batch_size=16, use_dictionary=False)


@dataclass(frozen=True)
class Look:
    """What was seen at one time: fresh shards, as rows of each. cpu: seconds so far by kind of process; cpu_of_all: of the whole
    machine."""

    time: float
    shards: list[frozenset[int]]
    cpu: dict[str, float]
    cpu_of_all: float


@dataclass(frozen=True)
class Measured:
    """While all actors worked: pictures that became visible, and how many a second; busy cores, by this run's processes and by
    all of the machine's; CPU seconds by kind of process."""

    pictures: int
    rate: float
    cores: float
    cores_of_all: float
    cpu: dict[str, float]


def _run(scratch: Path, ms: float, actors: int, detecting: int = 0) -> Measured:
    """One run, watched."""
    watch = _watched(scratch, ms, actors, detecting)
    return watch.measured([set(map(int, path.read_text().split())) for path in scratch.glob(f"*{ROWS_SUFFIX}")])


def _watched(scratch: Path, ms: float, actors: int, detecting: int = 0) -> "Watch":
    places = {"photos": str(scratch / "photos"), "output": str(scratch / "out"), "keystore": str(scratch / "keystore")}
    layout = {"anonymizer_actors": actors, "threads_per_actor": 1, "device": "cpu", "pictures_per_task": 16}
    config = AnonymizeConfig.model_validate({**places, **layout, "detector_actors": detecting})
    with sleeping(ms / 1000, scratch, actors), ray_cluster(actors + 1), Watch(scratch / "out" / "rows") as watch:
        jobs.run.anonymize.run_anonymize(config)
    return watch


@contextmanager
def sleeping(seconds: float, scratch: Path | None = None, actors: int = 1) -> Iterator[None]:
    """Runs compute by sleeping. scratch: a folder in which each actor writes down a row of each of its blocks. actors: so many do
    their first block before any does its second."""

    class Sleeper:
        """Anonymizes the first picture that it sees, and takes its result for that of all others."""

        def __init__(self, anonymizer: Any) -> None:
            self.anonymizer, self.result = anonymizer, PictureResult("", "quarantined")

        def __call__(self, tasks: Sequence[PictureTask]) -> list[PictureResult]:
            if self.anonymizer is not None:
                (self.result,) = self.anonymizer([replace(tasks[0], faces=None)])
                if self.result.key is None:
                    raise SystemExit(f"the photograph was not anonymized: {self.result.reason}")
                self.anonymizer = None
            time.sleep(seconds * len(tasks))
            return [self._named(task.image_id) for task in tasks]

        def _named(self, name: str) -> PictureResult:
            assert self.result.key is not None
            key = replace(self.result.key, image_key=os.urandom(32), record_id=str(uuid.uuid4()), image_id=name)
            return replace(self.result, image_id=name, key=key)

    class SleepingFaces(AnonymizeFaces):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            setattr(self, "anonymizer", Sleeper(self.anonymizer))  # noqa: B010  of another type

        def __call__(self, table: pa.Table) -> pa.Table:
            if scratch is None:
                return super().__call__(table)
            own = scratch / f"{os.getpid()}{ROWS_SUFFIX}"
            while own.exists() and len(list(scratch.glob(f"*{ROWS_SUFFIX}"))) < actors:
                time.sleep(LOOK_SECONDS)
            made = super().__call__(table)
            with own.open("a") as rows:
                rows.write(f"{table.column(ROW)[0]}\n")
            return made

    class SleepingDetector(DetectFaces):
        def _detect(self, pictures: Sequence[Asked]) -> list[Found]:
            time.sleep(DETECTORS_SHARE * seconds * len(pictures))
            self.found = getattr(self, "found", None) or super()._detect(pictures[:1])[0]
            return [self.found] * len(pictures)

    with (
        patch.object(jobs.run.anonymize, "AnonymizeFaces", SleepingFaces),
        patch.object(jobs.run.anonymize, "DetectFaces", SleepingDetector),
    ):
        yield


class Watch:
    """Looks at the processes of this one and of all that it started. peaks: memory of its own, KiB, of the largest of a kind."""

    def __init__(self, rows: Path) -> None:
        """rows: where the row shards of the run appear."""
        self.rows, self.looks, self.peaks = rows, list[Look](), Counter[str]()
        self.kinds: dict[int, str] = {}
        self.shards: set[Path] = set()
        self.done = threading.Event()
        self.looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self.looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.looking.join()

    def _look(self) -> None:
        while not self.done.wait(LOOK_SECONDS):
            cpu = self._processes()
            if fresh := set(self.rows.glob("*.parquet")) - self.shards:
                self.shards |= fresh
                rows = [frozenset(pq.read_table(path, columns=["row"])["row"].to_pylist()) for path in fresh]
                self.looks.append(Look(time.monotonic(), rows, cpu, cpu_seconds_of_all()))

    def _processes(self) -> dict[str, float]:
        """CPU seconds by kind so far; the peaks of memory are kept."""
        cpu: dict[str, float] = {}
        for pid in descendants(os.getpid()):
            try:
                title, spent = title_of(pid), cpu_seconds(pid)
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            kind = self.kinds.get(pid) if title.startswith("ray::IDLE") else None
            kind = kind or _kind(pid, title)
            self.kinds[pid] = kind
            cpu[kind] = cpu.get(kind, 0.0) + spent
            own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
            self.peaks[kind] = max(self.peaks[kind], own)
        return cpu

    def measured(self, actors: Sequence[set[int]]) -> Measured:
        """actors: a row of each block that each of them did."""
        seen = [
            [(look.time, len(rows)) for look in self.looks for rows in look.shards if rows & actor] for actor in actors
        ]
        begin, end = max(shards[0][0] for shards in seen), min(shards[-1][0] for shards in seen)
        within = [[(at, rows) for at, rows in shards if begin <= at <= end] for shards in seen]
        if min(map(len, within)) < LEAST_SHARDS:
            raise SystemExit("the actors hardly worked at the same time; let the runs sleep for longer")
        rate = sum(sum(rows for _, rows in shards[1:]) / (shards[-1][0] - shards[0][0]) for shards in within)
        looks = [look for look in self.looks if begin <= look.time <= end]
        first, last = looks[0], looks[-1]
        seconds, pictures = last.time - first.time, sum(len(rows) for look in looks[1:] for rows in look.shards)
        cpu = {kind: spent - first.cpu.get(kind, 0.0) for kind, spent in last.cpu.items()}
        of_all = (last.cpu_of_all - first.cpu_of_all) / seconds
        return Measured(pictures, rate, sum(cpu.values()) / seconds, of_all, cpu)


def _kind(pid: int, title: str) -> str:
    if pid == os.getpid():
        return "driver"
    for part, kind in KINDS.items():
        if part in title:
            return kind
    return "Ray's own" if "/ray/" in title else "the keystore's process"


def title_of(pid: int) -> str:
    """How a process calls itself. Raises OSError when it has ended."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def cpu_seconds(pid: int) -> float:
    """What a process has taken so far. Raises OSError when it has ended."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / TICKS


def cpu_seconds_of_all() -> float:
    """What all processes of the machine have taken since it started (proc(5), /proc/stat)."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def descendants(root: int) -> list[int]:
    """A process and all that it started, and those."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(path.name))
    found, left = [], [root]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def _fill_folder(folder: Path, encoded: bytes, count: int) -> None:
    """The photograph under so many names: one file of the disk, so that it costs none."""
    folder.mkdir()
    (folder / "000000.jpg").write_bytes(encoded)
    for number in range(1, count):
        os.link(folder / "000000.jpg", folder / f"{number:06d}.jpg")


def astronaut_jpeg() -> bytes:
    written, encoded = cv2.imencode(".jpg", cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR))
    if not written:
        raise SystemExit("OpenCV wrote no JPEG")
    return encoded.tobytes()


if __name__ == "__main__":
    typer.run(main)
