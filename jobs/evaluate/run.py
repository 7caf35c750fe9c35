"""The driver of an evaluation: which pictures are measured, of a run or of any tool, and how that is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jobs.config import AnonymizeConfig
from jobs.errors import SourceError
from jobs.evaluate.config import EvaluateConfig
from jobs.evaluate.counterparts import Counterparts, OfFolder, OfRun
from jobs.evaluate.given_groups import GroupFile, read_groups
from jobs.evaluate.measure_stage import MEASURED, RECOVERED, MeasurePictures, RehearsalChoice
from jobs.evaluate.measuring import Measuring, Progress, made_here, measure_and_tell
from jobs.evaluate.portions import Portions, gathered
from jobs.evaluate.report import FACES, PAGE, REPORT, report_of, write_report
from jobs.output.manifest import code_version
from jobs.run.detect_stage import FaceModelChoice
from jobs.run.recorded import manifest_of, recorded_config
from jobs.sources.again import IS_ANOTHER, changed_since, spread
from jobs.sources.source import Source, open_source
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from keyanon_core.errors import EvaluationError
from keyanon_core.evaluation.forms import EVERY

CHANGED: Final = "changed_source"
NO_SOURCE: Final = "no_source"
PICTURES_PER_TASK: Final = 4  # of which each may be anonymized anew: a task is a minute of one CPU at most


@dataclass(frozen=True)
class Subject:
    """What is evaluated. versions: the pictures beside each source. recorded: settings of the run, None for pictures of other
    tools. facts: of the run, for the report. elsewhere: its sources are named anew, and may be copies."""

    config: EvaluateConfig
    versions: Mapping[str, Counterparts]
    recorded: AnonymizeConfig | None
    facts: Mapping[str, Any]
    elsewhere: bool = False


def subject_of_run(run: Place, changes: Mapping[str, Any]) -> Subject:
    """The pictures of a run, complete or not. changes: settings of EvaluateConfig, None for those that stay.

    Raises OutputError, PublishError, SourceError, ConfigError, MachineError.
    """
    endpoint = changes.get("endpoint_url")
    manifest = manifest_of(run, endpoint)
    recorded = recorded_config(manifest, run, {"accept_version": code_version()})
    config = EvaluateConfig.of_run(recorded, {**changes, "run": run, "endpoint_url": endpoint or recorded.endpoint_url})
    if config.subjects is not None and not config.subjects.is_file():
        raise SourceError(f"the file of subjects {config.subjects} is not there; name the one of the run by --subjects")
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
    elsewhere = changes.get("photos") is not None
    return Subject(config, _with_recovered(config, published), recorded, facts, elsewhere)


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
    config = subject.config
    files = config.weight_files()
    for package, network in (("skimage", None), ("torch_fidelity", "inception"), ("lpips", "lpips")):
        if (network is None or network in files) and find_spec(package) is None:
            raise EvaluationError(f"measuring takes {package}; install keyanon[evaluation]")
    for file, weights in files.values():
        weights.check(file)
    source = open_source(config, config.given(), clips=False)
    ids = [image_id for part in source.ids.parts() for image_id in part]
    known = frozenset(ids)
    subject = replace(subject, versions={name: one.among(known) for name, one in subject.versions.items()})
    groups = _groups(config, known)
    there, changed = _there(source, ids, subject)
    chosen = spread(there, config.limit)
    listings = {"source": source.digest, **{name: one.digest() for name, one in subject.versions.items()}}
    if groups is not None:
        listings["groups"] = groups.digest
    rehearsed = spread(chosen, config.rehearsed)
    work = Measuring(
        output=config.output,
        digest=config.digest(listings),
        source=source,
        chosen=chosen,
        stage=MeasurePictures,
        arguments={
            "models": FaceModelChoice(config.face_models, config.face_weights),
            "recognizers": config.recognizer_choices(),
            "weights": files,
            "versions": dict(subject.versions),
            "rehearsal": _rehearsal(subject) if len(rehearsed) else None,
            "rehearsed": frozenset(rehearsed.tolist()),
            "formed": frozenset(spread(rehearsed, -(-len(rehearsed) // EVERY)).tolist()),
            "max_pixels": config.max_pixels,
        },
        rows=PICTURES_PER_TASK,
        workers=config.workers,
    )

    def tell(portions: Portions) -> dict[str, Any]:
        found = gathered(portions)
        if groups is not None:
            found.divide(groups.traits)
        left = (
            (CHANGED, [ids[at] for at in changed.tolist()], IS_ANOTHER),
            (NO_SOURCE, subject.versions[MEASURED].of_none(known), "there is no source of its name"),
        )
        for code, names, why in left:
            if names:
                found.unmeasured[code] = len(names)
                found.examples[code] = f"{names[0]}: {code}: {why}"
        if not len(found.faces.face):
            raise SourceError(f"not one face could be measured: {'; '.join(found.examples.values())}")
        report = report_of(found, {**subject.facts, **_circumstances(config, source, len(chosen))})
        write_report(config.output.absolute(), report, found, portions)
        return report

    return measure_and_tell(work, tell, progress)


def _there(source: Source, ids: Sequence[str], subject: Subject) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the sources that have an anonymized picture; and of those whose file has changed since it was made. ids: of
    all sources. Raises SourceError.
    """
    anonymized = subject.versions[MEASURED]
    there = np.array([position for position, image_id in enumerate(ids) if anonymized.has(image_id)], np.int64)
    if not len(there):
        raise SourceError(
            f"none of the {source.total} source pictures has an anonymized one of its name (the first source is "
            f"{source.ids[0]!r}); give the sources of these pictures"
        )
    then = [anonymized.made_of(ids[position]) for position in there.tolist()]
    changed = changed_since(source, there, then, elsewhere=subject.elsewhere)
    return there[~changed], there[changed]


def _groups(config: EvaluateConfig, known: frozenset[str]) -> GroupFile | None:
    """Raises SourceError, also where none of the sources is in the file."""
    if config.groups is None:
        return None
    groups = read_groups(config.groups)
    if all(known.isdisjoint(of_trait) for of_trait in groups.traits.values()):
        raise SourceError(
            f"{config.groups} says nothing of any of the {len(known)} sources; name them as they are listed"
        )
    return groups


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
        **made_here(),
        "sources": config.photos,
        "source_pictures": source.total,
        "chosen_pictures": chosen,
        "rehearsed_pictures": min(config.rehearsed, chosen),
    }


__all__ = ["FACES", "PAGE", "REPORT", "Subject", "run_evaluation", "subject_of_folders", "subject_of_run"]
