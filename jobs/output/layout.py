"""Where things lie in an output.

OUT/images/, OUT/sidecars/    pictures as they are published, and what their recovery needs; of Parquet, none
OUT/rows/<shard>.parquet      the rows; of Parquet with the user's columns, pictures and sidecars in them
OUT/_keyanon/                 the run's own: lease, manifest, report, and what attempts stage
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

RUN_DIRECTORY: Final = "_keyanon"
MANIFEST_FILE: Final = "manifest.json"
REPORT_FILE: Final = "report.json"
LEASE_FILE: Final = "lease"
ROWS: Final = "rows"
SHARD_SUFFIX: Final = ".parquet"


@dataclass(frozen=True)
class OutputLayout:
    """How rows are published. schema, image_column: the user's columns by their output names, for Parquet; None for
    files."""

    root: Path
    output_format: str
    schema: pa.Schema | None = None
    image_column: str | None = None

    @property
    def rows(self) -> Path:
        return self.root / ROWS

    def shard(self, name: str) -> Path:
        """Path of the visible row shard of that base name."""
        return self.rows / (name + SHARD_SUFFIX)
