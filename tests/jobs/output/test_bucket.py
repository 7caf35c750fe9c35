"""An output in a bucket, without Ray: who may write, what is visible, and what an attempt that was only stopped can still do."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import LeaseError, MachineError, PublishError
from jobs.output import shared_lease
from jobs.output.layout import LEASE, MANIFEST, SEGMENTS, OutputLayout
from jobs.output.manifest import read_existing
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import OutputError, inspect_run, read_rows
from jobs.output.segments import Segments
from jobs.output.shared_lease import SharedLease
from jobs.output.staging import Staging
from tests.jobs.buckets import Bucket
from tests.jobs.publishing import Place, block, finished_rows, quarantined
from tests.jobs.seaweed import BUCKET, Seaweed


@pytest.fixture
def bucket(s3: Seaweed, place: Place) -> Bucket:
    return Bucket(s3, place)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is taken for dead soon."""
    monkeypatch.setattr(shared_lease, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(shared_lease, "RENEWAL_SECONDS", 0.3)
    monkeypatch.setattr(shared_lease, "_LOOK_SECONDS", 0.1)


def stop_renewing(lease: SharedLease) -> None:
    """As SIGKILL or SIGSTOP does: the lease stays as it is, and nothing renews it."""
    lease._renewing.acquire()


def go_on(lease: SharedLease) -> None:
    """As SIGCONT does, while the process believes what it believed."""
    lease._renewed = time.monotonic()
    lease._renewing.release()


def test_a_run_is_published_and_read_from_a_bucket(bucket: Bucket) -> None:
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        first = bucket.sink(lease).stage(block([bucket.result(0, "a/x.jpg", b"one"), quarantined(1, "y.jpg")]))
        assert finished_rows(bucket.layout) == set(), "staged is not visible"
        publisher.publish_complete()
        assert finished_rows(bucket.layout) == {0, 1}
        bucket.sink(lease).stage(block([bucket.result(2, "z ü.jpg", b"two")]))
        publisher.publish_complete()
        tally = bucket.complete(lease, 3)
    assert tally.statuses == {"anonymized": 2, "quarantined": 1} and first in {shard.name for shard in tally.keyed}
    bucket.check_complete(3)
    assert {"images/a/x.jpg.png", "sidecars/a/x.jpg.keyanon", "images/z ü.jpg.png"} <= bucket.names()
    assert bucket.server.get(f"{bucket.prefix}/{LEASE}") == b"{}\n", "the lease was given back"
    assert tally.bytes_of["images"] == 6


def test_a_parquet_output_holds_its_pictures_in_the_row_shard(bucket: Bucket) -> None:
    bucket.layout = OutputLayout(bucket.layout.root, "png", pa.schema([("image", pa.binary())]), "image")
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        bucket.sink(lease).stage(block([bucket.result(0, "x", b"one")]))
        publisher.publish_complete()
        bucket.complete(lease, 1)
    (row,) = read_rows(bucket.store)
    assert bucket.names() == {row.shard}
    bucket.server.put(f"{bucket.prefix}/{MANIFEST}", b'{"image_column": "image"}')
    assert PublishedPictures(bucket.store).sidecar(row) == b"sidecar of one"


def test_the_second_of_two_attempts_at_once_is_refused_at_once(bucket: Bucket, soon: None) -> None:
    with bucket.lease() as lease:
        begun = time.monotonic()
        with pytest.raises(LeaseError, match="another run is writing to s3://"), bucket.lease():
            pass
        assert time.monotonic() - begun < 5
        lease.check()
    with bucket.lease():
        pass


def test_of_many_that_begin_together_one_holds_the_lease(bucket: Bucket, soon: None) -> None:
    held: list[SharedLease] = []
    together = threading.Barrier(4)
    over = threading.Barrier(4)

    def begin() -> None:
        together.wait()
        try:
            with bucket.lease() as lease:
                held.append(lease)
                over.wait(60)
        except LeaseError:
            over.wait(60)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_a_dead_attempt_is_taken_over_and_its_rows_are_done_once(bucket: Bucket, soon: None) -> None:
    dead = bucket.lease().__enter__()
    publisher = bucket.publisher(dead)
    publisher.open()
    bucket.sink(dead).stage(block([bucket.result(0, "x.jpg", b"kept")]))
    publisher.publish_complete()
    left = bucket.sink(dead).stage(block([bucket.result(1, "y.jpg", b"lost")]))
    stop_renewing(dead)
    # Killed between the picture and the segment: both lie at their final names, and no segment lists them.
    staged = Staging.of(bucket.store, dead.token.attempt)
    names = ("images/y.jpg.png", "sidecars/y.jpg.keyanon")
    for name, content in zip(names, staged.contents(left, [(0, "picture"), (0, "sidecar")]), strict=True):
        assert content is not None
        bucket.store.create(name, content)
    bucket.store.create(f"rows/{left}.parquet", bucket.store.read(staged.shard(left)))
    assert finished_rows(bucket.layout) == {0}
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        bucket.sink(lease).stage(block([bucket.result(1, "y.jpg", b"made anew")]))
        publisher.publish_complete()
        bucket.complete(lease, 2)
    bucket.check_complete(2)
    assert sorted(PublishedPictures(bucket.store).picture(row) for row in read_rows(bucket.store)) == [
        b"kept",
        b"made anew",
    ]


def test_nothing_of_an_attempt_that_was_stopped_and_goes_on_becomes_visible(
    bucket: Bucket, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = bucket.lease().__enter__()
    publisher = bucket.publisher(stopped)
    publisher.open()
    bucket.sink(stopped).stage(block([bucket.result(0, "x.jpg", b"of the stopped one")]))
    stop_renewing(stopped)
    with bucket.lease() as lease:
        other = bucket.publisher(lease)
        go_on(stopped)
        with pytest.raises(LeaseError):
            publisher.publish_complete()
        with pytest.raises(LeaseError):
            bucket.sink(stopped).stage(block([bucket.result(1, "y.jpg")]))
        with pytest.raises(LeaseError):
            bucket.complete(stopped, 0)
        # Even past every look at the lease: the number of its next segment is taken.
        monkeypatch.setattr(stopped, "check", lambda: None)
        with pytest.raises(LeaseError, match="another attempt goes on"):
            publisher.publish_complete()
        assert not any(name.startswith("rows/") for name in bucket.names()), "not even a shard that no segment lists"
        other.open()
        bucket.sink(lease).stage(block([bucket.result(0, "x.jpg", b"of the other")]))
        other.publish_complete()
        stopped.__exit__(None, None, None)
        lease.check()
        bucket.complete(lease, 1)
    bucket.check_complete(1)
    assert [PublishedPictures(bucket.store).picture(row) for row in read_rows(bucket.store)] == [b"of the other"]


def test_an_attempt_that_can_not_renew_its_lease_ends_by_itself(bucket: Bucket, soon: None) -> None:
    with bucket.lease() as lease:
        lease.check()
        stop_renewing(lease)
        time.sleep(1.7)
        try:
            with pytest.raises(LeaseError, match="could not be renewed"):
                lease.check()
        finally:
            lease._renewing.release()


def test_a_name_of_another_row_is_never_taken(bucket: Bucket) -> None:
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        bucket.sink(lease).stage(block([bucket.result(0, "x.jpg", b"first")]))
        publisher.publish_complete()
        bucket.sink(lease).stage(block([bucket.result(1, "x.jpg", b"second")]))
        with pytest.raises(PublishError, match=r"x\.jpg.* belongs to another row already"):
            publisher.publish_complete()
    assert bucket.server.get(f"{bucket.prefix}/images/x.jpg.png") == b"first" and finished_rows(bucket.layout) == {0}


@pytest.mark.parametrize("changed", ["other", "cut short", "gone"])
def test_a_staged_picture_that_is_not_what_its_row_lists_is_not_published(bucket: Bucket, changed: str) -> None:
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        name = bucket.sink(lease).stage(block([bucket.result(0, "x.jpg", b"first")]))
        staged = f"{Staging.of(bucket.store, lease.token.attempt).folder}/{name}/pack"
        packed = bucket.store.read(staged)
        bucket.store.delete(staged)
        if changed != "gone":
            bucket.store.create(staged, packed[:-40] if changed == "cut short" else packed.replace(b"first", b"other"))
        with pytest.raises(MachineError, match="not what its row lists" if changed == "other" else "missing"):
            publisher.publish_complete()
    assert finished_rows(bucket.layout) == set() and "images/x.jpg.png" not in bucket.names()


def test_quarantined_rows_are_done_again_in_a_shard_that_takes_the_place_of_the_first(bucket: Bucket) -> None:
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        bucket.sink(lease).stage(block([bucket.result(0, "x.jpg"), quarantined(1, "y.jpg")]))
        publisher.publish_complete()
        bucket.complete(lease, 2)
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease, {0})
        publisher.open()
        bucket.sink(lease, retry=1).stage(block([bucket.result(1, "y.jpg")]))
        publisher.publish_complete()
        assert [row.status for row in read_rows(bucket.store)] == ["anonymized"] * 2
        bucket.complete(lease, 2)
    bucket.check_complete(2)
    assert {name for name in bucket.names() if name.startswith("rows/")} == {
        f"rows/{name}.parquet" for name in Segments.read(bucket.store).visible
    }


def test_damaged_or_missing_segments_are_named(bucket: Bucket) -> None:
    for _ in range(3):
        with bucket.lease():
            pass
    key = f"{bucket.prefix}/{SEGMENTS}/000000000001.json"
    bucket.server.put(key, b'{"adds": [1], "drops": []}')
    with pytest.raises(PublishError, match=r"000000000001\.json is damaged"):
        finished_rows(bucket.layout)
    with pytest.raises(PublishError, match="is damaged"), bucket.lease():
        pass
    bucket.server.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(PublishError, match=r"lacks 000000000001\.json"):
        finished_rows(bucket.layout)


def test_a_prefix_that_holds_something_else_is_refused(bucket: Bucket) -> None:
    assert read_existing(bucket.store) is None
    with bucket.lease():
        pass
    assert read_existing(bucket.store) is None, "what an attempt leaves before its manifest is nothing"
    bucket.server.put(f"{bucket.prefix}/holiday.jpg", b"")
    with pytest.raises(PublishError, match="is not empty and no run of keyanon wrote it"):
        read_existing(bucket.store)
    with pytest.raises(OutputError, match="is not the output of a keyanon run"):
        inspect_run(bucket.store)


def test_an_overtaken_attempt_does_not_write_the_manifest(
    bucket: Bucket, make_config: Any, tmp_path: Path, face_png: bytes
) -> None:
    from jobs.output.manifest import Manifest
    from jobs.sources.source import open_source

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(face_png)
    config = make_config()
    Manifest.begin("run-1", None, config, open_source(config)).write(bucket.store)
    mine, other = read_existing(bucket.store), read_existing(bucket.store)
    assert mine is not None and other is not None
    other.attempts += 1
    other.write(bucket.store)
    other.write(bucket.store)
    with pytest.raises(LeaseError, match="another attempt goes on"):
        mine.write(bucket.store)
    assert "seen" not in json.loads(bucket.server.get(f"{bucket.prefix}/_keyanon/manifest.json"))
