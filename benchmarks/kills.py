"""What is left of a run whose processes are killed at random moments: every row once, every picture recoverable?

    python benchmarks/kills.py --photos DIR [--pictures 2000] [--kills 20] [--seed 1] [--per-shard 100] [--embedded-prior]

A real S3 server on this machine, a Ray cluster of several nodes, `keyanon anonymize` with a public key and an inbox in a bucket,
`keyanon keystore ingest --follow`. SIGKILL meets, in a random order, the driver, an anonymizing or detecting actor, the process
of a write task, a whole node (another one comes), the S3 server (started again on what it held) and ingest (started again).
When the driver was killed, or ended with 75, the same command is run again. Kills are spread over the run by rows that are
visible, and wait at random up to two seconds more.

The photographs lie in a folder of the bucket, or with --per-shard in tar shards there.

The prior sleeps and leaves faces grey, one step, lossless; detectors, gate and all else are real. With --embedded-prior it is
the embedded one, with the command's own defaults.

Computed rows are counted where they are computed: each anonymizing process writes down the rows of a batch when it is done with
them. What an attempt computes of rows that were visible when it began is computed again; what else was computed more than once
was lost by a kill before it was visible. The exit status is 1 when a claim fails.
"""

import io
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from kills_claims import Claim, claims
from kills_scene import POLL_SECONDS, VICTIMS, Scene
from rich.console import Console
from rich.table import Table
from shared import photographs

from jobs.errors import JobError

QUICK = ("--steps", "1", "--fidelity", "lossless", "--gate-threshold", "0.1")
LAST_SHARE = 0.8  # of the pictures, that may be visible when the last kill is due
MORE_SECONDS = 2.0  # at most, that a kill waits beyond
RECOVERED = 5  # pictures that are asked for, approved and restored


@dataclass
class Kill:
    """rows: visible ones at which it is due, then so many at which it was made. became: what came of it."""

    victim: str
    rows: int
    pid: int | None = None
    seconds: float = 0.0
    attempt: int = 0
    became: str = ""

    def watch(self, scene: Scene, rows: int, seconds: float) -> None:
        """Say what came of it as soon as that is known."""
        if self.pid is None or self.became.endswith("visible"):
            return
        ended = scene.attempts[self.attempt - 1]
        if not self.became and ended.ended is not None:
            said = f" ({ended.said})" if ended.ended > 0 else ""
            self.became = f"attempt {self.attempt} ended with {ended.ended}{said}"
        if rows > self.rows:
            last = scene.attempts[-1].number
            who = f"attempt {last} went on" if last > self.attempt else "the same attempt went on"
            self.became = (
                f"{self.became + '; ' if self.became else ''}{who}: {seconds - self.seconds:.0f} s to more rows visible"
            )


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    pictures: Annotated[int, typer.Option(min=1, help="Photographs; repeated where there are fewer.")] = 2000,
    kills: Annotated[int, typer.Option(min=0, help="How many.")] = 20,
    seed: Annotated[int, typer.Option(help="Of victims and moments.")] = 1,
    embedded_prior: Annotated[bool, typer.Option("--embedded-prior", help="Instead of the sleeping one.")] = False,
    ms: Annotated[float, typer.Option(help="Milliseconds that the sleeping prior takes for a face.")] = 1.0,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes with CPUs; the head has none.")] = 4,
    actors: Annotated[int, typer.Option(min=1, help="Anonymizing processes.")] = 3,
    detectors: Annotated[int, typer.Option(min=1, help="Detecting processes.")] = 2,
    per_task: Annotated[int, typer.Option(min=1, help="Pictures of a task, which is a segment too.")] = 8,
    per_shard: Annotated[int, typer.Option(min=0, help="Pictures of a tar shard; 0: they lie in a folder.")] = 0,
    away: Annotated[float, typer.Option(help="Seconds, at most, before the killed server is started again.")] = 5.0,
    scratch: Annotated[Path | None, typer.Option(help="A new folder for all that is written; kept.")] = None,
) -> None:
    """Run, kill, check, print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = scratch or Path(temporary)
        folder.mkdir(exist_ok=True)
        layout = {
            "anonymizer-actors": actors,
            "detector-actors": detectors,
            "threads-per-actor": 1,
            "cpus-per-actor": 1,
        }
        layout |= {"pictures-per-task": per_task}
        options = [*(() if embedded_prior else QUICK), *(f"--{name}={value}" for name, value in layout.items())]
        with Scene(folder, nodes, options, "-" if embedded_prior else str(ms), seed, away) as scene:
            sources = _put_photographs(scene, photos, pictures, per_shard)
            began = time.monotonic()
            made = _run(scene, _planned(kills, pictures, seed), began)
            seconds = time.monotonic() - began
            scene.end_ingest()
            _print_kills(made, scene, seconds)
            found = [
                Claim(
                    "every kill was made",
                    all(kill.pid for kill in made),
                    f"{sum(kill.pid is not None for kill in made)}",
                ),
                *claims(scene, sources, RECOVERED, exact=not embedded_prior),
            ]
    for claim in found:
        typer.echo(f"{'ok  ' if claim.holds else 'FAIL'} {claim.name}: {claim.found}")
    sys.exit(0 if all(claim.holds for claim in found) else 1)


def _put_photographs(scene: Scene, photos: Path, count: int, per_shard: int) -> dict[str, bytes]:
    """Pictures by their ids, in the bucket: each an object, or so many in a tar shard."""
    paths = photographs(photos)
    repeated = -(-count // len(paths))
    if repeated > 1:
        typer.echo(f"{len(paths)} photographs, each up to {repeated} times under other names, {count} in all")
    named = ((f"{copy:03d}/{path.name}", path) for copy in range(repeated) for path in paths)
    sources = {name: path.read_bytes() for name, path in islice(named, count)}
    if not per_shard:
        for name, content in sources.items():
            scene.server.put(f"photos/{name}", content)
        return sources
    in_shards: dict[str, bytes] = {}
    for first in range(0, count, per_shard):
        members = [*islice(sources.items(), first, first + per_shard)]
        shard = f"{first:06d}.tar"
        scene.server.put(f"photos/{shard}", _tar(members))
        in_shards |= {f"{shard}/{name}": content for name, content in members}
    return in_shards


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as shard:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _planned(kills: int, pictures: int, seed: int) -> list[Kill]:
    """Each kind about equally often, in a random order, spread over the run at random."""
    chance = random.Random(seed)
    victims = [*islice(_shuffles(chance), kills)]
    return [
        Kill(victim, int(chance.uniform(at, at + 1) / max(kills, 1) * LAST_SHARE * pictures))
        for at, victim in enumerate(victims)
    ]


def _shuffles(chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(VICTIMS, len(VICTIMS))


def _run(scene: Scene, planned: list[Kill], began: float) -> list[Kill]:
    """The run to its end, with the kills; those whose pid is None were not made."""
    scene.begin()
    due = list(planned)
    while not scene.tend():
        rows = _visible(scene)
        seconds = time.monotonic() - began
        for kill in planned:
            kill.watch(scene, rows, seconds)
        if due and rows >= due[0].rows:
            kill = due.pop(0)
            time.sleep(scene.chance.uniform(0, MORE_SECONDS))
            if scene.tend():
                break
            kill.attempt, kill.rows = scene.attempts[-1].number, _visible(scene)
            kill.pid, kill.seconds = scene.kill(kill.victim), time.monotonic() - began
            typer.echo(
                f"{kill.seconds:6.0f} s: {kill.rows} rows visible, attempt {kill.attempt}: {kill.victim} killed",
                err=True,
            )
        time.sleep(POLL_SECONDS)
    rows = _visible(scene)
    for kill in planned:
        kill.watch(scene, rows, time.monotonic() - began)
    return planned


def _visible(scene: Scene) -> int:
    try:
        return len(scene.visible())
    except (JobError, OSError):  # the server is away
        return 0


def _print_kills(made: list[Kill], scene: Scene, seconds: float) -> None:
    table = Table("kill", "second", "victim", "attempt", "rows visible", "what became of it")
    for number, kill in enumerate(made, 1):
        values = (number, f"{kill.seconds:.0f}", kill.victim, kill.attempt, kill.rows, kill.became or "-")
        table.add_row(*map(str, values if kill.pid is not None else (number, "-", kill.victim, "-", "-", "not made")))
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(table)
    typer.echo(buffer.getvalue())
    ended = Counter(attempt.ended for attempt in scene.attempts)
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(ended.items(), key=str))
    typer.echo(
        f"{len(scene.attempts)} attempts in {seconds:.0f} s, ended: {codes}; ingest ended {Counter(scene.ingests)}"
    )


if __name__ == "__main__":
    typer.run(main)
