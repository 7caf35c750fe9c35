"""How records are found by what they are called: by an index, in as many queries whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event

from keystore.embedded import Keystore
from keystore.errors import RecordNotFound
from keystore.vault.parts import part_id
from tests.keystore.postgres import ON_BOTH

PIECE = "a clip.mp4/000001280.mp4"
NAMES = ("record_id", "image_id", "shred_key_id")
MANY = [f"{number:03d}.png" for number in range(90)]


@pytest.fixture
def pieces(keystore: Keystore, make) -> Keystore:
    names = [*MANY, *(part_id(PIECE, track) for track in (0, 1, None))]
    make.deposit(keystore, [make.record(name) for name in names], "part-7")
    assert keystore.ingest(make.RUN).ingested == len(names)
    return keystore


def queries(keystore: Keystore, work: Callable[[], object]) -> list[tuple[str, Any]]:
    """What is asked of the table of records meanwhile."""
    asked: list[tuple[str, Any]] = []

    def seen(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        if statement.startswith("SELECT") and "FROM records" in statement:
            asked.append((statement, parameters))

    event.listen(keystore._database._engine, "before_cursor_execute", seen)
    try:
        work()
    finally:
        event.remove(keystore._database._engine, "before_cursor_execute", seen)
    return asked


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def looks_through(connection: Connection, query: str, parameters: Any) -> list[str]:
    """The steps of a query's plan that read other records than those that are named: all, a data set's, a run's."""
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters).all()
        steps = [str(step[3]) for step in plan if step[3].startswith(("SCAN records", "SEARCH records"))]
        assert steps
        return [step for step in steps if not any(f"({name}" in step for name in NAMES)]
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of so few rows it would rather read all
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}", parameters).scalar_one()
    found = [one for one in nodes(plan[0]["Plan"]) if one.get("Index Name", "records").startswith("records")]
    steps = [one for one in found if "Index Name" in one or one["Node Type"] == "Seq Scan"]
    assert steps
    return [str(one) for one in steps if not any(name in one.get("Index Cond", "") for name in NAMES)]


@ON_BOTH
@pytest.mark.parametrize("within", [{}, {"dataset": "photos"}, {"run_id": "run-1"}])
def test_who_files_a_request_reads_no_records_but_those_asked_for(
    pieces: Keystore, make, within: dict[str, str]
) -> None:
    record_id = pieces.find_records(["b.png"])[0].record_id
    asked = queries(pieces, lambda: make.request(pieces, "a.png", record_id, PIECE, **within))
    assert len(asked) == 3, "by image ids, by record ids, and of parts"

    def refused() -> None:
        with pytest.raises(RecordNotFound):
            make.request(pieces, "not there", **within)

    asked += queries(pieces, refused)
    assert len(asked) == 6
    with pieces._database.read() as connection:
        assert [one for query in asked for one in looks_through(connection, *query)] == []


@ON_BOTH
def test_who_erases_a_picture_reads_no_other_s_record(pieces: Keystore) -> None:
    asked = queries(pieces, lambda: pieces.erase("photos", "Olga", image_id="a.png"))
    assert any("#track" in str(parameters) for _, parameters in asked)
    with pieces._database.read() as connection:
        assert [one for query in asked for one in looks_through(connection, *query)] == []


@ON_BOTH
def test_many_images_are_found_in_as_many_queries_as_one(pieces: Keystore, make) -> None:
    one = queries(pieces, lambda: make.request(pieces, "a.png"))
    many = queries(pieces, lambda: make.request(pieces, *MANY))
    assert len(many) == len(one) > 0


def test_a_name_that_is_of_a_record_and_of_another_s_image_is_ambiguous(pieces: Keystore, make) -> None:
    record_id = pieces.find_records(["b.png"])[0].record_id
    make.deposit(pieces, [make.record(record_id)], "part-8")
    pieces.ingest(make.RUN)
    with pytest.raises(RecordNotFound, match="2 key records"):
        make.request(pieces, record_id)


@ON_BOTH
def test_more_ids_than_one_query_takes_are_all_looked_up(pieces: Keystore, make) -> None:
    with pytest.raises(RecordNotFound, match="'none 650'"):
        make.request(pieces, *(7 * MANY), PIECE, *(f"none {number}" for number in range(650, 1300)))
