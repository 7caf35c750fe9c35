"""The driver of an evaluation: pictures through Ray Data into portions, portions into a report.

A stopped evaluation goes on when the same command is run again; a finished one only tells again what it found.
"""

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jobs.config import AnonymizeConfig
from jobs.errors import PublishError, SourceError
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.counterparts import Counterparts, OfFolder, OfRun
from jobs.evaluate.measure_stage import MEASURED, RECOVERED, MeasurePictures, RehearsalChoice
from jobs.evaluate.portions import FOLDER, Portions, gathered
from jobs.evaluate.report import FACES, PAGE, REPORT, report_of, write_report
from jobs.output.layout import LEASE_FILE
from jobs.output.lease import Lease
from jobs.output.manifest import code_version
from jobs.output.row_sets import RowSet
from jobs.output.unwritable import unwritable
from jobs.run.cluster import explaining, machines, ray_cluster
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor
from jobs.run.reading import read_pictures
from jobs.run.recorded import manifest_of, recorded_config
from jobs.run.task_sizes import TaskSizes
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.source import NO_FILE, Source, open_source
from jobs.storage.json_files import read_json, to_json
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from keyanon_core.errors import EvaluationError
from keystore.storage import durable

MANIFEST: Final = "evaluation.json"
CHANGED: Final = "changed_source"
_IS_ANOTHER: Final = "the file has another size or modification time than when the run read it"
PICTURES_PER_TASK: Final = 4  # of which each may be anonymized anew: a task is a minute of one CPU at most

Progress = Callable[[int, int], None]  # pictures measured, and pictures in all


@dataclass(frozen=True)
class Subject:
    """What is evaluated. versions: the pictures beside each source. recorded: settings of the run, None for pictures of other
    tools. facts: of the run, for the report."""

    config: EvaluateConfig
    versions: Mapping[str, Counterparts]
    recorded: AnonymizeConfig | None
    facts: Mapping[str, Any]


def subject_of_run(run: Place, changes: Mapping[str, Any]) -> Subject:
    """The pictures of a run, complete or not. changes: settings of EvaluateConfig, None for those that stay.

    Raises OutputError, PublishError, ConfigError, MachineError.
    """
    endpoint = changes.get("endpoint_url")
    manifest = manifest_of(run, endpoint)
    recorded = recorded_config(manifest, run, {"accept_version": code_version()})
    config = EvaluateConfig.of_run(recorded, {**changes, "run": run, "endpoint_url": endpoint or recorded.endpoint_url})
    published = OfRun.of(open_store(run, config.endpoint_url))
    facts = {
        "run": manifest.run_id,
        "state": manifest.state,
        "procedure": str(recorded.settings().procedure),
        "fidelity": recorded.fidelity,
        "prior": recorded.prior,
        "prior_digest": manifest.prior_digest,
        "keyanon": manifest.code_version,
        "not_published": dict(published.unpublished),
        "kept_faces": sum(row.kept for row in published.rows.values()),
    }
    return Subject(config, _with_recovered(config, published), recorded, facts)


def subject_of_folders(config: EvaluateConfig) -> Subject:
    """Pictures of any tool. Raises SourceError, ConfigError, MachineError."""
    if config.anonymized is None:
        raise ValueError("there is no folder of anonymized pictures")
    anonymized = OfFolder.of(open_store(config.anonymized, config.endpoint_url), config.max_file_bytes)
    return Subject(config, _with_recovered(config, anonymized), None, {"anonymized": str(config.anonymized)})


def _with_recovered(config: EvaluateConfig, anonymized: Counterparts) -> dict[str, Counterparts]:
    versions = {MEASURED: anonymized}
    if config.recovered is not None:
        store = open_store(config.recovered, config.endpoint_url)
        versions[RECOVERED] = OfFolder.of(store, config.max_file_bytes)
    return versions


def run_evaluation(subject: Subject, progress: Progress | None = None) -> dict[str, Any]:
    """Measure what is not measured yet, and write the report; what REPORT holds.

    Raises:
        SourceError: the sources can not be used, none has a counterpart, or not one face could be measured.
        PublishError, LeaseError: the output is not this evaluation's, can not be written, or another process writes it.
        MachineError: its disk is full. EvaluationError: a package is missing. PriorError, FaceModelError: a model can not be
        used. JobError: Ray failed; the same command goes on.
    """
    if find_spec("skimage") is None:
        raise EvaluationError("measuring takes scikit-image; install keyanon[evaluation]")
    config = subject.config
    output = config.output.absolute()
    source = open_source(config)
    ids = [image_id for part in source.ids.parts() for image_id in part]
    known = frozenset(ids)
    subject = replace(subject, versions={name: one.among(known) for name, one in subject.versions.items()})
    there, changed = _there(source, ids, subject)
    chosen = _spread(there, config.limit)
    digest = config.digest({"source": source.digest, **{name: one.digest() for name, one in subject.versions.items()}})
    try:
        durable.make_directory(output)
        with Lease(output):
            _claim(output, digest)
            if (output / REPORT).is_file():
                _forget(output)  # where the end was killed
                return read_json(output / REPORT)
            portions = Portions(output)
            _measure(subject, source, chosen, portions, progress or (lambda done, of: None))
            found = gathered(portions)
            if len(changed):
                found.unmeasured[CHANGED] = len(changed)
                found.examples[CHANGED] = f"{source.ids[int(changed[0])]}: {CHANGED}: {_IS_ANOTHER}"
            if not len(found.faces.face):
                raise SourceError(f"not one face could be measured: {'; '.join(found.examples.values())}")
            report = report_of(found, {**subject.facts, **_circumstances(config, source, len(chosen))})
            write_report(output, report, found, portions)
            _forget(output)
            return report
    except OSError as error:
        raise unwritable(output, error) from error


def _forget(output: Path) -> None:
    """Remove the portions: they hold identity vectors, and people in clear. Raises OSError."""
    if (output / FOLDER).is_dir():
        shutil.rmtree(output / FOLDER)


def _there(source: Source, ids: Sequence[str], subject: Subject) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the sources that have an anonymized picture; and of those whose file has changed since it was made. ids: of
    all sources.

    Where --source names copies their times may be other ones altogether: only where most are as they were, the others have
    changed. Raises SourceError.
    """
    anonymized = subject.versions[MEASURED]
    there = np.array([position for position, image_id in enumerate(ids) if anonymized.has(image_id)], np.int64)
    if not len(there):
        raise SourceError(
            f"none of the {source.total} source pictures has an anonymized one of its name (the first source is "
            f"{source.ids[0]!r}); give the sources of these pictures"
        )
    then = [anonymized.made_of(ids[position]) for position in there.tolist()]
    now = source.versions[there].tolist()
    changed = np.array([was not in (None, NO_FILE, is_) for was, is_ in zip(then, now, strict=True)])
    elsewhere = subject.recorded is None or subject.recorded.photos != subject.config.photos
    if elsewhere and changed.mean() > 1 / 2:
        changed[:] = False
    if changed.all():
        raise SourceError(
            f"{ids[there[0]]} and all other sources of the run: {_IS_ANOTHER}; name the sources by --source"
        )
    return there[~changed], there[changed]


def _spread(positions: npt.NDArray[np.int64], most: int | None) -> npt.NDArray[np.int64]:
    """At most so many, the first and the last among them."""
    if most is None or most >= len(positions):
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(np.int64)] if most else positions[:0]


def _claim(output: Path, digest: str) -> None:
    """Make the output this evaluation's, or see that it is. Raises PublishError."""
    path = output / MANIFEST
    if path.is_file():
        if read_json(path).get("digest") != digest:
            raise PublishError(
                f"output {output} belongs to an evaluation of other pictures or by other settings; give another output"
            )
    elif any(entry.name != LEASE_FILE for entry in output.iterdir()):
        raise PublishError(f"output {output} is not empty and no evaluation wrote it; give an empty directory")
    else:
        durable.replace(path, to_json({"digest": digest}), durable.SECRET_MODE)


def _measure(
    subject: Subject, source: Source, chosen: npt.NDArray[np.int64], portions: Portions, progress: Progress
) -> None:
    config = subject.config
    done = portions.done()
    left = np.setdiff1d(chosen, np.array(sorted(done), np.int64))
    progress(len(chosen) - len(left), len(chosen))
    if not len(left):
        return
    workers = min(config.workers or usable_cpus(), -(-len(left) // PICTURES_PER_TASK))
    rehearsed = frozenset(_spread(chosen, config.rehearsed).tolist())
    skipped = RowSet.of(~np.isin(np.arange(source.total), left))
    with ray_cluster(workers):
        monitor = Monitor()
        if not config.workers:
            workers = min(max(int(sum(one.usable_cpus for one in machines())), 1), -(-len(left) // PICTURES_PER_TASK))
        sizes = TaskSizes(PICTURES_PER_TASK, PICTURES_PER_TASK, workers)
        dataset = read_pictures(source, list(source.units(skipped, sizes.next)), PICTURES_PER_TASK).map_batches(
            MeasurePictures,
            fn_constructor_kwargs={
                "models": FaceModelChoice(config.face_models, config.face_weights),
                "recognizers": config.recognizer_choices(),
                "versions": dict(subject.versions),
                "rehearsal": _rehearsal(subject) if len(rehearsed) else None,
                "rehearsed": rehearsed,
                "max_pixels": config.max_pixels,
                "monitor": monitor,
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=Pool(workers, workers).strategy(),
            num_cpus=0,
            max_restarts=PROCESS_RESTARTS,
        )
        with explaining(monitor, "measuring"):
            measured = len(chosen) - len(left)
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                portions.add(table)
                measured += table.num_rows
                progress(measured, len(chosen))


def _rehearsal(subject: Subject) -> RehearsalChoice | None:
    if subject.recorded is None:
        return None
    prior = subject.config.prior or subject.recorded.prior
    return RehearsalChoice(
        prior, subject.facts["prior_digest"], subject.recorded.precision, subject.recorded.settings()
    )


def _circumstances(config: EvaluateConfig, source: Source, chosen: int) -> dict[str, Any]:
    """Where, when and of what the figures are."""
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "by": f"keyanon {code_version()}",
        "sources": config.photos,
        "source_pictures": source.total,
        "chosen_pictures": chosen,
        "rehearsed_pictures": min(config.rehearsed, chosen),
    }


__all__ = ["FACES", "PAGE", "REPORT", "Subject", "run_evaluation", "subject_of_folders", "subject_of_run"]
