"""Pictures that a column of Parquet names, instead of holding them: which of them may be read, and reading them.

A data set is often another's work, and a name in it may lead anywhere: to a file that nobody meant to publish, to a server in
the machine's own network. So names are paths of this machine or of a bucket, and are read below one place only: below PHOTOS,
or below the `image_root` that the user gives. What leads out of it, by `..`, a link or as a whole path, is not opened.
"""

import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.ahead import ahead
from jobs.errors import ConfigError, SourceError
from jobs.names import NO_TEXT, is_text
from jobs.sources.config import InputConfig
from jobs.sources.source import (
    NO_FILE,
    raise_fault_of_the_machine,
    read_object,
    read_picture,
    resolve,
    version_of,
)
from jobs.storage.place import S3, is_uri, split_uri

MAX_CHARACTERS: Final = 4096  # of a name; no path and no key is longer

_OUTSIDE: Final = "bad_reference: it leads out of what may be read; image_root says what that is"
_SCHEMES: Final = "bad_reference: only paths, file:// and s3://bucket/key are read"
_T = TypeVar("_T")
_Thing = TypeVar("_Thing")


class RefusedError(Exception):
    """Nothing is read by this name. str: `code: explanation`, which does not repeat it."""


class Looked(NamedTuple):
    """A picture as it was found before anything ran. version: see `version_of`, NO_FILE where none may be read. failure: why."""

    version: int
    size: int
    failure: str


@dataclass(frozen=True)
class References:
    """Reads pictures by the names of a column; travels to the workers.

    root: real local path, or `bucket/prefix`. beside_file: relative names begin at the Parquet file's folder, else at the root.
    """

    root: str
    remote: bool
    beside_file: bool
    endpoint_url: str | None
    max_bytes: int

    @classmethod
    def of(cls, config: InputConfig, filesystem: pafs.FileSystem, photos: str) -> Self:
        """What `config` lets be read. photos: the folder of the Parquet files. Raises SourceError."""
        if config.image_root is not None:
            filesystem, photos = resolve(config.image_root, config.endpoint_url)
            try:
                kind = filesystem.get_file_info(photos).type
            except (OSError, pa.ArrowException) as error:
                raise_fault_of_the_machine(error, config.image_root)
                raise SourceError(f"image_root {config.image_root} can not be read; check the credentials") from error
            if kind != pafs.FileType.Directory:
                raise SourceError(f"image_root {config.image_root} is no folder; give the one that holds the pictures")
        remote = isinstance(filesystem, pafs.S3FileSystem)
        if not remote and not isinstance(filesystem, pafs.LocalFileSystem):
            raise SourceError(
                f"the column {config.image_column!r} names pictures, which are read from a local folder and from S3 alone; "
                "give one of these by image_root"
            )
        root = photos.rstrip("/") if remote else os.path.realpath(photos)
        return cls(root, remote, config.image_root is None, config.endpoint_url, config.max_file_bytes)

    def locate(self, name: str, folder: str) -> str:
        """Where the picture of this name lies, as the file system wants it. folder: of the Parquet file. Raises RefusedError."""
        if not is_text(name) or not 0 < len(name) <= MAX_CHARACTERS or "\0" in name:
            raise RefusedError(f"bad_reference: it is empty, longer than {MAX_CHARACTERS} characters or {NO_TEXT}")
        place = self._key(name, folder) if self.remote else self._path(name, folder)
        if not place.startswith(self.root.rstrip("/") + "/"):
            raise RefusedError(_OUTSIDE)
        return place

    def look_all(self, names: Sequence[str | None], folder: str) -> list[Looked]:
        """What is there by each name; one request for each. Raises MachineError."""
        return _map(lambda name: self._look(name, folder), names, threads=self.remote)

    def read_all(self, names: Sequence[str | None], folder: str) -> list[tuple[bytes | None, str]]:
        """The bytes and "", or None and the reason, for each name; None is passed over. Raises MachineError."""
        return _map(lambda name: (None, "") if name is None else self._read(name, folder), names, threads=True)

    def opened(self, name: str, folder: str) -> pa.NativeFile:
        """The file of this name. Raises RefusedError, OSError."""
        place = self.locate(name, folder)
        return (self._filesystem if self.remote else pafs.LocalFileSystem()).open_input_file(place)

    def _look(self, name: str | None, folder: str) -> Looked:
        if name is None:
            return Looked(NO_FILE, 0, "null_image: the cell names no picture")
        try:
            place = self.locate(name, folder)
        except RefusedError as refused:
            return Looked(NO_FILE, 0, str(refused))
        try:
            info = self._filesystem.get_file_info(place) if self.remote else _local_info(place)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise_fault_of_the_machine(error, place)
            return Looked(NO_FILE, 0, f"unreadable: {type(error).__name__}")
        if info.type == pafs.FileType.NotFound:
            return Looked(NO_FILE, 0, "missing_image: there was no picture of its name when the run began")
        if info.type != pafs.FileType.File:
            return Looked(NO_FILE, 0, "unreadable: it is no file")
        size, below = info.size or 0, place.removeprefix(self.root)
        return Looked(version_of(below, size, info.mtime_ns or 0), size, "")

    def _read(self, name: str, folder: str) -> tuple[bytes | None, str]:
        try:
            place = self.locate(name, folder)
        except RefusedError as refused:
            return None, str(refused)
        if self.remote:
            return read_object(self.endpoint_url, place, self.max_bytes)
        return read_picture(pafs.LocalFileSystem(), place, self.max_bytes)

    @cached_property
    def _filesystem(self) -> pafs.FileSystem:
        return resolve(f"{S3}{self.root}", self.endpoint_url)[0]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_filesystem"}

    def _path(self, name: str, folder: str) -> str:
        """A local path without links in it: what is checked is what is opened."""
        if name.lower().startswith("file:"):
            parts = urlsplit(name)
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise RefusedError("bad_reference: a file is named by file:///path, with %3F for a question mark")
            name = unquote(parts.path, errors="surrogateescape")
            if "\0" in name or not name.startswith("/"):
                raise RefusedError("bad_reference: a file is named by file:///path")
        elif name.lower().startswith(S3):
            raise RefusedError(_OUTSIDE)
        elif is_uri(name):
            raise RefusedError(_SCHEMES)
        return os.path.realpath(os.path.join(self._base(folder), name))  # noqa: PTH118  a whole path wins

    def _key(self, name: str, folder: str) -> str:
        if name.lower().startswith("s3:"):
            try:
                bucket, key = split_uri(name)
            except ConfigError:
                bucket, key = "", ""
            if not key or name != f"{S3}{bucket}/{key}":
                raise RefusedError("bad_reference: it is no plain s3://bucket/key, in which credentials have no place")
            return f"{bucket}/{key}"
        if name.lower().startswith("file:") or name.startswith("/"):
            raise RefusedError(_OUTSIDE)
        if is_uri(name):
            raise RefusedError(_SCHEMES)
        if "//" in name or name.endswith("/"):
            raise RefusedError("bad_reference: a part of it is empty")
        return posixpath.normpath(f"{self._base(folder)}/{name}")

    def _base(self, folder: str) -> str:
        return folder if self.beside_file else self.root


def _local_info(path: str) -> pafs.FileInfo:
    """As pyarrow tells it, which takes three times as long."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return pafs.FileInfo(path, pafs.FileType.NotFound)
    kind = pafs.FileType.File if stat.S_ISREG(status.st_mode) else pafs.FileType.Unknown
    return pafs.FileInfo(path, kind, mtime_ns=status.st_mtime_ns, size=status.st_size)


def _map(act: Callable[[_Thing], _T], things: Sequence[_Thing], *, threads: bool) -> list[_T]:
    """Results in order; several at a time where that is worth threads."""
    return list(ahead(act, things) if threads and len(things) > 1 else map(act, things))
