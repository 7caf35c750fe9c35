"""Where an attempt puts its results before they are visible: a folder of its own, which no reader of the output opens.

    OUT/_keyanon/attempts/<attempt>/<shard>/<position>.picture, .sidecar    each written once; in a bucket one object of all
    OUT/_keyanon/attempts/<attempt>/<shard>.parquet                         written last: the block is complete

Workers write here and nowhere else in the output. A straggler, a worker whose attempt is over, can therefore reach nothing that a
later attempt made; its folder is taken away under its hands, and it can not make it anew.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from jobs.output.layout import ATTEMPTS, SHARD_SUFFIX
from jobs.storage.store import Store

PICTURE_PART: Final = "picture"
SIDECAR_PART: Final = "sidecar"
_PROBE: Final = ".probe"


@dataclass(frozen=True)
class Staging:
    """One attempt's folder; travels to the workers."""

    store: Store
    folder: str

    @classmethod
    def of(cls, store: Store, attempt: str) -> Self:
        """The folder of that attempt in an output."""
        return cls(store, f"{ATTEMPTS}/{attempt}")

    def create(self) -> None:
        """Make the folder, and try what publishing needs: on a disk a hard link, which fails where a rename would replace.

        Raises OSError, MachineError.
        """
        self.store.make_folder(self.folder)
        self.store.create(f"{self.folder}/{_PROBE}", b"")
        self.store.delete(f"{self.folder}/{_PROBE}")

    def shard(self, name: str) -> str:
        """The row shard of that base name; once it is there the block is complete."""
        return f"{self.folder}/{name}{SHARD_SUFFIX}"

    def file(self, name: str, position: int, part: str) -> str:
        """`PICTURE_PART` or `SIDECAR_PART` of the row at that position of a shard."""
        return f"{self.folder}/{name}/{_file_name(position, part)}"

    def open(self, name: str) -> None:
        """Make the folder of a block's files. Raises FileNotFoundError when the attempt is over, else OSError."""
        self.store.make_staging(f"{self.folder}/{name}")

    def fill(self, name: str, files: Iterable[tuple[int, str, bytes]]) -> None:
        """Write a block's files, durably: position, part, content. Raises OSError, MachineError."""
        self.store.fill(f"{self.folder}/{name}", ((_file_name(at, part), data) for at, part, data in files))

    def contents(self, name: str, files: Iterable[tuple[int, str]]) -> list[bytes | None]:
        """What was filled in at these positions and parts, None for what is not there. Raises OSError, MachineError."""
        return self.store.filled(f"{self.folder}/{name}", [_file_name(at, part) for at, part in files])

    def finish(self, name: str, shard: bytes) -> None:
        """Write the row shard: it appears whole and durable, and with it the block. Raises OSError, MachineError."""
        self.store.create(self.shard(name), shard)

    def complete(self) -> dict[str, int]:
        """Base names of the blocks that are complete, sorted, each with the bytes that are staged of it; on a disk, where one
        after the other is published, with 0. Raises OSError, MachineError."""
        if not self.store.shared:
            return {file.removesuffix(SHARD_SUFFIX): 0 for file in self.store.children(self.folder, SHARD_SUFFIX)}
        found, sizes = set[str](), Counter[str]()
        for path, size in self.store.sizes(self.folder):
            name, beside, _ = path.removeprefix(f"{self.folder}/").partition("/")
            if not beside and name.endswith(SHARD_SUFFIX):
                name = name.removesuffix(SHARD_SUFFIX)
                found.add(name)
            sizes[name] += size
        return {name: sizes[name] for name in sorted(found)}

    def discard(self, name: str) -> None:
        """Remove a block that was published, or must not be. Raises OSError, MachineError."""
        self.store.delete(self.shard(name))
        self.store.remove_folder(f"{self.folder}/{name}")

    def sweep_others(self) -> None:
        """Remove the folders of all other attempts. Only for the holder of the lease. Raises OSError, MachineError."""
        self.store.remove_folders(ATTEMPTS, keep=self.folder)


def sweep(store: Store) -> None:
    """Remove the folders of all attempts. Only for the holder of the lease. Raises OSError, MachineError."""
    store.remove_folders(ATTEMPTS)


def _file_name(position: int, part: str) -> str:
    return f"{position}.{part}"
