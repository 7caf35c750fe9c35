"""Pictures and sidecars of an output for Parquet lie in its row shards: each is read once for all rows asked for in order."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import SIDECAR
from jobs.output.layout import MANIFEST, ROWS
from jobs.output.pictures import SHARDS_KEPT, PublishedPictures
from jobs.output.reader import OutputError, Row
from jobs.storage.opening import open_store

SHARDS, ROWS_EACH = 4, 50


def row_of(shard: int, position: int) -> Row:
    name = f"{ROWS}/part-{shard}.parquet"
    return Row(f"{shard}-{position}", "anonymized", "", "r", None, None, 1, 0, False, "latent", name, position)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PublishedPictures, list[str]]:
    """An output of some shards whose last row has no picture, and the names of the files read so far."""
    store, read = open_store(tmp_path), list[str]()
    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / MANIFEST).write_text(json.dumps({"image_column": "photo"}))
    (tmp_path / ROWS).mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        pictures = [{"bytes": b"p%d-%d" % (shard, at), "path": None} for at in range(ROWS_EACH - 1)]
        cells = {"photo": [*pictures, None], SIDECAR: [b"s%d-%d" % (shard, at) for at in range(ROWS_EACH)]}
        own = {"row": range(ROWS_EACH), "tone": [*[shard / 2] * (ROWS_EACH - 1), None], "place": ["7"] * ROWS_EACH}
        pq.write_table(pa.table({**cells, **own}), tmp_path / row_of(shard, 0).shard)
    opened, loaded = type(store).open_parquet, type(store).read
    monkeypatch.setattr(type(store), "open_parquet", lambda *a: read.append(a[1]) or opened(*a))
    monkeypatch.setattr(type(store), "read", lambda *a: read.append(a[1]) or loaded(*a))
    return PublishedPictures(store), read


@pytest.mark.parametrize("workers", [1, 8])
def test_pictures_in_the_order_of_their_shards_cost_one_read_of_each(
    output: tuple[PublishedPictures, list[str]], workers: int
) -> None:
    published, read = output
    rows = [row_of(shard, at) for shard in range(SHARDS) for at in range(ROWS_EACH - 1)]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda row: (published.picture(row), published.sidecar(row)), rows))
    assert found == [(f"p{row.image_id}".encode(), f"s{row.image_id}".encode()) for row in rows]
    assert set(read) == {MANIFEST, *(row.shard for row in rows)} and read.count(MANIFEST) == 1
    if workers == 1:  # a thread that falls behind by some shards has its own read again
        assert len(read) == 1 + SHARDS


def test_no_more_than_a_few_shards_stay_in_memory(output: tuple[PublishedPictures, list[str]]) -> None:
    published, read = output
    for shard in (*range(SHARDS), SHARDS - 1, SHARDS - SHARDS_KEPT, 0):
        published.picture(row_of(shard, 0))
    assert [name for name in read if name != MANIFEST] == [row_of(at, 0).shard for at in (*range(SHARDS), 0)]


@pytest.mark.parametrize(("position", "says"), [(ROWS_EACH - 1, "is empty for it"), (ROWS_EACH, "no readable column")])
def test_a_row_without_a_picture_is_named(
    output: tuple[PublishedPictures, list[str]], position: int, says: str
) -> None:
    with pytest.raises(OutputError, match=f"0-{position}.*{says}"):
        output[0].picture(row_of(0, position))


def test_the_numbers_of_a_row_are_those_of_all_its_columns(output: tuple[PublishedPictures, list[str]]) -> None:
    published, read = output
    assert published.numbers(row_of(3, 7)) == {"row": 7, "tone": 1.5}
    assert published.numbers(row_of(3, ROWS_EACH - 1)) == {"row": ROWS_EACH - 1}
    assert read == [row_of(3, 0).shard]
    with pytest.raises(OutputError, match=f"0-{ROWS_EACH}: .* has no readable columns"):
        published.numbers(row_of(0, ROWS_EACH))
