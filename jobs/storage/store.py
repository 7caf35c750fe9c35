"""What an output needs of the place where it lies.

Five calls decide what counts: create if absent, replace if unchanged, read, list, delete. The others move many objects at once.
All names are relative to the place, with `/` between their parts. Failures are OSErrors, FileExistsError and FileNotFoundError
among them; MachineError where a server could not be reached.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from jobs.storage.place import Place


class ChangedError(FileExistsError):
    """An object is not, or not any more, what the caller last saw."""


@dataclass(frozen=True)
class Seen:
    """An object as it was read. version: what `replace` and `delete` compare."""

    content: bytes
    version: str


@dataclass(frozen=True)
class Copy:
    """A staged object and the final name under which it becomes visible. content: its bytes."""

    staged: str
    final: str
    content: bytes


class Store(ABC):
    """One place; travels to the workers, without a connection and without credentials."""

    root: Place
    shared: bool
    """True where other machines may write as well, and no lock of the operating system keeps them out."""

    def __str__(self) -> str:
        return str(self.root)

    @abstractmethod
    def check(self) -> None:
        """Raise OSError or MachineError, with what to do, where the place can not be used at all."""

    def in_a_hurry(self) -> Self:
        """The same place, whose requests end within some seconds, answered or not: for what is of no use later."""
        return self

    def full(self, name: str) -> str:
        """An object's whole name, for messages."""
        return f"{self}/{name}"

    @abstractmethod
    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """An object's content. Raises FileNotFoundError, OSError (EFBIG: more than max_bytes), MachineError."""

    @abstractmethod
    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents of several objects; None for one that is not there. Raises OSError, MachineError."""

    @abstractmethod
    def see(self, name: str) -> Seen | None:
        """An object with its version; None where there is none. Raises OSError, MachineError."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> str:
        """Make an object that was not there, durably and whole; its version. Raises FileExistsError, OSError, MachineError."""

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """To write an object of any size: it is there, whole and durable, when the block has ended without an error, and nothing
        is when it has not, or the process died. What is held of it does not grow with it.

        Raises FileExistsError at the end of the block, where there is such an object by then; OSError, MachineError.
        """

    @abstractmethod
    def replace(self, name: str, content: bytes, version: str | None) -> str:
        """Put another content in the place of the version last seen, None for no object at all; the new version.

        Raises:
            ChangedError: something else is there. OSError, MachineError.
        """

    @abstractmethod
    def delete(self, name: str, version: str | None = None) -> None:
        """Remove an object, where it is still this version if one is given. What is not there is no error. Raises ChangedError,
        OSError, MachineError."""

    @abstractmethod
    def delete_all(self, names: Sequence[str]) -> None:
        """Remove many objects. What is not there is no error. Raises OSError, MachineError."""

    @abstractmethod
    def children(self, folder: str, suffix: str = "", after: str = "") -> Iterator[str]:
        """Names, sorted, of the objects right below a folder that end so; those beyond the name `after` only."""

    @abstractmethod
    def sizes(self, folder: str, after: str = "") -> Iterator[tuple[str, int]]:
        """Names and bytes of all objects below a folder, at any depth; in a bucket sorted, beyond the name `after`."""

    @abstractmethod
    def existing(self, names: Iterable[str]) -> dict[str, str | None]:
        """Those of some names that are taken, each with what `delete` compares. Raises OSError, MachineError."""

    @abstractmethod
    def open_parquet(self, name: str) -> Any:
        """A `pyarrow.NativeFile` to read columns of. Raises OSError, MachineError."""

    @abstractmethod
    def make_folder(self, folder: str) -> None:
        """Make a folder, and those above it, where there are such things. Raises OSError."""

    @abstractmethod
    def make_staging(self, folder: str) -> None:
        """Make the folder of one block; FileNotFoundError where the attempt's own folder was taken away."""

    @abstractmethod
    def fill(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Stage many contents in a folder, in a bucket as one object; durable on return.

        Raises FileExistsError, OSError, MachineError.
        """

    @abstractmethod
    def filled(self, folder: str, names: Sequence[str]) -> list[bytes | None]:
        """Contents of what `fill` made there; None for what is not there, or not whole. Raises OSError, MachineError."""

    @abstractmethod
    def publish(self, copies: Sequence[Copy]) -> None:
        """Give staged objects their final names, in order where a process may die in between, never over another object.

        Raises FileExistsError, OSError, MachineError.
        """

    @abstractmethod
    def remove_folders(self, parent: str, keep: str | None = None) -> None:
        """Remove the folders right below `parent`, all but `keep`, so that nobody goes on filling them. Raises OSError,
        MachineError."""

    @abstractmethod
    def remove_folder(self, folder: str) -> None:
        """Remove one folder, as far as that goes. Raises MachineError."""
