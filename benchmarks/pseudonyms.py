"""What consistent pseudonyms come to, by the payload's share: one face for one person, another for another, and the way back.

    python benchmarks/pseudonyms.py --photos DIR [--portraits PARQUET_OR_DIR] [--people FILE.csv] [--share 1 --share 0.2 ...]
        [--limit 48] [--recovered 24] [--threads 1] [--json]

Pictures in which the embedded detector finds exactly one face, up to --limit: those of --photos and the rows (`id`, `image`) of
--portraits. --people says whom they show, a CSV with columns id and group (a photograph's id: its stem); then only people
with two pictures or more count. Without it every picture is another person's, and its other photograph is the same one
shifted, turned by 4 degrees, enlarged and darkened.

Each share is anonymized twice by the job's own path, gate and all, as two data sets. Printed:
- same carrier, other photograph; other carrier, same photograph; other people; to the source: cosines of identity vectors about
  the mean of the sources' (`keyanon_core.evaluation.pseudonyms`), with 95 % intervals.
- one person, two people: pairs of one data set that the recognizer takes for one person at its own threshold; TAR where 1 % of
  the pairs of two people are.
- distance: of a face from its source, over that of strangers. keys: tried for a face. quarantined: of the first data set.
- dB: the aligned crop from the sidecar, inside the mask, at the bits that a run of that share chooses, without the gate.
Pairs that share a picture are not independent: intervals of pairs are narrower than they should be.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from shared import groups_by_id, only_face, photographs, print_facts, print_json, print_records, when_and_where

from keyanon_core.errors import FaceModelError, PictureError
from keyanon_core.evaluation.intervals import Estimate
from keyanon_core.evaluation.pseudonyms import anonymized, another_photograph, likeness
from keyanon_core.evaluation.recovery import measure_sidecar
from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior, load_prior

SHARES = (1.0, 0.5, 0.3, 0.2, 0.1)
TOGETHER = 8  # crops recovered in one call


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs with faces.")] = None,
    portraits: Annotated[Path | None, typer.Option(help="Parquet file, or folder of such, with id and image.")] = None,
    people: Annotated[Path | None, typer.Option(help="CSV with columns id and group: whom a picture shows.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="Payload's share; again for more.")] = None,
    limit: Annotated[int, typer.Option(min=4, help="Pictures at most, other photographs among them.")] = 48,
    recovered: Annotated[int, typer.Option(help="Faces to recover at most.")] = 24,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    """Measure and print."""
    if photos is None and portraits is None:
        raise typer.BadParameter("give --photos, --portraits or both")
    torch.set_num_threads(threads)
    prior, models = load_prior(), load_face_models()
    person_of = {name: groups[-1] for name, groups in groups_by_id([people] if people else []).items()}
    skipped: Counter[str] = Counter()
    tasks = _tasks(_pictures(photos, portraits, person_of if people else None), models, limit, skipped)
    if len({task.subject for task in tasks}) < 2:
        raise typer.BadParameter(f"fewer than two people with pictures of one face; skipped: {dict(skipped)}")
    crops = list(_crops(tasks, prior, models))
    rows = [_row(one, tasks, crops[:recovered], prior, models) for one in share or SHARES]
    other = "other pictures" if people else "augmented"
    persons = len({task.subject for task in tasks})
    facts = {**when_and_where(), "pictures": len(tasks), "people": persons, "other photographs": other}
    facts |= {"recognizer": models.recognizer.name, "skipped pictures": dict(skipped)}
    if as_json:
        told = [{key: one.to_dict() if isinstance(one, Estimate) else one for key, one in row.items()} for row in rows]
        print_json({**facts, "shares": told})
    else:
        print_facts(facts)
        print_records([{name: str(value) for name, value in row.items()} for row in rows])


def _pictures(
    photos: Path | None, portraits: Path | None, person_of: dict[str, str] | None
) -> Iterator[tuple[str, bytes, str]]:
    """Id, picture and person: one person's beside each other, where they are said."""
    found = dict[str, bytes]()
    for path in photographs(photos) if photos is not None else ():
        found[path.stem] = path.read_bytes()
    paths = [] if portraits is None else sorted(portraits.glob("*.parquet")) if portraits.is_dir() else [portraits]
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["id", "image"]):
            for name, image in zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True):
                if person_of is None or str(name) in person_of:
                    found[str(name)] = image
    if person_of is None:
        for name, encoded in found.items():
            yield name, encoded, name
            yield f"{name} again", encode_picture(another_photograph(decode_picture(encoded)), "png"), name
    else:
        said = sorted((person_of[name], name) for name in found if name in person_of)
        for person, name in said:
            yield name, found[name], person


def _tasks(
    pictures: Iterator[tuple[str, bytes, str]], models: FaceModels, limit: int, skipped: Counter[str]
) -> list[PictureTask]:
    """Up to so many, of people of whom two can be used; the others are counted in `skipped`."""
    tasks = list[PictureTask]()
    waiting = dict[str, PictureTask]()
    for name, encoded, person in pictures:
        try:
            task = PictureTask(name, encoded, [only_face(decode_picture(encoded), models)], subject=person)
        except (PictureError, FaceModelError) as error:
            skipped[getattr(error, "reason", "unusable")] += 1
            continue
        if tasks and tasks[-1].subject == person:
            tasks.append(task)
        elif person in waiting:
            tasks += [waiting.pop(person), task]
        else:
            waiting[person] = task
        if len(tasks) >= limit:
            break
    skipped["no second picture of the person"] = len(waiting)
    return tasks[:limit]


def _crops(tasks: list[PictureTask], prior: Prior, models: FaceModels) -> Iterator[Crop]:
    for task in tasks:
        regions = AnonymizeSettings().regions
        (aligned,) = align_faces(decode_picture(task.encoded), task.faces or [], models.parser, regions, prior)
        yield aligned.crop


def _row(share: float, tasks: list[PictureTask], crops: list[Crop], prior: Prior, models: FaceModels) -> dict[str, Any]:
    settings = AnonymizeSettings(payload_share=share, output_format="png")
    first, second = (anonymized(prior, models, settings, tasks) for _ in range(2))
    views = [(decode_picture(task.encoded), face) for task in tasks for face in task.faces or []]
    sources = models.recognizer.embed(views)
    persons = np.unique([str(task.subject) for task in tasks], return_inverse=True)[1]
    found = likeness(
        sources.astype(np.float64),
        first.identities,
        second.identities,
        persons,
        np.array([models.recognizer.stranger_distance(source) for source in sources]),
        models.recognizer.threshold,
    )
    decibels = [
        measure_sidecar(
            prior,
            np.stack([crop.values for crop in crops[at : at + TOGETHER]]),
            np.stack([crop.mask for crop in crops[at : at + TOGETHER]]),
            settings.procedure,
            settings.sidecar_bits,
        )[1]
        for at in range(0, len(crops), TOGETHER)
    ]
    back = np.concatenate(decibels)
    return {
        "p": share,
        "same carrier, other photograph": found.same,
        "other carrier, same photograph": found.other,
        "other people": found.people,
        "to the source": found.source,
        "one person": found.tar,
        "two people": found.far,
        "TAR at FAR 1 %": found.tar_at_far,
        "distance": found.distance,
        "keys": f"{first.keys:.1f}",
        "quarantined": f"{first.quarantined} of {len(tasks)}",
        "bits": f"{settings.sidecar_bits:.2f}",
        "dB, median (worst)": f"{np.median(back):.1f} ({back.min():.1f})",
    }


if __name__ == "__main__":
    typer.run(main)
