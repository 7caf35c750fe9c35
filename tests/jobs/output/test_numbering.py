"""What a listing is numbered as is what a dictionary of the rows that stand would say, however few bytes it is found by."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import PublishError
from jobs.output import numbering
from jobs.output.layout import ROWS, shard_file
from jobs.output.numbering import NAMED, Numbering
from jobs.output.row_shards import new_shard_name, to_parquet
from jobs.sources.ids import CountedIds, Ids, ListedIds, OfFiles
from jobs.sources.source import NO_FILE, Source
from jobs.storage.local import LocalStore

Row = tuple[int, str, int | None]  # number, id and version of a row that stands

FILES = ["a", "é#1\n"]
versions = st.sampled_from([NO_FILE, 0, 1])
names = st.sampled_from([f"{file}#{row}" for file in FILES for row in (*range(3), "00")] + ["", "a"])


class Listed:
    """Files of rows, which are called by them, or by names of their own."""

    def __init__(self, files: Sequence[tuple[str, int, int]], own: Sequence[tuple[str, int]] | None) -> None:
        """files: name, rows and version of each. own: id and version of each row instead."""
        if own is None:
            self.ids: Ids = CountedIds([(name, rows) for name, rows, _ in files])
            starts = np.cumsum([0, *(rows for _, rows, _ in files)], dtype=np.int64)[:-1]
            self.versions: object = OfFiles(starts, np.array([version for *_, version in files], np.int32))
            self.said = [(f"{name}#{row}", version) for name, rows, version in files for row in range(rows)]
        else:
            parts = np.array_split(np.array([name for name, _ in own], object), 2)
            self.ids = ListedIds([pa.array(part, pa.large_string()) for part in parts])
            self.versions = np.array([version for _, version in own], np.int32)
            self.said = list(own)
        self.total = len(self.said)


@st.composite
def listings(draw: st.DrawFn) -> Listed:
    files = draw(st.permutations(FILES))[: draw(st.integers(1, len(FILES)))]
    counted = [(name, draw(st.integers(0, 3)), draw(versions)) for name in files]
    return Listed(counted, draw(st.none() | st.lists(st.tuples(names, versions), max_size=12)))


@st.composite
def standing(draw: st.DrawFn) -> list[Row]:
    numbers = draw(st.lists(st.integers(0, 20), unique=True, max_size=12))
    return [(number, draw(names), draw(st.none() | versions)) for number in numbers]


def written(folder: Path, rows: Sequence[Row], shards: int) -> LocalStore:
    """An output of these rows, in so many shards, of which none has its rows in order."""
    store = LocalStore(folder / uuid.uuid4().hex)
    store.make_folder(ROWS)
    for part in (rows[at::shards] for at in range(shards)):
        if part:
            columns = dict(zip(("row", "image_id", "source_version"), zip(*part, strict=True), strict=True))
            schema = pa.schema([("row", pa.int64()), ("image_id", pa.string()), ("source_version", pa.int32())])
            shard = to_parquet(pa.table({name: list(values) for name, values in columns.items()}, schema))
            (store.root / shard_file(new_shard_name(columns["row"], 0))).write_bytes(shard)
    return store


@given(listings(), standing(), st.integers(1, 3), st.booleans())
def test_a_listing_is_numbered_as_a_dictionary_of_what_stands_says(
    tmp_path_factory: pytest.TempPathFactory, listed: Listed, rows: list[Row], shards: int, keep_gone: bool
) -> None:
    store, source = written(tmp_path_factory.getbasetemp(), rows, shards), cast("Source", listed)
    queues = defaultdict[str, list[Row]](list)
    for row in sorted(rows):
        queues[row[1]].append(row)
    found = [queues[name].pop(0) if queues[name] else None for name, _ in listed.said]
    gone = sorted(row for queue in queues.values() for row in queue)
    before = [NO_FILE if row is None or row[2] is None else row[2] for row in found]
    changed = [name for (name, now), then in zip(listed.said, before, strict=True) if then not in (NO_FILE, now)]
    unused = iter(sorted(set(range(40)) - {number for number, *_ in rows}))
    numbers = [next(unused) if row is None else row[0] for row in found]

    told = [name for _, name, _ in gone] if gone and not keep_gone else changed
    if told:
        with pytest.raises(PublishError) as refused:
            Numbering.of(store, source, keep_gone=keep_gone)
        among = f"({', '.join(told[:NAMED])}{', ...' if len(told) > NAMED else ''})"
        assert str(refused.value).startswith(f"{len(told)} pictures ") and among in str(refused.value)
        return
    numbering = Numbering.of(store, source, keep_gone=keep_gone)
    assert numbering.numbers.tolist() == numbers
    assert numbering.done == {at for at, row in enumerate(found) if row is not None}
    assert numbering.gone == {number for number, *_ in gone}
    assert numbering.unversioned == any(version is None for *_, version in rows)
    assert numbering.of_positions(numbering.done).tolist() == [row[0] for row in found if row is not None]


def test_numbers_that_need_more_bits_than_others_are_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbering, "NARROW", np.int8)
    listed = cast("Source", Listed([("a", 200, 0)], None))
    assert Numbering.of(LocalStore(tmp_path), listed).numbers.tolist() == list(range(200))
    store = written(tmp_path, [(1, "a#0", 0), (300, "a#1", 0)], 2)
    assert Numbering.of(store, listed).numbers.tolist() == [1, 300, 0, *range(2, 199)]
    small = written(tmp_path, [(0, "a#1", 0)], 1)
    assert Numbering.of(small, listed).numbers.tolist() == [1, 0, *range(2, 200)]
