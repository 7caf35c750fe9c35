"""Attempts over real listings, killed, two at once, laid out otherwise: the faults that peers have, and tar shards."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle

from jobs.blocks import ENCODED, ID, ROW
from jobs.errors import LeaseError, PublishError
from jobs.output.numbering import Numbering
from jobs.output.row_sets import RowSet
from jobs.sources.source import ReadUnit, Source, open_source
from tests.jobs.conftest import MakeConfig
from tests.jobs.publishing import Attempt, Place, before_operation, block, finished_rows
from tests.jobs.sources.test_tar_shards import shard

ROWS = 12
KILLED_EVERY = 7  # operations on files: the kill moves by so many from try to try


@pytest.fixture
def tar(tmp_path: Path, make_config: MakeConfig) -> Source:
    """Two tar shards of six pictures each, with siblings."""
    (tmp_path / "photos").mkdir()
    for number in range(2):
        members = [(f"{at}.{kind}", b"%d of %d" % (at, number)) for at in range(ROWS // 2) for kind in ("jpg", "json")]
        (tmp_path / "photos" / f"{number}.tar").write_bytes(shard(*members))
    return open_source(make_config())


def units(place: Place, source: Source, per_task: int) -> Iterator[ReadUnit]:
    """What an attempt reads: the rows that do not stand."""
    numbering = Numbering.of(place.layout.store, source)
    done = RowSet(numbering.done.numbers())
    return source.units(done, lambda left: min(left, per_task), numbering.numbers)


def results(place: Place, read: list[pa.Table], who: str) -> list[dict[str, Any]]:
    rows = [row for table in read for row in table.select([ROW, ID, ENCODED]).to_pylist()]
    return [place.result(row[ROW], row[ID], f"{who}'s ".encode() + row[ENCODED]) for row in rows]


def attempted(place: Place, attempt: Attempt, source: Source, per_task: int, who: str) -> None:
    """All that an attempt does: read, stage, publish, and account for every row."""
    blocks = [results(place, list(unit.read()), who) for unit in units(place, source, per_task)]
    attempt.run(blocks, ROWS)


def by_whom(place: Place) -> dict[str, str]:
    """Who made each picture; each is of its own source."""
    found = {}
    for row in place.rows():
        who, _, content = (place.out / row["output"]).read_bytes().decode().partition("'s ")
        name = row["image_id"].removesuffix(".jpg")
        assert content == f"{name.split('/')[1]} of {name.split('.')[0]}", row
        found[row["image_id"]] = who
    return found


@pytest.mark.slow
def test_over_tar_shards_a_killed_attempt_is_resumed_wherever_it_died(
    place: Place, tmp_path: Path, tar: Source
) -> None:
    for step in range(0, 1000, KILLED_EVERY):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a, before_operation(step) as reached:
            attempted(place, a, tar, 5, "A")
        place.check_visible()
        standing = set(finished_rows(place.layout).numbers().tolist())
        with place.attempt() as b:
            attempted(place, b, tar, 5, "B")
        rows = place.check_complete(ROWS)
        made = by_whom(place)
        assert all(made[rows[row]["image_id"]] == "A" for row in standing), "what was finished is not made again"
        if not reached():
            assert step > 40 and set(made.values()) == {"A"}
            return
    raise AssertionError("the attempt did not end")


@pytest.mark.slow
def test_over_tar_shards_of_two_attempts_at_once_one_commits_each_row(
    place: Place, tmp_path: Path, tar: Source
) -> None:
    """A stands still before any of its steps; B, which took its lease over, does all that is missing; A goes on."""
    for step in range(0, 1000, KILLED_EVERY):
        place = Place(tmp_path / str(step), place.keystore)
        with place.attempt() as a:

            def b_runs(a: Attempt = a, place: Place = place) -> None:
                a.__exit__()
                with place.attempt() as b:
                    attempted(place, b, tar, 3, "B")

            with before_operation(step, b_runs) as reached:
                try:
                    attempted(place, a, tar, 5, "A")
                except (LeaseError, PublishError):
                    assert reached()
        with place.attempt() as c:  # the same command again: nothing to do but to sweep
            attempted(place, c, tar, 5, "C")
        place.check_complete(ROWS)
        made = by_whom(place)
        assert len(made) == ROWS and set(made.values()) <= {"A", "B"}
        if not reached():
            assert step > 40 and set(made.values()) == {"A"}
            return
    raise AssertionError("the attempt did not end")


@pytest.mark.parametrize("layouts", [(5, 2, 7), (1, 12, 12), (4, 12, 1)])
def test_another_block_layout_at_a_resume_leaves_out_no_row_and_does_none_twice(
    place: Place, tar: Source, layouts: tuple[int, ...]
) -> None:
    """Data-Juicer: a resume trusted the number of finished blocks, and with other blocks skipped or repeated rows."""
    for per_task in layouts[:2]:
        with place.attempt() as attempt:
            attempt.publisher().open()
            unit = next(units(place, tar, per_task))
            attempt.sink().stage(block(results(place, list(unit.read()), str(per_task))))
            attempt.publisher().publish_complete()
    first = by_whom(place)
    assert len(first) == min(sum(layouts[:2]), ROWS)
    with place.attempt() as attempt:
        attempted(place, attempt, tar, layouts[2], "last")
    place.check_complete(ROWS)
    assert {name: who for name, who in by_whom(place).items() if who != "last"} == first


@pytest.fixture
def many(tmp_path: Path, make_config: MakeConfig) -> Callable[[int], Source]:
    """A table of so many rows in row groups of a thousand."""

    def make(rows: int) -> Source:
        (tmp_path / f"many-{rows}").mkdir()
        cells = {
            "image": pa.array([b"x"] * rows),
            "name": [f"a name that takes some bytes, {at}" for at in range(rows)],
        }
        pq.write_table(pa.table(cells), tmp_path / f"many-{rows}" / "0.parquet", row_group_size=1000)
        config = make_config(photos=tmp_path / f"many-{rows}", id_column="name")
        return open_source(config, config.given())

    return make


def test_no_read_task_of_a_resume_holds_the_ids_of_all_that_is_finished(many: Callable[[int], Source]) -> None:
    """Ray: each read task, or each process of a filter, was handed every finished id, and filtered what it had read."""
    weights = {}
    for rows in (2000, 20_000):
        source = many(rows)
        left = {7, rows // 2, rows - 1}
        done = RowSet([at for at in range(rows) if at not in left])
        read = list(source.units(done, lambda left: min(left, 64)))
        assert sum(unit.rows for unit in read) == len(left) and len(read) <= len(left), (
            "and finished groups are not read"
        )
        found = [row for unit in read for table in unit.read() for row in table.column(ROW).to_pylist()]
        assert sorted(found) == sorted(left)
        weights[rows] = max(len(cloudpickle.dumps(unit)) for unit in read)
    assert weights[20_000] < 1.2 * weights[2000], weights
