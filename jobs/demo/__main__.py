"""`python -m jobs.demo --output DIR`: run the demo afresh and write DIR/report.html."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from jobs.demo.photographs import write_photographs
from jobs.demo.report import write_report
from jobs.demo.story import (
    REQUESTED,
    Pixels,
    anonymize_and_recover,
    compare_fidelities,
    compare_methods,
    embedded_models,
)
from keyanon_core.priors import load_prior

MARKER = ".keyanon-demo"  # a directory that holds it was written by this program and may be deleted by it


def main(
    output: Annotated[Path, typer.Option(help="Directory for the demo's files; a former demo's is replaced.")],
) -> None:
    """Anonymize the photographs that ship with the packages, recover one by approval, write the report."""
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise typer.BadParameter(f"{output} is not empty and no former demo; name another directory")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()
    photos = output / "photos"
    write_photographs(photos)
    typer.echo("anonymizing, then recovering one photograph by a two-person-approved request ...")
    story = anonymize_and_recover(output)
    prior, models = load_prior("embedded"), embedded_models()
    typer.echo("comparing fidelities and methods on the same faces ...")
    fidelities, wrong = compare_fidelities(prior, models, photos / REQUESTED)
    with_faces = sorted(photos / name for name in story.outputs)
    crops, figures = compare_methods(prior, models, with_faces)
    write_report(output / "report.html", story, prior, fidelities, wrong, REQUESTED, crops, figures)
    _write_strip(output / "strip.png", story.sources[REQUESTED], story.outputs[REQUESTED], story.recovered)
    typer.echo(f"wrote {output / 'report.html'}")


def _write_strip(path: Path, *pictures: Pixels | None) -> None:
    """Source, anonymized, recovered side by side, as the README shows them."""
    shown = [Image.fromarray(pixels) for pixels in pictures if pixels is not None]
    strip = Image.new("RGB", (sum(p.width for p in shown), max(p.height for p in shown)), "white")
    x = 0
    for picture in shown:
        strip.paste(picture, (x, 0))
        x += picture.width
    strip.save(path)


if __name__ == "__main__":
    typer.run(main)
