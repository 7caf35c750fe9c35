"""Publishing, without Ray: what is visible after each step, and after each step that fails."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.blocks import (
    FACE_COUNT,
    ID,
    OUTPUT,
    OUTPUT_SHA256,
    REASON,
    RECORD_ID,
    ROW,
    SEALED,
    SIDECAR,
    SOURCE_HMAC,
    STATUS,
    with_results,
)  # fmt: skip
from jobs.commit import finished_rows, settle
from jobs.errors import CommitError, LeaseError, PublishError
from jobs.lease import Lease
from jobs.sink import OutputLayout, PairedDatasink
from keystore.sealing import read_shard


def result(row: int, name: str, content: bytes = b"picture") -> dict[str, Any]:
    import hashlib

    return {
        ROW: row, ID: name, STATUS: "anonymized", REASON: "", RECORD_ID: f"record-{row}", SEALED: b"sealed", OUTPUT: content,
        SIDECAR: b"sidecar", SOURCE_HMAC: "0" * 64, OUTPUT_SHA256: hashlib.sha256(content).hexdigest(), FACE_COUNT: 1,
    }  # fmt: skip


def quarantined(row: int, name: str) -> dict[str, Any]:
    return {ROW: row, ID: name, STATUS: "quarantined", REASON: "corrupt: x", FACE_COUNT: 0}


def block(rows: list[dict[str, Any]], own: pa.Table | None = None) -> pa.Table:
    return with_results(own if own is not None else pa.table({ROW: [row[ROW] for row in rows]}), rows)


class Place:
    def __init__(self, root: Path) -> None:
        self.out, self.inbox = root / "out", root / "inbox"
        self.lease = Lease(self.out / "_keyanon")
        self.layout = OutputLayout(self.out, "png")

    def sink(self, layout: OutputLayout | None = None) -> PairedDatasink:
        return PairedDatasink(layout or self.layout, self.inbox, self.lease.token)

    def visible(self) -> set[str]:
        return {str(p.relative_to(self.out)) for p in self.out.rglob("*") if p.is_file() and "_keyanon" not in p.parts}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.lease:
        yield made


def test_a_block_becomes_a_pair_of_shards_of_one_name(place: Place) -> None:
    name = place.sink().publish(block([result(0, "a/x.jpg"), quarantined(1, "bad.png")]))
    assert read_shard(place.inbox / f"{name}.keys") == [b"sealed"]
    assert place.visible() == {"images/a/x.jpg.png", "sidecars/a/x.jpg.keyanon", f"rows/{name}.parquet"}
    rows = pq.read_table(place.out / "rows" / f"{name}.parquet").to_pylist()
    assert [(r["image_id"], r["status"], r["output"], r["sidecar"]) for r in rows] == [
        ("a/x.jpg", "anonymized", "images/a/x.jpg.png", "sidecars/a/x.jpg.keyanon"),
        ("bad.png", "quarantined", None, None),
    ]


def test_quarantined_rows_alone_need_no_key_shard(place: Place) -> None:
    place.sink().publish(block([quarantined(0, "bad.png")]))
    assert not place.inbox.exists()
    assert finished_rows(place.layout) == {0}


def test_nothing_is_published_when_the_inbox_can_not_be_written(place: Place) -> None:
    place.inbox.write_text("a file where the directory should be")
    with pytest.raises(PublishError, match="no picture of this block was published"):
        place.sink().publish(block([result(0, "x.jpg")]))
    assert place.visible() == set()


def test_rows_are_not_visible_when_a_picture_can_not_be_written(place: Place) -> None:
    (place.out / "images").write_text("a file where the directory should be")
    with pytest.raises(PublishError, match=r"can not be written .* run the same command again"):
        place.sink().publish(block([result(0, "x.jpg")]))
    assert not list(place.out.glob("rows/*"))


def test_a_full_disk_leaves_no_half_written_file(place: Place) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(PublishError, match="can not be written"):
            place.sink().publish(block([result(0, "x.jpg", bytes(50_000))]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert place.visible() == {"sidecars/x.jpg.keyanon"}
    assert len(list(place.inbox.glob("*.keys"))) == 1


def test_a_repeated_write_replaces_nothing(place: Place) -> None:
    first = place.sink().publish(block([result(0, "x.jpg", b"first")]))
    again = place.sink().publish(block([result(0, "x.jpg", b"second")]))
    assert again == first
    assert (place.out / "images/x.jpg.png").read_bytes() == b"first"
    assert len(list(place.inbox.iterdir())) == 1


def test_an_attempt_that_lost_its_lease_publishes_nothing(place: Place) -> None:
    sink = place.sink()
    place.lease.__exit__(None, None, None)
    with pytest.raises(LeaseError):
        sink.publish(block([result(0, "x.jpg")]))
    with Lease(place.out / "_keyanon"), pytest.raises(LeaseError, match="another attempt"):
        sink.publish(block([result(0, "x.jpg")]))
    assert place.visible() == set() and not place.inbox.exists()


def test_a_held_lease_is_refused(place: Place) -> None:
    with pytest.raises(LeaseError, match="another run is writing"), Lease(place.out / "_keyanon"):
        pass


def test_of_two_claims_on_a_row_the_one_with_the_picture_stays(place: Place) -> None:
    sink = place.sink()
    sink.publish(block([result(0, "x.jpg", b"early"), result(1, "y.jpg")]))
    late = sink.publish(block([result(0, "x.jpg", b"late"), result(2, "z.jpg")]))
    tally = settle(place.layout, 3)
    assert tally.rows == 3 and tally.faces == 3
    holders = {r["row"]: s.name for s in (place.out / "rows").iterdir() for r in pq.read_table(s).to_pylist()}
    assert holders[0] == f"{late}.parquet"


def test_missing_rows_are_an_error(place: Place) -> None:
    place.sink().publish(block([result(0, "x.jpg")]))
    with pytest.raises(CommitError, match=r"3 input rows, 1 output rows, 2 missing \(first: \[1, 2\]\)"):
        settle(place.layout, 3)


def test_leftovers_of_a_killed_attempt_are_swept(place: Place) -> None:
    sink = place.sink()
    sink._write_files(result(0, "x.jpg"))  # killed here: picture visible, its rows are not
    (place.out / "images" / ".x.jpg.png.0123456789abcdef.tmp").write_bytes(b"half")
    sink.publish(block([quarantined(0, "x.jpg"), result(1, "y.jpg")]))
    settle(place.layout, 2)
    assert {name for name in place.visible() if not name.startswith("rows")} == {
        "images/y.jpg.png",
        "sidecars/y.jpg.keyanon",
    }


def test_parquet_keeps_the_users_columns_and_types(place: Place) -> None:
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
    name = place.sink(layout).publish(block([result(0, "x"), quarantined(1, "y")], own))
    table = pq.read_table(layout.shard(name))
    assert table.schema.field("image").type == kind
    assert table.schema.field("source_status").type == pa.int8()
    assert table.column("image").to_pylist() == [
        {"bytes": b"picture", "path": "x.jpg"},
        {"bytes": None, "path": "y.jpg"},
    ]
    assert table.column("keyanon_sidecar").to_pylist() == [b"sidecar", None]
    assert table.column("status").to_pylist() == ["anonymized", "quarantined"]
    assert table.column("tags").to_pylist() == [["a", "b"], None]
    assert place.visible() == {f"rows/{name}.parquet"}
