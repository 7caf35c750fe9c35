"""Folders of pictures, and single pictures."""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.blocks import ENCODED, FAILURE, GIVEN, ID, ROW, source_table
from jobs.names import NO_TEXT, as_text, clashing_names, is_text, name_problem, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenFiles, GivenInput
from jobs.sources.source import (
    PARQUET_SUFFIX,
    PICTURE_SUFFIXES,
    ReadUnit,
    Source,
    UnitSize,
    failed,
    id_problem,
    listing_digest,
    read_picture,
)


@dataclass(frozen=True)
class PictureFile:
    """One listed file. path: as the file system wants it. failure: why it is not even opened, or ""."""

    path: str
    image_id: str
    size: int
    modified_ns: int
    failure: str = ""


class PictureFiles(Source):
    """The pictures of a folder and its subfolders, in the order of their names. The id of a picture is its path below
    the folder."""

    kind = "files"

    def __init__(self, filesystem: pafs.FileSystem, files: list[PictureFile], config: InputConfig) -> None:
        self._filesystem = filesystem
        self._max_file_bytes = config.max_file_bytes
        self._files = sorted(map(_with_usable_id, files), key=lambda file: _order(file.path))
        self.total = len(self._files)
        self.size_bytes = sum(map(self._read_bytes, self._files))
        self.digest = listing_digest(f"{f.image_id}\0{f.size}\0{f.modified_ns}" for f in self._files)
        self._given = GivenFiles()
        self.parquet: list[str] = []
        self._failures = self._find_failures()

    @classmethod
    def single(cls, filesystem: pafs.FileSystem, path: str, config: InputConfig, given: GivenInput) -> Self:
        """One picture; its id is its file name. Raises SourceError as `attach` does."""
        info = filesystem.get_file_info(path)
        image_id = as_text(path.rsplit("/", 1)[-1])
        source = cls(filesystem, [PictureFile(path, image_id, info.size or 0, info.mtime_ns or 0)], config)
        source.attach(given)
        return source

    @classmethod
    def listed(cls, filesystem: pafs.FileSystem, root: str, config: InputConfig) -> Self:
        """A folder. Parquet files found on the way are in `parquet`, other files are counted in `ignored`."""
        local = isinstance(filesystem, pafs.LocalFileSystem)
        found = list(_walk(Path(root)) if local else _select(filesystem, root))
        source = cls(filesystem, [file for file in found if suffix_of(file.path) in PICTURE_SUFFIXES], config)
        source.parquet = sorted(file.path for file in found if suffix_of(file.path) == PARQUET_SUFFIX)
        source.ignored = len(found) - source.total - len(source.parquet)
        return source

    def attach(self, given: GivenInput) -> None:
        """Read what the user says of these pictures. Raises SourceError when it can not be read, or names another picture."""
        self._given = GivenFiles.read(given)
        self._given.check_names({file.image_id for file in self._files})
        if digests := self._given.digests():
            self.digest = listing_digest([self.digest, *digests])

    def units(self, finished: Collection[int], size: UnitSize) -> Iterator[ReadUnit]:
        rows = [row for row in range(self.total) if row not in finished]
        start = 0
        while start < len(rows):
            part = rows[start : start + size(len(rows) - start)]
            start += len(part)
            files = [(row, self._files[row], self._failures.get(row, "")) for row in part]
            given = {row: said for row, file, _ in files if (said := self._given.of(file.image_id)) is not None}
            size_bytes = sum(self._read_bytes(file) for _, file, _ in files)
            yield ReadUnit(partial(_read, self._filesystem, files, given, self._max_file_bytes), len(part), size_bytes)

    def _read_bytes(self, file: PictureFile) -> int:
        return min(file.size, self._max_file_bytes)

    def _find_failures(self) -> dict[int, str]:
        """Rows that are quarantined without being opened."""
        failures: dict[int, str] = {}
        seen: set[str] = set()
        clashes = clashing_names([file.image_id for file in self._files])
        for row, file in enumerate(self._files):
            reason = file.failure or id_problem(file.image_id) or _name_problem(file.image_id)
            if not reason and file.image_id in seen:
                reason = "duplicate_id: an earlier file has the same id"
            if not reason and row in clashes:
                reason = "output_clash: another picture or its folder has the name this picture's output would get"
            seen.add(file.image_id)
            if reason:
                failures[row] = reason
        return failures


def _read(
    filesystem: pafs.FileSystem, files: list[tuple[int, PictureFile, str]], given: dict[int, str], max_bytes: int
) -> Iterator[pa.Table]:
    """The read task: one block of the listed files. given: what the user says of their faces, by row."""
    rows = []
    for row, file, failure in files:
        if failure:
            rows.append(failed(row, file.image_id, failure))
            continue
        encoded, reason = read_picture(filesystem, file.path, max_bytes)
        rows.append({ROW: row, ID: file.image_id, ENCODED: encoded, FAILURE: reason, GIVEN: given.get(row)})
    yield source_table(rows)


def _walk(root: Path) -> Iterator[PictureFile]:
    """Local files below `root`, symlinks followed, except into a folder that is already being walked through (a
    loop)."""

    def enter(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[PictureFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield PictureFile(
                f"{folder}/unreadable.jpg", as_text(f"{prefix}*"), 0, 0, f"unreadable: folder, {type(error).__name__}"
            )
            return
        for entry in entries:
            name = as_text(prefix + entry.name)
            try:
                status = entry.stat()
            except OSError as error:
                yield PictureFile(entry.path, name, 0, 0, f"unreadable: {type(error).__name__}")
                continue
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if identity not in above:
                    yield from enter(entry.path, f"{prefix}{entry.name}/", above | {identity})
            elif stat.S_ISREG(status.st_mode):
                yield PictureFile(entry.path, name, status.st_size, status.st_mtime_ns)
            else:  # opening a named pipe would wait for ever
                yield PictureFile(entry.path, name, 0, 0, "unreadable: it is no regular file")

    top = root.stat()
    yield from enter(str(root), "", frozenset({(top.st_dev, top.st_ino)}))


def _select(filesystem: pafs.FileSystem, root: str) -> Iterator[PictureFile]:
    """Files of a remote file system below `root`."""
    prefix = root.rstrip("/") + "/"
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        if info.type == pafs.FileType.File:
            yield PictureFile(info.path, info.path.removeprefix(prefix), info.size or 0, info.mtime_ns or 0)


def _with_usable_id(file: PictureFile) -> PictureFile:
    """The file under an id that blocks can hold; one whose id had to be changed for that is quarantined."""
    if is_text(file.image_id):
        return file
    return replace(file, image_id=as_text(file.image_id), failure=file.failure or f"bad_id: the id is {NO_TEXT}")


def _name_problem(image_id: str) -> str:
    problem = name_problem(image_id)
    return f"bad_id: no output file can be named by this id, {problem}" if problem else ""


def _order(path: str) -> bytes:
    """Paths in the order of their bytes, also those that are no text."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")
