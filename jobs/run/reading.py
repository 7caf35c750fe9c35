"""How every pipeline begins: with the pictures of a source, in blocks."""

from collections.abc import Sequence
from typing import Final

import ray

from jobs.errors import MachineError
from jobs.sources.datasource import ListedDatasource
from jobs.sources.source import ReadUnit, Source

READ_RETRIES: Final = 3  # of one read task, for faults of the machine; what a retry can not mend ends the run


def read_pictures(source: Source, units: Sequence[ReadUnit], rows_per_block: int) -> ray.data.Dataset:
    """The pictures of some units of a source, a block for each; of Parquet in blocks of `rows_per_block`, as a row group may hold
    many tasks' worth."""
    dataset = ray.data.read_datasource(
        ListedDatasource(units, "ReadPictures"),
        override_num_blocks=len(units),
        ray_remote_args={"max_retries": READ_RETRIES, "retry_exceptions": [MachineError, MemoryError]},
    )
    return dataset.repartition(target_num_rows_per_block=rows_per_block) if source.kind == "parquet" else dataset
