"""Which row shards of a bucket are visible: those that its segments list.

    OUT/_keyanon/segments/<number>.json    {"attempt": ..., "adds": [row shards], "drops": [row shards]}, each written once

A segment is created under the number after the last one that its writer has read, and only if no other has that number. An
attempt begins with a segment of its own: from then on every earlier attempt meets a taken number and ends, however long it
was stopped and whatever it believes of its lease (invariant I5). Where a lock of the operating system guards an output, what
lies in `rows/` is visible, and there are no segments.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

from jobs.errors import LeaseError, PublishError
from jobs.output.layout import SEGMENTS
from jobs.storage.json_files import to_json
from jobs.storage.store import Store

_SUFFIX: Final = ".json"


@dataclass
class Segments:
    """The segments as they were read, and those that were appended since. visible: base names of row shards."""

    store: Store
    attempt: str = ""
    visible: set[str] = field(default_factory=set)
    count: int = 0

    @classmethod
    def read(cls, store: Store, attempt: str = "") -> Self:
        """All segments of an output. Raises PublishError for one that is damaged or missing, OSError, MachineError."""
        found = cls(store, attempt)
        names = [f"{SEGMENTS}/{file}" for file in store.children(SEGMENTS, _SUFFIX)]
        for name, content in zip(names, store.read_all(names), strict=True):
            if content is None or name != f"{SEGMENTS}/{_file(found.count)}":
                raise PublishError(f"{store.full(SEGMENTS)} lacks {_file(found.count)}; restore it from a backup")
            found._apply(_parsed(content, store.full(name)))
        return found

    def append(self, adds: list[str], drops: list[str] | None = None) -> None:
        """Make row shards visible, and others not any more. Raises LeaseError: another attempt began; OSError, MachineError."""
        segment = {"attempt": self.attempt, "adds": sorted(adds), "drops": sorted(drops or [])}
        try:
            self.store.create(f"{SEGMENTS}/{_file(self.count)}", to_json(segment))
        except FileExistsError as error:
            raise LeaseError(f"another attempt goes on with {self.store}; this one publishes nothing more") from error
        self._apply(segment)

    def _apply(self, segment: dict[str, Any]) -> None:
        self.visible.update(segment["adds"])
        self.visible.difference_update(segment["drops"])
        self.count += 1


def _file(number: int) -> str:
    return f"{number:012d}{_SUFFIX}"


def _parsed(content: bytes, name: str) -> dict[str, Any]:
    try:
        segment = json.loads(content)
        if not all(isinstance(shard, str) for part in ("adds", "drops") for shard in segment[part]):
            raise ValueError("it lists what is no name")
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{name} is damaged ({error}); restore it from a backup") from error
    return dict(segment)
