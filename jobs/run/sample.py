"""A few pictures through the stages of a run, on the cluster that the run would have, without publishing anything.

Of clips these are pieces, each gone through by itself: whoever is in two of them is two people here, which costs the same.

The keys of the sample are sealed to a key that nobody has, its pseudonyms are each process's own, and what comes out is measured
and dropped.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from jobs.blocks import FACE_COUNT, GIVEN, OUTPUT, REASON, ROW, SEALED, SIDECAR, STATUS
from jobs.config import AnonymizeConfig
from jobs.output.row_sets import RowSet
from jobs.run.anonymize_stage import AnonymizeFaces, Compute, SealingTarget
from jobs.run.cluster import reported_cause
from jobs.run.detect_stage import DetectFaces, FaceModelChoice
from jobs.run.placement import Placement
from jobs.run.progress import Monitor, Phase, ProgressCallback, RunState
from jobs.run.pseudonyms import ThrownAway
from jobs.run.track_stage import SEEN, FindInPieces, SeenPiece
from jobs.run.tracks import same_person_by, tracked_alone
from jobs.sources.clips import Clips
from jobs.sources.source import Source
from keyanon_core.clips.association import SamePerson
from keystore.crypto.hybrid import HybridPrivateKey

GROUPS: Final = 8  # parts of a sample that are timed by themselves: what their times differ by is the uncertainty
SEED: Final = 0  # the same rows at each plan of the same input
_RUN_ID: Final = "plan"


@dataclass(frozen=True)
class SampledRow:
    """What one picture came to; sizes in bytes."""

    status: str
    reason: str
    faces: int
    picture: int
    sidecar: int
    sealed: int


@dataclass(frozen=True)
class Timed:
    """One group of pictures. Seconds of the one process of each stage, for all of them."""

    rows: int
    detect_seconds: float
    anonymize_seconds: float


@dataclass(frozen=True)
class Sample:
    """What was measured. start_seconds: until both stages had loaded and were warm."""

    rows: tuple[SampledRow, ...]
    groups: tuple[Timed, ...]
    start_seconds: float


def run_sample(
    config: AnonymizeConfig, source: Source, placement: Placement, size: int, progress: ProgressCallback | None = None
) -> Sample:
    """Take `size` rows of the input at random through detecting and anonymizing, in one process each, on the connected cluster.
    progress: is told of each group of them.

    Raises what a run raises when it can not load its models or read its input.
    """
    chosen = sorted(random.Random(SEED).sample(range(source.total), min(size, source.total)))
    monitor = Monitor()
    detect, anonymize = _stages(config, source, placement, monitor)
    try:
        begun = time.monotonic()
        blocks = list(_blocks(source, chosen))
        ray.get(anonymize.remote(detect(blocks[0].slice(0, 1))))  # a first picture pays for what is loaded at first use
        start = time.monotonic() - begun
        rows: list[SampledRow] = []
        groups: list[Timed] = []
        sampling = time.monotonic()
        for block in blocks:
            begun = time.monotonic()
            found = detect(block)
            between = time.monotonic()
            made = ray.get(anonymize.remote(found))
            groups.append(Timed(block.num_rows, between - begun, time.monotonic() - between))
            rows += map(_measured, made.select(_MEASURED).to_pylist())
            if progress is not None:
                faces = sum(row.faces for row in rows)
                progress(RunState.apart(Phase.SAMPLING, len(rows), len(chosen), sampling, faces))
        return Sample(tuple(rows), tuple(groups), start)
    except RayError as error:
        raise reported_cause(error, monitor, "sample") from error


def _stages(
    config: AnonymizeConfig, source: Source, placement: Placement, monitor: Monitor
) -> tuple[Callable[[pa.Table], pa.Table], Any]:
    """What takes a block through detecting and through anonymizing, as a run would reserve them."""
    models = FaceModelChoice(config.face_models, config.face_weights, config.min_face)
    sealing = None
    if config.keys == "store":
        sealing = SealingTarget(_RUN_ID, config.dataset, HybridPrivateKey.generate().public_bytes)
    anonymize = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus)(AnonymizeFaces).remote(
        config.prior,
        models,
        config.settings(),
        sealing,
        Compute(placement.device, placement.threads, config.precision, config.compile),
        None,
        monitor,
        ThrownAway() if config.has_pseudonyms else None,
    )
    return _detecting(config, source, models, placement, monitor), _method(anonymize)


def _detecting(
    config: AnonymizeConfig, source: Source, models: FaceModelChoice, placement: Placement, monitor: Monitor
) -> Callable[[pa.Table], pa.Table]:
    """What finds the faces of a block. Of pieces the detecting stage is told them, as in a run, and needs no CPU."""
    of_clips, cpus = isinstance(source, Clips), config.cpus_per_actor
    detector = ray.remote(num_cpus=0 if of_clips else cpus)(DetectFaces).remote(
        models, config.max_pixels, monitor, config.faces
    )
    detect = _method(detector)
    if not isinstance(source, Clips):
        return lambda block: ray.get(detect.remote(block))
    finder = ray.remote(num_cpus=cpus)(FindInPieces).remote(models, placement.threads, config.max_pixels, monitor)
    track = partial(_tracked, source, same_person_by(models.load(1).recognizer), _method(finder))
    return lambda block: ray.get(detect.remote(track(block)))


def _method(actor: Any) -> Any:
    return getattr(actor, "__call__")  # noqa: B004, B009  a method of an actor, by name


def _tracked(source: Clips, same_person: SamePerson, find: Any, block: pa.Table) -> pa.Table:
    """A block of pieces that says who is in each of them; nothing of one that can not be looked through."""

    def said(row: int, seen: str | None) -> str | None:
        if seen is None:
            return None
        clip = next(clip for clip in source.clips if row in clip.rows)
        try:
            return tracked_alone(clip, row, SeenPiece.of(seen), same_person).to_json()
        except ValueError:  # of its times or places, for which a run quarantines its clip
            return None

    seen = ray.get(find.remote(block)).column(SEEN).to_pylist()
    told = list(map(said, block.column(ROW).to_pylist(), seen))
    return block.set_column(block.column_names.index(GIVEN), GIVEN, pa.array(told, pa.large_string()))


def _blocks(source: Source, chosen: Sequence[int]) -> Iterator[pa.Table]:
    """The chosen rows in `GROUPS` blocks, or in one each where there are fewer."""
    others = np.ones(source.total, np.bool_)
    others[chosen] = False
    left_out = RowSet.of(others)
    tables = [table for unit in source.units(left_out, lambda left: min(left, len(chosen))) for table in unit.read()]
    whole = pa.concat_tables(tables, promote_options="permissive")
    groups = min(GROUPS, whole.num_rows)
    for at in range(groups):
        start, end = (whole.num_rows * one // groups for one in (at, at + 1))
        yield whole.slice(start, end - start)


_MEASURED: Final = [STATUS, REASON, FACE_COUNT, OUTPUT, SIDECAR, SEALED]


def _measured(row: dict[str, Any]) -> SampledRow:
    sizes = (0 if row[part] is None else len(row[part]) for part in (OUTPUT, SIDECAR, SEALED))
    return SampledRow(row[STATUS], row[REASON] or "", row[FACE_COUNT], *sizes)
