"""What a run costs besides computing: throughput over so many actors, CPU milliseconds a picture, memory by the input's size.

    python benchmarks/scaling.py [--photo FILE] [--ms 100] [--seconds 30] [--actors 1,2,4,8] [--detectors 0]
    python benchmarks/scaling.py --tables memory [--pictures 500] [--times 1,4,16] [--group-mib 16,320]

Everything is a run's own but the computing: each actor anonymizes one photograph once and then sleeps `ms` for each picture,
whose result is that one's under a key of its own; the detector sleeps a tenth of that. So what is read, sealed, written, taken
in by the keystore and settled has the size of a real run. Throughput counts from the first shard that is visible to the last one.
A machine carries more sleepers than workers: where all its cores are busy with the rest, more of them do not help, and `cores`
says how many were.
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
from dataclasses import dataclass, field, replace
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
from jobs.config import AnonymizeConfig
from jobs.run.anonymize_stage import AnonymizeFaces
from jobs.run.cluster import ray_cluster
from jobs.run.detect_stage import Asked, DetectFaces, Found
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.pictures.settings import PictureResult, PictureTask

DETECTORS_SHARE = 0.1  # of the anonymizer's sleep
LOOK_SECONDS = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
KINDS = {"SleepingFaces": "anonymizing actors", "SleepingDetector": "detecting actors", "ray::": "reading and writing"}


def main(
    photo: Annotated[
        Path | None, typer.Option(help="A photograph with a face; else one that ships in scikit-image.")
    ] = None,
    tables: Annotated[str, typer.Option(help="Which of actors, memory; with commas.")] = "actors",
    ms: Annotated[float, typer.Option(help="Milliseconds that an actor sleeps for a picture.")] = 100.0,
    seconds: Annotated[float, typer.Option(help="How long each run of the table of actors sleeps.")] = 30.0,
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
    typer.echo("actors  detecting  pictures  pictures/s  of what they would do alone  cores  CPU ms a picture")
    for count, detecting in actors:
        with tempfile.TemporaryDirectory() as scratch:
            wanted = int(count * seconds * 1000 / ms)
            _fill_folder(Path(scratch) / "photos", encoded, wanted)
            run = _run(Path(scratch), ms, count, detecting)
        alone = count * 1000 / ms
        cpu = sum(run.cpu.values())
        typer.echo(
            f"{count:6d}  {detecting or 'own':>9}  {wanted:8d}  {run.rate:10.1f}  {run.rate / alone:27.3f}  {run.cores:5.2f}"
            f"  {1000 * cpu / wanted:16.2f}"
        )
        for kind, spent in sorted(run.cpu.items(), key=lambda one: -one[1]):
            typer.echo(f"        {kind:32s} {1000 * spent / wanted:8.2f}")


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
            run = _run(Path(scratch), 0.0, 1)
        peaks = ", ".join(f"{kind} {peak / 1024:.0f}" for kind, peak in sorted(run.peak_kib.items()))
        typer.echo(f"  {name:24s} {peaks}")


def _write_group(path: Path, encoded: bytes, count: int) -> None:
    """Pages of 16 pictures: whoever writes them chooses, and a page is held whole."""
    table = pa.table({"image": pa.array([encoded] * count, pa.large_binary())})
    pq.write_table(table, path, row_group_size=count, write_batch_size=16, use_dictionary=False)


@dataclass
class Measured:
    """rate: pictures a second between the first shard and the last; cores: busy ones meanwhile, of all this run's processes.
    cpu: seconds by kind of process, without what it took to start. peak_kib: memory of its own, of the largest of a kind.
    """

    rate: float = 0.0
    cores: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    peak_kib: dict[str, int] = field(default_factory=dict)


def _run(scratch: Path, ms: float, actors: int, detecting: int = 0) -> Measured:
    """One run, watched."""
    places = {"photos": str(scratch / "photos"), "output": str(scratch / "out"), "keystore": str(scratch / "keystore")}
    layout = {"anonymizer_actors": actors, "threads_per_actor": 1, "device": "cpu", "pictures_per_task": 16}
    config = AnonymizeConfig.model_validate({**places, **layout, "detector_actors": detecting})
    with sleeping(ms / 1000), ray_cluster(actors + 1), Watch(scratch / "out" / "rows") as watch:
        jobs.run.anonymize.run_anonymize(config)
    return watch.measured()


@contextmanager
def sleeping(seconds: float) -> Iterator[None]:
    """Runs compute by sleeping."""

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
    """Looks at the processes of this one and of all that it started."""

    def __init__(self, rows: Path) -> None:
        self.rows, self.done = rows, threading.Event()
        self.first: tuple[float, dict[str, float]] | None = None
        self.last: tuple[float, dict[str, float]] = (0.0, {})
        self.shards, self.peaks, self.kinds = 0, Counter[str](), dict[int, str]()
        self.pictures = 0
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
            shards = len(list(self.rows.glob("*.parquet"))) if self.rows.exists() else 0
            if shards and self.first is None:
                self.first, self.pictures = (time.monotonic(), cpu), self._rows()
            if shards > self.shards:
                self.shards, self.last = shards, (time.monotonic(), cpu)

    def _rows(self) -> int:
        return sum(pq.read_metadata(path).num_rows for path in self.rows.glob("*.parquet"))

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

    def measured(self) -> Measured:
        if self.first is None:
            raise SystemExit("the run published nothing")
        (began, before), (ended, after) = self.first, self.last
        rows, seconds = self._rows() - self.pictures, max(ended - began, LOOK_SECONDS)
        cpu = {kind: spent - before.get(kind, 0.0) for kind, spent in after.items()}
        share = (rows + self.pictures) / max(rows, 1)  # what was spent on these rows, for all
        return Measured(
            rows / seconds,
            sum(cpu.values()) / seconds,
            {kind: spent * share for kind, spent in cpu.items()},
            dict(self.peaks),
        )


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
