"""What restoring several pictures at a time gains, and where the rest goes: other processes' cores, or waits for each other.

    python benchmarks/recovery_workers.py --photos DIR [--limit 8] [--workers 1,2] [--threads 1]

`keyanon recover --workers N` solves N pictures at a time, in threads. Of each thread Linux tells how long it ran and how long it
was ready and had no core (`/proc/.../schedstat`); what remains of its time it was blocked: by the interpreter's lock, or a disk.
On free cores the pictures would have taken what it ran and was blocked.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from shared import photographs

from jobs.recovery import at_once
from keyanon_core.api import Keyanon
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import DEFAULT_FACE_BATCH, PictureResult
from keyanon_core.precision import STRICT, multiplying
from keyanon_core.priors import load_prior


@dataclass
class Spent:
    """Seconds of one thread."""

    whole: float = 0.0
    ran: float = 0.0
    ready: float = 0.0

    @property
    def blocked(self) -> float:
        return self.whole - self.ran - self.ready


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    limit: Annotated[int, typer.Option(min=1, help="Photographs, in order of name.")] = 8,
    workers: Annotated[str, typer.Option(help="How many at a time, with commas.")] = "1,2",
    threads: Annotated[int, typer.Option(min=1, help="Of torch, where it is one at a time.")] = 1,
) -> None:
    """Measure and print."""
    keyanon, made = Keyanon(), list[PictureResult]()
    for path in photographs(photos):
        done = keyanon.anonymize(path.read_bytes())
        made += [done] if done.key is not None else []
        if len(made) > limit:  # the first one warms up
            break
    prior = load_prior("embedded")
    prior.networks.physical_batch = DEFAULT_FACE_BATCH
    recoverer = PictureRecoverer(prior)
    torch.set_num_threads(threads)
    with multiplying(STRICT):
        _restore(recoverer, made[0])
        for count in (int(one) for one in workers.split(",")):
            _print(recoverer, made[1:], count)


def _print(recoverer: PictureRecoverer, pictures: Sequence[PictureResult], workers: int) -> None:
    threads: defaultdict[int, Spent] = defaultdict(Spent)

    def timed(picture: PictureResult) -> None:
        begun, before = time.monotonic(), _scheduled()
        _restore(recoverer, picture)
        spent, after = threads[threading.get_native_id()], _scheduled()
        spent.whole += time.monotonic() - begun
        spent.ran += after[0] - before[0]
        spent.ready += after[1] - before[1]

    begun, cpu = time.monotonic(), time.process_time()
    for _ in at_once(timed, pictures, workers):
        pass
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    free = max(spent.ran + spent.blocked for spent in threads.values())
    typer.echo(f"{len(pictures)} pictures, {workers} at a time: {seconds:.1f} s, on free cores {free:.1f} s")
    typer.echo(f"  CPU {cpu:.1f} s; load {os.getloadavg()[0]:.1f}")
    for spent in threads.values():
        typer.echo(
            f"  a thread ran {spent.ran:.1f} s, had no core {spent.ready:.1f} s, was blocked {spent.blocked:.1f} s"
        )


def _restore(recoverer: PictureRecoverer, picture: PictureResult) -> None:
    if picture.encoded is None or picture.sidecar is None or picture.key is None:
        raise ValueError("a picture without a key")
    recoverer.recover(picture.encoded, picture.sidecar, picture.key)


def _scheduled() -> tuple[float, float]:
    """Seconds that this thread ran, and that it was ready and waited for a core."""
    ran, ready, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return int(ran) / 1e9, int(ready) / 1e9


if __name__ == "__main__":
    typer.run(main)
