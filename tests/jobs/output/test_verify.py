"""Each kind of disagreement is seen, named, and nothing else is; on an output with a real keystore."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import OUTPUT_SHA256, RECORD_ID, SEALED, SIDECAR
from jobs.config import AnonymizeConfig
from jobs.errors import CommitError
from jobs.output.commit import complete
from jobs.output.layout import SEGMENTS, OutputLayout
from jobs.output.manifest import COMPLETE, RUNNING, Manifest, read_existing
from jobs.output.publisher import Publisher
from jobs.output.reader import OutputError
from jobs.output.reconcile import reconcile
from jobs.output.row_sets import RowSet
from jobs.output.shared_lease import lease_of
from jobs.output.sink import PairedDatasink
from jobs.output.verify import Verification, verify_output
from jobs.storage.local import LocalStore
from jobs.storage.store import Store
from keyanon_core.sidecar import Sidecar, SidecarFace
from keystore.embedded import Keystore
from keystore.intake.sealing import seal_record
from tests.jobs.publishing import Place, block, key_record, quarantined
from tests.jobs.seaweed import BUCKET, Seaweed

ROWS = 4


def result(place: Place, row: int, name: str) -> dict[str, Any]:
    """An anonymized row whose sidecar and key record are its own."""
    made = place.result(row, name, f"picture {name}".encode())
    sidecar = Sidecar(made[RECORD_ID], name, "image", "1" * 64, (4, 4), 1, (SidecarFace(bytes(32)),)).to_bytes()
    record = key_record(
        place.run_id,
        name,
        record_id=made[RECORD_ID],
        output_sha256=made[OUTPUT_SHA256],
        fidelity="image",
        details={"sidecar_sha256": hashlib.sha256(sidecar).hexdigest()},
    )
    return {**made, SIDECAR: sidecar, SEALED: seal_record(record, place.keystore.ingest_public_key)}


def begun(place: Place, store: Store, state: str, rows: int) -> None:
    """The manifest of a run over so many pictures."""
    config = AnonymizeConfig.load(None, {"photos": "photos", "output": place.out, "keystore": place.keystore.path})
    keystore_id, said = place.keystore.id, config.to_json()
    Manifest(place.run_id, keystore_id, "d", "", "", "files", rows, said, "then", state=state).write(store)


@pytest.fixture
def output(place: Place) -> Place:
    """A complete run: two anonymized pictures in one shard, a quarantined one, and one more in another."""
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, ROWS)
    with place.attempt() as attempt:
        blocks = [
            [result(place, 0, "a.png"), quarantined(1, "b.png"), result(place, 2, "sub/c.png")],
            [result(place, 3, "d.png")],
        ]
        attempt.run(blocks, ROWS)
    return place


def look(place: Place, keystore: Keystore | None = None) -> Verification:
    return verify_output(LocalStore(place.out), keystore or place.keystore)


def named(found: Verification) -> set[tuple[str, str]]:
    return {(one.what, one.where) for one in found.disagreements}


def edit(place: Place, image_id: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Change a row in its shard; the shard's name in the output."""
    for shard in (place.out / "rows").glob("*.parquet"):
        table = pq.read_table(shard)
        rows = table.to_pylist()
        for row in rows:
            if row["image_id"] == image_id:
                change(row)
                pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)
                return f"rows/{shard.name}"
    raise AssertionError("there is no such row")


def test_what_a_run_wrote_agrees(output: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.out.rglob("*")}
    found = look(output)
    assert found.disagreements == [] and found.complete and not found.running
    assert (found.rows, found.total, found.pictures, found.sidecars, found.records) == (4, 4, 3, 3, 3)
    assert (found.awaiting, found.erased, found.unused_records) == (0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in output.out.rglob("*")} == before
    alone = verify_output(LocalStore(output.out), None)
    assert (alone.disagreements, alone.keystore, alone.records) == ([], None, 0)


@pytest.mark.parametrize("part", ["images/a.png.png", "sidecars/sub/c.png.keyanon"])
@pytest.mark.parametrize("damage", ["gone", "bit", "empty"])
def test_a_damaged_file_is_named(output: Place, part: str, damage: str) -> None:
    path = output.out / part
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else content[:-1] + bytes([content[-1] ^ 1]))
    found = look(output)
    assert named(found) == {("picture" if part.startswith("images") else "sidecar", part)}
    assert (found.pictures + found.sidecars, found.records) == (5, 3)


def test_a_file_of_no_row_and_a_sidecar_of_another_picture_are_named(output: Place) -> None:
    (output.out / "images/orphan.png").write_bytes(b"x")
    assert named(look(output)) == {("file", "images/orphan.png")}
    (output.out / "images/orphan.png").unlink()
    a, d = (output.out / f"sidecars/{name}.png.keyanon" for name in "ad")
    content = d.read_bytes()
    a.unlink()
    a.write_bytes(content)
    edit(output, "a.png", lambda row: row.update(sidecar_sha256=row_of(output, "d.png")["sidecar_sha256"]))
    found = look(output)
    assert named(found) == {("sidecar", "sidecars/a.png.keyanon"), ("key", "a.png")}
    assert "sidecar_sha256" in next(one.problem for one in found.disagreements if one.what == "key")


def row_of(place: Place, image_id: str) -> dict[str, Any]:
    return next(row for row in place.rows() if row["image_id"] == image_id)


@pytest.mark.parametrize(
    ("image_id", "change", "kinds"),
    [
        ("a.png", {"row": 1}, {"row"}),  # twice, and row 0 is missing
        ("a.png", {"row": 9}, {"row"}),
        ("a.png", {"row": -1}, {"row"}),
        ("a.png", {"image_id": "z.png"}, {"key", "sidecar"}),
        ("a.png", {"record_id": "00000000-0000-4000-8000-000000000000"}, {"key", "sidecar"}),
        ("a.png", {"record_id": None}, {"row", "sidecar"}),
        ("a.png", {"output": "../../etc/passwd"}, {"picture", "file"}),
        ("a.png", {"output": None}, {"row", "picture", "file"}),
        ("a.png", {"status": "quarantined"}, {"row"}),
        ("a.png", {"status": "fine"}, {"row"}),
        ("a.png", {"permanent": True}, {"row"}),
        ("b.png", {"status": "anonymized"}, {"row"}),
        ("b.png", {"status": "fine"}, {"row"}),
        ("b.png", {"reason": ""}, {"row"}),
    ],
)
def test_an_edited_row_is_seen(output: Place, image_id: str, change: dict[str, Any], kinds: set[str]) -> None:
    edit(output, image_id, lambda row: row.update(change))
    assert {one.what for one in look(output).disagreements} == kinds


def test_a_row_that_is_numbered_anew_is_seen_by_the_name_of_its_shard(output: Place) -> None:
    shard = edit(output, "a.png", lambda row: row.update(row=9))
    (found,) = look(output).disagreements
    assert (found.what, found.where) == ("row", shard) and "named for" in found.problem


def test_rows_of_numbers_beyond_the_input_count_once_each(place: Place) -> None:
    """As of a stopped run from whose input pictures were taken away."""
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 3)
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        for row in (1, 7):
            attempt.sink().stage(block([quarantined(row, f"{row}.png")]))
        publisher.publish_complete()
        (found,) = [one for one in look(place).disagreements if one.what == "row"]
        assert found.where == "row 0" and found.problem.startswith("1 rows are missing")
        attempt.sink().stage(block([quarantined(9, "9.png")]))
        publisher.publish_complete()
    assert look(place).disagreements == []
    with place.attempt() as attempt:
        publisher = attempt.publisher(done=())
        publisher.open()
        attempt.sink().stage(block([quarantined(9, "9.png")]))
        publisher.publish_complete()
    (twice,) = look(place).disagreements
    assert (twice.what, twice.where) == ("row", "9.png") and "stands twice" in twice.problem


def test_a_picture_exchanged_together_with_its_digest_contradicts_the_key_record(output: Place) -> None:
    other = row_of(output, "d.png")
    edit(output, "a.png", lambda row: row.update(output=other["output"], output_sha256=other["output_sha256"]))
    found = look(output)
    assert ("key", "a.png") in named(found)
    assert "output_sha256" in next(one.problem for one in found.disagreements if one.what == "key")


def test_a_damaged_shard_is_named_and_the_others_are_looked_at(output: Place) -> None:
    shard = min((output.out / "rows").iterdir())
    shard.write_bytes(shard.read_bytes()[:-20])
    found = look(output)
    assert ("shard", f"rows/{shard.name}") in named(found)
    assert (found.rows, found.records) == (1, 1)
    shard.unlink()
    found = look(output)
    assert found.counts().keys() == {"row", "file"}, "rows are missing, their files are of no row"
    assert [one.where for one in found.disagreements if one.what == "row"] == ["row 0"]


def test_another_keystore_and_none_at_all(output: Place, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other") as other:
        found = look(output, other)
        assert named(found) == {("keystore", str(other.path))} and found.records == 0
    with pytest.raises(OutputError, match="not the output"):
        verify_output(LocalStore(tmp_path / "nowhere"), None)


def test_keys_that_wait_in_the_inbox_of_a_stopped_run_are_no_disagreement(place: Place) -> None:
    place.out.mkdir()
    begun(place, LocalStore(place.out), RUNNING, ROWS)
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([result(place, 0, "a.png")]))
        publisher.publish_complete()
        (place.out / "images/of-a-block-that-is-being-published.png").write_bytes(b"x")
        going_on = look(place)
        assert going_on.running and going_on.disagreements == []
    (place.out / "images/of-a-block-that-is-being-published.png").unlink()
    found = look(place)
    assert (found.disagreements, found.awaiting, found.records, found.complete) == ([], 1, 0, False)
    for keys in place.keystore.inbox(place.run_id).iterdir():
        keys.unlink()
    assert named(look(place)) == {("key", "a.png")}


def test_an_erased_key_is_no_disagreement(output: Place) -> None:
    output.keystore.erase("d", "ann", image_id="a.png")
    found = look(output)
    assert (found.disagreements, found.erased, found.records) == ([], 1, 2)


def test_cells_of_parquet_are_compared_as_files_are(output: Place) -> None:
    """The same rows with pictures and sidecars in their shards."""
    for shard in (output.out / "rows").glob("*.parquet"):
        table = pq.read_table(shard)
        cells = [
            [None if row[part] is None else (output.out / row[part]).read_bytes() for row in table.to_pylist()]
            for part in ("output", "sidecar")
        ]
        for part in ("output", "sidecar"):
            at = table.column_names.index(part)
            table = table.set_column(at, part, pa.nulls(table.num_rows, pa.string()))
        table = table.append_column("photo", pa.array(cells[0], pa.large_binary()))
        pq.write_table(table.append_column(SIDECAR, pa.array(cells[1], pa.large_binary())), shard)
    for folder in ("images", "sidecars"):
        for path in (output.out / folder).rglob("*.*"):
            path.unlink()
    path = output.out / "_keyanon/manifest.json"
    manifest = json.loads(path.read_text()) | {"input_kind": "parquet", "image_column": "photo"}
    path.write_text(json.dumps(manifest))
    found = look(output)
    assert (found.disagreements, found.pictures, found.sidecars, found.records) == ([], 3, 3, 3)
    edit(output, "a.png", lambda row: row.update(photo=b"other"))
    edit(output, "d.png", lambda row: row.update({SIDECAR: None}))
    assert named(look(output)) == {("picture", "a.png"), ("sidecar", "d.png")}


@pytest.mark.slow
def test_in_a_bucket_what_no_segment_lists_is_named_and_a_lost_segment_is_refused(s3: Seaweed, place: Place) -> None:
    layout = OutputLayout(f"s3://{BUCKET}/verify-{place.run_id}", "png")
    store = layout.store
    begun(place, store, COMPLETE, 2)
    with lease_of(store) as lease:
        publisher = Publisher(layout, lease, set())
        publisher.open()
        sink = PairedDatasink(layout, place.keys.begin(place.run_id, "d"), lease.token, 0)
        sink.stage(block([result(place, 0, "a.png"), quarantined(1, "b.png")]))
        publisher.publish_complete()
        complete(layout, lease, place.keys, place.run_id, 2)
    assert verify_output(store, place.keystore).disagreements == []
    stray = "rows/000000000-0123456789abcdef-0123456789ab.parquet"
    store.create(stray, b"left")
    store.delete("images/a.png.png")
    assert named(verify_output(store, place.keystore)) == {("shard", stray), ("picture", "images/a.png.png")}
    store.delete(f"{SEGMENTS}/{0:012d}.json")
    with pytest.raises(OutputError, match="segments lacks"):
        verify_output(store, place.keystore)


def test_a_row_whose_picture_is_gone_from_the_input_stands_with_its_files_and_its_key(output: Place) -> None:
    listed = np.array([0, 1, 2])
    with output.attempt() as attempt:
        tally, _ = complete(
            output.layout, attempt.lease, output.keys, output.run_id, listed, RowSet(range(ROWS)), wanted=len(listed)
        )
        assert (tally.rows, tally.fresh_faces, tally.keyed.total()) == (ROWS, 0, 3)
        with pytest.raises(CommitError, match="1 unknown"):
            complete(output.layout, attempt.lease, output.keys, output.run_id, listed, RowSet(listed))
        with pytest.raises(CommitError, match=r"1 missing \(first: \[4\]\)"):
            complete(output.layout, attempt.lease, output.keys, output.run_id, listed, RowSet(range(ROWS + 1)))
    store = LocalStore(output.out)
    manifest = read_existing(store)
    assert manifest is not None
    manifest.input_rows, manifest.gone_rows = len(listed), 1
    manifest.write(store)
    found = look(output)
    assert (found.disagreements, found.rows, found.total, found.records) == ([], 4, 4, 3)
    assert reconcile(store, output.keystore, remove=False).orphans == ()
