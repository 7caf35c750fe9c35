"""The driver of a proposal: who is in the pictures, as a file that `--subjects` reads and a page to check it by."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jobs.errors import ConfigError, PublishError, SourceError
from jobs.evaluate.measuring import MANIFEST, Measuring, Progress, made_here, measure_and_tell
from jobs.evaluate.portions import Measured, Portions, gathered
from jobs.evaluate.report import PAGE, REPORT
from jobs.evaluate.subjects.config import ProposeConfig
from jobs.evaluate.subjects.stage import EmbedLargestFace
from jobs.output.layout import RUN_DIRECTORY
from jobs.pages import data_uri, page_environment
from jobs.run.detect_stage import FaceModelChoice
from jobs.sources.source import open_source
from jobs.storage.json_files import read_json, to_json
from keyanon_core.evaluation.faces import SOURCE
from keyanon_core.evaluation.same_people import SHARE_OF_THRESHOLD, Clusters, cluster, nearest_people
from keyanon_core.faces import load_face_models
from keystore.storage import durable

SUBJECTS: Final = "subjects.csv"
PICTURES_PER_TASK: Final = 8
SHOWN_FACES: Final = 3000  # on the page: some 15 MB of thumbnails
SHOWN_OF_ONE: Final = 60  # of one person, those that fit least
SHOWN_PAIRS: Final = 100
NEARLY: Final = 1.15  # times the threshold: people as near are shown as pairs that may be one


def propose_subjects(config: ProposeConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Look at what was not looked at yet, and write the proposal; what REPORT holds.

    Raises:
        SourceError: the source can not be used, has not one face, or is Parquet. EvaluationError: the threshold joins strangers.
        FaceModelError: a model can not be used. ConfigError: the output lies in a run's. PublishError: it holds a proposal by
        another threshold. What `measure_and_tell` does.
    """
    output = config.output.absolute()
    _check_private(output)
    source = open_source(config, clips=False)
    if source.schema is not None:
        raise SourceError(
            "subjects are proposed for folders and tar shards, whose pictures `--subjects FILE` names; in Parquet a column says "
            "whose a picture is: write the pictures into a folder under their ids, and join the proposal to the table"
        )
    recognizer = load_face_models(config.face_models, config.face_weights).recognizer
    within = config.threshold or SHARE_OF_THRESHOLD * recognizer.threshold
    _check_threshold(output, within)
    if output.is_dir() and ((output / MANIFEST).is_file() or not any(output.iterdir())):
        output.chmod(0o700)  # which it has where it is made here
    work = Measuring(
        output=config.output,
        digest=config.digest(source.digest),
        source=source,
        chosen=np.arange(source.total, dtype=np.int64),
        stage=EmbedLargestFace,
        arguments={
            "models": FaceModelChoice(config.face_models, config.face_weights),
            "max_pixels": config.max_pixels,
        },
        rows=PICTURES_PER_TASK,
        workers=config.workers,
    )

    def tell(portions: Portions) -> dict[str, Any]:
        found = gathered(portions)
        if not found.images:
            raise SourceError(f"not one face was found: {'; '.join(found.examples.values())}")
        vectors = found.faces.vectors[recognizer.name]
        seen = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        people = cluster(vectors[seen], within)
        names = _named(people.labels)
        report = {
            "kind": "subjects",
            **made_here(),
            "photos": config.photos,
            "threshold": within,
            "recognizer": recognizer.name,
            "pictures": source.total,
            "faces": len(seen),
            "subjects": len(names),
            "unmeasured": dict(found.unmeasured),
            "unmeasured_examples": found.examples,
            "unmeasured_pictures": [
                [row["image_id"], row["reason"]]
                for table in portions.tables(["image_id", "reason"])
                for row in table.to_pylist()
                if row["reason"]
            ],
        }
        pairs = nearest_people(vectors[seen], people.labels, NEARLY * within)[:SHOWN_PAIRS]
        _write(config, [(found.images[face], names[label]) for face, label in zip(seen, people.labels, strict=True)])
        page = _page(report, _people(found, portions, seen, people, names), pairs)
        durable.replace(config.output.absolute() / PAGE, page.encode(), durable.SECRET_MODE)
        durable.replace(config.output.absolute() / REPORT, to_json(report), durable.SECRET_MODE)
        return report

    return measure_and_tell(work, tell, progress)


def _check_private(output: Path) -> None:
    """Raise ConfigError for a place in a run's output."""
    for folder in (output.resolve(), *output.resolve().parents):
        if (folder / RUN_DIRECTORY).exists():
            raise ConfigError(
                f"{output} lies in the output {folder} of a run, which is published; a proposal shows source faces"
            )


def _check_threshold(output: Path, within: float) -> None:
    """Raise PublishError where a finished proposal by another threshold is, whose file may have been corrected by hand."""
    before = read_json(output / REPORT) if (output / REPORT).is_file() else {}
    if before.get("kind") == "subjects" and before["threshold"] != within:
        raise PublishError(
            f"output {output} holds a proposal by the threshold {before['threshold']:g}, not {within:g}; give another output"
        )


@dataclass(frozen=True)
class ShownPerson:
    """A person on the page. faces: picture's name, thumbnail, and mean distance from the person's other faces, the least certain
    first; count: of all, of which some are shown."""

    name: str
    count: int
    faces: list[tuple[str, str, float]]


def _named(labels: npt.NDArray[np.int64]) -> list[str]:
    """The name of each person, by number."""
    people = int(labels.max()) + 1
    digits = max(4, len(str(people)))
    return [f"person-{number:0{digits}d}" for number in range(1, people + 1)]


def _write(config: ProposeConfig, lines: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "subject"))
    writer.writerows(lines)
    durable.replace(config.output.absolute() / SUBJECTS, text.getvalue().encode(), durable.SECRET_MODE)


def _people(
    found: Measured, portions: Portions, seen: npt.NDArray[np.int64], people: Clusters, names: Sequence[str]
) -> list[ShownPerson]:
    """By number. Of the page's faces those of people with most come first."""
    counts = np.bincount(people.labels)
    shown: dict[int, list[int]] = {}
    left = SHOWN_FACES
    for person in np.argsort(-counts, kind="stable").tolist():
        faces = np.flatnonzero(people.labels == person)
        faces = faces[np.argsort(-people.spread[faces], kind="stable")][: min(SHOWN_OF_ONE, left)]
        left -= len(faces)
        shown[person] = faces.tolist()
    places = {face: (found.rows[seen[face]], found.indices[seen[face]]) for faces in shown.values() for face in faces}
    views = portions.views(places.values())

    def face(number: int) -> tuple[str, str, float]:
        view = data_uri(views[places[number]][SOURCE], "jpeg")
        return found.images[seen[number]], view, float(people.spread[number])

    return [
        ShownPerson(name, int(counts[person]), [face(number) for number in shown[person]])
        for person, name in enumerate(names)
    ]


def _page(report: dict[str, Any], people: Sequence[ShownPerson], pairs: Sequence[tuple[int, int, float]]) -> str:
    nearly = [(people[one], people[other], apart) for one, other, apart in pairs]
    most_first = sorted(people, key=lambda person: -person.count)
    template = page_environment("jobs.evaluate").get_template("subjects.html.j2")
    return template.render(report=report, people=most_first, nearly=nearly)
