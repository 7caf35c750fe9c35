"""The record of processes and their deaths, played through with rows that kill in given ways."""

from collections.abc import Callable

import pytest

from jobs.run.process_deaths import (
    FAULTS_OF_A_ROW,
    MAX_DEATHS_WITHOUT_PROGRESS,
    MAX_UNEXPLAINED_DEATHS,
    Fault,
    StageRecord,
)

MEMORY, DEVICE = Fault("MemoryError at x.py:1", memory=True), Fault("RuntimeError at x.py:2", memory=False)
# What a process meets in a part: a fault, None to be killed, True to pass.
Meets = Callable[[list[int]], Fault | bool | None]


class Ended(Exception):
    """The record said that the run must end."""


def play(record: StageRecord, blocks: list[list[int]], meets: Meets, process: str = "p") -> dict[int, str]:
    """What becomes of each row when Ray gives a block again for as long as its process dies. Reasons, "" when it passed."""
    became: dict[int, str] = {}
    record.started(process)
    for block in blocks:
        while True:
            plan = record.plan(block)
            done = dict(plan.verdicts)
            assert sorted([*done, *(row for part in plan.parts for row in part)]) == sorted(block)
            for part in plan.parts:
                assert part
                record.hold(process, part, 0)
                met = meets(part)
                if met is not True:
                    if isinstance(met, Fault):
                        record.leaves(process, met)
                    break
                done.update(dict.fromkeys(part, ""))
                record.hold(process, [], len(part))
            else:
                assert sorted(done) == sorted(block), "every row of the block has one result"
                became.update(done)
                break
            record.started(process)
            if record.exhausted():
                raise Ended(record.exhausted())
    return became


def killers(rows: set[int], how: Fault | None = None) -> Meets:
    return lambda part: how if rows & set(part) else True


def codes(became: dict[int, str]) -> dict[int, str]:
    return {row: reason.split(":")[0] for row, reason in became.items()}


@pytest.mark.parametrize("size", [1, 2, 3, 64, 500])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_the_row_that_kills_is_found_and_its_neighbours_pass(size: int, where: str) -> None:
    killer = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    record = StageRecord()
    became = play(record, [list(range(size))], killers({killer}))
    assert {row for row, reason in became.items() if reason} == {killer}
    assert codes(became)[killer] == "killed_process"
    assert len(record.deaths) <= 5, "each death costs a process"


def test_killers_one_after_the_other_are_found_in_blocks_of_one_row() -> None:
    became = play(StageRecord(), [[row] for row in range(12)], killers({0, 1, 5, 6, 11}))
    assert {row for row, reason in became.items() if reason} == {0, 1, 5, 6, 11}


def test_several_killers_in_one_block_are_all_found() -> None:
    became = play(StageRecord(), [list(range(64))], killers({0, 1, 2, 3, 4, 40}))
    assert {row for row, reason in became.items() if reason} == {0, 1, 2, 3, 4, 40}


def test_a_process_that_is_killed_once_costs_no_row() -> None:
    deaths = iter([None])
    record = StageRecord()
    became = play(record, [[0, 1, 2], [3]], lambda part: next(deaths, True))
    assert became == {0: "", 1: "", 2: "", 3: ""} and len(record.deaths) == 1


def test_neighbours_of_a_killer_are_cleared_when_it_is_found() -> None:
    record = StageRecord()
    play(record, [list(range(16))], killers({3}))
    assert record.plan([0, 1, 2, 4]).parts == [[0, 1, 2, 4]]


@pytest.mark.parametrize("tasks", [1, 2, 16, 64])
@pytest.mark.parametrize("how", [None, MEMORY, DEVICE])
def test_a_machine_on_which_nothing_gets_through_ends_the_run(tasks: int, how: Fault | None) -> None:
    record = StageRecord()
    blocks = [list(range(start, start + tasks)) for start in range(0, 64, tasks)]
    with pytest.raises(Ended, match=r"before a row got through|alone in hand"):
        play(record, blocks, lambda part: how)
    assert len(record.deaths) <= MAX_DEATHS_WITHOUT_PROGRESS + 2
    if how is not None or tasks > 2:
        assert not record.to_blame, "a fault of the machine is no verdict on a row"


def test_a_row_too_large_for_the_machine_is_told_from_a_machine_without_memory() -> None:
    became = play(StageRecord(), [list(range(8))], killers({2}, MEMORY))
    assert codes(became) == {**dict.fromkeys(range(8), ""), 2: "out_of_memory"}
    with pytest.raises(Ended, match=f"{FAULTS_OF_A_ROW} processes met MemoryError at x.py:1, each with row 0 alone"):
        play(StageRecord(), [[0]], killers({0}, MEMORY))  # nobody else got through


def test_a_fault_of_a_device_is_never_a_verdict_even_when_it_follows_a_row() -> None:
    record = StageRecord()
    with pytest.raises(Ended, match=f"{FAULTS_OF_A_ROW} processes met RuntimeError at x.py:2, each with row 2 alone"):
        play(record, [list(range(8))], killers({2}, DEVICE))
    assert not record.to_blame


def test_deaths_that_follow_no_row_end_the_run_after_a_bounded_number() -> None:
    record = StageRecord()
    died: set[int] = set()

    def once_a_block(part: list[int]) -> bool | None:
        block = part[0] // 100
        return True if block in died else died.add(block)

    with pytest.raises(Ended, match="no row is to blame"):
        play(record, [list(range(start, start + 100)) for start in range(0, 10_000, 100)], once_a_block)
    assert len(record.deaths) == MAX_UNEXPLAINED_DEATHS + 2


def test_a_machine_that_is_taken_away_with_all_its_processes_does_not_end_the_run() -> None:
    record = StageRecord()
    many = [f"actor {at}" for at in range(40)]
    for at, process in enumerate(many):
        record.started(process)
        record.hold(process, [at], 0)
    for process in many:
        record.started(process)
    assert len(record.deaths) == 40 and not record.exhausted()


def test_processes_that_die_before_they_have_a_row_end_the_run() -> None:
    record = StageRecord()
    for _ in range(MAX_DEATHS_WITHOUT_PROGRESS + 2):
        assert not record.exhausted()
        record.started("p")
    record.started("p")
    assert "processes ended before a row got through (the last one: it was killed)" in record.exhausted()
