"""Where an attempt puts its results before they are visible: a folder of its own, which no reader of the output opens.

    OUT/_keyanon/attempts/<attempt>/<shard>/<position>.picture, .sidecar    each written once
    OUT/_keyanon/attempts/<attempt>/<shard>.parquet                         written last: the block is complete

Workers write here and nowhere else in the output. A straggler, a worker whose attempt is over, can therefore reach nothing that a
later attempt made; its folder is taken away under its hands, and it can not make it anew.
"""

import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from jobs.output.layout import SHARD_SUFFIX
from jobs.output.lease import LeaseToken
from keystore.storage import durable

ATTEMPTS: Final = "attempts"
PICTURE_PART: Final = "picture"
SIDECAR_PART: Final = "sidecar"
DIRECTORY_MODE: Final = 0o755
_PROBE: Final = ".probe"
_REMOVED: Final = ".removed-"  # before the name of a folder that is being removed


@dataclass(frozen=True)
class Staging:
    """One attempt's folder; travels to the workers."""

    folder: Path

    @classmethod
    def of(cls, lease: LeaseToken) -> Self:
        """The folder of the attempt that holds, or held, this lease."""
        return cls(lease.path.parent / ATTEMPTS / lease.attempt)

    def create(self) -> None:
        """Make the folder, and try what publishing needs: a hard link, which fails where a rename would replace.

        Raises OSError.
        """
        durable.make_directory(self.folder, DIRECTORY_MODE)
        durable.write_new(self.folder / _PROBE, b"")
        (self.folder / _PROBE).unlink()

    def shard(self, name: str) -> Path:
        """The row shard of that base name; once it is there the block is complete."""
        return self.folder / (name + SHARD_SUFFIX)

    def file(self, name: str, position: int, part: str) -> Path:
        """`PICTURE_PART` or `SIDECAR_PART` of the row at that position of a shard."""
        return self.folder / name / _file_name(position, part)

    def open(self, name: str) -> None:
        """Make the folder of a block's files. Raises FileNotFoundError when the attempt is over, else OSError."""
        (self.folder / name).mkdir(mode=DIRECTORY_MODE)

    def fill(self, name: str, files: Iterable[tuple[int, str, bytes]]) -> None:
        """Write a block's files, durably: position, part, content. Raises OSError."""
        durable.write_all_new(self.folder / name, ((_file_name(at, part), data) for at, part, data in files))
        durable.sync_directory(self.folder)

    def finish(self, name: str, shard: bytes) -> None:
        """Write the row shard: it appears whole and durable, and with it the block. Raises OSError."""
        durable.write_new(self.shard(name), shard)

    def complete(self) -> list[str]:
        """Base names of the blocks that are complete, sorted. Raises OSError."""
        return sorted(path.name.removesuffix(SHARD_SUFFIX) for path in self.folder.glob(f"[!.]*{SHARD_SUFFIX}"))

    def discard(self, name: str) -> None:
        """Remove a block that was published, or must not be. Raises OSError."""
        self.shard(name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)  # what stays is swept with the attempt


def sweep(lease: LeaseToken, keep: Staging | None = None) -> None:
    """Remove the folders of all attempts but `keep`. Only for the holder of the lease. Raises OSError.

    A folder gets another name first: from then on a straggler finds none to write into, and removing meets no new files.
    """
    parent = lease.path.parent / ATTEMPTS
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        if keep is not None and folder == keep.folder:
            continue
        if not folder.name.startswith(_REMOVED):
            folder = folder.rename(parent / f"{_REMOVED}{uuid.uuid4().hex}")
        shutil.rmtree(folder, ignore_errors=True)  # a network file system keeps files that are open: swept next time


def _file_name(position: int, part: str) -> str:
    return f"{position}.{part}"
