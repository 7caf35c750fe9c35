"""An inbox as whoever hands shards in sees it: a folder here, and anything else that can do the same four things."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from keystore.errors import InvalidRecordError, StorageError
from keystore.intake.shards import SHARD_SUFFIX
from keystore.storage import durable

INBOX_NAME = "inbox"
SPOOLS = "spool"  # a folder for each bucket that ingest takes from
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class InboxPlace(Protocol):
    """Files by run and name. Failures are OSErrors, or errors of the place's own that say what to do."""

    def put(self, run_id: str, name: str, data: bytes) -> None:
        """Make a file, durably and whole, never over another one. Raises FileExistsError."""

    def get(self, run_id: str, name: str, limit: int) -> bytes:
        """Return a file's content. Raises OSError (EFBIG: more than `limit` bytes)."""

    def get_many(self, run_id: str, names: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each of these files, in their order. Raises as `get`."""

    def names(self, run_id: str, suffix: str, after: str = "") -> list[str]:
        """Return the names of a run's files that end so, sorted; those beyond the name `after` only."""

    def remove(self, run_id: str, names: Sequence[str]) -> None:
        """Remove files; what is not there is no error."""


class FolderInbox:
    """A folder with a folder for each run; it travels to other processes as its name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, run_id: str) -> Path:
        """Return a run's directory, made if missing, with the inbox's permissions. Raises InvalidRecordError, StorageError."""
        if not RUN_ID.fullmatch(run_id):
            raise InvalidRecordError(f"{run_id!r} is not a run id; use letters, digits, '.', '_' and '-', 128 at most")
        directory = self.root / run_id
        if directory.is_symlink() or self.root.is_symlink():
            raise InvalidRecordError(f"inbox {directory} is a symbolic link; find out who put it there")
        try:
            self._make(directory)
        except OSError as error:
            raise StorageError(
                f"inbox {directory} can not be created ({error.strerror}); free space or mend the permissions"
            ) from error
        return directory

    def _make(self, directory: Path) -> None:
        if directory.is_dir():
            return
        durable.make_directory(self.root)
        try:
            directory.mkdir(0o700)
        except FileExistsError:
            if not directory.is_dir():
                raise
            return  # another process was quicker
        # Jobs and ingest may be two accounts of one group: the operator says so by the inbox's own mode.
        directory.chmod(stat.S_IMODE(self.root.stat().st_mode))
        durable.sync_directory(self.root)

    def runs(self, suffix: str) -> list[str]:
        """Return the runs that have a file which ends so, sorted."""
        found = {path.parent for path in self.root.glob(f"*/[!.]*{suffix}")}
        return sorted(one.name for one in found if RUN_ID.fullmatch(one.name) and not one.is_symlink())

    def put(self, run_id: str, name: str, data: bytes) -> None:
        """See InboxPlace; raises StorageError, InvalidRecordError where the run can have no folder."""
        durable.write_new(self.directory(run_id) / name, data)

    def get(self, run_id: str, name: str, limit: int) -> bytes:
        """See InboxPlace."""
        return durable.read_regular(self.root / run_id / name, limit)

    def get_many(self, run_id: str, names: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
        """See InboxPlace."""
        return ((name, self.get(run_id, name, limit)) for name in names)

    def names(self, run_id: str, suffix: str, after: str = "") -> list[str]:
        """See InboxPlace."""
        found = (path.name for path in self.directory(run_id).glob(f"[!.]*{suffix}"))
        return sorted(name for name in found if name > after)

    def remove(self, run_id: str, names: Sequence[str]) -> None:
        """See InboxPlace."""
        directory = self.directory(run_id)
        try:
            for name in names:
                (directory / name).unlink(missing_ok=True)
            durable.sync_directory(directory)
        except OSError as error:
            raise StorageError(
                f"a shard in {directory} can not be removed ({error.strerror}); mend the permissions"
            ) from error

    def __str__(self) -> str:
        return str(self.root)

    def __repr__(self) -> str:
        return f"FolderInbox({str(self.root)!r})"


def holds_shards(keystore_path: Path) -> bool:
    """Return whether a shard of any run lies in a keystore's inbox, or in a spool: on its way from a bucket."""
    places = (f"{INBOX_NAME}/*/*{SHARD_SUFFIX}", f"{SPOOLS}/*/*/*{SHARD_SUFFIX}")
    return any(any(keystore_path.glob(place)) for place in places)
