"""`keyanon train-prior`: train a prior on one's own faces."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.options import EndpointUrl, Json, Verbose, output_of
from jobs.commands.printing import facts

if TYPE_CHECKING:
    from jobs.train.card import TrainReport
    from jobs.train.config import TrainConfig


def train_prior(
    context: typer.Context,
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML with `setting: value` lines; see docs/training.md.")
    ],
    photos: Annotated[str | None, typer.Option(metavar="PHOTOS", help="Folder or Parquet with the faces.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="New or resumed output.")] = None,
    endpoint_url: EndpointUrl = None,
    hours: Annotated[float | None, typer.Option(help="Wall-clock budget, over all attempts.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train together.")] = None,
    initial: Annotated[str | None, typer.Option(help="Prior to start from: embedded, directory or hub id.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a prior on your own faces; OUT/index.html shows how it goes, OUT/prior is the result.

    The same command run again goes on where it was stopped. `keyanon anonymize --prior OUT/prior` uses the result at once, also
    while the training still runs.
    """
    from jobs.train.config import TrainConfig

    given: dict[str, Any] = {name: value for name, value in context.params.items() if name in TrainConfig.model_fields}
    report = _run(TrainConfig.load(config, given))
    output_of(context).result(_json(report), facts("trained", _summary(report)))


def _run(config: "TrainConfig") -> "TrainReport":
    """With a line of progress where stderr is a terminal, without one elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from jobs.train.run import TrainState, run_training

    if not sys.stderr.isatty():
        return run_training(config)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %  {task.fields[text]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0, text="")

        def show(state: TrainState) -> None:
            bar.update(task, description=state.phase, completed=state.share, text=state.text)

        return run_training(config, show)


def _json(report: "TrainReport") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report)


def _summary(report: "TrainReport") -> dict[str, object]:
    faces = report.faces
    return {
        "prior": report.prior,
        "digest": report.digest,
        "steps": report.steps,
        "time": f"{report.seconds / 60:.1f} min",
        "loss": f"{report.loss:.4f}" if report.loss is not None else None,
        "held-out loss": report.measures.get("held_out_loss"),
        "pictures": faces.pictures,
        "faces trained on": faces.trained_on,
        "faces held out": faces.held_out,
        "faces of held-out people left out": faces.too_alike,
        "pictures without a usable face": sum(faces.reasons.values()) or None,
    }
