"""What each worker of a training does: the same steps, each on its share of the batch, with gradients averaged by Ray Train.

A checkpoint holds everything a step depends on. Examples follow from the step's number, so a resumed training goes on as if it
had not been stopped.
"""

import contextlib
import json
import math
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ray.train
import ray.train.torch
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from jobs.train.checkpoint import TrainingState
from jobs.train.page import PageWriter
from keyanon_core.device import multiplies_bfloat16
from keyanon_core.errors import ConvergenceError
from keyanon_core.priors import load_prior
from keyanon_core.training.bank import FaceBank
from keyanon_core.training.denoiser import as_prior, denoiser_from, new_denoiser
from keyanon_core.training.examples import Examples, held_out_crops
from keyanon_core.training.measures import InversionMeasures, measure_inversion, sample_faces
from keyanon_core.training.objective import training_loss
from keyanon_core.training.publishing import write_prior
from keyanon_core.training.settings import TrainingSettings

LOG_FILE: Final = "log.jsonl"
PRIOR_FOLDER: Final = "prior"
UNFINISHED: Final = ".checkpoint-"  # a checkpoint being written; what a kill leaves is removed at the next start
LOG_SECONDS: Final = 10.0
SMOOTHING: Final = 50  # steps over which a logged loss is averaged
SAMPLES: Final = 8  # faces made from noise alone, on the page
HELD_OUT_BATCH: Final = 64  # faces of the held-out loss, at timesteps spread evenly


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is told. Paths are on storage that all workers and the driver share."""

    settings: TrainingSettings
    output: Path
    bank: Path
    name: str
    licence: str
    initial: str | None
    steps: int | None
    hours: float | None
    checkpoint_minutes: float
    page_minutes: float
    measured_faces: int
    threads: int
    precision: str


def train_worker(task: dict[str, WorkerTask]) -> None:
    """Ray Train's function; `task` holds one WorkerTask under "task"."""
    Training(task["task"]).run()


class Training:
    """One worker's part of a training."""

    def __init__(self, task: WorkerTask) -> None:
        """Load faces and network, and the last checkpoint if there is one. Raises KeyanonError for what can not be used."""
        torch.set_num_threads(task.threads)
        context = ray.train.get_context()
        self.task, self.rank, self.world = task, context.get_world_rank(), context.get_world_size()
        self.optimization = task.settings.optimization
        self.device = ray.train.torch.get_device()
        self.bank = FaceBank.open(task.bank)
        self.examples = Examples(self.bank, task.settings)
        share = self.optimization.batch // self.world
        self.slots = range(self.rank * share, (self.rank + 1) * share)
        torch.manual_seed(self.optimization.seed)
        prior = task.settings.prior
        network = denoiser_from(load_prior(task.initial), prior) if task.initial else new_denoiser(prior)
        network.requires_grad_(True).train().to(self.device)
        network.to(memory_format=torch.channels_last)
        self.network = network
        self.averaged = EMAModel(network.parameters(), decay=self.optimization.ema)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=self.optimization.weight_decay
        )
        self.alpha_bar = prior.alpha_bar.to(self.device)
        self.state = TrainingState(network, self.averaged, self.optimizer)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.state.restore(Path(folder), self.device)
        self.parallel = ray.train.torch.prepare_model(network)
        self.bf16 = multiplies_bfloat16(self.device) if task.precision == "auto" else task.precision == "bf16"
        self.losses: deque[float] = deque(maxlen=SMOOTHING)
        self.log = _Log(task.output / LOG_FILE, self.state.step) if self.rank == 0 else None

    def run(self) -> None:
        """Until the budget is spent; checkpoints and the page on the way."""
        begun = logged = saved = time.monotonic()
        shown, before, faces = -math.inf, self.state.spent, 0
        while True:
            now = time.monotonic()
            self.state.spent = before + now - begun
            progress, save, show = self._agree(
                self._progress(),
                now - saved > 60 * self.task.checkpoint_minutes,
                now - shown > 60 * self.task.page_minutes,
            )
            over = progress >= 1
            if self.log is not None and faces and (over or now - logged > LOG_SECONDS):
                self._write_log(progress, faces / (now - begun))
                logged = now
            if show or over:
                self._show()
                shown = time.monotonic()
            if save or over:
                self._checkpoint()
                saved = time.monotonic()
            if over:
                return
            self._step(progress)
            faces += self.optimization.batch

    def _agree(self, progress: float, save: bool, show: bool) -> tuple[float, bool, bool]:
        """What the first worker's clock says: all must act alike."""
        if self.world == 1:
            return progress, save, show
        decided = torch.tensor([progress, float(save), float(show)], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(decided, 0)
        values = decided.tolist()
        return float(values[0]), bool(values[1]), bool(values[2])

    def _progress(self) -> float:
        """Share of the budget that is spent, in [0, 1] or beyond."""
        by_steps = self.state.step / self.task.steps if self.task.steps else 0.0
        return max(by_steps, self.state.spent / 3600 / self.task.hours if self.task.hours else 0.0)

    def _step(self, progress: float) -> None:
        rate = self.optimization.learning_rate * min(1.0, (self.state.step + 1) / max(self.optimization.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        batch = self.examples.batch(self.state.step, self.slots).to(self.device)
        with self._autocast(), self._attention():
            loss = training_loss(self.parallel, batch, self.alpha_bar, self.task.settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.optimization.clip)
        self.optimizer.step()
        self.averaged.step(self.network.parameters())
        self.state.step += 1
        self.losses.append(self._mean(loss.detach()))

    def _mean(self, loss: Tensor) -> float:
        if self.world > 1:
            torch.distributed.all_reduce(loss)
        mean: float = loss.item() / self.world
        return mean

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def _attention(self) -> contextlib.AbstractContextManager[Any]:
        """On CPUs the plain kernel: with so few tokens the fused one takes a sixth of a step for its gradient."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()

    def _write_log(self, progress: float, rate: float) -> None:
        if self.log is not None:
            left = self.state.spent * (1 / progress - 1) if progress else 0.0
            self.log.append(
                {
                    "step": self.state.step,
                    "loss": sum(self.losses) / len(self.losses),
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "images_per_second": rate,
                    "seconds": self.state.spent,
                    "seconds_left": max(left, 0.0),
                    "progress": min(progress, 1.0),
                }
            )

    def _show(self) -> None:
        """Measure the averaged weights, publish them, and renew the page; the first worker's business."""
        if self.log is None:
            return
        self.averaged.store(self.network.parameters())
        self.averaged.copy_to(self.network.parameters())
        self.network.eval()
        try:
            task, settings = self.task, self.task.settings
            write_prior(self.network, settings.prior, task.output / PRIOR_FOLDER, task.name, task.licence)
            prior = as_prior(self.network, settings.prior, task.name)
            crops, masks = held_out_crops(self.bank, settings.prior.side, task.measured_faces)
            entry: dict[str, Any] = {
                "step": self.state.step,
                "seconds": self.state.spent,
                "held_out_loss": self._held_out_loss(),
            }
            measured: InversionMeasures | None = None
            if len(crops):
                try:
                    measured = measure_inversion(prior, crops, masks)
                    entry |= {name: value for name, value in vars(measured).items() if isinstance(value, int | float)}
                except ConvergenceError as error:
                    entry["not_converged"] = str(error)
            self.log.append(entry)
            samples = sample_faces(prior, SAMPLES) if settings.prior.conditioning == "none" or self.state.step else None
            PageWriter(task.output, task.name).write(
                self.log.entries, self.state.step, crops, measured.anonymized if measured else None, samples
            )
        finally:
            self.averaged.restore(self.network.parameters())
            self.network.train()

    def _held_out_loss(self) -> float | None:
        """Of fixed examples of the held-out faces; None without any."""
        if not self.bank.held_out.any():
            return None
        bank = replace(self.bank, weight=self.bank.held_out.astype(float))
        optimization = replace(self.optimization, batch=HELD_OUT_BATCH)
        batch = Examples(bank, replace(self.task.settings, optimization=optimization)).batch(0, range(HELD_OUT_BATCH))
        with torch.no_grad():
            return float(training_loss(self.network, batch.to(self.device), self.alpha_bar, self.task.settings))

    def _checkpoint(self) -> None:
        """Hand the state to Ray Train, which keeps the newest; every worker takes part."""
        metrics = {"step": self.state.step, "loss": sum(self.losses) / len(self.losses) if self.losses else math.nan}
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(dir=self.task.output, prefix=UNFINISHED) as folder:
            self.state.save(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class _Log:
    """`log.jsonl`: one JSON object a line, never of a step later than the training is at."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.entries = [entry for entry in read_log(path) if entry["step"] <= step]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries), encoding="utf-8")

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole entries of a log; none if there is no log. A line cut short by a kill is left out."""
    entries = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
    return entries
