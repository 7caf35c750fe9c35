"""How busy a GPU is kept by everything around the denoiser: a denoiser that only sleeps stands in for a GPU that is not there.

    python benchmarks/pipeline.py --photos DIR [--limit 40] [--repeat 4] [--ms 1.0] [--actors 1,2,4]

Each evaluation sleeps `ms` for each face of the call, under a lock that all actors share, as they would share the GPU. Printed
are, for so many actors on that one GPU, the share of the run's time in which it slept (1 is a GPU that never waits), and CPU
milliseconds a face by stage, measured in this process on one thread. Their sum over the GPU's milliseconds a face is how many
CPUs it takes to keep such a GPU busy, were all stages spread over them.

What the sleeper makes of a face is grey. Such a face takes some more keys than one of a real prior; how many is printed, and the
stages that each key costs are marked. A GPU would also take over the recognizer's part of the gate and most of what is around
the denoiser, which are CPU time here.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from shared import photographs

import jobs.run.anonymize
from jobs.config import AnonymizeConfig
from jobs.run.anonymize_stage import AnonymizeFaces, environment
from jobs.run.cluster import ray_cluster
from jobs.run.key_records import to_key_record
from jobs.run.usable_cpus import usable_cpus
from keyanon_core.faces import load_face_models
from keyanon_core.methods import exact
from keyanon_core.pictures import anonymizer as pictures
from keyanon_core.pictures import attempts
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.settings import PictureTask
from keyanon_core.priors import Prior, load_prior
from keystore.embedded import Keystore
from keystore.intake.sealing import seal_record

PARTS_PHOTOGRAPHS = 16  # measured stage by stage


@dataclass
class Sleeper:
    """Sleeps instead of predicting. log: file with begin and end of each call, in seconds; its lock is the GPU."""

    seconds_a_face: float
    log: Path
    channels: int

    def __call__(self, shown: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with self.log.open("a") as gpu:
            fcntl.flock(gpu, fcntl.LOCK_EX)
            started = time.perf_counter()
            time.sleep(self.seconds_a_face * len(shown))
            gpu.write(f"{started} {time.perf_counter()}\n")
        return torch.zeros(len(shown), self.channels, *shown.shape[2:])

    def put_into(self, prior: Prior) -> None:
        prior.networks.denoiser = replace(
            prior.networks.denoiser, predict=lambda _, shown, timesteps: self(shown, timesteps)
        )


def main(
    photos: Annotated[Path, typer.Option(help="Folder of photographs with faces.")],
    limit: Annotated[int, typer.Option(help="Photographs at most, in order of name.")] = 40,
    repeat: Annotated[int, typer.Option(min=1, help="How often each photograph goes in: the start weighs less.")] = 4,
    ms: Annotated[float, typer.Option(help="Milliseconds that the GPU takes to evaluate one face.")] = 1.0,
    actors: Annotated[str, typer.Option(help="Actors that share the GPU, with commas.")] = "1,2,4",
) -> None:
    """Measure and print."""
    paths = photographs(photos, limit)
    cpu, gpu = print_stages(paths[:PARTS_PHOTOGRAPHS], ms)
    typer.echo(
        f"{cpu / gpu:.1f} CPUs keep a GPU of {gpu:.1f} ms a face busy; this machine has {usable_cpus()}, with a "
        f"load of {os.getloadavg()[0]:.1f}"
    )
    for count in (int(one) for one in actors.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            _print_run(Path(scratch), paths, repeat, ms, count)


def _print_run(scratch: Path, paths: Sequence[Path], repeat: int, ms: float, actors: int) -> None:
    (scratch / "photos").mkdir()
    for path in paths:
        for copy in range(repeat):
            (scratch / "photos" / f"{copy:04d}-{path.name}").write_bytes(path.read_bytes())
    log = scratch / "slept"
    places = {"photos": str(scratch / "photos"), "output": scratch / "out", "keystore": scratch / "keystore"}
    layout = {"anonymizer_actors": actors, "threads_per_actor": 1, "device": "cpu"}
    config = AnonymizeConfig.model_validate({**places, **layout})

    class OnASleepingGpu(AnonymizeFaces):
        """The stage itself; only its denoiser sleeps."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            prior = self.anonymizer.prior
            Sleeper(ms / 1000, log, prior.networks.denoiser.out_channels).put_into(prior)

    real = AnonymizeFaces
    setattr(jobs.run.anonymize, "AnonymizeFaces", OnASleepingGpu)  # noqa: B010  a name that the module does not export
    try:
        with ray_cluster(0):
            report = jobs.run.anonymize.run_anonymize(config)
    finally:
        setattr(jobs.run.anonymize, "AnonymizeFaces", real)  # noqa: B010
    calls = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    busy, whole = sum(end - begin for begin, end in calls), calls[-1][1] - calls[0][0]
    whole_run = report.anonymize_seconds
    typer.echo(
        f"{actors} actor(s): {report.faces} faces with {report.key_attempts / report.faces:.2f} keys each; GPU busy {busy:.1f} "
        f"s, share {busy / whole:.2f} of the {whole:.1f} s from its first evaluation to its last, {busy / whole_run:.2f} of the "
        f"{whole_run:.1f} s with the start; load {os.getloadavg()[0]:.1f}"
    )


def print_stages(paths: Sequence[Path], ms: float) -> tuple[float, float]:
    """CPU milliseconds of each stage for one face. Returns what all of them take, and the milliseconds that the GPU does."""
    torch.set_num_threads(1)
    prior, models = load_prior("embedded"), load_face_models("embedded")
    config = AnonymizeConfig.model_validate({"photos": "p", "output": "o", "keys": "discard"})
    settings = replace(config.settings(), reversible=True)
    prior.networks.physical_batch = settings.face_batch
    made = PictureAnonymizer(prior, models, settings)
    made.way_back.take_for_tried()  # the first face of a run is tried once, not one of so few
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as scratch:
        Sleeper(0.0, Path(scratch) / "slept", prior.networks.denoiser.out_channels).put_into(prior)
        for stage, owner, name in (
            ("decode", pictures, "open_source"),
            ("detect", models.detector, "detect"),
            ("mask and crop", made, "_aligned"),
            ("encode surroundings", attempts, "encode_surroundings"),
            ("latent of the surroundings *", attempts, "known_latent"),
            ("K: key streams *", exact, "masked_transforms"),
            ("K: rotation *", exact, "apply_forward"),
            ("around the denoiser *", made.attempts, "run"),
            ("gate *", made.attempts.gate, "measure"),
            ("gate *", made.attempts.gate, "hopeless"),
            ("paste *", attempts, "paste_face"),
            ("second search", models.detector, "look_again"),
            ("encode the file", made, "_unfinished"),
            ("sidecar", made, "_finish"),
        ):
            watch.time(stage, owner, name)
        before = prior.nfe
        results = made([PictureTask(path.name, path.read_bytes()) for path in paths])
        faces, evaluations = sum(result.faces for result in results), prior.nfe - before
        watch.time("seal", Sealing, "seal")
        with Keystore.create(Path(scratch) / "keystore") as keystore:
            sealing = Sealing(keystore.ingest_public_key, environment(prior))
            for result in results:
                if result.key is not None:
                    sealing.seal(result.key)
    keys = sum(result.metrics.get("attempts", 0.0) for result in results)
    typer.echo(
        f"{faces} faces, {keys / faces:.2f} keys and {evaluations / faces:.1f} evaluations a face; CPU ms a face:"
    )
    for stage, seconds in watch.seconds.items():
        typer.echo(f"  {stage:32s} {1000 * seconds / faces:7.1f}")
    whole = 1000 * sum(watch.seconds.values()) / faces
    typer.echo(f"  {'all':32s} {whole:7.1f}    (*: for each key)")
    return whole, ms * evaluations / faces


@dataclass(frozen=True)
class Sealing:
    """Seals records as the stage does."""

    public_key: bytes
    environment: dict[str, str]

    def seal(self, key: PictureKey) -> bytes:
        record = to_key_record(key, run_id="run-1", dataset="d", environment=self.environment)
        return seal_record(record, self.public_key)


@dataclass
class Stopwatch:
    """CPU seconds of each stage, without those of the stages that it calls."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def time(self, stage: str, owner: Any, name: str) -> None:
        """From now on `owner.name` is counted under `stage`."""
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            started = time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                spent = time.process_time() - started
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inner.pop()
                self._inner[-1] += spent

        setattr(owner, name, timed)


if __name__ == "__main__":
    typer.run(main)
