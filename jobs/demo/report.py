"""The demo's page: every picture embedded, every number under the picture it belongs to."""

import math
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.demo.story import FidelityRow, Story, WrongKey
from jobs.pages import data_uri, page_environment
from keyanon_core.evaluation import STORAGES, RecoveryFigures
from keyanon_core.priors import Prior

SHOWN_WIDTH = 480  # px; photographs are reduced to this before they are embedded
CROPS_SHOWN = 6  # faces in the table of crops


def write_report(
    path: Path,
    story: Story,
    prior: Prior,
    fidelities: list[FidelityRow],
    wrong: WrongKey,
    requested: str,
    crops: npt.NDArray[np.float64],
    figures: list[RecoveryFigures],
) -> None:
    """Render the page to `path`. crops: (n, 3, S, S) float64 in [-1, 1], the faces `figures` were measured on."""
    environment = page_environment("jobs.demo")
    environment.filters["decibel"] = decibel
    source, output = story.sources[requested], story.outputs[requested]
    pictures = [
        (source, f"{requested}: source"),
        (output, f"anonymized: {decibel(wrong.psnr_anonymized)} from the source inside the mask"),
        (story.recovered, f"recovered with the approved key: {decibel(_recovered_psnr(fidelities))}"),
        (wrong.shown, f"wrong key, commitment overridden: {decibel(wrong.psnr_wrong)}"),
    ]
    page = environment.get_template("report.html.j2").render(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.machine()}, Python {platform.python_version()}",
        prior=prior,
        seconds=story.seconds,
        recovery=[(_photograph(picture), caption) for picture, caption in pictures if picture is not None],
        refusal=wrong.refusal,
        photographs=[
            {
                **row,
                "source": _photograph(story.sources[str(row["image"])]),
                "output": _photograph(story.outputs[str(row["image"])]) if row["image"] in story.outputs else None,
            }
            for row in story.rows
        ],
        trail=story.trail,
        fidelities=fidelities,
        faces=len(crops),
        methods=[_method_row(figure) for figure in figures],
        crops=[_crop_line(index, crops, figures) for index in range(min(len(crops), CROPS_SHOWN))],
    )
    path.write_text(page, encoding="utf-8")


def decibel(value: float) -> str:
    """A PSNR for people; NaN where nothing came back."""
    if math.isnan(value):
        return "does not come back"
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def _recovered_psnr(fidelities: Iterable[FidelityRow]) -> float:
    return next(row.psnr for row in fidelities if row.fidelity == "latent")


def _method_row(figure: RecoveryFigures) -> dict[str, object]:
    medians = [float(np.median(figure.recovered_psnr[storage])) for storage in STORAGES]
    iterations = [step.iterations for step in figure.solver]
    return {
        "procedure": str(figure.procedure),
        "nfe_anonymize": figure.nfe_anonymize,
        "nfe_recover": figure.nfe_recover,
        "psnr": [*medians, float(np.median(figure.wrong_key_psnr)), float(np.median(figure.anonymized_psnr))],
        "iterations": f"{min(iterations)} to {max(iterations)}" if iterations else "explicit",
        "residual": f"{max(float(step.residual) for step in figure.solver):.1e}" if iterations else "",
    }


def _crop_line(index: int, crops: npt.NDArray[np.float64], figures: list[RecoveryFigures]) -> list[tuple[str, str]]:
    line = [(_crop(crops[index]), "")]
    for figure in figures:
        line.append((_crop(figure.anonymized[index]), decibel(float(figure.anonymized_psnr[index]))))
        for storage in STORAGES[1:]:
            value = float(figure.recovered_psnr[storage][index])
            line.append((_crop(figure.recovered[storage][index]), decibel(value)))
        line.append((_crop(figure.wrong_key[index]), decibel(float(figure.wrong_key_psnr[index]))))
    return line


def _crop(crop: npt.NDArray[np.float64]) -> str:
    return _embed(Image.fromarray(((np.clip(crop, -1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)))


def _photograph(pixels: npt.NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_WIDTH, SHOWN_WIDTH), Image.Resampling.LANCZOS)
    return _embed(picture)


def _embed(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "png")
