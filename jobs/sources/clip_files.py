"""Where clips lie: files of a folder or a bucket. Those in a column of Parquet are in `parquet_clips`."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.names import as_text
from jobs.sources.source import raise_fault_of_the_machine
from keyanon_core.errors import PictureError

BUFFER_BYTES: Final = 1024 * 1024  # of one read; FFmpeg asks for less

_Place = TypeVar("_Place")
ClipReader = Callable[[], Iterator[tuple[str, BinaryIO | PictureError]]]
"""Opens some clips one after the other: the path of each, and its file while it is the last one given, or why it can not be read.
Travels to the workers; raises MachineError.
"""


@dataclass(frozen=True)
class ListedClip:
    """name: what it is published as; its suffix is one of `CONTAINERS`, but where it can not be read. path: a reader opens it by
    this. size: bytes. file: as of `ClipReader`.
    """

    name: str
    path: str
    size: int
    modified_ns: int
    file: BinaryIO | PictureError


class ClipListing(ABC):
    """Some clips. prefix: of the paths of all. subjects: whose each is by what holds them, by its name, once they are listed."""

    filesystem: pafs.FileSystem
    prefix: str
    subjects: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def listed(self) -> Iterator[ListedClip]:
        """All of them, no two of one name. Raises SourceError, MachineError."""

    @abstractmethod
    def reader(self, paths: Collection[str]) -> ClipReader:
        """What opens the clips at these paths."""

    def rows(self, published: Mapping[str, str]) -> tuple[pa.Schema, Iterator[pa.Table]] | None:
        """What is said of the clips in a table: all columns of its rows, in their order, but for the clips themselves, which are
        null or what they are `published` as, by their names. None for clips that are files. Raises OSError, ValueError,
        ArrowException where that can not be read any more.
        """
        return None


class ClipFiles(ClipListing):
    """Files of a folder. The name of one is its path below the folder."""

    def __init__(self, filesystem: pafs.FileSystem, root: str, paths: Collection[str]) -> None:
        """root: their folder, or the one clip."""
        top = root.rsplit("/", 1)[0] if root in paths else root
        self.filesystem, self.prefix, self._paths = filesystem, top.rstrip("/") + "/", sorted(paths)

    def listed(self) -> Iterator[ListedClip]:
        for path in self._paths:
            name, size, modified = as_text(path.removeprefix(self.prefix)), 0, 0
            with ExitStack() as closing:
                file: BinaryIO | PictureError
                try:
                    info = self.filesystem.get_file_info(path)
                    size, modified = info.size or 0, info.mtime_ns or 0
                    if info.type == pafs.FileType.File:
                        file = closing.enter_context(buffered(self.filesystem.open_input_file(path)))
                    else:  # opening a named pipe would wait for ever
                        file = PictureError("unreadable", "it is no regular file")
                except (OSError, ValueError, pa.ArrowException) as error:
                    file = unreadable(error, path)
                yield ListedClip(name, path, size, modified, file)

    def reader(self, paths: Collection[str]) -> ClipReader:
        return partial(read_in_turn, self.filesystem.open_input_file, {path: path for path in sorted(paths)})


def read_in_turn(
    open_file: Callable[[_Place], pa.NativeFile], places: Mapping[str, _Place]
) -> Iterator[tuple[str, BinaryIO | PictureError]]:
    """A `ClipReader` of clips that are files. places: what is opened, by the clips' paths in their listing. open_file: raises
    OSError, or PictureError for a place that is not to be opened."""
    for path, place in places.items():
        with ExitStack() as closing:
            file: BinaryIO | PictureError
            try:
                file = closing.enter_context(buffered(open_file(place)))
            except PictureError as error:
                file = error
            except (OSError, ValueError, pa.ArrowException) as error:
                file = unreadable(error, path)
            yield path, file


def buffered(file: Any) -> Any:
    """A file of pyarrow's as PyAV reads it. file: a `pa.NativeFile`."""
    return io.BufferedReader(file, BUFFER_BYTES)


def unreadable(error: Exception, path: str) -> PictureError:
    """Why the clip at `path` can not be used. Raises MachineError where that says nothing of the clip."""
    raise_fault_of_the_machine(error, path)
    return PictureError("unreadable", type(error).__name__)
