"""The main job: photographs in, anonymized photographs and sealed keys out.

`run_anonymize` is the driver. Everything that can be known to be wrong is refused before a picture is read; what goes
wrong with one picture ends in its row; what goes wrong with the machinery ends the run, and the same command resumes
it.
"""

import logging
import time
import uuid
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Final

import numpy as np
import ray
from ray.exceptions import RayError

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, KeysWaitingError
from jobs.output.clip_rows import write_clip_rows
from jobs.output.commit import Tally, complete
from jobs.output.failure_rate import FailureRate
from jobs.output.found_faces import forget_all, forget_clips
from jobs.output.joined import join_clips
from jobs.output.keys import KeyHolder, PseudonymDoor
from jobs.output.layout import REPORT, OutputLayout
from jobs.output.manifest import WAITING, Manifest, read_existing
from jobs.output.numbering import Numbering
from jobs.output.publisher import Publisher
from jobs.output.row_sets import RowSet
from jobs.output.shared_lease import HeldLease
from jobs.output.sink import PairedDatasink
from jobs.run.anonymize_stage import AnonymizeFaces, Compute, SealingTarget
from jobs.run.cluster import (
    await_placement,
    check_pseudonyms_are_near,
    keystore_on_several,
    ray_cluster,
    reported_cause,
)
from jobs.run.detect_stage import DetectFaces, FaceModelChoice
from jobs.run.facts import Facts
from jobs.run.measures import Measures
from jobs.run.placement import Placement, detectors, loading_at_once, reserved_cpus
from jobs.run.places import check_named, holding, layout_of, numbered, open_keys
from jobs.run.pools import PROCESS_RESTARTS, Pool
from jobs.run.progress import Monitor, Phase, ProgressCallback, RunState, Watch
from jobs.run.reading import read_pictures
from jobs.run.report import RunReport
from jobs.run.task_sizes import TaskSizes
from jobs.run.tracks import Tracker
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.clips import Clips
from jobs.sources.source import ReadUnit, Source, open_source, segments_of
from jobs.storage.json_files import to_json
from jobs.storage.store import Store
from keystore.keeper import KeeperProcess

_LOGGER = logging.getLogger(__name__)
WRITE_RETRIES: Final = 3  # of one write task whose process died
# Rows that Ray plans at a time: neither its tasks nor their lists of files grow with the run. The workers begin anew with each,
# so many workers have more of them, see `TaskSizes.segment`.
SEGMENT_ROWS: Final = 200_000


@dataclass(frozen=True)
class Attempt:
    """What one attempt works with. keys: None when they are discarded. rows: which of the output's each row of the source is, and
    which are left alone. retry: number of the retry, 0 for the run itself."""

    config: AnonymizeConfig
    source: Source
    layout: OutputLayout
    keys: KeyHolder | None
    manifest: Manifest
    lease: HeldLease
    rows: Numbering
    retry: int = 0

    @property
    def wanted(self) -> int:
        """So many rows, the first of the listing, are to be there when the attempt has ended."""
        return min(self.config.limit or self.source.total, self.source.total)

    @property
    def total(self) -> int:
        """Rows that are there when the attempt has ended."""
        beyond = np.count_nonzero(self.rows.done.among(self.source.total)[self.wanted :])
        return self.wanted + int(beyond) + len(self.rows.gone)

    @cached_property
    def left_alone(self) -> RowSet:
        """Positions of rows that are finished or not wanted."""
        found = RowSet(self.rows.done)
        found.add(np.arange(self.wanted, self.source.total))
        return found

    @cached_property
    def finished(self) -> RowSet:
        """The output's rows that stood before this attempt and are not done again."""
        found = RowSet(self.rows.of_positions(self.rows.done))
        found.add(self.rows.gone)
        return found


def run_anonymize(
    config: AnonymizeConfig, progress: ProgressCallback | None = None, keeper: KeeperProcess | None = None
) -> RunReport:
    """Anonymize every picture of `config.photos`, or go on where an earlier attempt of the same run stopped.

    Returns when the output is complete: one row for each input row, every key in the keystore. With `config.limit` one for
    each of the first rows, and a later run does the others. keeper: the process that opens the keystore, where one was started.

    Raises:
        SourceError, ConfigError: the input or a setting can not be used; nothing was written but, where the cluster can not
        give the device or the actors that were asked for, the beginning of a run, which other ones go on with.
        PublishError, LeaseError: the output can not be written, belongs to something else, or is being written by
        another process. KeystoreError: the keystore can not be opened, or a sealed shard was tampered with.
        PriorError, FaceModelError: a model could not be loaded. NotReversibleError: what it makes can not be recovered.
        TooManyQuarantinedError: more rows than `config.max_failure_rate` allows. CommitError: rows are unaccounted for.
        KeysWaitingError: every row is there, and keys wait in the inbox for their keystore; the same command goes on.
        MachineError: Ray, memory or a device failed; the same command goes on.
        DefectError: a worker met an error of keyanon's own.
    """
    started = time.monotonic()
    if progress is not None:
        progress(RunState(phase=Phase.LISTING))
    source = open_source(config, config.given())
    config = fitting(config, source)
    layout = layout_of(config, source)
    check_named(layout, source)
    existing = read_existing(layout.store)
    if existing is not None:
        existing.check_same_run(layout.store, config, source)
    with holding(layout) as lease:
        # Read again: the attempt that held the lease a moment ago may have written it.
        existing = read_existing(layout.store)
        if existing is not None:
            existing.check_same_run(layout.store, config, source)
        with open_keys(config, create=True, keeper=keeper) as keys:
            manifest = _begin(existing, layout.store, keys, config, source)
            rows = numbered(config, layout, source)
            if rows.unversioned:
                manifest.check_same_listing(layout.store, source)
            manifest.goes_on_over(source, len(rows.gone))
            manifest.write(layout.store)
            return run_attempt(Attempt(config, source, layout, keys, manifest, lease, rows), progress, started)


def fitting(config: AnonymizeConfig, source: Source) -> AnonymizeConfig:
    """The settings of a run over such a source. Raises ConfigError where they are not for one."""
    if isinstance(source, Clips):
        return config.over_clips()
    if config.pseudonyms == "tracks":
        raise ConfigError(f"pseudonyms tracks are of clips, and {config.photos} holds {source.kind}; leave them out")
    return config


def _begin(
    existing: Manifest | None, store: Store, keys: KeyHolder | None, config: AnonymizeConfig, source: Source
) -> Manifest:
    """The manifest of this attempt: a new run's, or the existing one's with one more attempt."""
    if existing is None:
        keystore_id = None if keys is None else keys.key.keystore_id
        return Manifest.begin(f"run-{uuid.uuid4().hex}", keystore_id, config, source)
    existing.check_keys(store, keys)
    existing.taken_over(config)
    existing.attempts += 1
    return existing


def run_attempt(attempt: Attempt, progress: ProgressCallback | None, started: float) -> RunReport:
    """Compute what is missing, then commit. started: by `time.monotonic`. Raises as `run_anonymize` once the work has begun."""
    computed, found = 0.0, Measures()
    if progress is not None:
        progress(_state(attempt, Phase.STARTING, started, found))
    if len(attempt.left_alone) < attempt.source.total:
        begun = time.monotonic()
        found = _compute(attempt, progress)
        computed = time.monotonic() - begun
    if progress is not None:
        progress(_state(attempt, Phase.COMMITTING, started, found))
    return _commit(attempt, started, computed, found)


def _state(attempt: Attempt, phase: Phase, started: float, found: Measures) -> RunState:
    """How far an attempt is, before and after its workers are at it."""
    return RunState.of(
        found, total=attempt.total, finished=len(attempt.finished), seconds=time.monotonic() - started, phase=phase
    )


def _compute(attempt: Attempt, progress: ProgressCallback | None) -> Measures:
    """Run the Ray Data pipeline over the unfinished rows. Returns what was counted."""
    config, source = attempt.config, attempt.source
    with ray_cluster(reserved_cpus(config, usable_cpus()), config.object_store_bytes, config.start_seconds):
        there, placement = await_placement(config)
        check_pseudonyms_are_near(config)
        if (said := keystore_on_several(config)) is not None:
            _LOGGER.warning("%s", said)
        left_alone = attempt.left_alone
        models = _models(attempt)
        if isinstance(source, Clips):
            tracking = Monitor(attempt.manifest.run_id)
            Tracker(config, source, attempt.layout.store, models, placement, tracking, progress).track(left_alone)
        sizes, left = TaskSizes.of(config, source, placement.actors), source.total - len(left_alone)
        workers = Pool(sizes.workers_for(left), sizes.workers_for(left, placement.most))
        finders = _finders(config, workers, sum(one.cpus for one in there))
        # Parquet is read in blocks of one size, and joined to tasks afterwards.
        begins_small = source.kind != "parquet" and sizes.begins_small(left)
        monitor = Monitor(attempt.manifest.run_id, left, loading_at_once(there) if begins_small else None)
        keys, run_id, sealing, inbox, keyed = attempt.keys, attempt.manifest.run_id, None, None, None
        if keys is not None:
            sealing = SealingTarget(run_id, config.dataset, keys.key.public_key)
            inbox, keyed = keys.begin(run_id, config.dataset), partial(keys.published, run_id)
        sink = PairedDatasink(attempt.layout, inbox, attempt.lease.token, attempt.retry)
        rate = FailureRate(None if attempt.retry else config.max_failure_rate)
        done = RowSet(attempt.rows.of_positions(left_alone))
        publisher = Publisher(attempt.layout, attempt.lease, done, monitor.report_published, rate.admit, keyed)
        stages = partial(_stages, attempt, monitor, sealing, placement, (finders, workers), sizes.next(left))
        size = sizes.beginning_with(left) if begins_small else sizes.next
        segment = sizes.segment(max(SEGMENT_ROWS // source.frames_of_a_row, 1))
        segments = segments_of(source.units(left_alone, size, attempt.rows.numbers), segment)
        try:
            watch = Watch(monitor, progress, attempt.total, len(attempt.finished))
            with Facts(attempt.manifest, attempt.layout.store, monitor) as facts, watch, publisher:
                for units in segments:
                    stages(units).write_datasink(sink, ray_remote_args={"max_retries": WRITE_RETRIES})
                    facts.remember()
            return monitor.measures()
        except RayError as error:
            raise reported_cause(error, monitor, "run") from error


def _stages(
    attempt: Attempt,
    monitor: Monitor,
    sealing: SealingTarget | None,
    placement: Placement,
    pools: tuple[Pool, Pool],
    rows_per_block: int,
    units: list[ReadUnit],
) -> ray.data.Dataset:
    """From the pictures of one segment to their results. pools: the detecting and the anonymizing one."""
    finders, workers = pools
    dataset = read_pictures(attempt.source, units, rows_per_block)
    config = attempt.config
    models = _models(attempt)
    dataset = dataset.map_batches(
        DetectFaces,
        fn_constructor_kwargs={
            "models": models,
            "max_pixels": config.max_pixels,
            "monitor": monitor,
            "faces": config.faces,
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=finders.strategy(),
        num_cpus=config.cpus_per_actor,
        memory=placement.detector_memory,
        max_restarts=PROCESS_RESTARTS,
        udf_modifying_row_count=False,
    )
    # The public `map_batches` refuses GPUs without a batch size, which would join blocks; a block is a task and a shard here.
    return dataset.map_batches_internal(
        AnonymizeFaces,
        fn_constructor_kwargs={
            "prior": config.prior,
            "models": models,
            "settings": config.settings(),
            "sealing": sealing,
            "compute": Compute(placement.device, placement.threads, config.precision, config.compile),
            "expected_prior": attempt.manifest.prior_digest,
            "monitor": monitor,
            "pseudonyms": _pseudonyms_of(attempt),
        },
        batch_size=None,
        batch_format="pyarrow",
        compute=workers.strategy(),
        num_cpus=placement.cpus,
        num_gpus=placement.gpus,
        memory=placement.memory,
        max_restarts=PROCESS_RESTARTS,
        udf_modifying_row_count=False,
    )


def _models(attempt: Attempt) -> FaceModelChoice:
    config = attempt.config
    return FaceModelChoice(config.face_models, config.face_weights, config.min_face, attempt.manifest.face_models)


def _pseudonyms_of(attempt: Attempt) -> PseudonymDoor | None:
    """Where workers ask for the pseudonyms of the run's data set; None of a run without."""
    config, keys = attempt.config, attempt.keys
    if not config.has_pseudonyms or keys is None:
        return None
    return keys.pseudonyms(config.dataset)


def _finders(config: AnonymizeConfig, workers: Pool, cpus: float) -> Pool:
    """The detecting pool beside an anonymizing one. cpus: logical ones of the cluster. It grows where Ray counts its CPUs."""
    actors = detectors(config, workers.actors, cpus)
    return Pool(actors, detectors(config, workers.most) if config.cpus_per_actor else actors)


def _commit(attempt: Attempt, started: float, computed: float, found: Measures) -> RunReport:
    """Account for every row, ingest the keys, then say so: the manifest's state is the last thing written but the
    report."""
    config, manifest = attempt.config, attempt.manifest
    try:
        tally, removed = complete(
            attempt.layout,
            attempt.lease,
            attempt.keys,
            manifest.run_id,
            attempt.rows.numbers,
            attempt.finished,
            attempt.wanted,
        )
    except KeysWaitingError:
        _forget_faces(attempt)
        manifest.state = WAITING
        manifest.write(attempt.layout.store)
        raise
    _forget_faces(attempt)
    FailureRate(config.max_failure_rate).judge(tally.rows, tally.quarantine_reasons)
    report = _report(attempt, tally, computed, time.monotonic() - started, found, len(removed))
    store = attempt.layout.store
    is_whole = tally.rows == attempt.source.total + len(attempt.rows.gone)
    if is_whole and isinstance(attempt.source, Clips):
        joined = join_clips(store, attempt.source, config.audio)
        write_clip_rows(store, attempt.source, joined.clips)
        report = replace(report, clips=joined.clips, clips_missing=joined.missing)
    before = store.see(REPORT)
    store.replace(REPORT, to_json(report.published()), None if before is None else before.version)
    if is_whole:
        manifest.finish(config)
        manifest.write(store)
    return report


def _forget_faces(attempt: Attempt) -> None:
    """Of the clips all of whose rows stand: landmarks are somebody's, and of no more use."""
    source, store = attempt.source, attempt.layout.store
    if isinstance(source, Clips) and attempt.wanted == source.total:
        forget_all(store)
    elif isinstance(source, Clips):
        forget_clips(store, [clip.name for clip in source.clips if clip.rows.stop <= attempt.wanted])


def _report(
    attempt: Attempt, tally: Tally, computed: float, seconds: float, found: Measures, removed: int
) -> RunReport:
    fresh_rows = tally.rows - len(attempt.finished)
    return RunReport(
        run_id=attempt.manifest.run_id,
        output=str(attempt.layout.store),
        keystore=None if attempt.config.keystore is None else str(attempt.config.keystore),
        inbox=None if attempt.config.inbox is None else str(attempt.config.inbox),
        dataset=attempt.config.dataset,
        input_rows=attempt.source.total,
        rows=tally.rows,
        statuses=dict(sorted(tally.statuses.items())),
        reasons=dict(sorted(tally.reasons.items())),
        faces=tally.faces,
        kept_faces=tally.kept_faces,
        key_attempts=found.keys_tried,
        further_keys=max(found.keys_tried - found.faces_keyed, 0),
        resumed_rows=len(attempt.rows.done),
        ignored_files=attempt.source.ignored,
        keys_stored=tally.keyed.total(),
        orphan_shards_removed=removed,
        seconds=seconds,
        anonymize_seconds=computed,
        images_per_second=fresh_rows / computed if computed else 0.0,
        faces_per_second=tally.fresh_faces / computed if computed else 0.0,
        bytes_of=tally.bytes_of,
        warnings=() if attempt.keys is None else attempt.keys.warnings,
        procedure=str(attempt.config.settings().procedure),
        fidelities=dict(sorted(tally.fidelities.items())),
        gone_rows=len(attempt.rows.gone),
        subjects=found.subjects,
        pseudonyms=asdict(tally.pseudonyms) if attempt.config.has_pseudonyms else {},
    )
