"""Tar shards, as WebDataset has them: each picture in a shard is a row, several in one sample are several rows.

Listing reads headers only and keeps where each picture lies; a read task reads its pictures from there, one range each. Nothing
is ever unpacked to a disk, and a name in a shard is never a path.
"""

import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import IO, Final, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.ahead import ahead
from jobs.errors import SourceError
from jobs.names import as_text, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.file_columns import PictureFile
from jobs.sources.picture_files import Contents, Listed, PictureFiles
from jobs.sources.source import PICTURE_NAMES, PICTURE_SUFFIXES, raise_fault_of_the_machine

MAX_HEADER_BYTES: Final = 1024 * 1024  # of one read while listing: a header, or a long name's or PAX block's content
MAX_MEMBER_HEADERS: Final = (
    4 * 1024 * 1024
)  # bytes, of all that comes before a member's content: names, PAX blocks, sparse maps
MAX_MEMBER_BYTES: Final = 1 << 62  # as a header says; files have fewer
MAX_TRAILING_BYTES: Final = 1024 * 1024  # behind a shard's end mark; tar fills up to its record size
READ_AHEAD: Final = 64 * 1024  # small members are passed over without a further request
_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")
WHOLE: Final = "*"  # stands for what could not be listed of a shard, as of a folder


class DamagedShardError(Exception):
    """A shard's headers can not be followed from here on."""


class Shards:
    """Some tar shards, unread. by_name: by their paths below their folder."""

    def __init__(self, filesystem: pafs.FileSystem, root: str, paths: Collection[str]) -> None:
        """root: their folder, or the one shard. Raises SourceError: one's name is that of a folder with others in it."""
        self.filesystem = filesystem
        top = root.rsplit("/", 1)[0] if root in paths else root
        self.prefix = top.rstrip("/") + "/"
        self.by_name = {
            as_text(path.removeprefix(self.prefix)): info
            for path, info in zip(paths, self.each(filesystem.get_file_info, paths), strict=True)
        }
        for name in self.by_name:
            if (above := self.of(name)) != name:
                raise SourceError(f"{self.prefix}{name} lies below a shard of the name {above}; rename one of the two")

    def of(self, image_id: str) -> str | None:
        """The shard that a row is of, None where it is not there: no shard's name is a folder of another's."""
        parts = image_id.split("/")
        names = ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
        return next((name for name in names if name in self.by_name), None)

    def each(self, act: Callable[[_Thing], _Result], things: Iterable[_Thing]) -> Iterator[_Result]:
        """Results in order, several at a time where each waits on a server."""
        return map(act, things) if isinstance(self.filesystem, pafs.LocalFileSystem) else ahead(act, things)


class TarShards(PictureFiles):
    """The pictures in tar shards, which lie in `filesystem`. The id of one is its shard's path below the folder, and its name in
    the shard."""

    kind = "tar"

    def __init__(self, filesystem: pafs.FileSystem, root: str, paths: Collection[str], config: InputConfig) -> None:
        """Raises SourceError: they hold no picture, or one's name is that of a folder with others in it."""
        self._shards = Shards(filesystem, root, paths)
        self._others = 0
        super().__init__(filesystem, self._members(), config, self._shards.prefix)
        self.ignored = self._others
        if not self.total:
            raise SourceError(f"{config.photos}: its tar shards hold no picture by name ({PICTURE_NAMES})")

    def _members(self) -> Iterator[PictureFile]:
        for pictures, others in self._shards.each(self._members_of, self._shards.by_name):
            self._others += others
            yield from pictures

    def _members_of(self, name: str) -> tuple[list[PictureFile], int]:
        """The pictures of one shard, and how many members are none."""
        info, prefix, pictures, others = self._shards.by_name[name], self._shards.prefix, list[PictureFile](), 0
        facts, seen, last = (info.size or 0, info.mtime_ns or 0), set[str](), "its start"
        try:
            for member in list_members(self._shards.filesystem, info.path):
                last = as_text(member.name)
                below = plain_name(member.name)
                if member.isdir() or suffix_of(below) not in PICTURE_SUFFIXES:
                    others += not member.isdir()
                    continue
                image_id = f"{name}/{below}"
                problem = "duplicate_id: an earlier member has the same name" if below in seen else ""
                seen.add(below)
                problem = problem or _member_problem(member)
                path, offset = prefix + image_id, member.offset_data
                pictures.append(PictureFile(path, image_id, member.size, facts[1], problem, offset=offset))
        except (OSError, pa.ArrowException, tarfile.TarError, DamagedShardError, ValueError, RecursionError) as error:
            raise_fault_of_the_machine(error, info.path)
            said = str(error) if isinstance(error, tarfile.TarError | DamagedShardError) else type(error).__name__
            reason = f"unreadable: shard, what comes after {last[-200:]!r} ({as_text(said)[:200]})"
            pictures.append(PictureFile(f"{prefix}{name}/{WHOLE}", f"{name}/{WHOLE}", *facts, reason, unread=True))
        return pictures, others

    def _contents(self, files: list[Listed]) -> Contents:
        of_row = {one.row: str(self._shards.of(one.file.image_id)) for one in files}
        shards = {name: self._shards.by_name[name] for name in set(of_row.values())}
        known = {name: (info.path, info.size, info.mtime_ns) for name, info in shards.items()}
        return partial(_read_members, self._shards.filesystem, known, of_row, self._max_file_bytes)


def list_members(filesystem: pafs.FileSystem, path: str) -> Iterator[tarfile.TarInfo]:
    """The members of one shard, in its order, by their headers alone.

    Raises:
        DamagedShardError, tarfile.TarError, OSError: all before was right; from here on it can not be followed.
    """
    with filesystem.open_input_file(path) as opened:
        size = opened.size()
        file = _Headers(opened, size)
        with tarfile.open(
            fileobj=cast("IO[bytes]", file), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            before = -1
            while (member := file.next_of(tar)) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it; it keeps every member
                if not 0 <= member.size <= MAX_MEMBER_BYTES or member.offset_data <= before or tar.offset <= before:
                    raise DamagedShardError(f"the size of {as_text(member.name)[:200]!r} can not be right")
                if member.isreg() and not member.issparse() and member.offset_data + member.size > tar.offset:
                    raise DamagedShardError(f"{as_text(member.name)[:200]!r} would reach into the next member")
                before = member.offset_data
                yield member
            # tarfile takes a header that it can not read for the end
            mark = opened.read_at(tarfile.BLOCKSIZE, min(tar.offset, size))
            if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
                raise DamagedShardError(f"no header and no end mark at byte {tar.offset} of {size}")
            if size - tar.offset > MAX_TRAILING_BYTES:
                raise DamagedShardError(f"{size - tar.offset} bytes follow its end mark; are these two shards in one?")


class _Headers:
    """A file for tarfile that reads ahead, and refuses to read more at once than a header may have."""

    def __init__(self, file: pa.NativeFile, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._start, self._ahead = 0, b""
        self._left = MAX_MEMBER_HEADERS  # opening reads the first

    def next_of(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        """The next member, for whose headers no more than MAX_MEMBER_HEADERS are read."""
        self._left = MAX_MEMBER_HEADERS
        return tar.next()

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < 0:
            raise DamagedShardError(f"a size leads to byte {position}")
        self._at = position
        return position

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MAX_HEADER_BYTES:
            raise DamagedShardError(f"a header of {count} bytes, more than the {MAX_HEADER_BYTES} allowed")
        self._left -= count
        if self._left < 0:
            raise DamagedShardError(f"a member's headers have more than the {MAX_MEMBER_HEADERS} bytes allowed")
        begin = self._at - self._start
        if not 0 <= begin <= begin + count <= len(self._ahead):
            wanted = max(count, READ_AHEAD)
            self._start = self._at
            self._ahead = self._file.read_at(wanted, self._at) if self._at < self._size else b""
            begin = 0
        found = self._ahead[begin : begin + count]
        self._at += len(found)
        return found


def _read_members(
    filesystem: pafs.FileSystem,
    shards: Mapping[str, tuple[str, int | None, int | None]],
    of_row: Mapping[int, str],
    max_bytes: int,
    files: list[Listed],
) -> Iterator[tuple[bytes | None, str]]:
    """Bytes and "", or None and the reason, of each of the files. shards: path, size and time of each when it was listed."""
    name, opened, problem = "", None, ""
    try:
        for one in files:
            if of_row[one.row] != name:
                if opened is not None:
                    opened.close()
                name, opened, problem = of_row[one.row], *_open(filesystem, *shards[of_row[one.row]])
            if one.failure or problem or opened is None:
                yield None, one.failure or problem
                continue
            size, offset = one.file.size, one.file.offset
            if size > max_bytes:
                yield None, f"too_large: the member has {size} bytes, more than the {max_bytes} allowed"
                continue
            try:
                encoded = opened.read_at(size, offset)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise_fault_of_the_machine(error, shards[name][0])
                yield None, f"unreadable: {type(error).__name__}"
                continue
            if len(encoded) < size:
                yield None, f"unreadable: its shard ends within it, {len(encoded)} of {size} bytes are there"
            else:
                yield encoded, ""
    finally:
        if opened is not None:
            opened.close()


def _open(
    filesystem: pafs.FileSystem, path: str, size: int | None, modified_ns: int | None
) -> tuple[pa.NativeFile | None, str]:
    """A shard as it was listed, or the reason it is that no more: other bytes would lie at the places of its pictures."""
    try:
        info = filesystem.get_file_info(path)
        if (info.type, info.size, info.mtime_ns) != (pafs.FileType.File, size, modified_ns):
            return None, "unreadable: its shard has changed since it was listed"
        return filesystem.open_input_file(path), ""
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, path)
        return None, f"unreadable: shard, {type(error).__name__}"


def plain_name(name: str) -> str:
    """A member's name without the ./ that `tar c .` puts before each."""
    while name.startswith("./"):
        name = name[2:]
    return name


def _member_problem(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "unreadable: a sparse member of its shard; write the shard without --sparse"
    return "" if member.isreg() else "unreadable: no file in its shard but a link or a device"
