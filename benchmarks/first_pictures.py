"""How long it takes until a run's first pictures are visible, and what that costs: seconds, and CPU seconds by kind of process.

    python benchmarks/first_pictures.py --photos DIR [--limit 60] [--repeat 3] [--tree DIR,DIR]

A run is a `keyanon anonymize` of its own with the embedded prior, stopped when its first row shard is visible. Other work on
the machine stretches the seconds; the CPU seconds stay nearly as they are, and over the cores they are the least that a run can
take. --tree: folders with other versions of keyanon, run in turn.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Final

import typer
from scaling import cpu_seconds, descendants, title_of
from shared import photographs

LOOK_SECONDS: Final = 0.2
TOO_LONG_SECONDS: Final = 600.0
KINDS: Final = {
    "(AnonymizeFaces)": "anonymizing actors",
    "(DetectFaces)": "detecting actors",
    "keystore.keeper": "the keystore's process",
    "jobs.commands.cli": "driver",
    "ray::DashboardAgent": "Ray's own",
    "ray::RuntimeEnvAgent": "Ray's own",
    "ray::": "Ray's workers: counting, reading, writing",
    "default_worker": "Ray's workers: counting, reading, writing",
    "/ray/": "Ray's own",
}


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    limit: Annotated[int, typer.Option(help="Photographs at most, in order of name.")] = 60,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each version.")] = 3,
    tree: Annotated[str, typer.Option(help="Folders of versions, with commas; else this one.")] = "",
) -> None:
    """Measure and print."""
    trees = [Path(one).resolve() for one in tree.split(",") if one] or [Path(__file__).resolve().parent.parent]
    paths = photographs(photos, limit)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        for path in paths:
            shutil.copy(path, folder)
        for _ in range(repeat):
            for version in trees:
                _measure(version, folder, Path(tempfile.mkdtemp(dir=scratch)))


def _measure(version: Path, photos: Path, scratch: Path) -> None:
    """One run, ended once something is visible."""
    load, started = os.getloadavg()[0], time.monotonic()
    places = ["--output", str(scratch / "out"), "--keystore", str(scratch / "keystore")]
    with (scratch / "log").open("wb") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "jobs.commands.cli", "anonymize", str(photos), *places],
            cwd=version,  # which comes before PYTHONPATH: a checkout's own keyanon where this is run from one
            env={**os.environ, "PYTHONPATH": str(version)},
            stdout=log,
            stderr=log,
        )
    kinds: dict[int, str] = {}
    spent: dict[int, float] = {}
    try:
        while not any((scratch / "out" / "rows").glob("*.parquet")):
            if run.poll() is not None or time.monotonic() - started > TOO_LONG_SECONDS:
                raise SystemExit(f"the run published nothing: {(scratch / 'log').read_text(errors='replace')[-2000:]}")
            for process in descendants(run.pid):
                try:
                    title, spent[process] = title_of(process), cpu_seconds(process)
                except OSError:  # it ended meanwhile; what it took counts
                    continue
                kind = next((kind for part, kind in KINDS.items() if part in title), "others")
                if process not in kinds or (title and "ray::IDLE" not in title):  # as it is named between tasks
                    kinds[process] = kind
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - started
    finally:
        run.send_signal(signal.SIGINT)
        run.wait()
    counted = Counter(kinds.values())
    of_kinds = {kind: sum(cpu for process, cpu in spent.items() if kinds[process] == kind) for kind in counted}
    typer.echo(f"{version}: {seconds:.1f} s, {sum(spent.values()):.1f} CPU seconds, load {load:.1f} before")
    for kind, cpu in sorted(of_kinds.items(), key=lambda one: -one[1]):
        typer.echo(f"  {counted[kind]:3d}  {kind:44s} {cpu:6.1f}")


if __name__ == "__main__":
    typer.run(main)
