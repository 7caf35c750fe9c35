"""Folders of pictures, and single pictures."""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from jobs.blocks import ENCODED, FAILURE, GIVEN, ID, ROW, SUBJECT, VERSION, source_table
from jobs.names import NO_TEXT, as_text, clashing_names, is_text, name_problem, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.file_columns import FileColumns, PictureFile, positions_of
from jobs.sources.given_faces import GivenFiles, GivenInput
from jobs.sources.given_names import UnlistedNames
from jobs.sources.given_subjects import SubjectFile, read_subjects
from jobs.sources.ids import ListedIds, RowNumbers
from jobs.sources.source import (
    CLIP_SUFFIXES,
    PARQUET_SUFFIX,
    PICTURE_SUFFIXES,
    TAR_SUFFIX,
    ReadUnit,
    Source,
    UnitSize,
    failed,
    id_problem,
    listing_digest,
    read_object,
    read_picture,
    shares_of,
    unfinished,
    version_of,
)
from keystore.intake.records import MAX_NAME_CHARACTERS

_NO_NAME: Final = r"(^|/)\.{0,2}(/|$)|\x00"


class Listed(NamedTuple):
    """One file that a read task reads. row: what it is called in blocks. failure: why it is not even opened, or ""."""

    row: int
    file: PictureFile
    version: int
    failure: str


Contents = Callable[[list[Listed]], Iterator[tuple[bytes | None, str]]]
"""Gives for each file its bytes and "", or None and the reason it can not be used; raises MachineError."""

SaidOfFaces = Callable[[], Mapping[int, str]]
"""Gives by row what is said of its faces, as it travels; raises MachineError."""


class PictureFiles(Source):
    """The pictures of a folder and its subfolders, in the order of their names. The id of a picture is its path below
    the folder."""

    kind = "files"

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        files: Iterable[PictureFile],
        config: InputConfig,
        prefix: str | None = None,
    ) -> None:
        # pyarrow asks twice for an object's size before it reads it.
        is_s3 = isinstance(filesystem, pafs.S3FileSystem)
        self._read_one = partial(read_object, config.endpoint_url) if is_s3 else partial(read_picture, filesystem)
        self._max_file_bytes = config.max_file_bytes
        self._files = FileColumns.of(map(_with_usable_id, files), prefix)
        self.ids, self.total = ListedIds([self._files.ids]), len(self._files)
        self.size_bytes = int(np.minimum(self._files.sizes, self._max_file_bytes).sum())
        self.digest = listing_digest(f"{name}\0{size}\0{time}" for name, size, time in self._files.facts())
        self.versions = np.fromiter((version_of(*facts) for facts in self._files.facts()), np.int32, self.total)
        self._given = GivenFiles()
        self._subjects: SubjectFile | None = None
        self.parquet: list[str] = []
        self.tars: list[str] = []
        self.clips_found: list[str] = []
        self._failures = self._find_failures()
        self.left_out = frozenset[str]()

    @classmethod
    def single(cls, filesystem: pafs.FileSystem, path: str, config: InputConfig, given: GivenInput) -> Self:
        """One picture; its id is its file name. Raises SourceError as `attach` does."""
        info = filesystem.get_file_info(path)
        image_id = as_text(path.rsplit("/", 1)[-1])
        source = cls(filesystem, [PictureFile(path, image_id, info.size or 0, info.mtime_ns or 0)], config)
        source.attach(given)
        return source

    @classmethod
    def listed(
        cls, filesystem: pafs.FileSystem, root: str, config: InputConfig, given: GivenInput | None = None
    ) -> Self:
        """A folder. Parquet files found on the way are in `parquet`, tar shards in `tars`, clips in `clips_found`,
        other files are counted in `ignored`; what `include` and
        `exclude` leave out is in neither. given: what `attach` will read."""
        local = isinstance(filesystem, pafs.LocalFileSystem)
        found = _Found(config, remember=given is not None and (given.boxes or given.keep or given.subjects) is not None)
        pictures = found.pictures(_walk(Path(root)) if local else _select(filesystem, root))
        source = cls(filesystem, pictures, config, root.rstrip("/") + "/")
        source.parquet, source.tars, source.ignored = sorted(found.parquet), sorted(found.tars), found.ignored
        source.clips_found = sorted(found.clips)
        source.left_out = frozenset(found.left_out)
        return source

    def attach(self, given: GivenInput) -> None:
        """Read what the user says of these pictures. Raises SourceError when it can not be read, or names another picture that
        is not to be looked for elsewhere."""
        self._given = GivenFiles.read(given)
        self._subjects = None if given.subjects is None else read_subjects(given.subjects)
        digests, said = self._given.digests(), self._given.names()
        if self._subjects is not None:
            said.append((self._subjects.path, self._subjects.by_id))
            digests.append(f"subjects\0{self._subjects.digest}")
        if digests:
            known = self.left_out.union(self._files.ids.to_pylist())
            self.unlisted = [UnlistedNames.of(path, names, known) for path, names in said]
            if not given.of_gone:
                for one in self.unlisted:
                    one.check()
            self.given_digest = listing_digest(digests)
            self.digest = listing_digest([self.digest, *digests])

    def units(self, finished: Collection[int], size: UnitSize, numbers: RowNumbers | None = None) -> Iterator[ReadUnit]:
        for part in shares_of(np.flatnonzero(unfinished(self.total, finished)), size):
            rows = (part if numbers is None else numbers[part]).tolist()
            files = [
                Listed(row, self._files[at], int(self.versions[at]), self._failures.get(at, ""))
                for row, at in zip(rows, part.tolist(), strict=True)
            ]
            whose = {} if self._subjects is None else self._subjects.by_id
            subjects = {one.row: whose[one.file.image_id] for one in files if one.file.image_id in whose}
            size_bytes = sum(min(one.file.size, self._max_file_bytes) for one in files)
            yield ReadUnit(
                partial(_read, self._contents(files), files, self._said_of(files), subjects), len(part), size_bytes
            )

    def _said_of(self, files: list[Listed]) -> SaidOfFaces:
        """What says in a read task what is said of the faces of these files."""
        said = {one.row: self._given.of(one.file.image_id) for one in files}
        return partial(dict, {row: one for row, one in said.items() if one is not None})

    def _contents(self, files: list[Listed]) -> Contents:
        """What reads these files in a read task."""
        return partial(_read_files, self._read_one, self._max_file_bytes)

    def _find_failures(self) -> dict[int, str]:
        """Rows that are quarantined without being opened."""
        clash = "output_clash: another picture or its folder has the name this picture's output would get"
        ids = self._files.ids
        failures = dict.fromkeys(clashing_names(ids), clash)
        first_of: dict[str, int] = {}  # of odd files' ids; those of all others differ, as their paths do
        for at, file in sorted(self._files.odd.items(), key=itemgetter(0)):
            first_of.setdefault(file.image_id, at)
        for at in positions_of(pc.is_in(ids, value_set=pa.array(sorted(first_of), ids.type))):
            if at > first_of[ids[at].as_py()]:
                failures[at] = "duplicate_id: an earlier file has the same id"
        # A rough look at all, then a close one at what it finds.
        long = pc.greater(pc.utf8_length(ids), MAX_NAME_CHARACTERS)
        for at in positions_of(pc.or_(long, pc.match_substring_regex(ids, _NO_NAME))):
            image_id = ids[at].as_py()
            if reason := id_problem(image_id) or _name_problem(image_id):
                failures[at] = reason
        return failures | {at: file.failure for at, file in self._files.odd.items() if file.failure}


@dataclass
class _Found:
    """Tells pictures from all else that lies in a folder. remember: what is left out, too."""

    config: InputConfig
    remember: bool
    parquet: list[str] = field(default_factory=list)
    tars: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    ignored: int = 0

    def pictures(self, files: Iterable[PictureFile]) -> Iterator[PictureFile]:
        """Those that are pictures by their names; the others are counted as they go by."""
        for file in files:
            suffix = suffix_of(file.path)
            if not self.config.takes(file.image_id, unread=file.unread):
                if self.remember:
                    self.left_out.append(file.image_id)
            elif suffix in PICTURE_SUFFIXES:
                yield file
            elif suffix == PARQUET_SUFFIX:
                self.parquet.append(file.path)
            elif suffix == TAR_SUFFIX:
                self.tars.append(file.path)
            elif suffix in CLIP_SUFFIXES:
                self.clips.append(file.path)
            else:
                self.ignored += 1


def _read(
    contents: Contents, files: list[Listed], said_of_faces: SaidOfFaces, subjects: dict[int, str]
) -> Iterator[pa.Table]:
    """The read task: one block of the listed files. subjects: whose they are, by row."""
    rows, given = [], said_of_faces()
    for (row, file, version, _), (encoded, reason) in zip(files, contents(files), strict=True):
        if encoded is None:
            rows.append({**failed(row, file.image_id, reason), VERSION: version})
            continue
        said = {GIVEN: given.get(row), SUBJECT: subjects.get(row), VERSION: version}
        rows.append({ROW: row, ID: file.image_id, ENCODED: encoded, FAILURE: reason, **said})
    yield source_table(rows)


def _read_files(
    read_one: Callable[[str, int], tuple[bytes | None, str]], max_bytes: int, files: list[Listed]
) -> Iterator[tuple[bytes | None, str]]:
    """What `read_one` says of each; one that has failed is not opened."""
    for one in files:
        yield (None, one.failure) if one.failure else read_one(one.file.path, max_bytes)


def _walk(root: Path) -> Iterator[PictureFile]:
    """Local files below `root`, symlinks followed, except into a folder that is already being walked through (a
    loop)."""

    def enter(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[PictureFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield PictureFile(
                f"{folder}/unreadable.jpg",
                as_text(f"{prefix}*"),
                0,
                0,
                f"unreadable: folder, {type(error).__name__}",
                unread=True,
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
