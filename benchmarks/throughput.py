"""What the job adds to the denoiser: faces per second of a whole run over those of the bare denoiser, and where the rest goes.

    python benchmarks/throughput.py --photos DIR [--limit 150] [--repeat 18] [--actors 0] [--threads 0] [--batch 0]

Both are measured in one process on the same machine, the bare denoiser before and after the run, at the evaluations of one key
and at the same batch. The run counts from the first picture read to the report written, the start of Ray not, but the actors'
loading and their try of the way back. The gate asks for further keys, and what they cost is the run's: the parts say how many
evaluations a face took. Short runs measure the loading.
The parts are measured in this process, one after the other, on one thread; their sum is CPU work, which a run spreads over cores.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
import typer
from shared import photographs

from jobs.config import AnonymizeConfig
from jobs.run.anonymize import run_anonymize
from jobs.run.cluster import machines, ray_cluster
from jobs.run.placement import Placement, reserved_cpus
from jobs.run.report import RunReport
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.known_path import zero_path
from keyanon_core.methods.exact import COARSE_SHARE
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior, load_prior

BARE_SECONDS = 30.0  # of denoising, before and again after the run
PARTS_PHOTOGRAPHS = 48  # measured part by part


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    limit: Annotated[int, typer.Option(help="Photographs at most, in order of name.")] = 150,
    repeat: Annotated[int, typer.Option(min=1, help="How often each photograph goes in: the start weighs less.")] = 18,
    actors: Annotated[int, typer.Option(help="Anonymizing actors; 0 takes the job's default.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of one anonymizing actor; 0 takes the job's default.")] = 0,
    batch: Annotated[int, typer.Option(help="Faces in one call of the denoiser; 0 takes the job's default.")] = 0,
) -> None:
    """Measure and print."""
    cores = usable_cpus()
    torch.set_num_threads(cores)
    prior = load_prior("embedded", precision="auto")
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / "photos"
        chosen.mkdir()
        for path in photographs(photos, limit):
            for copy in range(repeat):
                (chosen / f"{copy:04d}-{path.name}").write_bytes(path.read_bytes())
        layout = {
            name: value
            for name, value in (("anonymizer_actors", actors), ("threads_per_actor", threads), ("face_batch", batch))
            if value
        }
        config = AnonymizeConfig.model_validate(
            {"photos": str(chosen), "output": f"{scratch}/out", "keystore": f"{scratch}/keystore", **layout}
        )
        before = bare_faces_per_second(prior, config)
        with ray_cluster(reserved_cpus(config, usable_cpus())):
            placement = Placement.of(config, machines())
            started = time.time()
            report = run_anonymize(config)
            seconds = time.time() - started
        after = bare_faces_per_second(prior, config)
        bare, whole = (before + after) / 2, report.faces / seconds
        typer.echo(
            f"{cores} cores, {report.faces} faces in {report.rows} photographs, {report.procedure}, batch "
            f"{config.face_batch}, {placement.actors} anonymizing actor(s) on "
            f"{placement.device}, {placement.threads} thread(s) each\n"
            f"bare denoiser, {cores} threads: {bare:.2f} faces/s (before {before:.2f}, after {after:.2f})\n"
            f"whole run: {whole:.2f} faces/s in {seconds:.1f} s; ratio {whole / bare:.2f}"
        )
        first, steady = steady_state(Path(config.output) / "rows")
        typer.echo(f"first shard after {first - started:.1f} s")
        if steady:
            typer.echo(f"from there to the last shard: {steady:.2f} faces/s; ratio {steady / bare:.2f}")
        _print_report(report)
        parts = print_parts(prior, config, sorted(chosen.iterdir())[:PARTS_PHOTOGRAPHS])
        spent = 1000 * cores / whole
        typer.echo(
            f"a face of the run took {spent:.0f} ms of the cores' time, {spent - parts:.0f} beyond these parts: the start, "
            "the way back of each actor's first face, Ray, processes in each other's way"
        )


def bare_faces_per_second(prior: Prior, config: AnonymizeConfig) -> float:
    """Faces per second of one key's denoiser calls and nothing else, on all cores."""
    shape = (config.face_batch, *prior.latent_shape)
    state, mask = torch.randn(shape, dtype=torch.float64), torch.ones((shape[0], 1, *shape[2:]), dtype=torch.float64)
    known = zero_path(state, prior.alpha_bar, 0)
    procedure = config.settings().procedure
    coarse = int(COARSE_SHARE[procedure.inversion] * procedure.steps)

    def denoise() -> None:
        for number in range(procedure.evaluations):
            prior.eps(state, 500, known, mask, coarse=number < coarse)

    denoise()
    faces, started = 0, time.perf_counter()
    while time.perf_counter() - started < BARE_SECONDS:
        denoise()
        faces += config.face_batch
    return faces / (time.perf_counter() - started)


def steady_state(rows: Path) -> tuple[float, float | None]:
    """When the first shard appeared (seconds since the epoch), and the faces of all others over the time they took from then."""
    shards = sorted(rows.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    faces = [sum(pq.read_table(path, columns=["faces"])["faces"].to_pylist()) for path in shards]
    first, last = shards[0].stat().st_mtime, shards[-1].stat().st_mtime
    return first, sum(faces[1:]) / (last - first) if last > first else None


class PartsClock(PictureAnonymizer):
    """A PictureAnonymizer that keeps the CPU seconds of its parts."""

    def __init__(self, prior: Prior, models: FaceModels, settings: AnonymizeSettings) -> None:
        super().__init__(prior, models, settings)
        self.seconds: dict[str, float] = {}
        for part, owner, method in (
            ("decode, detect, mask, crop", self, "_open"),
            ("prior and gate, all keys", self.attempts, "run"),
            ("of it the denoiser", prior, "eps"),
            ("of it the gate's embeddings", self.attempts.gate, "_embed"),
            ("search of the result", models.detector, "look_again"),
            ("encode, sidecar", self, "_finish"),
        ):
            setattr(owner, method, self._timed(part, getattr(owner, method)))
        self.way_back.take_for_tried()  # the first face of a run is tried once, not one of so few

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - started

        return timed


def print_parts(prior: Prior, config: AnonymizeConfig, photos: Sequence[Path]) -> float:
    """CPU milliseconds of each part for one face, on one thread. Returns what the whole takes."""
    torch.set_num_threads(1)
    prior.networks.physical_batch = config.face_batch
    clock = PartsClock(prior, load_face_models("embedded"), config.settings())
    evaluated, started = prior.nfe, time.process_time()
    results = clock([PictureTask(path.name, path.read_bytes()) for path in photos])
    whole, faces = time.process_time() - started, sum(result.faces for result in results)
    keys = sum(result.metrics.get("attempts", 0.0) for result in results)
    typer.echo(f"{keys / faces:.2f} keys and {(prior.nfe - evaluated) / faces:.1f} evaluations a face ({faces} faces)")
    typer.echo("parts, CPU milliseconds a face on one thread:")
    for part, seconds in clock.seconds.items():
        typer.echo(f"  {part:32s} {1000 * seconds / faces:7.1f}")
    typer.echo(f"  {'all':32s} {1000 * whole / faces:7.1f}")
    return 1000 * whole / faces


def _print_report(report: RunReport) -> None:
    typer.echo(json.dumps({"statuses": report.statuses, "further_keys": report.further_keys, "bytes": report.bytes_of}))


if __name__ == "__main__":
    typer.run(main)
