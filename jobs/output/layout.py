"""Where things lie in an output.

    OUT/images/, OUT/sidecars/    pictures as they are published, and what their recovery needs; of Parquet, none
    OUT/rows/<shard>.parquet      the rows; of Parquet with the user's columns, pictures and sidecars in them
    OUT/_keyanon/                 the run's own: lease, manifest, report, what attempts stage, which keys a keystore elsewhere has
                                  taken in, in a bucket the segments, and of clips their tracks, and until it is complete faces

OUT is a directory or a prefix of a bucket.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import pyarrow as pa

from jobs.storage.opening import open_store
from jobs.storage.place import Place
from jobs.storage.store import Store

RUN_DIRECTORY: Final = "_keyanon"
MANIFEST_FILE: Final = "manifest.json"
REPORT_FILE: Final = "report.json"
LEASE_FILE: Final = "lease"
MANIFEST: Final = f"{RUN_DIRECTORY}/{MANIFEST_FILE}"
REPORT: Final = f"{RUN_DIRECTORY}/{REPORT_FILE}"
LEASE: Final = f"{RUN_DIRECTORY}/{LEASE_FILE}"
SEGMENTS: Final = f"{RUN_DIRECTORY}/segments"
PACKED_SEGMENTS: Final = f"{RUN_DIRECTORY}/packed-segments"
SETTLED: Final = f"{RUN_DIRECTORY}/settled"
ATTEMPTS: Final = f"{RUN_DIRECTORY}/attempts"
ROWS: Final = "rows"
SHARD_SUFFIX: Final = ".parquet"


@dataclass(frozen=True)
class OutputLayout:
    """Where and how rows are published. schema, image_column: the user's columns by their output names, for Parquet; None for
    files. endpoint_url: of an S3 server that is not Amazon's."""

    root: Place
    output_format: str
    schema: pa.Schema | None = None
    image_column: str | None = None
    endpoint_url: str | None = None

    @cached_property
    def store(self) -> Store:
        """Where it lies."""
        return open_store(self.root, self.endpoint_url)


def shard_file(name: str) -> str:
    """The visible row shard of that base name."""
    return f"{ROWS}/{name}{SHARD_SUFFIX}"
