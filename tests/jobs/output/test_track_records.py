"""A row with a key record for each person: all of them count, wherever rows and records are held against each other."""

import hashlib
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.blocks import FURTHER_SEALED, OUTPUT_SHA256, RECORD_ID, SEALED, SIDECAR, TRACK_RECORDS
from jobs.commands.cli import main
from jobs.errors import CommitError
from jobs.output.manifest import COMPLETE
from jobs.output.reader import TrackRecord, find_rows, read_rows
from jobs.output.reconcile import TAKEN_IN, reconcile
from jobs.storage.local import LocalStore
from keyanon_core.sidecar import Sidecar, SidecarFace
from keystore.intake.sealing import seal_record
from keystore.vault.parts import part_id
from tests.jobs.output.test_verify import begun, edit, look, named, result
from tests.jobs.publishing import Place, key_record

PIECES = ["a.mp4/000000000.mp4", "a.mp4/000001280.mp4"]
TRACKS = [[1, 0, None], [0]]


def piece(place: Place, row: int, tracks: list[int | None], sealed: int | None = None) -> dict[str, Any]:
    """An anonymized row with a record for each track. sealed: how many of them are handed in; None for all."""
    name, content = PIECES[row], f"piece {row}".encode()
    ids = [str(uuid.uuid4()) for _ in tracks]
    sidecar = Sidecar(ids[0], name, "latent", "1" * 64, (4, 4), 1, (SidecarFace(bytes(32)),) * 3).to_bytes()
    made = place.result(row, name, content)
    records = [
        key_record(
            place.run_id,
            part_id(name, track),
            record_id=record_id,
            output_sha256=made[OUTPUT_SHA256],
            image_key=hashlib.sha256(record_id.encode()).digest(),
            details={"sidecar_sha256": hashlib.sha256(sidecar).hexdigest()},
        )
        for record_id, track in zip(ids, tracks, strict=True)
    ]
    first, *further = [seal_record(one, place.keystore.ingest_public_key) for one in records[:sealed]]
    said = [{"track": track, "record_id": record_id} for record_id, track in zip(ids, tracks, strict=True)]
    return {**made, RECORD_ID: ids[0], SEALED: first, FURTHER_SEALED: further, TRACK_RECORDS: said, SIDECAR: sidecar}


@pytest.fixture
def output(place: Place) -> Place:
    """A complete run of two pieces, of three people and of one, and of a picture."""
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 3)
    with place.attempt() as attempt:
        attempt.run([[piece(place, at, TRACKS[at]) for at in (0, 1)], [result(place, 2, "p.png")]], 3)
    return place


def rows_of(place: Place) -> dict[str, Any]:
    return {row.image_id: row for row in read_rows(place.out)}


def test_every_record_of_a_row_is_taken_in_and_agrees(output: Place) -> None:
    stored = {view.image_id: view.record_id for view in output.keystore.find_records(run_id=output.run_id)}
    rows = rows_of(output)
    assert rows[PIECES[0]].track_records == tuple(
        TrackRecord(track, stored[part_id(PIECES[0], track)]) for track in TRACKS[0]
    )
    assert rows["p.png"].track_records == () and rows["p.png"].record_ids == [stored["p.png"]]
    assert len(stored) == 5 and set(stored.values()) == {one for row in rows.values() for one in row.record_ids}
    found = look(output)
    assert (found.disagreements, found.rows, found.records, found.unused_records) == ([], 3, 5, 0)


def test_a_run_is_not_complete_while_the_record_of_one_person_is_missing(place: Place) -> None:
    with place.attempt() as attempt, pytest.raises(CommitError, match="1 published pictures have no key"):
        attempt.run([[piece(place, 0, TRACKS[0], sealed=2)]], 1)


def test_a_missing_and_an_erased_record_of_one_person_are_told_by_that_persons_id(place: Place) -> None:
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 1)
    with place.attempt() as attempt, pytest.raises(CommitError):
        attempt.run([[piece(place, 0, TRACKS[0], sealed=2)]], 1)
    assert named(look(place)) == {("key", part_id(PIECES[0], None))}
    place.keystore.erase("d", "Olga", image_id=part_id(PIECES[0], 0))
    found = look(place)
    assert (named(found), found.erased, found.records) == ({("key", part_id(PIECES[0], None))}, 1, 1)


def swapped(row: dict[str, Any]) -> None:
    first, second, *_ = row["track_records"]
    first["track"], second["track"] = second["track"], first["track"]


def another_first(row: dict[str, Any]) -> None:
    row["track_records"] = row["track_records"][1:]


def none_named(row: dict[str, Any]) -> None:
    row["track_records"] = None


@pytest.mark.parametrize(
    ("change", "what"),
    [(swapped, {"key"}), (another_first, {"row"}), (none_named, {"key"})],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_row_that_says_otherwise_whose_its_records_are_is_named(output: Place, change: Any, what: set[str]) -> None:
    edit(output, PIECES[0], change)
    assert {one for one, _ in named(look(output))} == what


def test_a_row_is_found_by_the_record_of_each_person(output: Place) -> None:
    rows, store = rows_of(output), LocalStore(output.out)
    for record_id in rows[PIECES[0]].record_ids:
        shards = output.keystore.shards_of([record_id])
        for hint in (set(), shards, {"000000009-0123456789abcdef-0123456789ab"}):
            assert {key: row.image_id for key, row in find_rows(store, [record_id], hint).items()} == {
                record_id: PIECES[0]
            }


@pytest.mark.parametrize("sealed", [2, 3])
def test_a_key_shard_is_taken_away_when_the_records_of_all_people_are_in_the_keystore(
    place: Place, sealed: int
) -> None:
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 1)
    with place.attempt() as attempt, nullcontext() if sealed == 3 else pytest.raises(CommitError):
        attempt.run([[piece(place, 0, TRACKS[0], sealed=sealed)]], 1)
    (row,) = rows_of(place).values()
    (place.keystore.inbox(place.run_id) / f"{Path(row.shard).stem}.keys").write_bytes(b"a shard that was put back")
    orphans = reconcile(LocalStore(place.out), place.keystore, remove=False).orphans
    assert [one.kind for one in orphans] == ([TAKEN_IN] if sealed == 3 else [])


def ids_of(output: Place, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert main(["clips", str(output.out), "a.mp4", "--ids", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_who_is_to_be_asked_for_is_printed_by_track_and_time(output: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert ids_of(output, capsys) == PIECES
    assert ids_of(output, capsys, "--track", "0") == [f"{name}#track-0" for name in PIECES]
    assert ids_of(output, capsys, "--track", "1") == [f"{PIECES[0]}#track-1"]
    for begin in ("1.28", "1.5"):
        assert ids_of(output, capsys, "--track", "0", "--from", begin) == [f"{PIECES[1]}#track-0"]
    assert ids_of(output, capsys, "--track", "0", "--to", "1.28") == [f"{PIECES[0]}#track-0"], "which begins the second"
    assert sorted(ids_of(output, capsys, "--track", "0", "--track", "1", "--to", "1")) == [
        f"{PIECES[0]}#track-{track}" for track in (0, 1)
    ]


@pytest.mark.parametrize("options", [["2"], ["0", "--track", "2"], ["1", "--from", "1.5"]])
def test_a_track_that_is_not_there_is_refused(
    output: Place, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["clips", str(output.out), "a.mp4", "--ids", "--track", *options]) != 0
    printed = capsys.readouterr()
    assert printed.out == "" and f"has a key record of track {'1' if '1' in options else '2'}" in printed.err


def test_a_track_takes_ids(output: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", str(output.out), "a.mp4", "--track", "0"]) == 2
    assert "--ids" in capsys.readouterr().err


def test_an_output_of_before_is_read_and_nobody_alone_is_asked_for_in_it(
    output: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in (output.out / "rows").glob("*.parquet"):
        pq.write_table(pq.read_table(shard).drop_columns(["track_records"]), shard)
    assert [row.track_records for row in read_rows(output.out)] == [()] * 3
    assert ids_of(output, capsys) == PIECES
    assert main(["clips", str(output.out), "a.mp4", "--ids", "--track", "0"]) != 0
    assert "one key record for everybody" in capsys.readouterr().err
