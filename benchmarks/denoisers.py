"""Which denoiser learns most in the same time: networks trained for equally long, on the same faces and examples.

    python benchmarks/denoisers.py FACES [--minutes 5] [--network sample/8/128,192,256 --network ...]

FACES is the folder `faces` of a training's output (`keyanon train-prior`). A network is named by what it predicts, the side in
pixels of the block that one cell holds, and the widths of its levels; its crop is the one the faces were cut for.

Printed for each: parameters; images per second in training; ms of one evaluation of 8 faces; the mean squared error of the
predicted clean crop inside the masks of held-out faces at some timesteps; and, of held-out faces with exact and rotation, the
rms of the noise latent, what comes back from the 8-bit crop, and the gain of the rounding's error.
"""

import copy
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from keyanon_core.errors import ConvergenceError
from keyanon_core.training.bank import FaceBank
from keyanon_core.training.denoiser import as_prior, input_channels, new_denoiser
from keyanon_core.training.examples import Examples, held_out_crops
from keyanon_core.training.measures import measure_inversion
from keyanon_core.training.objective import clean_crop, training_loss
from keyanon_core.training.settings import BANK_MARGIN, Optimization, PriorSettings, TrainingSettings

NETWORKS = ("sample/8/128,192,256", "sample/8/96,160,224", "sample/4/64,128,192,256", "v_prediction/4/64,128,192,256")
OPTIMIZATION = Optimization(learning_rate=6e-4, warmup=60, ema=0.998)
TIMESTEPS = (5, 50, 150, 300, 500, 700, 900)
HELD_OUT, INVERTED = 128, 8  # faces
TIMED_CALLS = 20


def main(
    faces: Annotated[Path, typer.Argument(help="Folder `faces` of a training.")],
    minutes: Annotated[float, typer.Option(help="Training time of each network.")] = 5.0,
    network: Annotated[list[str] | None, typer.Option(help="prediction/block/widths; again for more.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 is one for each core.")] = 0,
) -> None:
    """Train, measure and print."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    bank = FaceBank.open(faces)
    side = round(bank.faces.shape[1] / BANK_MARGIN)
    typer.echo(f"{minutes:g} minutes each, {torch.get_num_threads()} threads, torch {torch.__version__}")
    names = ("network", "M parameters", "images/s", "ms for 8", *(f"x0 error, t={t}" for t in TIMESTEPS))
    typer.echo("| " + " | ".join((*names, "rms of zT", "8-bit dB", "gain")) + " |\n" + "|---" * (len(names) + 3) + "|")
    for name in network or NETWORKS:
        prediction, block, widths = name.split("/")
        prior = PriorSettings(
            side=side,
            space_to_depth=int(block),
            prediction="sample" if prediction == "sample" else "v_prediction",
            channels=tuple(int(width) for width in widths.split(",")),
        )
        settings = TrainingSettings(prior, optimization=OPTIMIZATION)
        trained, rate = _train(bank, settings, 60 * minutes)
        millions = sum(p.numel() for p in trained.parameters()) / 1e6
        cells = [f"{millions:.1f}", f"{rate:.0f}", f"{_milliseconds(trained, prior):.0f}"]
        cells += [f"{error:.4f}" for error in _errors(trained, bank, settings)]
        typer.echo("| " + " | ".join((name, *cells, *_inversion(trained, bank, prior))) + " |")


def _train(bank: FaceBank, settings: TrainingSettings, seconds: float) -> tuple[nn.Module, float]:
    """Averaged weights after so long, and images per second."""
    torch.manual_seed(OPTIMIZATION.seed)
    network = new_denoiser(settings.prior).train().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)
    examples, alpha_bar = Examples(bank, settings), settings.prior.alpha_bar
    started, step = time.perf_counter(), 0
    while (progress := (time.perf_counter() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / OPTIMIZATION.warmup)
            group["lr"] = OPTIMIZATION.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        batch = examples.batch(step, range(OPTIMIZATION.batch))
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = training_loss(network, batch, alpha_bar, settings)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), OPTIMIZATION.clip)
        optimizer.step()
        step += 1
        decay = min(OPTIMIZATION.ema, (1 + step) / (10 + step))
        for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - decay)
    return averaged.eval(), step * OPTIMIZATION.batch / (time.perf_counter() - started)


@torch.inference_mode()
def _milliseconds(network: nn.Module, prior: PriorSettings) -> float:
    cells = prior.side // prior.space_to_depth
    shown = torch.randn(8, input_channels(prior), cells, cells).contiguous(memory_format=torch.channels_last)
    calls = []
    for _ in range(TIMED_CALLS):
        started = time.perf_counter()
        network(shown, torch.full((8,), 500))
        calls.append(time.perf_counter() - started)
    return 1000 * sorted(calls)[TIMED_CALLS // 2]


@torch.inference_mode()
def _errors(network: nn.Module, bank: FaceBank, settings: TrainingSettings) -> list[float]:
    held_out = replace(bank, weight=bank.held_out.astype(float))
    batch = Examples(held_out, settings).batch(0, range(HELD_OUT))
    inside = batch.masks.expand_as(batch.crops)
    errors = []
    for t in TIMESTEPS:
        at = replace(batch, timesteps=torch.full_like(batch.timesteps, t))
        error = (clean_crop(network, at, settings.prior.alpha_bar, settings) - batch.crops).square()
        errors.append(float((error * inside).sum() / inside.sum()))
    return errors


def _inversion(network: nn.Module, bank: FaceBank, prior: PriorSettings) -> tuple[str, str, str]:
    crops, masks = held_out_crops(bank, prior.side, INVERTED)
    try:
        measured = measure_inversion(as_prior(network, prior, "candidate"), crops, masks)
    except ConvergenceError:
        return "-", "not solved", "-"
    return f"{measured.noise_rms:.2f}", f"{measured.recovered_db:.1f}", f"{measured.gain:.1f}"


if __name__ == "__main__":
    typer.run(main)
