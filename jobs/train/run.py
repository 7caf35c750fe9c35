"""The driver of a training: faces first, then the workers, then the prior with its card."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ray.exceptions import RayError
from ray.train import CheckpointConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from jobs.errors import PublishError
from jobs.output.layout import LEASE_FILE
from jobs.output.lease import Lease
from jobs.run.cluster import cause_of, ray_cluster
from jobs.sources.source import open_source
from jobs.storage.json_files import read_json, write_json
from jobs.train.card import TrainReport, write_card
from jobs.train.config import TrainConfig
from jobs.train.faces import BANK_FOLDER, prepare_faces
from jobs.train.worker import LOG_FILE, PRIOR_FOLDER, UNFINISHED, WorkerTask, read_log, train_worker
from keyanon_core.priors import load_prior
from keyanon_core.training.denoiser import denoiser_from

MANIFEST_FILE: Final = "training.json"
CHECKPOINTS_FOLDER: Final = "checkpoints"
CHECKPOINTS_KEPT: Final = 2
POLL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class TrainState:
    """How far a training is. phase: "cutting faces" or "training"; text: its numbers, for people; share: in [0, 1]."""

    phase: str
    share: float
    text: str


TrainProgress = Callable[[TrainState], None]


def run_training(config: TrainConfig, progress: TrainProgress | None = None) -> TrainReport:
    """Train a prior, or go on where an earlier attempt was stopped; of a finished one its report.

    Raises:
        SourceError: the pictures can not be used, or are not those of the attempt that is resumed.
        PublishError, LeaseError: the output belongs to another training, can not be written, or another process trains there.
        PriorError, FaceModelError: a model can not be used. JobError: Ray failed.
    """
    tell = progress or (lambda state: None)
    source = open_source(config, clips=False)
    output = config.output.absolute()
    try:
        with Lease(output), ray_cluster(config.workers + (config.cutting_actors or config.workers)):
            finished = _claim(output, config)
            if config.initial is not None:
                denoiser_from(load_prior(config.initial), config.settings().prior)  # an error now costs nothing yet
            bank, faces = prepare_faces(config, source, lambda done, of: tell(_cutting(done, of)))
            if not finished:
                with _watching(output / LOG_FILE, tell):
                    _train(config, output)
            entries = read_log(output / LOG_FILE)
            last: dict[str, Any] = next((entry for entry in reversed(entries) if "loss" in entry), {})
            measures: dict[str, Any] = next((entry for entry in reversed(entries) if "held_out_loss" in entry), {})
            report = TrainReport(
                prior=str(output / PRIOR_FOLDER),
                digest=load_prior(output / PRIOR_FOLDER).digest,
                steps=int(measures.get("step", 0)),
                seconds=float(measures.get("seconds", 0.0)),
                loss=last.get("loss"),
                measures=measures,
                faces=faces,
            )
            if not finished:
                write_card(config, output / PRIOR_FOLDER, report, bank)
                write_json(output / MANIFEST_FILE, {**_claimed(config), "finished": report.digest})
            return report
    except OSError as error:
        raise PublishError(
            f"output {output} can not be written ({error.strerror or error}); mend it, then run the command again"
        ) from error


def _claimed(config: TrainConfig) -> dict[str, Any]:
    return {"digest": config.digest(), "config": config.to_json()}


def _claim(output: Path, config: TrainConfig) -> bool:
    """Make the output this training's, or see that it is. Whether it is finished, by these very settings."""
    path, claimed = output / MANIFEST_FILE, _claimed(config)
    if path.is_file():
        known = read_json(path)
        if known.get("digest") != claimed["digest"]:
            wanted, before = claimed["config"], known.get("config") or {}
            changed = sorted(name for name in wanted if before.get(name) != wanted[name])
            raise PublishError(
                f"output {output} belongs to a training with other settings ({', '.join(changed)}); give another output"
            )
        if (digest := known.get("finished")) and known["config"] == claimed["config"]:
            return bool(load_prior(output / PRIOR_FOLDER).digest == digest)
    elif any(entry.name != LEASE_FILE for entry in output.iterdir()):
        raise PublishError(f"output {output} is not empty and no training wrote it; give an empty directory")
    for left in output.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left)
    write_json(path, claimed)
    return False


def _train(config: TrainConfig, output: Path) -> None:
    """Run the workers to the end of the budget; Ray Train hands them the newest checkpoint of an earlier attempt."""
    task = WorkerTask(
        settings=config.settings(),
        output=output,
        bank=output / BANK_FOLDER,
        name=config.name,
        licence=config.licence,
        initial=_absolute(config.initial),
        steps=config.steps,
        hours=config.budget_hours,
        checkpoint_minutes=config.checkpoint_minutes,
        page_minutes=config.page_minutes,
        measured_faces=config.measured_faces,
        threads=config.threads,
        precision=config.precision,
    )
    resources = {"CPU": 0.0 if config.gpus_per_worker else 1.0}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=CHECKPOINTS_FOLDER,
            storage_path=str(output),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
        ),
    )
    try:
        trainer.fit()
    except (RayError, TrainingFailedError, RuntimeError) as error:
        raise cause_of(error, "training") from error


def _absolute(initial: str | None) -> str | None:
    """Workers have another working directory."""
    return str(Path(initial).absolute()) if initial is not None and Path(initial).is_dir() else initial


@contextlib.contextmanager
def _watching(log: Path, tell: TrainProgress) -> Iterator[None]:
    """Tell the newest line of the log while the `with` block runs."""
    over = threading.Event()

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            last = next((entry for entry in reversed(read_log(log)) if "loss" in entry), None)
            if last is not None:
                tell(_training(last))

    thread = threading.Thread(target=poll, name="keyanon-training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _cutting(done: int, total: int) -> TrainState:
    return TrainState("cutting faces", done / max(total, 1), f"{done} of {total} pictures")


def _training(entry: dict[str, Any]) -> TrainState:
    text = (
        f"step {entry['step']}  loss {entry['loss']:.4f}  {entry['images_per_second']:.1f} images/s  "
        f"{entry['seconds_left'] / 60:.0f} min left"
    )
    return TrainState("training", entry["progress"], text)
