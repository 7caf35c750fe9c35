"""Runs and evaluations in the test's own process, where nothing is asked of a cluster: the same stages over the same blocks, one
after the other.

Of the 15 to 20 seconds of CPU that a small run takes on Ray, most go into processes that load what this one has.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray

import jobs.evaluate.measuring
import jobs.run.anonymize
import jobs.run.progress
import jobs.run.tracks
from jobs.config import AnonymizeConfig
from jobs.output.sink import PairedDatasink
from jobs.run.placement import Machine, Placement
from jobs.run.progress import Monitor, _Counter
from jobs.sources.source import ReadUnit, Source

HERE = Machine(cpus=4.0, gpus=0.0, usable_cpus=1.0, memory=8 * 2.0**30)


class _Blocks:
    """As much of a `ray.data.Dataset` as a run uses."""

    def __init__(self, tables: Callable[[], Iterator[pa.Table]]) -> None:
        self._tables = tables

    def map_batches(self, stage: Any, *, fn_constructor_kwargs: dict[str, Any], **_: object) -> "_Blocks":
        return _Blocks(lambda: map(stage(**fn_constructor_kwargs), self._tables()))

    map_batches_internal = map_batches

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        return self._tables()

    def write_datasink(self, sink: PairedDatasink, **_: object) -> None:
        for table in self._tables():
            sink.write([table], None)


class _Actor:
    """As a handle of an actor: what a method gives is there at once."""

    def __init__(self, held: object) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._held, name))


class _Monitor(Monitor):
    def __init__(self, run_id: str = "", wanted: int = 0, loading: int | None = None) -> None:
        self._actor: Any = _Actor(
            _Counter("", wanted, None)
        )  # "": no metrics, which are Ray's; one process loads at once


def _read(source: Source, units: Sequence[ReadUnit], rows_per_block: int) -> _Blocks:
    def blocks() -> Iterator[pa.Table]:
        read = (block for unit in units for block in unit.read())
        if source.kind != "parquet":
            yield from read
            return
        whole = pa.concat_tables(read)
        for start in range(0, len(whole), rows_per_block):
            yield whole.slice(start, rows_per_block)

    return _Blocks(blocks)


def _placed(config: AnonymizeConfig) -> tuple[list[Machine], Placement]:
    return [HERE], Placement.of(config, [HERE], joining=False)


def _no_cluster(*_: object) -> AbstractContextManager[None]:
    return nullcontext()


def _there() -> list[Machine]:
    return [HERE]


INSTEAD: dict[Any, dict[str, object]] = {
    jobs.run.progress: {"ray": SimpleNamespace(get=lambda value: value, exceptions=ray.exceptions)},
    jobs.run.anonymize: {
        "ray_cluster": _no_cluster,
        "await_placement": _placed,
        "check_pseudonyms_are_near": _no_cluster,
        "keystore_on_several": lambda config: None,
        "Monitor": _Monitor,
        "read_pictures": _read,
    },
    jobs.run.tracks: {"read_pictures": _read},
    jobs.evaluate.measuring: {
        "ray_cluster": _no_cluster,
        "machines": _there,
        "Monitor": _Monitor,
        "read_pictures": _read,
    },
}


def run_in_process(patch: pytest.MonkeyPatch) -> None:
    """Runs and evaluations, until the patch is undone."""
    for module, names in INSTEAD.items():
        for name, instead in names.items():
            patch.setattr(module, name, instead)
