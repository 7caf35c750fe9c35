"""How many pictures a second one driver publishes in a bucket, and how many keys a second one ingest takes in from one, where the
server is a way there and back away.

    python benchmarks/bucket_rates.py [--ways-ms 30] [--blocks 40] [--rows 32] [--kib 200] [--shards 320] [--records 64]

A real S3 server on this machine; each request first sleeps for the way. Nothing is computed: what workers would stage is staged
before the clock runs. The server's CPU is this machine's, which a server of its own would not take.
"""

import os
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer
from botocore.httpsession import URLLib3Session

from jobs.ahead import ahead
from jobs.output.bucket_inbox import BucketInbox, Courier
from jobs.output.layout import OutputLayout
from jobs.output.publisher import Publisher
from jobs.output.shared_lease import lease_of
from jobs.output.sink import PairedDatasink
from jobs.storage.opening import open_store
from keystore.door import IngestDoor
from keystore.embedded import Keystore
from keystore.ingest_opening import IngestOpening
from keystore.intake.receipts import MAX_RECEIPT_BYTES, RECEIPT_SUFFIX

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.jobs.publishing import Place, block, key_record
from tests.jobs.seaweed import BUCKET, Seaweed


def main(
    ways_ms: Annotated[float, typer.Option(help="Milliseconds that a request sleeps.")] = 30.0,
    blocks: Annotated[int, typer.Option(help="Blocks that are published.")] = 40,
    rows: Annotated[int, typer.Option(help="Pictures of a block.")] = 32,
    kib: Annotated[int, typer.Option(help="Size of a picture; its sidecar is as large.")] = 200,
    shards: Annotated[int, typer.Option(help="Key shards that are taken in.")] = 320,
    records: Annotated[int, typer.Option(help="Records of a key shard.")] = 64,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        (server_root := Path(scratch) / "server").mkdir()
        server = Seaweed(server_root)
        os.environ |= server.environment
        server.start()
        try:
            with Keystore.create(Path(scratch) / "keystore") as keystore:
                if blocks:
                    _publish(Place(Path(scratch), keystore), ways_ms / 1000, blocks, rows, os.urandom(kib * 1024))
                if shards:
                    _take_in(Place(Path(scratch), keystore), ways_ms / 1000, shards, records)
        finally:
            server.stop()


def _publish(place: Place, way: float, blocks: int, rows: int, content: bytes) -> None:
    layout = OutputLayout(f"s3://{BUCKET}/{uuid.uuid4().hex}", "png")
    with lease_of(layout.store) as lease:
        publisher = Publisher(layout, lease, ())
        publisher.open()
        sink = PairedDatasink(layout, place.keys.begin(place.run_id, "d"), lease.token, 0)

        def stage(number: int) -> None:
            names = range(number * rows, (number + 1) * rows)
            sink.stage(block([place.result(row, f"{row:09d}.jpg", content) for row in names]))

        deque(ahead(stage, range(blocks), at_once=4), maxlen=0)
        _say(f"publish {blocks} blocks of {rows} pictures", way, publisher.publish_complete, blocks * rows, "pictures")


def _take_in(place: Place, way: float, shards: int, records: int) -> None:
    inbox = BucketInbox(open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}"))
    door, run_id, count = IngestDoor(place.keys.key, inbox), place.run_id, shards * records
    sealer = door.sealer(run_id, "d")

    def hand_in(number: int) -> str:
        sealed = [sealer.seal(key_record(run_id, f"{number}-{record}.jpg")) for record in range(records)]
        name = f"{number:09d}-0123456789abcdef-0123456789ab"
        door.hand_in(run_id, name, sealed)
        return name

    names = list(ahead(hand_in, range(shards), at_once=4))
    courier = Courier(inbox, place.keystore.path)
    _say(f"bring {shards} shards of {records} records", way, courier.fetch, count, "records")
    with IngestOpening.open(place.keystore.path, receipts=True, inbox=courier.spool.root) as opened:
        opened.inbox(run_id, "d")
        _say("take them in, by one process", 0.0, lambda: opened.ingest(run_id), count, "records")
    _say("leave their receipts, take them out", way, courier.deliver, count, "records")
    receipts = [name + RECEIPT_SUFFIX for name in names]
    read = lambda: deque(inbox.get_many(run_id, receipts, MAX_RECEIPT_BYTES), maxlen=0)  # noqa: E731
    _say("read the receipts, by the run", way, read, count, "records")


def _say(what: str, way: float, act: Callable[[], Any], count: int, things: str) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this step (proc(5))
    held, cpu, begun = _mib("VmRSS"), time.process_time(), time.monotonic()
    with _far(way):
        act()
    seconds = time.monotonic() - begun
    cpu = time.process_time() - cpu
    rate, more = f"{count / seconds:10.1f} {things}/s", f"{_mib('VmHWM') - held:5.0f} MiB more at most"
    typer.echo(f"{what:44s} {seconds:8.2f} s  {rate}  {cpu:6.2f} s CPU  {more}  load {os.getloadavg()[0]:.1f}")


def _mib(name: str) -> float:
    """Of this process's memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


@contextmanager
def _far(way: float) -> Iterator[None]:
    """Each request first sleeps for the way."""
    send = URLLib3Session.send

    def sent(session: Any, request: Any) -> Any:
        time.sleep(way)
        return send(session, request)

    with patch.object(URLLib3Session, "send", sent):
        yield


if __name__ == "__main__":
    typer.run(main)
