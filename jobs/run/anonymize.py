"""The main job: photographs in, anonymized photographs and sealed keys out.

`run_anonymize` is the driver. Everything that can be known to be wrong is refused before a picture is read; what goes
wrong with one picture ends in its row; what goes wrong with the machinery ends the run, and the same command resumes
it.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from jobs.config import AnonymizeConfig
from jobs.errors import MachineError, PublishError
from jobs.output.commit import Tally, complete, finished_rows
from jobs.output.layout import REPORT, OutputLayout
from jobs.output.manifest import Manifest, read_existing
from jobs.output.publisher import Publisher
from jobs.output.shared_lease import HeldLease, lease_of
from jobs.output.sink import PairedDatasink
from jobs.run.anonymize_stage import AnonymizeFaces, Compute, SealingTarget
from jobs.run.cluster import await_gpus, cause_of, machines, ray_cluster
from jobs.run.detect_stage import DetectFaces, FaceModelChoice
from jobs.run.placement import Placement, reserved_cpus
from jobs.run.progress import Monitor, ProgressCallback, Watch
from jobs.run.task_sizes import TaskSizes
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.source import ListedDatasource, Source, open_source
from jobs.storage.json_files import to_json
from jobs.storage.store import Store
from keystore.service import Keystore

UNPUBLISHED: Final = frozenset({"key_attempts", "further_keys"})  # of a report: they depend on the sources
TASKS_IN_FLIGHT: Final = 2  # blocks queued at an actor: one in work, one ready
READ_RETRIES: Final = 3  # of one read task, for faults of the machine; what a retry can not mend ends the run
WRITE_RETRIES: Final = 3  # of one write task whose process died
# Processes that may take one actor's place. `jobs.run.process_deaths` ends a run long before, unless rows are to blame or the
# processes die before they can say that they began.
PROCESS_RESTARTS: Final = 256


@dataclass(frozen=True)
class RunReport:
    """Numbers only. Times in seconds, sizes in bytes; rates, key_attempts and further_keys are of this attempt's fresh rows.
    procedure: how each face was made, for people. fidelities: how many pictures come back so.

    `OUT/_keyanon/report.json` holds all but `UNPUBLISHED`.
    """

    run_id: str
    output: str
    keystore: str | None
    dataset: str
    rows: int
    statuses: dict[str, int]
    reasons: dict[str, int]
    faces: int
    kept_faces: int
    key_attempts: int
    further_keys: int
    resumed_rows: int
    ignored_files: int
    keys_stored: int
    orphan_shards_removed: int
    seconds: float
    anonymize_seconds: float
    images_per_second: float
    faces_per_second: float
    bytes_of: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    procedure: str = ""
    fidelities: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)

    def published(self) -> dict[str, Any]:
        """What stands in the output. How many keys a face needed depends on its source; a run may be of one face."""
        return {name: value for name, value in self.to_dict().items() if name not in UNPUBLISHED}


@dataclass(frozen=True)
class Attempt:
    """What one attempt works with. keystore: None when the keys are discarded. finished: rows that it leaves alone. retry:
    number of the retry, 0 for the run itself."""

    config: AnonymizeConfig
    source: Source
    layout: OutputLayout
    keystore: Keystore | None
    manifest: Manifest
    lease: HeldLease
    finished: frozenset[int]
    retry: int = 0


def run_anonymize(config: AnonymizeConfig, progress: ProgressCallback | None = None) -> RunReport:
    """Anonymize every picture of `config.photos`, or go on where an earlier attempt of the same run stopped.

    Returns when the output is complete: one row for each input row, every key in the keystore.

    Raises:
        SourceError, ConfigError: the input or a setting can not be used; nothing was written but, where the cluster can not
        give the device or the actors that were asked for, the beginning of a run, which other ones go on with.
        PublishError, LeaseError: the output can not be written, belongs to something else, or is being written by
        another process. KeystoreError: the keystore can not be opened, or a sealed shard was tampered with.
        PriorError, FaceModelError: a model could not be loaded. NotReversibleError: what it makes can not be recovered.
        CommitError: rows are unaccounted for. MachineError: Ray, memory or a device failed; the same command goes on.
        DefectError: a worker met an error of keyanon's own.
    """
    started = time.monotonic()
    source = open_source(config, config.given())
    layout = layout_of(config, source)
    existing = read_existing(layout.store)
    if existing is not None:
        existing.check_same_run(layout.store, config, source)
    with holding(layout) as lease:
        # Read again: the attempt that held the lease a moment ago may have written it.
        existing = read_existing(layout.store)
        if existing is not None:
            existing.check_same_run(layout.store, config, source)
        with open_keystore(config, Keystore.open_or_create) as keystore:
            manifest = _begin(existing, layout.store, keystore, config, source)
            manifest.write(layout.store)
            finished = frozenset(finished_rows(layout))
            return run_attempt(Attempt(config, source, layout, keystore, manifest, lease, finished), progress, started)


def layout_of(config: AnonymizeConfig, source: Source) -> OutputLayout:
    """Where a run's rows go."""
    return OutputLayout(config.output, config.output_format, source.schema, source.image_column, config.endpoint_url)


@contextlib.contextmanager
def holding(layout: OutputLayout) -> Iterator[HeldLease]:
    """The output's lease. What can not be written there is a PublishError that names it."""
    try:
        with lease_of(layout.store) as lease:
            yield lease
    except OSError as error:
        raise PublishError(
            f"output {layout.store} can not be written ({error.strerror or error}); mend it, then run the command again"
        ) from error


@contextlib.contextmanager
def open_keystore(config: AnonymizeConfig, open_: Callable[[Path, str | None], Keystore]) -> Iterator[Keystore | None]:
    """The run's keystore, None where its keys are discarded. Raises KeystoreError."""
    if config.keystore is None:
        yield None
        return
    with open_(config.keystore, config.kek) as keystore:
        yield keystore


def _begin(
    existing: Manifest | None, store: Store, keystore: Keystore | None, config: AnonymizeConfig, source: Source
) -> Manifest:
    """The manifest of this attempt: a new run's, or the existing one's with one more attempt."""
    if existing is None:
        keystore_id = None if keystore is None else keystore.id
        return Manifest.begin(f"run-{uuid.uuid4().hex}", keystore_id, config, source)
    existing.check_keystore(store, keystore)
    existing.attempts += 1
    return existing


def run_attempt(attempt: Attempt, progress: ProgressCallback | None, started: float) -> RunReport:
    """Compute what is missing, then commit. started: by `time.monotonic`. Raises as `run_anonymize` once the work has begun."""
    computed, keys = 0.0, (0, 0)
    if len(attempt.finished) < attempt.source.total:
        begun = time.monotonic()
        keys = _compute(attempt, progress)
        computed = time.monotonic() - begun
    return _commit(attempt, started, computed, keys)


def _compute(attempt: Attempt, progress: ProgressCallback | None) -> tuple[int, int]:
    """Run the Ray Data pipeline over the unfinished rows. Returns keys tried, and on how many faces."""
    config, source = attempt.config, attempt.source
    with ray_cluster(reserved_cpus(config, usable_cpus()), config.object_store_bytes):
        placement = Placement.of(config, machines())
        sizes, left = TaskSizes.of(config, source, placement.actors), source.total - len(attempt.finished)
        workers = sizes.workers_for(left)
        await_gpus(workers * placement.gpus)
        monitor = Monitor()
        units = list(source.units(attempt.finished, sizes.next))
        keystore, sealing, inbox = attempt.keystore, None, None
        if keystore is not None:
            sealing = SealingTarget(attempt.manifest.run_id, config.dataset, keystore.ingest_public_key)
            inbox = keystore.inbox(attempt.manifest.run_id, config.dataset)
        sink = PairedDatasink(attempt.layout, inbox, attempt.lease.token, attempt.retry)
        publisher = Publisher(attempt.layout, attempt.lease, attempt.finished, monitor.report_published)
        dataset = ray.data.read_datasource(
            ListedDatasource(units, "ReadPictures"),
            override_num_blocks=len(units),
            ray_remote_args={"max_retries": READ_RETRIES, "retry_exceptions": [MachineError, MemoryError]},
        )
        if source.kind == "parquet":  # a row group may hold many tasks' worth of pictures
            dataset = dataset.repartition(target_num_rows_per_block=sizes.next(left))
        models = FaceModelChoice(config.face_models, config.face_weights, config.min_face)
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
            compute=_pool(config.detector_actors),
            num_cpus=config.cpus_per_actor,
            max_restarts=PROCESS_RESTARTS,
            udf_modifying_row_count=False,
        )
        # The public `map_batches` refuses GPUs without a batch size, which would join blocks; a block is a task and a shard here.
        dataset = dataset.map_batches_internal(
            AnonymizeFaces,
            fn_constructor_kwargs={
                "prior": config.prior,
                "models": models,
                "settings": config.settings(),
                "sealing": sealing,
                "compute": Compute(placement.device, placement.threads, config.precision, config.compile),
                "expected_prior": attempt.manifest.prior_digest,
                "monitor": monitor,
            },
            batch_size=None,
            batch_format="pyarrow",
            compute=_pool(workers),
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_restarts=PROCESS_RESTARTS,
            udf_modifying_row_count=False,
        )
        try:
            with Watch(monitor, progress, source.total, len(attempt.finished)), publisher:
                dataset.write_datasink(sink, ray_remote_args={"max_retries": WRITE_RETRIES})
            return monitor.keys()
        except RayError as error:
            raise _cause(error, monitor) from error
        finally:
            _remember_facts(attempt, monitor)


def _pool(actors: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT)


def _remember_facts(attempt: Attempt, monitor: Monitor) -> None:
    """Keep in the manifest what the workers loaded, also when the attempt fails: a resume must use the same prior."""
    try:
        facts = monitor.facts()
    except RayError:  # the cluster is gone, and with it the facts of this attempt
        return
    attempt.manifest.facts.extend(fact for fact in facts if fact not in attempt.manifest.facts)
    attempt.manifest.write(attempt.layout.store)


def _cause(error: BaseException, monitor: Monitor) -> Exception:
    """The error raised on purpose in a worker, out of Ray's wrappings; else one that says what Ray says."""
    with contextlib.suppress(RayError):  # the cluster may be gone
        failure = monitor.failure()
        if failure is not None:
            return failure
    return cause_of(error, "run")


def _commit(attempt: Attempt, started: float, computed: float, keys: tuple[int, int]) -> RunReport:
    """Account for every row, ingest the keys, then say so: the manifest's state is the last thing written but the
    report."""
    config, manifest = attempt.config, attempt.manifest
    tally, removed = complete(
        attempt.layout, attempt.lease, attempt.keystore, manifest.run_id, attempt.source.total, attempt.finished
    )
    report = _report(attempt, tally, computed, time.monotonic() - started, keys, len(removed))
    store = attempt.layout.store
    before = store.see(REPORT)
    store.replace(REPORT, to_json(report.published()), None if before is None else before.version)
    manifest.finish(config)
    manifest.write(store)
    return report


def _report(
    attempt: Attempt, tally: Tally, computed: float, seconds: float, keys: tuple[int, int], removed: int
) -> RunReport:
    fresh_rows = tally.rows - len(attempt.finished)
    keys_tried, faces_keyed = keys
    return RunReport(
        run_id=attempt.manifest.run_id,
        output=str(attempt.layout.store),
        keystore=None if attempt.config.keystore is None else str(attempt.config.keystore),
        dataset=attempt.config.dataset,
        rows=tally.rows,
        statuses=dict(sorted(tally.statuses.items())),
        reasons=dict(sorted(tally.reasons.items())),
        faces=tally.faces,
        kept_faces=tally.kept_faces,
        key_attempts=keys_tried,
        further_keys=max(keys_tried - faces_keyed, 0),
        resumed_rows=len(attempt.finished),
        ignored_files=attempt.source.ignored,
        keys_stored=len(tally.record_ids),
        orphan_shards_removed=removed,
        seconds=seconds,
        anonymize_seconds=computed,
        images_per_second=fresh_rows / computed if computed else 0.0,
        faces_per_second=tally.fresh_faces / computed if computed else 0.0,
        bytes_of=tally.bytes_of,
        warnings=() if attempt.keystore is None else tuple(attempt.keystore.warnings),
        procedure=str(attempt.config.settings().procedure),
        fidelities=dict(sorted(tally.fidelities.items())),
    )
