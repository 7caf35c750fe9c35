"""A directory. Links make, renames replace; what is returned from is durable."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from jobs.storage.store import ChangedError, Copy, Seen, Store
from keystore.storage import durable

DIRECTORY_MODE: Final = 0o755
PART: Final = ".part"  # behind the name of an object that is being written
_REMOVED: Final = ".removed-"  # before the name of a folder that is being removed


@dataclass(frozen=True)
class LocalStore(Store):
    """A directory of this machine, or of a network file system with locks. Versions are digests; `replace` and `delete` compare
    and act in two steps, which is enough for the one process that holds the output's lock."""

    root: Path

    shared = False

    def __str__(self) -> str:
        return str(self.root)

    def check(self) -> None:
        pass  # what is wrong with a directory shows when it is made

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        path = self.root / name
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise OSError(errno.EFBIG, f"more than {max_bytes} bytes", str(path))
        return path.read_bytes()

    def read_all(self, names: Sequence[str]) -> list[bytes | None]:
        return [path.read_bytes() if (path := self.root / name).exists() else None for name in names]

    def see(self, name: str) -> Seen | None:
        try:
            content = self.read(name)
        except FileNotFoundError:
            return None
        return Seen(content, _version(content))

    def create(self, name: str, content: bytes) -> str:
        durable.write_new(self.root / name, content)
        return _version(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        final = self.root / name
        durable.make_directory(final.parent, DIRECTORY_MODE)
        part = final.with_name(f".{final.name}{PART}")
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if final.exists():  # no link: a disk that knows none will do for what has one writer
            raise FileExistsError(errno.EEXIST, "another process wrote it", str(final))
        part.rename(final)
        durable.sync_directory(final.parent)

    def replace(self, name: str, content: bytes, version: str | None) -> str:
        self._compare(name, version)
        durable.make_directory((self.root / name).parent, DIRECTORY_MODE)
        durable.replace(self.root / name, content)
        return _version(content)

    def delete(self, name: str, version: str | None = None) -> None:
        if version is not None:
            self._compare(name, version)
        path = self.root / name
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            durable.sync_directory(path.parent)

    def delete_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def _compare(self, name: str, version: str | None) -> None:
        seen = self.see(name)
        if (None if seen is None else seen.version) != version:
            raise ChangedError(f"{self.root / name} was changed by another process")

    def children(self, folder: str, suffix: str = "", after: str = "") -> Iterator[str]:
        # A glob: a folder that is not there has nothing in it.
        return (name for name in sorted(p.name for p in (self.root / folder).glob(f"[!.]*{suffix}")) if name > after)

    def sizes(self, folder: str, after: str = "") -> Iterator[tuple[str, int]]:
        for path in (self.root / folder).rglob("*"):
            if path.is_file():
                yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def existing(self, names: Iterable[str]) -> dict[str, str | None]:
        paths = ((name, self.root / name) for name in names)
        return {name: None for name, path in paths if path.is_file() or path.is_symlink()}

    def open_parquet(self, name: str) -> Any:
        return pa.OSFile(str(self.root / name))

    def make_folder(self, folder: str) -> None:
        durable.make_directory(self.root / folder, DIRECTORY_MODE)

    def make_staging(self, folder: str) -> None:
        (self.root / folder).mkdir(mode=DIRECTORY_MODE)

    def fill(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        durable.write_all_new(self.root / folder, files)
        durable.sync_directory((self.root / folder).parent)

    def filled(self, folder: str, names: Sequence[str]) -> list[bytes | None]:
        return self.read_all([f"{folder}/{name}" for name in names])

    def publish(self, copies: Sequence[Copy]) -> None:
        folders = dict.fromkeys((self.root / copy.final).parent for copy in copies)
        for folder in folders:
            durable.make_directory(folder, DIRECTORY_MODE)
        for copy in copies:
            os.link(self.root / copy.staged, self.root / copy.final)
        for folder in folders:
            durable.sync_directory(folder)

    def remove_folders(self, parent: str, keep: str | None = None) -> None:
        above = self.root / parent
        for folder in sorted(above.iterdir()) if above.is_dir() else []:
            if keep is not None and folder == self.root / keep:
                continue
            # It gets another name first: from then on a straggler finds no folder to write into, and removing meets no new file.
            if not folder.name.startswith(_REMOVED):
                folder = folder.rename(above / f"{_REMOVED}{uuid.uuid4().hex}")
            shutil.rmtree(
                folder, ignore_errors=True
            )  # a network file system keeps files that are open: swept next time

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=True)  # what stays is swept with the attempt


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
