"""How good priors are, one beside the other: the same faces through each, by the job's own path.

    python benchmarks/prior_quality.py --photos DIR [--portraits PARQUET_OR_DIR --ids FILE] [--limit 200]
        [--prior embedded --prior DIR ...] [--steps 0 --steps N ...] [--groups FILE] [--page FILE.jpg] [--cutouts FILE.jpg]
        [--recovered 0] [--threads 0] [--json]

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
- found: share of results in which the detector finds the face again, as `keyanon evaluate` counts it.
- first key passes: share the gate lets pass at the first attempt, of those whose outcome the gate decided.
- seam: contrast along the mask's edge over that of the source (`keyanon_core.evaluation.EdgeContrast`: colour, gradient, and the
  stricter step from pixel to pixel), ratio of medians and of means.
- Frechet distances (`FrechetDistances`) in the recognizer's identity vectors (128) and its texture features (192): of all results
  to all sources, of halves, and of the sources' halves. They depend on the number of faces.
- recovered: the aligned crop from the sidecar and from 8 bits, dB inside the mask. gain: rms of the error recovered from
  8 bits over the rms of the rounding itself, median face and all faces together.
- ms per NFE: a denoiser call of 8 faces over 8, the priors taking turns.
Recovering takes most of the time; --recovered bounds the faces it is measured on. It needs `pip install keyanon[evaluation]`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
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

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.evaluation.faces import FaceMeasurer, sheet
from keyanon_core.evaluation.groups import skin_tone_of
from keyanon_core.evaluation.prior_quality import Outcome, Subject, distances_of, figures_of, try_prior
from keyanon_core.evaluation.timing import milliseconds_per_evaluation
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import load_prior

# `lossless` shows what `latent` shows, and lets a prior be measured that can not be inverted.
SETTINGS = AnonymizeSettings(method="exact", transform="rotation", fidelity="lossless", output_format="png")
PAGE_FACES, PAGE_TILES_A_ROW, PAGE_BYTES = 64, 8, 600_000
WANTED = {
    "found, share": ">= 0.98",
    **{f"seam {kind}, ratio of {mean}": "<= 1.5" for kind in ("colour", "gradient") for mean in ("medians", "means")},
}
OF_GROUPS = (
    "faces", "quarantined", "found, share", "first key passes, share", "identity distance",
    "seam colour, ratio of medians", "seam gradient, ratio of medians", "from 8 bits, dB",
)  # fmt: skip


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
    measurer = FaceMeasurer(load_face_models("embedded"))
    priors = [load_prior(name, precision="auto") for name in prior or ["embedded"]]
    skipped: Counter[str] = Counter()
    pictures = _pictures(photos, portraits, ids, skipped)
    subjects = list(islice(_subjects(pictures, measurer.models, groups, skipped), limit))
    if not subjects:
        raise typer.BadParameter(f"no picture with exactly one face; skipped: {dict(skipped)}")
    milliseconds = milliseconds_per_evaluation(priors)
    columns, by_group = list[dict[str, Any]](), list[dict[str, Any]]()
    for (loaded, ms), count in product(zip(priors, milliseconds, strict=True), steps or [SETTINGS.steps]):
        settings = replace(SETTINGS, steps=count)
        trial = try_prior(loaded, settings, subjects, measurer, recovered)
        name = f"{loaded.name} {loaded.digest[:8]}, {settings.procedure.steps} steps"
        columns.append(
            {
                "prior": name,
                **figures_of(trial.outcomes),
                **distances_of(trial.outcomes),
                "solver, most iterations": trial.most_iterations,
                "solver, worst residual": trial.worst_residual,
                "solver, faces it failed on": trial.unsolved,
                "ms per NFE": ms,
                "s a face, anonymized": trial.seconds_anonymize,
                "s a face, recovered": trial.seconds_recover,
                "reasons": dict(Counter(one.reason.partition(":")[0] for one in trial.outcomes if one.reason)),
            }
        )
        by_group += _by_group(name, trial.outcomes, ["skin", "group"] if groups else ["skin"])
        if len(columns) == 1:
            _write_pages(trial.outcomes[:PAGE_FACES], page, cutouts)
    facts = {**when_and_where(), "faces": len(subjects), "skipped pictures": dict(skipped)}
    if as_json:
        print_json({**facts, "priors": columns, "groups": by_group})
    else:
        _print(facts, columns, by_group)


def _pictures(
    photos: Path | None, portraits: Path | None, ids: Path | None, skipped: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Ids and encoded pictures, photographs first. Ids that no Parquet row has are counted when all rows were read."""
    for path in photographs(photos) if photos is not None else ():
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


def _subjects(
    pictures: Iterable[tuple[str, bytes]], models: FaceModels, groups: Path | None, skipped: Counter[str]
) -> Iterator[Subject]:
    """Those of the pictures that have one face; the others are counted in `skipped`."""
    group_of = groups_by_id([groups] if groups else [])
    for image_id, encoded in pictures:
        try:
            pixels = decode_picture(encoded)
            face = only_face(pixels, models)
            mask = models.parser.mask(pixels, face, SETTINGS.regions)
        except (PictureError, FaceModelError) as error:
            skipped[getattr(error, "reason", "unusable")] += 1
            continue
        group = group_of.get(image_id, ["no group"])[-1]
        yield Subject(image_id, encoded, face, mask, {"skin": skin_tone_of(pixels, face.landmarks), "group": group})


def _by_group(prior: str, outcomes: Sequence[Outcome], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of groups, by each kind of grouping."""
    rows = []
    for kind in kinds:
        for group in sorted({one.subject.groups[kind] for one in outcomes}):
            figures = figures_of([one for one in outcomes if one.subject.groups[kind] == group])
            rows.append({"prior": prior, kind: group, **{name: figures[name] for name in OF_GROUPS}})
    return rows


def _write_pages(outcomes: Sequence[Outcome], page: Path | None, cutouts: Path | None) -> None:
    if page:
        beside = [np.hstack(one.views[:2]) for one in outcomes]
        page.write_bytes(sheet(beside, PAGE_TILES_A_ROW, PAGE_BYTES))
    if cutouts:
        cutouts.write_bytes(sheet([one.views[2] for one in outcomes], PAGE_TILES_A_ROW, PAGE_BYTES))


def _print(facts: dict[str, Any], columns: list[dict[str, Any]], by_group: list[dict[str, Any]]) -> None:
    """One column for each prior, one row for each measure; then the groups."""
    print_facts(facts)
    measures = [name for name in columns[0] if name not in ("prior", "reasons")]
    head = ["", "wanted", *(column["prior"] for column in columns)]
    print_table([head, *([name, WANTED.get(name, ""), *(column[name] for column in columns)] for name in measures)])
    for column in columns:
        if column["reasons"]:
            typer.echo(f"quarantined by {column['prior']}: {column['reasons']}")
    for kind in ("skin", "group"):
        if part := [row for row in by_group if kind in row]:
            print_records(part)


if __name__ == "__main__":
    typer.run(main)
