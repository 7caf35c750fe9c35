"""Staging, without Ray: what is there after each step, and after each step that fails; nothing of it is visible."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import ROW
from jobs.errors import LeaseError, PublishError
from jobs.output.keys import KeyInbox
from jobs.output.layout import OutputLayout
from jobs.output.lease import Lease
from jobs.output.staging import PICTURE_PART, Staging
from keystore.door import IngestDoor
from keystore.intake.folder import FolderInbox
from keystore.intake.shards import read_shard
from tests.jobs.publishing import Attempt, Place, block, finished_rows, quarantined


@pytest.fixture
def attempt(place: Place) -> Iterator[Attempt]:
    with place.attempt() as made:
        made.publisher().open()
        yield made


def test_a_block_becomes_a_pair_of_shards_of_one_name(place: Place, attempt: Attempt) -> None:
    good = place.result(0, "a/x.jpg")
    name = attempt.sink().stage(block([good, quarantined(1, "bad.png")]))
    assert place.visible() == set() and place.key_shards() == {name}
    assert len(read_shard(place.keystore.inbox(place.run_id) / f"{name}.keys")) == 1
    attempt.publisher().publish_complete()
    assert place.visible() == {"images/a/x.jpg.png", "sidecars/a/x.jpg.keyanon", f"rows/{name}.parquet"}
    assert [(r["image_id"], r["status"], r["output"], r["sidecar"]) for r in place.rows()] == [
        ("a/x.jpg", "anonymized", "images/a/x.jpg.png", "sidecars/a/x.jpg.keyanon"),
        ("bad.png", "quarantined", None, None),
    ]
    place.check_visible()


def test_quarantined_rows_alone_need_no_key_shard(place: Place, attempt: Attempt) -> None:
    attempt.sink().stage(block([quarantined(0, "bad.png")]))
    attempt.publisher().publish_complete()
    assert place.key_shards() == set()
    assert finished_rows(place.layout) == {0}


def test_no_picture_is_staged_when_the_inbox_can_not_be_written(place: Place, attempt: Attempt, tmp_path: Path) -> None:
    sink = attempt.sink()
    (tmp_path / "inbox").write_text("a file where the directory should be")
    sink.inbox = KeyInbox(IngestDoor(place.keys.key, FolderInbox(tmp_path / "inbox")), place.run_id)
    with pytest.raises(PublishError, match="no picture of this block was published"):
        sink.stage(block([place.result(0, "x.jpg")]))
    assert place.files() == set()


def test_a_sealed_key_in_a_run_that_discards_them_stages_nothing(place: Place, attempt: Attempt) -> None:
    sink = attempt.sink()
    sink.inbox = None
    with pytest.raises(PublishError, match="discards its keys"):
        sink.stage(block([place.result(0, "x.jpg")]))
    assert place.files() == set() and place.key_shards() == set()


def test_a_full_disk_leaves_a_block_that_is_not_complete(place: Place, attempt: Attempt) -> None:
    sink = attempt.sink()  # registers the run, which writes too
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(PublishError, match=r"can not be written .* run the same command again"):
            sink.stage(block([place.result(0, "x.jpg", bytes(50_000))]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    attempt.publisher().publish_complete()
    assert place.visible() == set() and len(place.key_shards()) == 1
    attempt.run([[place.result(0, "x.jpg")]], 1)
    place.check_complete(1)


def test_an_attempt_that_lost_its_lease_stages_nothing(place: Place, attempt: Attempt) -> None:
    sink = attempt.sink()
    attempt.lease.__exit__(None, None, None)
    with pytest.raises(LeaseError):
        sink.stage(block([place.result(0, "x.jpg")]))
    with Lease(place.out / "_keyanon"), pytest.raises(LeaseError, match="another attempt"):
        sink.stage(block([place.result(0, "x.jpg")]))
    assert place.files() == set() and place.key_shards() == set()


def test_a_worker_whose_attempt_was_swept_can_not_make_its_folder_anew(place: Place, attempt: Attempt) -> None:
    sink = attempt.sink()
    (place.out / Staging.of(place.layout.store, attempt.lease.token.attempt).folder).rmdir()
    with pytest.raises(LeaseError, match="this attempt is over"):
        sink.stage(block([place.result(0, "x.jpg")]))
    assert place.files() == set() and place.key_shards() == set()


def test_a_held_lease_is_refused(place: Place, attempt: Attempt) -> None:
    with pytest.raises(LeaseError, match="another run is writing"), Lease(place.out / "_keyanon"):
        pass


def test_parquet_keeps_the_users_columns_and_types(place: Place, attempt: Attempt) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("status", pa.int8()), ("image", kind), ("when", pa.timestamp("us")), ("tags", pa.list_(pa.string()))]
    )
    own = pa.table(
        {
            ROW: [0, 1],
            "status": pa.array([1, 2], pa.int8()),
            "image": pa.array([{"bytes": None, "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}], kind),
            "when": pa.array([0, None], pa.timestamp("us")),
            "tags": pa.array([["a", "b"], None], pa.list_(pa.string())),
        }
    ).rename_columns([ROW, "source_status", "image", "when", "tags"])
    layout = OutputLayout(place.out, "png", schema.set(0, schema.field(0).with_name("source_status")), "image")
    name = attempt.sink(layout).stage(block([place.result(0, "x"), quarantined(1, "y")], own))
    attempt.publisher(layout=layout).publish_complete()
    table = pq.read_table(place.shard(name))
    assert table.schema.field("image").type == kind
    assert table.schema.field("source_status").type == pa.int8()
    assert table.column("image").to_pylist() == [
        {"bytes": b"picture", "path": "x.jpg"},
        {"bytes": None, "path": "y.jpg"},
    ]
    assert table.column("keyanon_sidecar").to_pylist() == [b"sidecar of picture", None]
    assert table.column("status").to_pylist() == ["anonymized", "quarantined"]
    assert table.column("tags").to_pylist() == [["a", "b"], None]
    assert place.visible() == {f"rows/{name}.parquet"}


def test_a_staged_file_is_never_overwritten(place: Place, attempt: Attempt) -> None:
    staging = Staging.of(place.layout.store, attempt.lease.token.attempt)
    staging.open("one")
    staging.fill("one", [(0, PICTURE_PART, b"first")])
    with pytest.raises(FileExistsError):
        staging.fill("one", [(0, PICTURE_PART, b"second")])
    assert place.layout.store.read(staging.file("one", 0, PICTURE_PART)) == b"first"
