from itertools import pairwise
from pathlib import Path

import pytest

from jobs.run.task_sizes import FIRST_PICTURES, TASK_BYTES, TaskSizes
from jobs.sources.source import open_source
from tests.jobs.conftest import MakeConfig

SIZES = TaskSizes(smallest=16, largest=64, workers=2)


def split(sizes: TaskSizes, pictures: int) -> list[int]:
    tasks = []
    while pictures:
        tasks.append(sizes.next(pictures))
        pictures -= tasks[-1]
    return tasks


@pytest.mark.parametrize("pictures", [0, 1, 15, 16, 17, 100, 2700, 10_007])
def test_every_picture_is_in_one_task_and_tasks_shrink(pictures: int) -> None:
    tasks = split(SIZES, pictures)
    assert sum(tasks) == pictures and all(tasks)
    assert all(first >= second for first, second in pairwise(tasks))
    assert all(SIZES.smallest <= task <= SIZES.largest for task in tasks[:-1])


def test_tasks_are_large_at_first_and_small_at_the_end() -> None:
    tasks = split(SIZES, 2700)
    assert tasks[0] == SIZES.largest
    assert tasks[-3:-1] == [SIZES.smallest] * 2


def test_few_pictures_are_shared_among_as_many_workers_as_get_a_task() -> None:
    assert split(SIZES, 40) == [16, 16, 8]
    assert [SIZES.workers_for(left) for left in (1, 16, 17, 5000)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("workers", "largest", "rows"),
    [
        (1, 64, 200_000),
        (40, 64, 200_000),
        (60, 64, 300_000),
        (200, 64, 1_000_000),
        (4096, 64, 1_000_000),
        (200, 20, 327_680),
        (200, 1, 200_000),
    ],
)
def test_many_workers_have_longer_segments_as_far_as_the_driver_can_plan_them(
    workers: int, largest: int, rows: int
) -> None:
    assert TaskSizes(1, largest, workers).segment(200_000) == rows


def begin(pictures: int) -> list[int]:
    size, tasks = SIZES.beginning_with(pictures), []
    while pictures:
        tasks.append(size(pictures))
        pictures -= tasks[-1]
    return tasks


@pytest.mark.parametrize("pictures", [33, 34, 35, 100, 2700])
def test_each_workers_first_task_is_small_and_the_others_are_as_ever(pictures: int) -> None:
    tasks = begin(pictures)
    assert sum(tasks) == pictures and all(tasks)
    assert tasks[:2] == [FIRST_PICTURES] * 2 and SIZES.begins_small(pictures)
    assert tasks[2:] == split(SIZES, pictures - 2 * FIRST_PICTURES)


@pytest.mark.parametrize("pictures", [0, 1, 5, 17, 32])
def test_few_pictures_are_not_split_further(pictures: int) -> None:
    assert begin(pictures) == split(SIZES, pictures) and not SIZES.begins_small(pictures)


def put(folder: Path, name: str, size_bytes: int) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as sparse:
        sparse.truncate(size_bytes)


def test_the_default_follows_the_batch_and_the_size_of_the_pictures(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(face_batch=4)
    put(tmp_path / "photos", "a.png", 1)
    assert TaskSizes.of(config, open_source(config), 3) == TaskSizes(smallest=8, largest=32, workers=3)
    put(tmp_path / "photos", "b.png", TASK_BYTES // 5 - 1)
    assert TaskSizes.of(config, open_source(config), 3).largest == 10
    put(tmp_path / "photos", "c.png", 2 * TASK_BYTES)
    assert TaskSizes.of(config, open_source(config), 3) == TaskSizes(smallest=1, largest=1, workers=3)


def test_a_given_bound_is_kept(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(pictures_per_task=3)
    put(tmp_path / "photos", "a.png", 1)
    assert split(TaskSizes.of(config, open_source(config), 2), 100) == [3] * 33 + [1]
