"""The protocol's pictures as a source of rows: LFW's with the other picture of their pair."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from jobs.blocks import ENCODED, FAILURE, ID, ROW, source_table
from jobs.evaluate.paper.lists import Sample
from jobs.sources.ids import ListedIds, RowNumbers
from jobs.sources.source import (
    ReadUnit,
    Source,
    UnitSize,
    listing_digest,
    raise_fault_of_the_machine,
    shares_of,
    unfinished,
)
from jobs.storage.store import Store

DATA_SET: Final = "data_set"
OTHER_PICTURE: Final = "other_picture"
DEGRADED: Final = "degraded"
_OWN: Final = pa.schema([(DATA_SET, pa.string()), (OTHER_PICTURE, pa.large_binary()), (DEGRADED, pa.bool_())])


class PaperSource(Source):
    """One row for each sample. Beside the picture a block holds the columns DATA_SET, OTHER_PICTURE and DEGRADED."""

    kind = "files"

    def __init__(
        self, samples: Sequence[Sample], stores: Mapping[str, Store], degraded: Collection[int], max_bytes: int
    ) -> None:
        """stores: by data set. degraded: rows that are recovered from JPEG copies and with wrong keys, too."""
        self._samples, self._stores, self._degraded, self._max_bytes = samples, stores, frozenset(degraded), max_bytes
        self.ids = ListedIds([pa.array([one.image_id for one in samples], pa.large_string())])
        self.total, self.size_bytes = len(samples), sum(one.size for one in samples)
        self.versions = np.zeros(self.total, np.int32)
        self.digest = listing_digest(f"{one.image_id}\0{one.picture}\0{one.other}\0{one.size}" for one in samples)

    def units(self, finished: Collection[int], size: UnitSize, numbers: RowNumbers | None = None) -> Iterator[ReadUnit]:
        for part in shares_of(np.flatnonzero(unfinished(self.total, finished)), size):
            asked = [(row, self._samples[row], row in self._degraded) for row in part.tolist()]
            size_bytes = sum(sample.size for _, sample, _ in asked)
            yield ReadUnit(partial(_read, self._stores, asked, self._max_bytes), len(part), size_bytes)


def _read(stores: Mapping[str, Store], asked: Sequence[tuple[int, Sample, bool]], max_bytes: int) -> Iterator[pa.Table]:
    rows, own = list[dict[str, Any]](), list[dict[str, Any]]()
    for row, sample, degraded in asked:
        store, other = stores[sample.data_set], None
        picture, reason = _picture(store, sample.picture, max_bytes)
        if sample.other is not None and not reason:
            other, reason = _picture(store, sample.other, max_bytes)
        rows.append({ROW: row, ID: sample.image_id, ENCODED: None if reason else picture, FAILURE: reason})
        own.append({DATA_SET: sample.data_set, OTHER_PICTURE: other, DEGRADED: degraded})
    yield source_table(rows, pa.Table.from_pylist(own, schema=_OWN))


def _picture(store: Store, name: str, max_bytes: int) -> tuple[bytes | None, str]:
    """Its bytes and "", or None and the reason it can not be used. Raises MachineError."""
    try:
        return store.read(name, max_bytes), ""
    except OSError as error:
        raise_fault_of_the_machine(error, store.full(name))
        return None, f"unreadable: {name}, {error.strerror or type(error).__name__}"
