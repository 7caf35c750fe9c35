"""How good a prior is: pictures of one face each, anonymized by the job's own path, and their crops recovered."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.faces import GREY, TEXTURE, VIEW_SIDE, FaceMeasurer, Vector, face_view, masked_view
from keyanon_core.evaluation.quality import FrechetDistances, edge_contrast, frechet_distances, seam_width
from keyanon_core.evaluation.recovery import measure_crops
from keyanon_core.faces import Face, FaceModels, PictureMask
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import decode_picture
from keyanon_core.methods import SolverStep
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.training.measures import EIGHT_BIT_RMS

PICTURES_AT_ONCE: Final = 32  # anonymized in one call
SEAMS: Final = ("colour", "gradient", "step")  # of an `EdgeContrast`

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """A picture with one face, and what groups its person is of, by kind of grouping."""

    image_id: str
    encoded: bytes = field(repr=False)
    face: Face
    mask: PictureMask
    groups: dict[str, str]

    @property
    def pixels(self) -> Pixels:
        return decode_picture(self.encoded)


@dataclass(frozen=True)
class Outcome:
    """What one prior made of a subject.

    reason: why it would not be published; "" where it would. values: by name, what is known of it; most of it only of a result.
    vectors: of the source and of the result, "identity" and "texture". views: VIEW_SIDE px square, the source, the result, and
    the result inside its mask alone; grey without a result.
    """

    subject: Subject
    reason: str
    values: dict[str, float]
    vectors: dict[str, tuple[Vector, Vector]]
    views: Sequence[Pixels]


@dataclass(frozen=True)
class Trial:
    """One prior with one number of steps. outcomes: of all subjects, in their order. seconds_*: for a face."""

    outcomes: list[Outcome]
    most_iterations: int
    worst_residual: float
    unsolved: int
    seconds_anonymize: float
    seconds_recover: float


def try_prior(
    prior: Prior, settings: AnonymizeSettings, subjects: Sequence[Subject], measurer: FaceMeasurer, recovered: int
) -> Trial:
    """Anonymize the subjects under fresh keys, and measure what came out.

    subjects: one or more. recovered: how many of the first are recovered too, from their aligned crops; 0 is all.
    """
    started = time.perf_counter()
    results = _anonymized(prior, settings, subjects, measurer.models)
    anonymized = time.perf_counter()
    chosen = subjects[: recovered or None]
    crops = _crops(prior, settings, chosen, measurer.models)
    back, solver = _recovered(prior, settings, crops)
    ended = time.perf_counter()
    return Trial(
        [
            _outcome(*one, back.get(place, {}), measurer)
            for place, one in enumerate(zip(subjects, results, strict=True))
        ],
        max((step.iterations for step in solver), default=0),
        max((float(step.residual) for step in solver), default=0.0),
        len(crops) - len(back),
        (anonymized - started) / len(subjects),
        (ended - anonymized) / len(chosen),
    )


def _anonymized(
    prior: Prior, settings: AnonymizeSettings, subjects: Sequence[Subject], models: FaceModels
) -> list[PictureResult]:
    """All subjects as the job does it, in its fixed batch."""
    prior.networks.physical_batch = settings.face_batch
    anonymizer = PictureAnonymizer(prior, models, settings)
    tasks = [PictureTask(one.image_id, one.encoded, [one.face]) for one in subjects]
    starts = range(0, len(tasks), PICTURES_AT_ONCE)
    results = [result for start in starts for result in anonymizer(tasks[start : start + PICTURES_AT_ONCE])]
    prior.networks.physical_batch = None
    return results


def _crops(
    prior: Prior, settings: AnonymizeSettings, subjects: Sequence[Subject], models: FaceModels
) -> dict[int, Crop]:
    """By the places of the subjects; without those that the job has no crop of either."""
    crops = {}
    for place, one in enumerate(subjects):
        with suppress(PictureError):
            (aligned,) = align_faces(one.pixels, [one.face], models.parser, settings.regions, prior)
            if aligned.crop.mask.any():
                crops[place] = aligned.crop
    return crops


def _recovered(
    prior: Prior, settings: AnonymizeSettings, crops: dict[int, Crop]
) -> tuple[dict[int, dict[str, float]], list[SolverStep]]:
    """What came back of each face that could be solved, by its place, and the steps of the solver."""
    places, back, solver = list(crops), dict[int, dict[str, float]](), list[SolverStep]()
    for measured, figures in measure_crops(prior, list(crops.values()), settings.procedure):
        solver += figures.solver
        for position, index in enumerate(measured):
            back[places[index]] = {
                "sidecar": float(figures.recovered_psnr["sidecar"][position]),
                "8 bits": float(figures.recovered_psnr["8-bit crop"][position]),
                "rms of zT": float(figures.noise_rms[position]),
            }
    return back, solver


def _outcome(subject: Subject, result: PictureResult, back: dict[str, float], measurer: FaceMeasurer) -> Outcome:
    source, grey = subject.pixels, np.full((VIEW_SIDE, VIEW_SIDE, 3), GREY, np.uint8)
    if result.encoded is None or result.key is None:
        refused = {"first key": 0.0} if result.reason.startswith("still_recognizable") else {}
        views = (decode_picture(face_view(source, subject.face)), grey, grey)
        return Outcome(subject, result.reason, back | refused, {}, views)
    shown = decode_picture(result.encoded)
    before, after = measurer.measure(source, [subject.face], [subject.mask], {"result": shown})
    identity = measurer.models.recognizer.name
    values = {
        **back,
        "first key": float(all(face.attempt == 0 for face in result.key.faces)),
        "found": after.values["found"],
        "identity distance": after.values.get(f"distance:{identity}", math.nan),
    }
    edges = [edge_contrast(pixels, subject.mask, seam_width(subject.mask)) for pixels in (source, shown)]
    for kind in SEAMS:
        pair = [getattr(edge, kind) for edge in edges]
        if np.isfinite(pair).all():
            values |= {f"{kind} before": pair[0], f"{kind} after": pair[1]}
    vectors = {
        space: (before.vectors[name], after.vectors[name])
        for space, name in (("identity", identity), ("texture", TEXTURE))
        if name in before.vectors and name in after.vectors
    }
    cutout = masked_view(shown, subject.face, subject.mask)
    return Outcome(subject, "", values, vectors, [decode_picture(one) for one in (before.view, after.view, cutout)])


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The figures of a set of faces that make sense for a small group, too. NaN where there is nothing to measure."""

    def of(name: str, statistic: Callable[[Doubles], Any]) -> float:
        known = np.array([one.values[name] for one in outcomes if not math.isnan(one.values.get(name, math.nan))])
        return float(statistic(known)) if len(known) else math.nan

    def squared_gain(decibels: Doubles) -> Doubles:
        return 4 / 10 ** (decibels / 10) / EIGHT_BIT_RMS**2

    return {
        "faces": len(outcomes),
        "quarantined": sum(bool(one.reason) for one in outcomes),
        "found, share": of("found", np.mean),
        "first key passes, share": of("first key", np.mean),
        "identity distance": of("identity distance", np.median),
        "identity distance, min": of("identity distance", np.min),
        **{
            f"seam {kind}, ratio of {name}": of(f"{kind} after", mean) / of(f"{kind} before", mean)
            for kind in SEAMS
            for name, mean in (("medians", np.median), ("means", np.mean))
        },
        "recovered faces": sum("sidecar" in one.values for one in outcomes),
        "from the sidecar, dB": of("sidecar", np.median),
        "from the sidecar, min dB": of("sidecar", np.min),
        "from 8 bits, dB": of("8 bits", np.median),
        "from 8 bits, min dB": of("8 bits", np.min),
        "gain": math.sqrt(of("8 bits", lambda known: np.median(squared_gain(known)))),
        "gain, all faces together": math.sqrt(of("8 bits", lambda known: np.mean(squared_gain(known)))),
        "rms of zT": of("rms of zT", np.median),
    }


def distances_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Frechet distances of the results to the sources, in both spaces. NaN with fewer than four results."""
    distances = dict[str, float]()
    for space in ("identity", "texture"):
        pairs = [one.vectors[space] for one in outcomes if space in one.vectors]
        apart = FrechetDistances(math.nan, math.nan, math.nan)
        if len(pairs) >= 4:
            sources, results = (np.stack(vectors) for vectors in zip(*pairs, strict=True))
            apart = frechet_distances(results, sources)
        distances[f"Frechet, {space}, all"] = apart.whole
        distances[f"Frechet, {space}, halves"] = apart.halves
        distances[f"Frechet, {space}, halves, floor"] = apart.floor
    return distances
