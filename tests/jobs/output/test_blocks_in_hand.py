"""Several blocks of a bucket are published at once: what must come after what does, whatever fails and whoever takes over."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from jobs import ahead
from jobs.blocks import ROW
from jobs.errors import LeaseError, MachineError, PublishError
from jobs.output.layout import LEASE, SEGMENTS
from jobs.output.publisher import BLOCKS_AT_ONCE, Publisher
from jobs.output.reader import read_rows
from jobs.output.segments import Segments
from jobs.output.shared_lease import SharedLease
from jobs.storage.s3 import S3Store
from tests.jobs.buckets import Bucket
from tests.jobs.publishing import Killed, Place, block, finished_rows
from tests.jobs.seaweed import Seaweed

TOGETHER = 4
SECONDS = 60.0  # after which a test fails
CALLS = ("read", "see", "create", "delete", "delete_all", "remove_folder")  # all but what renews the lease


@pytest.fixture
def bucket(s3: Seaweed, place: Place) -> Bucket:
    return Bucket(s3, place)


@contextmanager
def staged(bucket: Bucket, *blocks: list[dict[str, Any]]) -> Iterator[tuple[SharedLease, Publisher, list[str]]]:
    """An attempt that has staged these blocks, and their names in the order in which they are published."""
    with bucket.lease() as lease:
        publisher = bucket.publisher(lease)
        publisher.open()
        yield lease, publisher, sorted(bucket.sink(lease).stage(block(rows)) for rows in blocks)


def pictures(bucket: Bucket, count: int) -> list[list[dict[str, Any]]]:
    """Blocks of a picture each, of which the first has the name 0.jpg."""
    return [[bucket.result(row, f"{row}.jpg", b"picture %d" % row)] for row in range(count)]


def on_call(monkeypatch: pytest.MonkeyPatch, act: Callable[[str, str], None], *calls: str) -> None:
    """Before such a call to the bucket, this is done with the call's and the object's name."""

    def watched(call: str, made: Callable[..., Any]) -> Callable[..., Any]:
        def asked(store: S3Store, name: Any, *arguments: Any) -> Any:
            act(call, str(name))
            return made(store, name, *arguments)

        return asked

    for call in calls:
        monkeypatch.setattr(S3Store, call, watched(call, getattr(S3Store, call)))


def nobody_is_at_it() -> bool:
    return not any(thread.name.startswith("keyanon-ahead") for thread in threading.enumerate())


@pytest.mark.parametrize(
    "of", [("read", ".parquet"), ("create", "images/"), ("create", "rows/"), ("delete", ".parquet")]
)
def test_blocks_wait_for_the_server_together(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, of: tuple[str, str]
) -> None:
    """A request of one block is answered when as many other blocks wait for the answer to theirs."""
    barrier = threading.Barrier(TOGETHER, timeout=SECONDS)
    assert TOGETHER <= BLOCKS_AT_ONCE

    def together(_: str, name: str) -> None:
        if of[1] in name:
            barrier.wait()

    with staged(bucket, *pictures(bucket, 2 * TOGETHER)) as (lease, publisher, _):
        with monkeypatch.context() as patched:
            on_call(patched, together, of[0])
            publisher.publish_complete()
        bucket.complete(lease, 2 * TOGETHER)
    bucket.check_complete(2 * TOGETHER)


def test_no_more_blocks_are_in_hand_than_there_is_memory_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "BYTES_AT_ONCE", 1)
    at_it, most, counting, filled = 0, 0, threading.Lock(), S3Store.filled

    def counted(store: S3Store, folder: str, names: Any) -> Any:
        nonlocal at_it, most
        with counting:
            at_it += 1
            most = max(most, at_it)
        try:
            time.sleep(0.05)
            return filled(store, folder, names)
        finally:
            with counting:
                at_it -= 1

    monkeypatch.setattr(S3Store, "filled", counted)
    with staged(bucket, *pictures(bucket, TOGETHER)) as (lease, publisher, _):
        publisher.publish_complete()
        bucket.complete(lease, TOGETHER)
    assert most == 1


@dataclass
class Steps:
    """What was done to the bucket, by (call, object): when it was begun first, and over last, counted."""

    begun: dict[tuple[str, str], int] = field(default_factory=dict)
    over: dict[tuple[str, str], int] = field(default_factory=dict)
    clock: Iterator[int] = field(default_factory=count)  # `next` of it is one step, whichever thread takes it

    def record(self, monkeypatch: pytest.MonkeyPatch, jitter: random.Random) -> None:
        def watched(call: str, made: Callable[..., Any]) -> Callable[..., Any]:
            def asked(store: S3Store, name: Any, *arguments: Any) -> Any:
                time.sleep(jitter.random() / 50)  # so that what may overtake does
                self.begun.setdefault((call, str(name)), next(self.clock))
                answer = made(store, name, *arguments)
                self.over[call, str(name)] = next(self.clock)
                return answer

            return asked

        for call in CALLS:
            monkeypatch.setattr(S3Store, call, watched(call, getattr(S3Store, call)))

    def check(self, first: tuple[str, str], second: tuple[str, str]) -> None:
        """The first was over before the second was begun."""
        assert self.over[first] < self.begun[second], (first, second)


@pytest.mark.parametrize("seed", range(3))
def test_every_block_keeps_the_order_of_its_steps(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Pictures and sidecars, the row shard, the segment; only then what was staged goes. Segments come in the blocks' order."""
    steps, rows_staged = Steps(), 2 * TOGETHER
    with staged(bucket, *pictures(bucket, rows_staged)) as (lease, publisher, names):
        first = Segments.read(bucket.store).count
        with monkeypatch.context() as patched:
            steps.record(patched, random.Random(seed))
            publisher.publish_complete()
        rows = {row.shard: row for row in read_rows(bucket.store)}
        for number, name in enumerate(names):
            shard = ("create", f"rows/{name}.parquet")
            segment = ("create", f"{SEGMENTS}/{first + number:012d}.json")
            assert f'"{name}"'.encode() in bucket.store.read(segment[1])
            row = rows[f"rows/{name}.parquet"]
            for file in (row.output, row.sidecar):
                steps.check(("create", str(file)), shard)
            steps.check(shard, segment)
            folder = f"_keyanon/attempts/{lease.token.attempt}/{name}"
            steps.check(segment, ("delete", f"{folder}.parquet"))
            steps.check(("delete", f"{folder}.parquet"), ("remove_folder", folder))
        bucket.complete(lease, rows_staged)
    bucket.check_complete(rows_staged)


@pytest.mark.parametrize("part", ["images/3.jpg.png", "sidecars/3.jpg.keyanon", "rows/", SEGMENTS])
def test_a_put_that_fails_in_the_middle_ends_the_round_with_what_comes_before(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with staged(bucket, *pictures(bucket, 8)) as (lease, publisher, names):
        failing = names[3]
        first = Segments.read(bucket.store).count

        def fail(_: str, name: str) -> None:
            if name.startswith(part) and name in (
                part, f"rows/{failing}.parquet", f"{SEGMENTS}/{first + 3:012d}.json"
            ):  # fmt: skip
                raise MachineError("the server is busy")

        with monkeypatch.context() as patched:
            on_call(patched, fail, "create")
            with pytest.raises(MachineError, match="the server is busy"):
                publisher.publish_complete()
            assert nobody_is_at_it()
            assert finished_rows(bucket.layout) == {0, 1, 2}, "those before it, and no other one"
        assert {row.image_id for row in read_rows(bucket.store)} == {"0.jpg", "1.jpg", "2.jpg"}
        publisher.publish_complete()
        bucket.complete(lease, 8)
    bucket.check_complete(8)


def test_what_ends_a_run_leaves_the_blocks_before_it_visible(bucket: Bucket) -> None:
    def admit(rows: Any) -> None:
        if any(row["row"] == 5 for row in rows):
            raise PublishError("too many")

    with staged(bucket, *pictures(bucket, 8)) as (_, publisher, _):
        publisher._admit = admit
        with pytest.raises(PublishError, match="too many"):
            publisher.publish_complete()
    assert finished_rows(bucket.layout) == {0, 1, 2, 3, 4}
    assert "images/5.jpg.png" not in bucket.names()


@pytest.mark.parametrize("lost", ["lease", "segment", "both"])
def test_a_lease_that_is_lost_in_the_middle_makes_nothing_more_visible(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """It is lost while files of the fourth block are put: of the lease only, its number only, or both."""
    taken = threading.Lock()
    visible: list[Any] = []

    def overtaken(_: str, name: str) -> None:
        if name == "images/3.jpg.png" and taken.acquire(blocking=False):
            if lost in ("segment", "both"):
                other = Segments.read(bucket.store, "other")
                take_number(other)
                visible.append(finished_rows(bucket.layout))
            if lost in ("lease", "both"):
                bucket.server.put(f"{bucket.prefix}/{LEASE}", b'{"attempt": "other"}')

    with staged(bucket, *pictures(bucket, 16)) as (_, publisher, _):
        with monkeypatch.context() as patched:
            on_call(patched, overtaken, "create")
            with pytest.raises(LeaseError, match=r"another attempt"):
                publisher.publish_complete()
            assert nobody_is_at_it()
        rows = {row.shard for row in read_rows(bucket.store)}
        assert len(rows) < 16 and {name for name in bucket.names() if name.startswith("rows/")} == rows, (
            "not even a shard that no segment lists"
        )
        for before in visible:
            assert finished_rows(bucket.layout) == before, "a number that another has taken makes nothing visible"


def take_number(segments: Segments) -> None:
    """The next number, which the publisher may just have taken itself."""
    while True:
        with suppress(LeaseError):
            segments.append([])
            return
        segments = Segments.read(segments.store, segments.attempt)


def test_a_shard_that_a_segment_may_list_stays_when_the_lease_is_lost(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server wrote the segment, its answer was lost; before the next round another attempt takes over, and reads it."""
    with staged(bucket, *pictures(bucket, 2)) as (_, publisher, names):
        with monkeypatch.context() as patched:
            create = S3Store.create

            def lost(store: S3Store, name: str, content: bytes) -> str:
                version = create(store, name, content)
                if name.startswith(SEGMENTS):
                    raise MachineError("the answer is lost")
                return version

            patched.setattr(S3Store, "create", lost)
            with pytest.raises(MachineError):
                publisher.publish_complete()
        bucket.server.put(f"{bucket.prefix}/{LEASE}", b'{"attempt": "other"}')
        with pytest.raises(LeaseError):
            publisher.publish_complete()
        assert finished_rows(bucket.layout) == {0}
        assert f"rows/{names[0]}.parquet" in bucket.names() and f"rows/{names[1]}.parquet" not in bucket.names()


def test_of_two_blocks_in_hand_with_one_row_one_is_published(bucket: Bucket) -> None:
    twice = [[bucket.result(0, "x.jpg", content)] for content in (b"first", b"second", b"third")]
    with staged(bucket, *twice, [bucket.result(1, "y.jpg")]) as (lease, publisher, names):
        publisher.publish_complete()
        shards = {row.image_id: row.shard for row in read_rows(bucket.store)}
        assert shards.keys() == {"x.jpg", "y.jpg"} and shards["x.jpg"] == f"rows/{names[0]}.parquet"
        bucket.complete(lease, 2)
    bucket.check_complete(2)


def test_of_two_rows_in_hand_with_one_name_the_second_ends_the_run(bucket: Bucket) -> None:
    blocks = [[bucket.result(row, "x.jpg", b"of row %d" % row)] for row in range(2)]
    with staged(bucket, *blocks, [bucket.result(2, "y.jpg")]) as (_, publisher, _):
        with pytest.raises(PublishError, match=r"x\.jpg.* belongs to another row already"):
            publisher.publish_complete()
        assert finished_rows(bucket.layout) == {0, 2}
    assert bucket.server.get(f"{bucket.prefix}/images/x.jpg.png") == b"of row 0"


def test_leftovers_of_a_killed_attempt_are_replaced_in_the_middle(bucket: Bucket) -> None:
    for name in ("images/1.jpg.png", "sidecars/3.jpg.keyanon"):
        bucket.server.put(f"{bucket.prefix}/{name}", b"left by a killed attempt")
    with staged(bucket, *pictures(bucket, 6)) as (lease, publisher, _):
        publisher.publish_complete()
        bucket.complete(lease, 6)
    bucket.check_complete(6)


@pytest.mark.slow
def test_killed_between_any_two_requests_and_resumed_every_row_is_there_once(
    s3: Seaweed, place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(200):
        bucket = Bucket(s3, Place(tmp_path_factory.mktemp("run"), place.keystore))
        reached = False
        with staged(bucket, *pictures(bucket, 3)) as (_, publisher, _):
            with monkeypatch.context() as patched, suppress(Killed):
                on_call(patched, killed_before(step), *CALLS)
                try:
                    publisher.publish_complete()
                except Killed:
                    reached = True
                    raise
            assert nobody_is_at_it()
        done = finished_rows(bucket.layout)
        for row in read_rows(bucket.store):
            content = f"picture {row.image_id.removesuffix('.jpg')}".encode()
            assert bucket.store.read(str(row.output)) == content
            assert bucket.store.read(str(row.sidecar)) == b"sidecar of " + content
        with staged(bucket, *[rows for rows in pictures(bucket, 3) if rows[0][ROW] not in done]) as (
            lease,
            publisher,
            _,
        ):
            publisher.publish_complete()
            bucket.complete(lease, 3)
        bucket.check_complete(3)
        if not reached:
            assert step > 25
            return
    raise AssertionError("the publisher did not end")


def killed_before(number: int) -> Callable[[str, str], None]:
    """The process is killed before its request of that number, and sends no other one."""
    seen, counting = 0, threading.Lock()

    def act(*_: str) -> None:
        nonlocal seen
        with counting:
            seen += 1
            if seen > number:
                raise Killed

    return act
