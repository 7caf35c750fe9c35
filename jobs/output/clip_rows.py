"""`OUT/clips.parquet`: the rows of Parquet with clips, with all their columns. In the place of each clip stands where it is
published.
"""

import logging
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.names import clip_name
from jobs.output.joined import CLIPS
from jobs.sources.clips import Clips
from jobs.sources.source import raise_fault_of_the_machine
from jobs.storage.store import Store

CLIP_ROWS: Final = "clips.parquet"

logger = logging.getLogger(__name__)


def write_clip_rows(store: Store, source: Clips, joined: Collection[str]) -> None:
    """Write what the rows of clips say, in their order; nothing for clips that are files. joined: names of published ones.

    A file that can not be read any more ends no run that is complete: the rows are not written, and a warning says so.
    Raises OSError, MachineError.
    """
    published = {name: f"{CLIPS}/{clip_name(name)}" for name in joined}
    with tempfile.TemporaryDirectory(prefix="keyanon-") as folder:
        made = Path(folder) / CLIP_ROWS
        try:
            if (rows := source.rows_of_clips(published)) is None:
                return
            schema, tables = rows
            with pq.ParquetWriter(made, schema) as writer:
                for table in tables:
                    writer.write_table(table)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise_fault_of_the_machine(error, str(store))
            logger.warning("%s is not written, the rows of the clips can not be read any more: %s", CLIP_ROWS, error)
            store.delete(CLIP_ROWS)
            return
        store.delete(CLIP_ROWS)
        with made.open("rb") as file, store.writing(CLIP_ROWS) as out:
            shutil.copyfileobj(file, out)
