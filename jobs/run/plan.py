"""What a run would take and give: faces, hours, bytes, money. Measured on a sample, and as uncertain as that.

Every figure comes with an interval in which the true one lies with 95 % probability, by Student's t over the sample (over its
groups for times). What such a sample can not show is not in it: a slower or busier machine among the others, reading and
publishing, storage that is slow when many read.
"""

import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from scipy import stats

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, PublishError
from jobs.output.keys import alive
from jobs.output.layout import RUN_DIRECTORY, OutputLayout
from jobs.output.manifest import read_existing
from jobs.output.row_shards import reason_code
from jobs.run.anonymize import fitting
from jobs.run.cluster import check_pseudonyms_are_near, joining, keystore_on_several, machines, ray_cluster
from jobs.run.placement import Machine, Placement, detectors, reserved_cpus
from jobs.run.places import check_named, door_of, layout_of, numbered
from jobs.run.progress import Phase, ProgressCallback, RunState
from jobs.run.sample import Sample, Timed, run_sample
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.clips import Clips
from jobs.sources.source import Source, open_source
from jobs.storage.place import is_service
from jobs.storage.s3 import S3Store
from jobs.storage.store import Store
from jobs.storage.write_access import may_put
from keystore.keeper import Keeper

DEFAULT_SAMPLE: Final = 32
CONFIDENCE: Final = 0.95
KEYSTORE_BYTES: Final = 170
"""Of a keystore's database beside each sealed record: its row, its shred key and their indexes, as SQLite lays them out (about;
`benchmarks/keystore_rates.py` prints it)."""

SECONDS_PER_HOUR: Final = 3600


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that it lies in. low, high: None where a sample of one says nothing of its spread."""

    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> "Estimate":
        low, high = (None if one is None else one * factor for one in (self.low, self.high))
        return Estimate(self.value * factor, low, high)


@dataclass(frozen=True)
class Prices:
    """In whatever currency. machine_hour: of one machine of the cluster. gpu_machine_hour: of one with GPUs, None where it costs
    as the others. gb_month: of 10^9 bytes of the output."""

    machine_hour: float | None = None
    gb_month: float | None = None
    gpu_machine_hour: float | None = None

    def cluster_hour(self, cluster: Sequence[Machine]) -> float | None:
        """Of all machines together; None where one of them has no price."""
        with_gpus = self.machine_hour if self.gpu_machine_hour is None else self.gpu_machine_hour
        prices = [with_gpus if one.gpus else self.machine_hour for one in cluster]
        known = [price for price in prices if price is not None]
        return sum(known) if len(known) == len(prices) else None


@dataclass(frozen=True)
class Plan:
    """unit: what a row is, image or piece (of a clip). rows: of the input. rows_left: of them, those that a run would do now.
    Estimates are of rows_left together, but for those of one image or piece. picture_bytes: of clips' pieces, and of the clips
    joined of them. hours: from the first picture to the last, on `machines` machines. gpu_hours: as many hours of each GPU in
    use; None without any. checks: what was looked at, and found."""

    unit: str
    rows: int
    rows_left: int
    source_bytes: int
    sampled: int
    machines: int
    actors: int
    device: str
    start_seconds: float
    statuses: dict[str, int]
    reasons: dict[str, int]
    faces_per_image: Estimate
    anonymized_share: Estimate
    seconds_per_image: dict[str, Estimate]
    hours: Estimate
    gpu_hours: Estimate | None
    picture_bytes: Estimate
    sidecar_bytes: Estimate
    keystore_bytes: Estimate
    cost_of_computing: Estimate | None
    cost_of_a_month: Estimate | None
    checks: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"kind": "plan", **asdict(self), "checks": dict(self.checks)}


def plan_run(
    config: AnonymizeConfig,
    sample: int = DEFAULT_SAMPLE,
    prices: Prices | None = None,
    progress: ProgressCallback | None = None,
) -> Plan:
    """Look at everything that a run with these settings would need, and take a sample of its pictures through it.

    Writes nothing to the output, the keystore or the photographs.

    Raises: as `run_anonymize` for what a run would refuse, ConfigError for a place that can not be written.
    """
    if progress is not None:
        progress(RunState(phase=Phase.LISTING))
    source = open_source(config, config.given())
    config = fitting(config, source)
    layout = layout_of(config, source)
    check_named(layout, source)
    if progress is not None:
        progress(RunState(phase=Phase.STARTING))
    checks = [("input", f"{source.kind}, {source.total} rows can be listed")]
    left = source.total - _finished(layout, config, source, checks)
    for name, place in config.places.items():
        if not is_service(place):
            checks.append((name, check_writable(place, config.endpoint_url, readable=name != "inbox")))
    checks += _check_keys(config, layout.store)
    with ray_cluster(reserved_cpus(config, usable_cpus()), config.object_store_bytes):
        cluster = machines()
        check_pseudonyms_are_near(config)
        placement = Placement.of(config, cluster, joining=joining())
        checks.append(("cluster", f"{len(cluster)} machine(s), {placement.actors} anonymizing process(es)"))
        if (said := keystore_on_several(config)) is not None:
            checks.append(("keystore of several machines", said))
        measured = run_sample(config, source, placement, sample, progress)
    checks.append(("prior and face models", f"loaded, {measured.start_seconds:.0f} s with the first picture"))
    found = _estimated(config, source, left, cluster, placement, measured, prices or Prices(), tuple(checks))
    return found


def _finished(layout: OutputLayout, config: AnonymizeConfig, source: Source, checks: list[tuple[str, str]]) -> int:
    """Rows of the source that an earlier attempt of the same run finished. Raises PublishError for the output of another run, and
    for pictures that have changed or are gone."""
    existing = read_existing(layout.store)
    if existing is None:
        return 0
    existing.check_same_run(layout.store, config, source)
    rows = len(numbered(config, layout, source).done)
    checks.append(("earlier attempts", f"{rows} rows are done"))
    return rows


def _check_keys(config: AnonymizeConfig, store: Store) -> list[tuple[str, str]]:
    """Open what a run's keys would go to, and write nothing. Raises KeystoreError, PublishError, ConfigError, MachineError."""
    existing = read_existing(store)
    if (door := door_of(config)) is not None:
        outside = door.open()
        outside.look()
        if existing is not None:
            existing.check_keys(store, outside)
        may = ", whose token may put them there" if is_service(door.inbox) else ""
        pinned = "" if isinstance(door.ingest_key, Path) else "; the ingest key is the one of its pin"
        return [("keys", f"to {outside}: reached{may}{pinned}")]
    if config.keystore is None:
        return []
    from keystore.storage.places import has_database

    if not has_database(config.keystore):
        return [("keys", f"to keystore {config.keystore}, which is made when a run begins")]
    with alive():
        keystore_id = Keeper.look(config.keystore, config.kek)
    if existing is not None and existing.keystore_id != keystore_id:
        raise PublishError(
            f"output {store} belongs to a run whose keys are in keystore {existing.keystore_id}, and {config.keystore} is "
            f"{keystore_id}; give that keystore, or an empty output"
        )
    return [("keys", f"to keystore {config.keystore}: opened, and its KEK is the right one")]


def check_writable(place: Path | str, endpoint_url: str | None = None, *, readable: bool = True) -> str:
    """What can be said of a place to write without writing to it. Raises ConfigError where it could not be written, MachineError.

    readable: whether a run reads there too.
    """
    if not isinstance(place, Path):
        return _check_bucket(S3Store.of(place, endpoint_url), readable=readable)
    nearest = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{place} can not be made: {nearest} is no directory; give another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{place} can not be written: {nearest} does not let this user; mend its permissions")
    return f"may be written, {shutil.disk_usage(nearest).free} bytes free"


def _check_bucket(store: S3Store, *, readable: bool) -> str:
    try:
        may = may_put(store, RUN_DIRECTORY if readable else "", readable=readable)
    except OSError as error:
        raise ConfigError(f"{store} can not be used: {error.strerror}") from error
    if may is False:
        raise ConfigError(
            f"{store} can not be written: the S3 server lets these credentials put nothing there; mend the rights to this prefix"
        )
    return "may be written" if may else "reached; not checked whether it may be written: the server does not tell"


def _estimated(
    config: AnonymizeConfig,
    source: Source,
    left: int,
    cluster: Sequence[Machine],
    placement: Placement,
    sample: Sample,
    prices: Prices,
    checks: tuple[tuple[str, str], ...],
) -> Plan:
    rows, total = sample.rows, source.total
    keystore = mean_of([row.sealed + KEYSTORE_BYTES if row.sealed else 0 for row in rows], total)
    of_clips = isinstance(source, Clips)
    copies = 2 if of_clips else 1  # the pieces, and the clip that is joined of them
    published = mean_of([copies * row.picture + row.sidecar for row in rows], total)
    times = {
        "detect": mean_of([one.detect_seconds / one.rows for one in sample.groups], math.inf),
        "anonymize": mean_of([one.anonymize_seconds / one.rows for one in sample.groups], math.inf),
    }
    paces = [_pace(config, cluster, placement, one, of_clips=of_clips) for one in sample.groups]
    hours = mean_of(paces, math.inf).times(left / SECONDS_PER_HOUR)
    return Plan(
        unit="piece" if of_clips else "image",
        rows=total,
        rows_left=left,
        source_bytes=source.size_bytes,
        sampled=len(rows),
        machines=len(cluster),
        actors=placement.actors,
        device=placement.device,
        start_seconds=sample.start_seconds,
        statuses=dict(Counter(row.status for row in rows)),
        reasons=dict(Counter(reason_code(row.reason) for row in rows if row.reason)),
        faces_per_image=mean_of([row.faces for row in rows], total),
        anonymized_share=mean_of([float(row.status == "anonymized") for row in rows], total),
        seconds_per_image=times,
        hours=hours,
        gpu_hours=None if placement.device == "cpu" else hours.times(max(placement.actors * placement.gpus, 1.0)),
        picture_bytes=mean_of([copies * row.picture for row in rows], total).times(left),
        sidecar_bytes=mean_of([row.sidecar for row in rows], total).times(left),
        keystore_bytes=keystore.times(left),
        cost_of_computing=None if (price := prices.cluster_hour(cluster)) is None else hours.times(price),
        cost_of_a_month=None if prices.gb_month is None else published.times(left * prices.gb_month / 1e9),
        checks=checks,
    )


def _pace(
    config: AnonymizeConfig, cluster: Sequence[Machine], placement: Placement, group: Timed, *, of_clips: bool
) -> float:
    """Seconds between two pictures when all processes work: those of the slower stage, or of the CPUs that both share. Clips are
    gone through before the first of them is anonymized, by as many processes."""
    detect, anonymize = group.detect_seconds / group.rows, group.anonymize_seconds / group.rows
    if of_clips:
        stages = (detect + anonymize) / placement.actors
    else:
        detecting = detectors(config, placement.actors, sum(one.cpus for one in cluster))
        stages = max(detect / detecting, anonymize / placement.actors)
    of_cpus = detect + (anonymize * placement.threads if placement.device == "cpu" else 0.0)
    return max(stages, of_cpus / max(sum(one.usable_cpus for one in cluster), 1.0))


def mean_of(values: Sequence[float], population: float) -> Estimate:
    """Mean of what a sample of that population measured, drawn without replacement, with its interval by Student's t. Nothing
    counted here is below 0.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count >= population:
        return Estimate(mean, mean, mean)
    if count == 1:
        return Estimate(mean, None, None)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    correction = math.sqrt(1 - count / population)  # Cochran, Sampling Techniques (1977), section 2.6
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count) * correction
    return Estimate(mean, max(mean - half, 0.0), mean + half)
