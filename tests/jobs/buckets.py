"""An output in a bucket, as the tests of publishing share it."""

import uuid
from typing import Any

from jobs.output.commit import Tally, complete
from jobs.output.layout import LEASE, SEGMENTS, OutputLayout
from jobs.output.pictures import PublishedPictures
from jobs.output.publisher import Publisher
from jobs.output.reader import read_rows
from jobs.output.shared_lease import SharedLease, lease_of
from jobs.output.sink import PairedDatasink
from tests.jobs.publishing import Place, finished_rows
from tests.jobs.seaweed import BUCKET, Seaweed


class Bucket:
    """A run's output in the bucket, its keys in the tests' keystore."""

    def __init__(self, server: Seaweed, place: Place) -> None:
        self.server, self.place, self.prefix = server, place, uuid.uuid4().hex
        self.layout = OutputLayout(f"s3://{BUCKET}/{self.prefix}", "png")
        self.store = self.layout.store

    def result(self, row: int, name: str, content: bytes = b"picture") -> dict[str, Any]:
        return self.place.result(row, name, content)

    def lease(self) -> SharedLease:
        made = lease_of(self.store)
        assert isinstance(made, SharedLease)
        return made

    def sink(self, lease: SharedLease, retry: int = 0, layout: OutputLayout | None = None) -> PairedDatasink:
        return PairedDatasink(layout or self.layout, self.place.keys.begin(self.place.run_id, "d"), lease.token, retry)

    def publisher(self, lease: SharedLease, done: set[int] | None = None) -> Publisher:
        return Publisher(self.layout, lease, finished_rows(self.layout) if done is None else done)

    def complete(self, lease: SharedLease, total: int) -> Tally:
        return complete(self.layout, lease, self.place.keys, self.place.run_id, total)[0]

    def names(self) -> set[str]:
        """Everything there but lease and segments."""
        found = self.server.names(self.prefix)
        return {name for name in found if name != LEASE and not name.startswith(SEGMENTS)}

    def check_complete(self, total: int) -> None:
        rows = list(read_rows(self.store))
        listed = {name for row in rows for name in (row.output, row.sidecar) if name is not None}
        assert self.names() == listed | {row.shard for row in rows}
        assert finished_rows(self.layout) == set(range(total)) and len(rows) == total
        pictures = PublishedPictures(self.store)
        for row in rows:
            if row.status == "anonymized":
                assert pictures.sidecar(row) == b"sidecar of " + pictures.picture(row)
        assert self.place.key_shards() == set()
