"""A source as Ray Data reads it. Apart, so that whoever asks about an input or an output loads no Ray."""

from collections.abc import Sequence
from typing import Any

from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from jobs.sources.source import ReadUnit


class ListedDatasource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """Ray's view of a `Source`: one read task for each unit, whatever parallelism Ray proposes."""

    def __init__(self, units: Sequence[ReadUnit], name: str) -> None:
        super().__init__()
        self._units = list(units)
        self._name = name

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(unit.size_bytes for unit in self._units)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                unit.read,
                BlockMetadata(num_rows=unit.rows, size_bytes=unit.size_bytes, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for unit in self._units
        ]
