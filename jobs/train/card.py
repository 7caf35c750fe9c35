"""The model card of a trained prior: what it is, what it was made from, what was measured, and the memorisation test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from jobs.train.config import TrainConfig
from jobs.train.faces import CuttingReport
from keyanon_core.errors import ConvergenceError
from keyanon_core.faces import load_face_models
from keyanon_core.priors import Prior, load_prior
from keyanon_core.training.bank import FaceBank
from keyanon_core.training.examples import held_out_crops
from keyanon_core.training.measures import Crops, InversionMeasures, measure_inversion, sample_faces
from keyanon_core.training.memorisation import COPY_CORRELATION, COPY_DISTANCE, nearest_training_faces
from keyanon_core.training.settings import PriorSettings
from keystore.storage import durable

CARD_FILE: Final = "MODEL_CARD.md"
MEASURED_FACES: Final = 32  # held-out faces, and faces made from noise, of the final figures
BATCH: Final = 8
LIGHT_SKIN, DARK_SKIN = 41.0, 28.0  # typology angle in degrees above and below which skin counts as light and dark


@dataclass(frozen=True)
class TrainReport:
    """What a training made. seconds: of training, over all attempts; loss: of the last steps; measures: the last held-out
    ones.
    """

    prior: str
    digest: str
    steps: int
    seconds: float
    loss: float | None
    measures: dict[str, Any]
    faces: CuttingReport


def write_card(config: TrainConfig, prior_directory: Path, report: TrainReport, bank: FaceBank) -> None:
    """Measure the finished prior on held-out faces and write its card beside it."""
    settings = config.settings().prior
    prior = load_prior(prior_directory)
    figures, made, problem = _measure(prior, bank, settings)
    recognizer = load_face_models("embedded").recognizer
    environment = Environment(  # noqa: S701  Markdown, not HTML
        loader=PackageLoader("jobs.train", "."), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["median"] = np.median
    tones = bank.tone[np.isfinite(bank.tone)]
    card = environment.get_template("card.md.j2").render(
        config=config,
        report=report,
        parameters=prior.networks.parameters,
        coloured=len(tones) / len(bank),
        tones=_tones(tones) if len(tones) else None,
        figures=figures,
        problem=problem,
        copy={"distance": COPY_DISTANCE, "correlation": COPY_CORRELATION},
        nearest={name: nearest_training_faces(crops, bank, settings, recognizer) for name, crops in made.items()},
    )
    durable.replace(prior_directory / CARD_FILE, card.encode())


def _measure(
    prior: Prior, bank: FaceBank, settings: PriorSettings
) -> tuple[dict[str, float] | None, dict[str, Crops], str]:
    """Figures of inversion on held-out faces, the faces to compare with the training's, and what went wrong."""
    crops, masks = held_out_crops(bank, settings.side, MEASURED_FACES)
    samples = np.concatenate([sample_faces(prior, BATCH) for _ in range(MEASURED_FACES // BATCH)])
    made = {"made from noise alone": samples}
    if not len(crops):
        return None, made, ""
    made = {"held-out, as they are": crops, **made}
    parts: list[InversionMeasures] = []
    try:
        for start in range(0, len(crops), BATCH):
            parts.append(measure_inversion(prior, crops[start : start + BATCH], masks[start : start + BATCH]))
    except ConvergenceError as error:
        return None, made, f"a held-out face can not be recovered ({error})"
    figures = {
        "faces": len(crops),
        "noise_rms": float(np.median([part.noise_rms for part in parts])),
        "recovered_db": float(np.median([part.recovered_db for part in parts])),
        "gain": float(np.median([part.gain for part in parts])),
        "iterations": max(part.iterations for part in parts),
        "residual": max(part.residual for part in parts),
    }
    return figures, {"held-out, anonymized": np.concatenate([part.anonymized for part in parts]), **made}, ""


def _tones(angles: Any) -> dict[str, float]:
    light, dark = float((angles >= LIGHT_SKIN).mean()), float((angles < DARK_SKIN).mean())
    return {"light": light, "intermediate": 1 - light - dark, "dark": dark}
