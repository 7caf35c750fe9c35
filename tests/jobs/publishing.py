"""What the tests of publishing share: outputs with a real keystore, what must hold of them, and a process that dies."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.blocks import (
    FACE_COUNT,
    FIDELITY,
    ID,
    OUTPUT,
    OUTPUT_SHA256,
    REASON,
    RECORD_ID,
    ROW,
    SEALED,
    SIDECAR,
    STATUS,
    with_results,
)
from jobs.output.commit import Tally, complete
from jobs.output.keys import KeyHolder, OwnKeystore
from jobs.output.layout import OutputLayout
from jobs.output.lease import Lease
from jobs.output.publisher import Publisher
from jobs.output.row_sets import RowSet
from jobs.output.row_shards import standing_rows
from jobs.output.sink import PairedDatasink
from keystore.embedded import Keystore
from keystore.intake.ingest_key import IngestKey
from keystore.intake.records import KeyRecord
from keystore.intake.sealing import seal_record

_RUNS = count()


def finished_rows(layout: OutputLayout) -> RowSet:
    """Numbers of the rows that earlier attempts finished. Raises PublishError for a damaged row shard."""
    found = RowSet()
    for part in standing_rows(layout.store, ["row"]):
        found.add(part.table.column("row").to_numpy())
    return found


class InProcess:
    """What `Keeper` offers, of a keystore that the test has open: it dies with the thread that the test kills."""

    def __init__(self, keystore: Keystore) -> None:
        self.keystore, self.path = keystore, keystore.path
        self.ingest, self.reconcile, self.missing = keystore.ingest, keystore.reconcile, keystore.missing

    def begin(self, run_id: str, dataset: str) -> None:
        self.keystore.inbox(run_id)

    def naming(self) -> str:
        raise NotImplementedError("these tests publish what is made already")

    def take_in_soon(self, run_id: str, shards: Sequence[str]) -> None:
        self.keystore.ingest(run_id, shards)


def key_record(run_id: str, image_id: str, **more: Any) -> KeyRecord:
    """A record without faces: enough for everything that a keystore and an output do."""
    usual: dict[str, Any] = {
        "dataset": "d", "source_sha256": "0" * 64, "image_key": bytes(range(32)), "faces": [], "method": "exact",
        "transform": "rotation", "steps": 12, "fidelity": "latent", "prior_digest": "1" * 64,
        "created_at": datetime.now(UTC),
    }  # fmt: skip
    return KeyRecord(run_id=run_id, image_id=image_id, **usual | more)


class Place:
    """An output of its own in a keystore that the tests share."""

    def __init__(self, root: Path, keystore: Keystore) -> None:
        self.out, self.keystore, self.run_id = root / "out", keystore, f"run-{next(_RUNS)}"
        self.layout = OutputLayout(self.out, "png")
        key = IngestKey(keystore.ingest_public_key, keystore.audit_vkey)
        self.keys: KeyHolder = OwnKeystore(InProcess(keystore), key)

    def attempt(self, retry: int = 0) -> "Attempt":
        return Attempt(self, retry)

    def result(self, row: int, name: str, content: bytes = b"picture") -> dict[str, Any]:
        """An anonymized row with its sealed key."""
        record = key_record(self.run_id, name, output_sha256=hashlib.sha256(content).hexdigest())
        return {
            ROW: row, ID: name, STATUS: "anonymized", REASON: "", RECORD_ID: record.record_id, OUTPUT: content,
            SEALED: seal_record(record, self.keys.key.public_key), SIDECAR: b"sidecar of " + content,
            OUTPUT_SHA256: record.output_sha256, FACE_COUNT: 1, FIDELITY: record.fidelity,
        }  # fmt: skip

    def key_shards(self) -> set[str]:
        return {path.name.removesuffix(".keys") for path in self.keystore.inbox(self.run_id).iterdir()}

    def files(self) -> set[str]:
        """Everything in the output but the lease, which a killed process leaves."""
        found = {str(path.relative_to(self.out)) for path in self.out.rglob("*") if not path.is_dir()}
        return found - {"_keyanon/lease"}

    def shard(self, name: str) -> Path:
        """The visible row shard of that base name."""
        return self.out / "rows" / f"{name}.parquet"

    def visible(self) -> set[str]:
        return {name for name in self.files() if not name.startswith("_keyanon/")}

    def rows(self) -> list[dict[str, Any]]:
        """The rows as any Parquet reader sees them."""
        shards = sorted(self.out.glob("rows/*.parquet"))
        return [{**row, "shard": shard.stem} for shard in shards for row in pq.read_table(shard).to_pylist()]

    def check_visible(self) -> None:
        """At any moment: what a row lists has the bytes it lists, and a key that is durable in the keystore."""
        stored = {view.record_id for view in self.keystore.find_records(run_id=self.run_id)}
        for row in self.rows():
            for part in ("output", "sidecar"):
                if row[part] is not None:
                    content = (self.out / row[part]).read_bytes()
                    assert hashlib.sha256(content).hexdigest() == row[f"{part}_sha256"], row
            if row["status"] == "anonymized":
                assert row["record_id"] in stored or row["shard"] in self.key_shards(), row

    def check_complete(self, total: int) -> dict[int, dict[str, Any]]:
        """When a run is through: every row once, every key stored, and not one file that no row lists."""
        self.check_visible()
        rows = self.rows()
        assert sorted(row["row"] for row in rows) == list(range(total))
        stored = {view.record_id for view in self.keystore.find_records(run_id=self.run_id)}
        assert {row["record_id"] for row in rows if row["status"] == "anonymized"} <= stored
        listed = {row[part] for row in rows for part in ("output", "sidecar") if row[part] is not None}
        assert self.files() == listed | {f"rows/{row['shard']}.parquet" for row in rows}
        assert self.key_shards() == set()
        return {row["row"]: row for row in rows}


class Attempt:
    """One process's attempt at a run; as a context manager it holds the lease, and ends without a word."""

    def __init__(self, place: Place, retry: int = 0) -> None:
        self.place, self.lease, self.retry = place, Lease(place.out / "_keyanon"), retry

    def __enter__(self) -> "Attempt":
        self.lease.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """As the operating system does it for a killed process: the lock is free, the lease's text stays."""
        if self.lease._descriptor is not None:
            os.close(self.lease._descriptor)
            self.lease._descriptor = None

    def sink(self, layout: OutputLayout | None = None) -> PairedDatasink:
        inbox = self.place.keys.begin(self.place.run_id, "d")
        return PairedDatasink(layout or self.place.layout, inbox, self.lease.token, self.retry)

    def publisher(self, done: Collection[int] | None = None, layout: OutputLayout | None = None) -> Publisher:
        layout = layout or self.place.layout
        return Publisher(layout, self.lease, finished_rows(layout) if done is None else done)

    def complete(self, total: int) -> Tally:
        place = self.place
        return complete(place.layout, self.lease, place.keys, place.run_id, total)[0]

    def run(self, blocks: list[list[dict[str, Any]]], total: int, done: Collection[int] | None = None) -> Tally:
        """All that an attempt does with these blocks, one step after the other."""
        publisher = self.publisher(done)
        publisher.open()
        for rows in blocks:
            self.sink().stage(block(rows))
        publisher.publish_complete()
        return self.complete(total)


def quarantined(row: int, name: str, reason: str = "corrupt: x") -> dict[str, Any]:
    return {ROW: row, ID: name, STATUS: "quarantined", REASON: reason, FACE_COUNT: 0}


def block(rows: list[dict[str, Any]], own: pa.Table | None = None) -> pa.Table:
    return with_results(own if own is not None else pa.table({ROW: [row[ROW] for row in rows]}), rows)


class Killed(BaseException):
    """Ends a piece of code between two operations on files, as SIGKILL does: nothing that it does later has an effect."""


_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
_watch: Callable[[str], None] | None = None
_watched_thread = 0


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is None or event not in _EVENTS or threading.get_ident() != _watched_thread:
        return
    if event != "open" or int(arguments[2]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # reading changes nothing
        _watch(str(arguments[0]))


sys.addaudithook(_hook)  # there is no way to remove one; it does nothing while nobody watches


@contextmanager
def before_operation(number: int, act: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Within the block, this thread is killed before its operation on files of that number, and does none any more.

    act: what happens there instead; afterwards the thread goes on. Yields a function that says whether it came so far.
    """
    global _watch, _watched_thread
    seen = 0

    def watch(path: str) -> None:
        nonlocal seen
        global _watch
        if path.startswith(("/proc", "/sys", sys.prefix, sys.base_prefix)) or path.endswith((".py", ".pyc")):
            return
        seen += 1
        if seen <= number:
            return
        if act is None:
            raise Killed
        _watch = None
        act()

    _watch, _watched_thread = watch, threading.get_ident()
    try:
        yield lambda: seen > number
    except Killed:
        pass
    finally:
        _watch = None
