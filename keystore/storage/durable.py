"""Files that survive a power cut: write beside, fsync, publish atomically, fsync the directory."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PUBLIC_MODE = 0o644
SECRET_MODE = 0o600


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path, mode: int = 0o700) -> None:
    """Create `directory` and its parents if missing, durably. Raises OSError."""
    if not directory.is_dir():
        if directory.parent != directory:
            make_directory(directory.parent, mode)
        try:
            directory.mkdir(mode=mode, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from error
        sync_directory(directory.parent)


class NotRegularError(OSError):
    """A name leads to something that is no plain file: a link, a pipe, a device, a directory."""


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes, without following a link and without waiting for a writer.

    Raises NotRegularError, OSError (EFBIG: larger than the limit).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket
            raise NotRegularError(error.errno, "it is no plain file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(errno.EINVAL, "it is no plain file", str(path))
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def write_new(path: Path, data: bytes, mode: int = PUBLIC_MODE) -> None:
    """Publish a new file; it is never seen half-written. Raises FileExistsError if `path` exists, else OSError."""
    temporary = _write_beside(path, data, mode)
    try:
        # A hard link fails where a rename would silently replace.
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def write_all_new(directory: Path, files: Iterable[tuple[str, bytes]], mode: int = PUBLIC_MODE) -> None:
    """Write new files into `directory`, all durable on return; killed before, some are there, and some half-written.

    All are written before the first is synced: a journaling file system then commits them together.
    Raises FileExistsError if one exists, else OSError.
    """
    paths = []
    for name, data in files:
        paths.append(directory / name)
        with os.fdopen(os.open(paths[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(directory)


def replace(path: Path, data: bytes, mode: int = PUBLIC_MODE) -> None:
    """Publish a file over whatever was there; readers see the old or the new bytes. Raises OSError."""
    temporary = _write_beside(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file between processes; a killed process lets go of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
