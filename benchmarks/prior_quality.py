"""How good priors are, one beside the other: the same faces through each, by the job's own path.

    python benchmarks/prior_quality.py --photos DIR [--portraits PARQUET_OR_DIR --ids FILE] [--limit 200]
        [--prior embedded --prior DIR ...] [--steps 0 --steps N ...] [--groups FILE] [--page FILE.jpg] [--cutouts FILE.jpg]
        [--threads 0] [--json]

Faces: the pictures of --photos in order of name, then, up to --limit, those of Parquet files (columns `id` and `image`, encoded
bytes; only the ids of --ids, one a line, if given). A picture counts when the embedded detector finds exactly one face in it; how
many others there were is printed. Give people the priors were not trained on, or the figures mean little.

--prior is "embedded", a hub id, or a directory with `unet/` (diffusers configuration and safetensors), `scheduler/` and
`keyanon_prior.json`. Weights that lack the last, such as an experiment's, need one: {"format": 1, "name": ..., "crop_side": px,
"space_to_depth": pixels folded into channels, "conditioning": "none" or "inpaint", "landmark_template": five [x, y] in units of
the crop's side}, with the template the network was trained on (keyanon_core/priors/declaration.py).

What is printed for each prior and number of steps (0: the job's), all with method exact, transform rotation, pictures as at
fidelity latent, the job's gate, fresh keys:
- quarantined: pictures the job would not publish, with reasons. They have no result, so found, seam, Frechet are of the others.
- found: share of results in which the detector finds a face at the anonymized one's place.
- first key passes: share the gate lets pass at the first attempt, of those whose outcome the gate decided.
- seam: contrast along the mask's edge over that of the source (`keyanon_core.evaluation.EdgeContrast`: colour, gradient, and the
  stricter step from pixel to pixel), ratio of medians and of means.
- Frechet distances in the recognizer's identity vectors (128) and its texture features (192): of all results to all sources, of
  each half's results to the other half's sources (mean of both ways), and of the sources' two halves, which is the floor of the
  latter. They depend on the number of faces.
- recovered: the aligned crop from the sidecar and from 8 bits, dB inside the mask. gain: rms of the error recovered from
  8 bits over the rms of the rounding itself, median face and all faces together.
- ms per NFE: a denoiser call of 8 faces over 8, the priors taking turns.
Recovering takes most of the time; --recovered bounds the faces it is measured on.
"""

import io
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from shared import (
    groups_by_id,
    only_face,
    photographs,
    print_facts,
    print_json,
    print_records,
    print_table,
    when_and_where,
)

from keyanon_core.errors import ConvergenceError, FaceModelError, PictureError
from keyanon_core.evaluation import (
    EdgeContrast,
    edge_contrast,
    frechet_distance,
    landmarks_inside,
    measure_recovery,
)
from keyanon_core.evaluation.groups import skin_tone_of
from keyanon_core.faces import Face, FaceModels, PictureMask, load_face_models
from keyanon_core.faces.alignment import chip
from keyanon_core.faces.detection import box_iou
from keyanon_core.faces.recognition import DlibRecognizer
from keyanon_core.imaging import decode_picture
from keyanon_core.known_path import zero_path
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from keyanon_core.training.measures import EIGHT_BIT_RMS

# `lossless` shows what `latent` shows, and lets a prior be measured that can not be inverted.
SETTINGS = AnonymizeSettings(method="exact", transform="rotation", fidelity="lossless", output_format="png")
BATCH = 8  # faces measured and timed together
PICTURES_AT_ONCE = 32  # anonymized in one call
BAND = 0.03  # width of the bands along the edge, of the square root of the mask's pixels
MIN_BAND = 2  # px
SAME_PLACE = 0.5  # share of landmarks in the mask, or overlap of boxes, as in the job's second detection pass
TIMED_SECONDS, TIMED_ROUNDS = 2.0, 3  # for each prior and round
PAGE_FACES, PAGE_TILES_A_ROW, TILE = 64, 8, 112  # tiles in px
BACKDROP = 128  # grey
PAGE_MARGIN = 1.35  # side of a tile over the long side of the mask
PAGE_BYTES = 600_000
WANTED = {
    "found, share": ">= 0.98",
    **{f"seam {kind}, ratio of {mean}": "<= 1.5" for kind in ("colour", "gradient") for mean in ("medians", "means")},
}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """A picture with one face, and what is measured of it before any prior sees it."""

    image_id: str
    encoded: bytes = field(repr=False)
    face: Face
    mask: PictureMask
    contrast: EdgeContrast
    identity: npt.NDArray[np.float32]
    texture: npt.NDArray[np.float32]
    groups: dict[str, str]

    @property
    def pixels(self) -> Pixels:
        return decode_picture(self.encoded)

    @property
    def band(self) -> int:
        """Width in px of the bands along the mask's edge."""
        return _band(self.mask)


@dataclass
class Outcome:
    """What one prior made of a subject. reason: "" when anonymized; what only a result has is None without one.

    first_key: None when the picture was quarantined for something else than the gate. sidecar_db, eight_bit_db: of the
    recovered crop, noise_rms: of its zT; NaN where it was not recovered.
    """

    subject: Subject
    reason: str
    first_key: bool | None = None
    found: bool = False
    contrast: EdgeContrast | None = None
    identity: npt.NDArray[np.float32] | None = None
    texture: npt.NDArray[np.float32] | None = None
    tile: Pixels | None = None
    cutout: Pixels | None = None
    sidecar_db: float = math.nan
    eight_bit_db: float = math.nan
    noise_rms: float = math.nan


@dataclass
class Solved:
    """The solver over all faces that were recovered, and how many it did not solve."""

    iterations: int = 0
    residual: float = 0.0
    failed: int = 0


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs with faces.")] = None,
    portraits: Annotated[Path | None, typer.Option(help="Parquet file, or folder of such, with id and image.")] = None,
    ids: Annotated[Path | None, typer.Option(help="Ids of the portraits to take, one a line.")] = None,
    limit: Annotated[int, typer.Option(help="Faces at most.")] = 200,
    prior: Annotated[list[str] | None, typer.Option(help="embedded, a directory, or a hub id; again for more.")] = None,
    steps: Annotated[list[int] | None, typer.Option(help="DDIM steps, 0 the job's; again for more.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV with columns id and group; a photograph's id: its stem.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="JPEG to write: the first 64 faces by the first prior.")] = None,
    cutouts: Annotated[
        Path | None,
        typer.Option(help="JPEG to write: the same results inside their masks alone, with no pixel of a photograph."),
    ] = None,
    recovered: Annotated[int, typer.Option(help="Faces to recover at most; 0 is all.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 is one for each core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
) -> None:
    """Measure and print."""
    if photos is None and portraits is None:
        raise typer.BadParameter("give --photos, --portraits or both")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    models, recognizer = load_face_models("embedded"), DlibRecognizer()
    priors = [load_prior(name, precision="auto") for name in prior or ["embedded"]]
    skipped: Counter[str] = Counter()
    group_of = groups_by_id([groups] if groups else [])
    subjects: list[Subject] = []
    for image_id, encoded in _pictures(photos, portraits, ids, skipped):
        if len(subjects) == limit:
            break
        subject = _subject(image_id, encoded, models, recognizer, group_of.get(image_id, ["no group"])[-1], skipped)
        subjects += [subject] if subject else []
    if not subjects:
        raise typer.BadParameter(f"no picture with exactly one face; skipped: {dict(skipped)}")
    milliseconds = _milliseconds_per_nfe(priors)
    kinds = [kind for kind in subjects[0].groups if kind != "group" or groups]
    columns, by_group = [], []
    tried = [(loaded, replace(SETTINGS, steps=one)) for loaded in priors for one in steps or [SETTINGS.steps]]
    for index, (loaded, settings) in enumerate(tried):
        started = time.perf_counter()
        with_tiles = index == 0 and (page or cutouts) is not None
        outcomes = _anonymize(loaded, settings, subjects, models, recognizer, with_tiles=with_tiles)
        anonymized = time.perf_counter()
        solved = _recover(loaded, settings.procedure, outcomes[: recovered or None], models)
        seconds = (anonymized - started, time.perf_counter() - anonymized)
        columns.append(
            {
                "prior": f"{loaded.name} {loaded.digest[:8]}, {settings.procedure.steps} steps",
                **_figures(outcomes),
                **_distances(outcomes),
                "solver, most iterations": solved.iterations,
                "solver, worst residual": solved.residual,
                "solver, faces it failed on": solved.failed,
                "ms per NFE": milliseconds[priors.index(loaded)],
                "s a face, anonymized": seconds[0] / len(subjects),
                "s a face, recovered": seconds[1] / len(outcomes[: recovered or None]),
                "reasons": dict(Counter(outcome.reason.partition(":")[0] for outcome in outcomes if outcome.reason)),
            }
        )
        by_group += _by_group(str(columns[-1]["prior"]), outcomes, kinds)
        if page and index == 0:
            _write_page(page, [outcome.tile for outcome in outcomes if outcome.tile is not None])
        if cutouts and index == 0:
            _write_page(cutouts, [outcome.cutout for outcome in outcomes if outcome.cutout is not None])
    facts = {
        **when_and_where(),
        "faces": len(subjects),
        "skipped pictures": dict(skipped),
    }
    _print(facts, columns, by_group, as_json=as_json)


def _pictures(
    photos: Path | None, portraits: Path | None, ids: Path | None, skipped: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Ids and encoded pictures, photographs first. Ids that no Parquet row has are counted when all rows were read."""
    if photos is not None:
        for path in photographs(photos):
            yield path.stem, path.read_bytes()
    if portraits is None:
        return
    wanted = set(ids.read_text().split()) if ids is not None else None
    for path in sorted(portraits.glob("*.parquet")) if portraits.is_dir() else [portraits]:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["id", "image"]):
            for image_id, image in zip(batch["id"], batch["image"], strict=True):
                if wanted is None or str(image_id.as_py()) in wanted:
                    (wanted or set()).discard(str(image_id.as_py()))
                    yield str(image_id.as_py()), image.as_py()
    if wanted:
        skipped["id not in the Parquet files"] += len(wanted)


def _subject(
    image_id: str, encoded: bytes, models: FaceModels, recognizer: DlibRecognizer, group: str, skipped: Counter[str]
) -> Subject | None:
    """A picture with its one face outlined and measured; None, counted in `skipped`, when it has none or several."""
    try:
        pixels = decode_picture(encoded)
        face = only_face(pixels, models)
        mask = models.parser.mask(pixels, face, SETTINGS.regions)
        views = [(pixels, face)]
        return Subject(
            image_id,
            encoded,
            face,
            mask,
            edge_contrast(pixels, mask, _band(mask)),
            recognizer.embed(views)[0],
            recognizer.features(views)[0],
            {"skin": skin_tone_of(pixels, face.landmarks), "group": group},
        )
    except (PictureError, FaceModelError) as error:
        skipped[getattr(error, "reason", "unusable")] += 1
        return None


def _band(mask: PictureMask) -> int:
    return max(MIN_BAND, round(BAND * math.sqrt(mask.count)))


def _anonymize(
    prior: Prior,
    settings: AnonymizeSettings,
    subjects: Sequence[Subject],
    models: FaceModels,
    recognizer: DlibRecognizer,
    *,
    with_tiles: bool,
) -> list[Outcome]:
    """All subjects as the job does it, in its fixed batch, and what is measured of the results."""
    prior.networks.physical_batch = settings.face_batch
    anonymizer = PictureAnonymizer(prior, models, settings)
    outcomes: list[Outcome] = []
    for start in range(0, len(subjects), PICTURES_AT_ONCE):
        part = subjects[start : start + PICTURES_AT_ONCE]
        results = anonymizer([PictureTask(one.image_id, one.encoded, [one.face]) for one in part])
        for subject, result in zip(part, results, strict=True):
            outcome = _outcome(subject, result, models, recognizer)
            if with_tiles and len(outcomes) < PAGE_FACES:
                outcome.tile, outcome.cutout = _tiles(subject, result)
            outcomes.append(outcome)
    prior.networks.physical_batch = None
    return outcomes


def _outcome(subject: Subject, result: PictureResult, models: FaceModels, recognizer: DlibRecognizer) -> Outcome:
    if result.encoded is None or result.key is None:
        gate_refused = result.reason.startswith("still_recognizable")
        return Outcome(subject, result.reason, first_key=False if gate_refused else None)
    pixels = decode_picture(result.encoded)
    found = models.detector.detect(pixels)
    view = [(pixels, subject.face)]
    return Outcome(
        subject,
        "",
        first_key=all(face.attempt == 0 for face in result.key.faces),
        found=any(
            landmarks_inside(one, subject.mask, pixels.shape) > SAME_PLACE or box_iou(one, subject.face) > SAME_PLACE
            for one in found
        ),
        contrast=edge_contrast(pixels, subject.mask, subject.band),
        identity=recognizer.embed(view)[0],
        texture=recognizer.features(view)[0],
    )


def _recover(prior: Prior, procedure: Procedure, outcomes: Sequence[Outcome], models: FaceModels) -> Solved:
    """Anonymize and recover the aligned crops, BATCH at a time, and note each face's figures in its outcome."""
    solved = Solved()
    cut = [(outcome, crop) for outcome in outcomes if (crop := _crop(outcome.subject, models, prior)) is not None]
    for start in range(0, len(cut), BATCH):
        _recover_batch(prior, procedure, cut[start : start + BATCH], solved)
    return solved


def _crop(subject: Subject, models: FaceModels, prior: Prior) -> Crop | None:
    """The subject's crop for this prior; None where the job has none either."""
    try:
        (aligned,) = align_faces(subject.pixels, [subject.face], models.parser, SETTINGS.regions, prior)
    except PictureError:
        return None
    return aligned.crop if aligned.crop.mask.any() else None


def _recover_batch(prior: Prior, procedure: Procedure, batch: Sequence[tuple[Outcome, Crop]], solved: Solved) -> None:
    """One face that can not be solved, under its own key or the wrong one, costs no other face its figures."""
    values, masks = np.stack([crop.values for _, crop in batch]), np.stack([crop.mask for _, crop in batch])
    try:
        figures = measure_recovery(prior, values, masks, procedure)
    except ConvergenceError:
        if len(batch) == 1:
            solved.failed += 1
            return
        for one in batch:
            _recover_batch(prior, procedure, [one], solved)
        return
    for position, (outcome, _) in enumerate(batch):
        outcome.sidecar_db = float(figures.recovered_psnr["sidecar"][position])
        outcome.eight_bit_db = float(figures.recovered_psnr["8-bit crop"][position])
        outcome.noise_rms = float(figures.noise_rms[position])
    solved.iterations = max([solved.iterations, *(step.iterations for step in figures.solver)])
    solved.residual = max([solved.residual, *(float(step.residual) for step in figures.solver)])


def _figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The figures of a set of faces that make sense for a small group, too. NaN where there is nothing to measure."""
    made = [outcome for outcome in outcomes if not outcome.reason]
    judged = [outcome.first_key for outcome in outcomes if outcome.first_key is not None]
    pairs = [(one.subject.contrast, one.contrast) for one in made if one.contrast is not None]
    seams = {}
    for kind in ("colour", "gradient", "step"):
        before = np.array([getattr(source, kind) for source, _ in pairs])
        after = np.array([getattr(result, kind) for _, result in pairs])
        both = np.isfinite(before) & np.isfinite(after)
        for name, mean in (("medians", np.median), ("means", np.mean)):
            seams[f"seam {kind}, ratio of {name}"] = _of(mean, after[both]) / _of(mean, before[both])
    distance = np.array(
        [np.linalg.norm(one.subject.identity - one.identity) for one in made if one.identity is not None]
    )
    eight_bit, sidecar = _known([one.eight_bit_db for one in outcomes]), _known([one.sidecar_db for one in outcomes])
    square = 4 / 10 ** (eight_bit / 10) / EIGHT_BIT_RMS**2
    return {
        "faces": len(outcomes),
        "quarantined": len(outcomes) - len(made),
        "found, share": _of(np.mean, np.array([one.found for one in made])),
        "first key passes, share": _of(np.mean, np.array(judged)),
        "identity distance": _of(np.median, distance),
        "identity distance, min": _of(np.min, distance),
        **seams,
        "recovered faces": len(eight_bit),
        "from the sidecar, dB": _of(np.median, sidecar),
        "from the sidecar, min dB": _of(np.min, sidecar),
        "from 8 bits, dB": _of(np.median, eight_bit),
        "from 8 bits, min dB": _of(np.min, eight_bit),
        "gain": math.sqrt(_of(np.median, square)),
        "gain, all faces together": math.sqrt(_of(np.mean, square)),
        "rms of zT": _of(np.median, _known([one.noise_rms for one in outcomes])),
    }


def _known(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.array(values, np.float64)
    return array[np.isfinite(array)]


def _of(statistic: Any, values: npt.NDArray[Any]) -> float:
    return float(statistic(values)) if len(values) else math.nan


def _distances(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Frechet distances of the results to the sources, in both spaces. NaN with fewer than four results."""
    made = [outcome for outcome in outcomes if not outcome.reason]
    distances = {}
    for space in ("identity", "texture"):
        if len(made) < 4:
            values = (math.nan,) * 3
        else:
            source = np.stack([getattr(one.subject, space) for one in made])
            result = np.stack([getattr(one, space) for one in made])
            crossed = [frechet_distance(result[i::2], source[1 - i :: 2]) for i in (0, 1)]
            floor = frechet_distance(source[::2], source[1::2])
            values = (frechet_distance(result, source), sum(crossed) / 2, floor)
        for name, value in zip(("all", "halves", "halves, floor"), values, strict=True):
            distances[f"Frechet, {space}, {name}"] = value
    return distances


def _by_group(prior: str, outcomes: Sequence[Outcome], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of groups, by each kind of grouping."""
    columns = ["faces", "quarantined", "found, share", "first key passes, share", "identity distance"]
    columns += ["seam colour, ratio of medians", "seam gradient, ratio of medians", "from 8 bits, dB"]
    rows = []
    for kind in kinds:
        for group in sorted({one.subject.groups[kind] for one in outcomes}):
            figures = _figures([one for one in outcomes if one.subject.groups[kind] == group])
            rows.append({"prior": prior, kind: group, **{column: figures[column] for column in columns}})
    return rows


def _milliseconds_per_nfe(priors: Sequence[Prior]) -> list[float]:
    """Median over calls of BATCH faces, divided by BATCH; in turns, so that a noisy machine is noisy for all."""
    calls: list[list[float]] = [[] for _ in priors]
    for _ in range(TIMED_ROUNDS):
        for prior, seconds in zip(priors, calls, strict=True):
            state = torch.randn((BATCH, *prior.latent_shape), dtype=torch.float64)
            mask = torch.ones((BATCH, 1, *prior.latent_shape[1:]), dtype=torch.float64)
            known, t = zero_path(state, prior.alpha_bar, prior.grid_ends[0]), sum(prior.grid_ends) // 2
            prior.eps(state, t, known, mask)
            until = time.perf_counter() + TIMED_SECONDS
            while (started := time.perf_counter()) < until:
                prior.eps(state, t, known, mask)
                seconds.append(time.perf_counter() - started)
    return [1000 * float(np.median(seconds)) / BATCH for seconds in calls]


def _tiles(subject: Subject, result: PictureResult) -> tuple[Pixels, Pixels]:
    """The source's face beside the result's, (TILE, 2 TILE, 3), and the result inside its mask alone, (TILE, TILE, 3)."""
    x0, y0, x1, y1 = subject.mask.window
    scale = TILE / (PAGE_MARGIN * max(x1 - x0, y1 - y0))
    centre = np.array([(x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2])
    shift = (TILE - 1) / 2 - scale * centre
    to_tile = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    after = np.full((TILE, TILE, 3), BACKDROP, np.uint8)
    cutout = after
    if result.encoded is not None and result.key is not None:
        pixels = decode_picture(result.encoded)
        after = chip(pixels, to_tile, TILE)
        inside = np.repeat(subject.mask.full(pixels.shape)[..., None], 3, axis=2)
        shown = chip(inside * np.uint8(255), to_tile, TILE) >= 128
        blanked = np.where(inside, pixels, np.uint8(BACKDROP))
        cutout = np.where(shown, chip(blanked, to_tile, TILE), np.uint8(BACKDROP))
    return np.hstack([chip(subject.pixels, to_tile, TILE), after]), cutout


def _write_page(path: Path, tiles: Sequence[Pixels]) -> None:
    """Tiles of one size, PAGE_TILES_A_ROW a row, none left out, as a JPEG of PAGE_BYTES at most if quality 40 allows."""
    width = tiles[0].shape[1]
    rows = math.ceil(len(tiles) / PAGE_TILES_A_ROW)
    across = min(len(tiles), PAGE_TILES_A_ROW)
    canvas = np.full((rows * TILE, across * width, 3), 255, np.uint8)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, PAGE_TILES_A_ROW)
        canvas[row * TILE : (row + 1) * TILE, column * width : (column + 1) * width] = tile
    for quality in range(90, 39, -5):
        buffer = io.BytesIO()
        Image.fromarray(canvas).save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= PAGE_BYTES:
            break
    path.write_bytes(buffer.getvalue())


def _print(
    facts: dict[str, Any], columns: list[dict[str, Any]], by_group: list[dict[str, Any]], *, as_json: bool
) -> None:
    """One column for each prior, one row for each measure; then the groups."""
    if as_json:
        print_json({**facts, "priors": columns, "groups": by_group})
        return
    print_facts(facts)
    measures = [name for name in columns[0] if name not in ("prior", "reasons")]
    rows = [["", "wanted", *(column["prior"] for column in columns)]]
    rows += [[name, WANTED.get(name, ""), *(column[name] for column in columns)] for name in measures]
    print_table(rows)
    for column in columns:
        if column["reasons"]:
            typer.echo(f"quarantined by {column['prior']}: {column['reasons']}")
    for kind in ("skin", "group"):
        part = [row for row in by_group if kind in row]
        if part:
            print_records(part)


if __name__ == "__main__":
    typer.run(main)
