"""Which row shards of a bucket are visible: those that its segments list.

    OUT/_keyanon/segments/<number>.json           {"attempt": ..., "adds": [row shards], "drops": [row shards]}, each written once
    OUT/_keyanon/packed-segments/<number>.json    {"segments": [...]}: a thousand of them, from that number on

A segment is created under the number after the last one that its writer has read, and only if no other has that number. An
attempt begins with a segment of its own: from then on every earlier attempt meets a taken number and ends, however long it was
stopped and whatever it believes of its lease (invariant I5). Where a lock of the operating system guards an output, what lies in
`rows/` is visible, and there are no segments.

A run of millions of rows has many: each thousand is written once more, packed, and who reads them reads the packs and the
segments after those. Packs decide nothing: a segment never changes, so whoever packs a thousand writes the same, and for one that
is missing the segments stand.
"""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, Final, Self

from jobs.errors import LeaseError, MachineError, PublishError
from jobs.output.layout import PACKED_SEGMENTS, SEGMENTS
from jobs.storage.json_files import to_json
from jobs.storage.store import Store

PACK_SEGMENTS: Final = 1000
_SUFFIX: Final = ".json"
_LOGGER = logging.getLogger(__name__)


@dataclass
class Segments:
    """The segments as they were read, and those that were appended since. visible: base names of row shards. unpacked: the last
    of them, which no pack holds."""

    store: Store
    attempt: str = ""
    visible: set[str] = field(default_factory=set)
    count: int = 0
    unpacked: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, store: Store, attempt: str = "") -> Self:
        """All segments of an output. Raises PublishError for one that is damaged or missing, OSError, MachineError."""
        found = cls(store, attempt)
        packs = [f"{PACKED_SEGMENTS}/{file}" for file in store.children(PACKED_SEGMENTS, _SUFFIX)]
        for name, content in zip(packs, store.read_all(packs), strict=True):
            if content is None or name != f"{PACKED_SEGMENTS}/{_file(found.count)}":
                break  # after one that was not written, as its writer died, the segments themselves are read
            for segment in _parsed_pack(content, store.full(name)):
                found._apply(segment)
        last = _file(found.count - 1) if found.count else ""
        names = [f"{SEGMENTS}/{file}" for file in store.children(SEGMENTS, _SUFFIX, after=last)]
        for name, content in zip(names, store.read_all(names), strict=True):
            if content is None or name != f"{SEGMENTS}/{_file(found.count)}":
                raise PublishError(f"{store.full(SEGMENTS)} lacks {_file(found.count)}; restore it from a backup")
            found._apply(segment := _parsed(content, store.full(name)))
            found.unpacked.append(segment)
        return found

    def append(self, adds: list[str], drops: list[str] | None = None) -> None:
        """Make row shards visible, and others not any more. Raises LeaseError: another attempt began; OSError, MachineError."""
        if adds and not drops and self.visible.issuperset(adds):
            return  # by a segment of ours, whose answer was lost
        segment = {"attempt": self.attempt, "adds": sorted(adds), "drops": sorted(drops or [])}
        while not self._create(segment):
            pass
        if len(self.unpacked) >= PACK_SEGMENTS:
            self._pack()

    def _create(self, segment: dict[str, Any]) -> bool:
        """Write a segment under the next number; False where an earlier one of ours has it, whose answer was lost."""
        name = f"{SEGMENTS}/{_file(self.count)}"
        try:
            self.store.create(name, to_json(segment))
            there = segment
        except FileExistsError as error:
            there = _parsed(self.store.read(name), self.store.full(name))
            if there.get("attempt") != self.attempt:
                raise LeaseError(
                    f"another attempt goes on with {self.store}; this one publishes nothing more"
                ) from error
        self._apply(there)
        self.unpacked.append(there)
        return there is segment

    def _pack(self) -> None:
        """Write the packs that are due. What can not be written is left to the next time: the segments are there."""
        while len(self.unpacked) >= PACK_SEGMENTS:
            first = self.count - len(self.unpacked)
            try:
                self.store.make_folder(PACKED_SEGMENTS)
                self.store.create(
                    f"{PACKED_SEGMENTS}/{_file(first)}", to_json({"segments": self.unpacked[:PACK_SEGMENTS]})
                )
            except FileExistsError:  # by an attempt before this one, after this one had looked
                pass
            except (OSError, MachineError) as error:
                _LOGGER.warning("segments of %s could not be packed: %s", self.store, type(error).__name__)
                return
            del self.unpacked[:PACK_SEGMENTS]

    def _apply(self, segment: dict[str, Any]) -> None:
        self.visible.update(segment["adds"])
        self.visible.difference_update(segment["drops"])
        self.count += 1


def _file(number: int) -> str:
    return f"{number:012d}{_SUFFIX}"


def _parsed(content: bytes, name: str) -> dict[str, Any]:
    try:
        return _checked(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{name} is damaged ({error}); restore it from a backup") from error


def _parsed_pack(content: bytes, name: str) -> list[dict[str, Any]]:
    try:
        segments = [_checked(one) for one in json.loads(content)["segments"]]
        if len(segments) != PACK_SEGMENTS:
            raise ValueError(f"it holds {len(segments)} segments")
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{name} is damaged ({error}); remove it: what it packs is in {SEGMENTS} still") from error
    return segments


def _checked(segment: Any) -> dict[str, Any]:
    if not all(isinstance(shard, str) for part in ("adds", "drops") for shard in segment[part]):
        raise ValueError("it lists what is no name")
    return dict(segment)
