"""Where the pictures come from.

The driver lists the input once: this fixes the number of rows, their ids, and the digest that a resumed run is
recognised by. Reading happens in Ray tasks, file by file; whatever can not be read becomes a row that says so, and
never an error of the job.
"""

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs

from jobs.blocks import ENCODED, FAILURE, ID, ROW
from jobs.errors import MachineError, SourceError
from jobs.faults import FaultKind, describe, kind_of_reading
from jobs.names import CHANGED_SUFFIXES, KEPT_SUFFIXES, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput
from jobs.sources.given_names import UnlistedNames
from jobs.sources.ids import Ids, OfFiles, RowNumbers
from jobs.storage.connections import arrow_filesystem
from jobs.storage.place import S3, Place, holds, is_uri, split_uri
from jobs.storage.s3 import CredentialsError, S3Store
from keyanon_core.clips.form import CONTAINERS
from keystore.intake.records import MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    from jobs.sources.picture_files import PictureFiles
    from jobs.sources.tar_shards import Shards

PICTURE_SUFFIXES = KEPT_SUFFIXES | CHANGED_SUFFIXES
PICTURE_NAMES = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, GIF"
CLIP_SUFFIXES = frozenset(CONTAINERS)
CLIP_NAMES = "MP4, MOV, MKV, WebM"
PARQUET_SUFFIX = ".parquet"
TAR_SUFFIX = ".tar"
PACKED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")

NO_FILE = -1  # the version of a row whose picture could not be read by its name: it may come later

BlockReader = Callable[[], Iterable[pa.Table]]
UnitSize = Callable[[int], int]  # rows of the next unit when so many are left; at least 1


@dataclass(frozen=True)
class ReadUnit:
    """What one read task reads: a picklable reader of blocks, and the number of rows and bytes it is expected to
    yield."""

    read: BlockReader
    rows: int
    size_bytes: int


class Source(ABC):
    """A listed input, its rows in the listing's order.

    ids: what each row is called; a row keeps its id while its file or its own column names it so. versions: of each row's file,
    see `version_of`. given_digest: sha256 over what the user says of faces, "" where nothing is said.
    unlisted: the pictures that it is said of and that were not listed. They may be gone: who knows the rows that stand checks.
    size_bytes: of all encoded pictures, about. digest: sha256 over names, sizes and modification times, for resuming.
    ignored: files that are no input of keyanon.
    schema: the user's own columns by their output names (Parquet), image_column among them; None for files. renamed:
    columns whose name keyanon's own have, source name to output name. frames_of_a_row: about, where rows are not pictures.
    """

    kind: str
    total: int
    size_bytes: int
    digest: str
    ids: Ids
    versions: npt.NDArray[np.int32] | OfFiles
    given_digest: str = ""
    unlisted: Sequence[UnlistedNames] = ()
    ignored: int = 0
    schema: pa.Schema | None = None
    image_column: str | None = None
    renamed: Mapping[str, str] = MappingProxyType({})
    frames_of_a_row: int = 1

    @abstractmethod
    def units(self, finished: Collection[int], size: UnitSize, numbers: RowNumbers | None = None) -> Iterator[ReadUnit]:
        """Read tasks for all rows whose positions are not `finished`; one of Parquet reads a row group, in blocks of the first
        size.

        numbers: what rows are called in blocks, by position; None for their positions.
        """


def open_source(config: InputConfig, given: GivenInput | None = None, *, clips: bool = True) -> Source:
    """List the input named by `config.photos`. given: where its user says what of the faces in it. clips: False for what works
    on pictures alone.

    Raises:
        SourceError: it does not exist, is empty, mixes pictures with Parquet, overlaps with the output or the keystore,
        a Parquet
            file lacks a column or has it in a type that holds no pictures, or what is given can not be read or belongs to no
            picture; the message names file and column or line.
    """
    given = given or GivenInput()
    check_apart(config)
    filesystem, root = resolve(config.photos, config.endpoint_url)
    try:
        return _listed(filesystem, root, config, given, clips=clips)
    except (OSError, pa.ArrowException) as error:
        if is_local(config.photos):
            raise
        raise_fault_of_the_machine(error, config.photos)
        raise SourceError(f"{config.photos} can not be read ({error}); check its name and the credentials") from error


def open_shards(config: InputConfig) -> "Shards | None":
    """The tar shards that `config.photos` names, unread; None where there are none. Raises SourceError, MachineError."""
    from jobs.sources.picture_files import PictureFiles
    from jobs.sources.tar_shards import Shards

    filesystem, root = resolve(config.photos, config.endpoint_url)
    try:
        kind = filesystem.get_file_info(root).type
        if kind == pafs.FileType.NotFound:
            raise SourceError(f"{config.photos} does not exist; give the tar shards of the run")
        if kind == pafs.FileType.File:
            return Shards(filesystem, root, [root]) if suffix_of(root) == TAR_SUFFIX else None
        tars = PictureFiles.listed(filesystem, root, config).tars
        return Shards(filesystem, root, tars) if tars else None
    except (OSError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, config.photos)
        raise SourceError(f"{config.photos} can not be read ({error}); check its name and the credentials") from error


def _listed(filesystem: pafs.FileSystem, root: str, config: InputConfig, given: GivenInput, *, clips: bool) -> Source:
    from jobs.sources.clip_files import ClipFiles
    from jobs.sources.clips import Clips
    from jobs.sources.picture_files import PictureFiles
    from jobs.sources.tar_shards import TarShards

    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise SourceError(
            f"{config.photos} does not exist; give a folder of pictures, a picture, Parquet or tar shards"
        )
    if info.type == pafs.FileType.File:
        if not config.takes(root.rsplit("/", 1)[-1]):
            raise SourceError(f"include and exclude leave {config.photos} out, and there is nothing else")
        if root.lower().endswith(PARQUET_SUFFIX):
            return _parquet(filesystem, root, [root], config, given, clips=clips)
        if suffix_of(root) == TAR_SUFFIX:
            return _attached(TarShards(filesystem, root, [root], config), given)
        if suffix_of(root) in CLIP_SUFFIXES:
            _check_taken(config, clips=clips)
            return _attached(Clips(ClipFiles(filesystem, root, [root]), config), given)
        if root.lower().endswith(PACKED_SUFFIXES):
            raise SourceError(
                f"{config.photos} is a compressed tar, in which no picture can be read alone; unpack it to a plain one first, "
                "as by gunzip: pictures hardly get smaller by it"
            )
        if suffix_of(root) not in PICTURE_SUFFIXES:
            raise SourceError(
                f"{config.photos} is by its name neither a picture ({PICTURE_NAMES}) nor a clip ({CLIP_NAMES}), Parquet or tar"
            )
        return PictureFiles.single(filesystem, root, config, given)
    files = PictureFiles.listed(filesystem, root, config, given)
    kinds = {"pictures": files.total, "Parquet": files.parquet, "tar shards": files.tars, "clips": files.clips_found}
    if len(several := [kind for kind, some in kinds.items() if some]) > 1:
        first = (files.parquet or files.tars or files.clips_found)[0]
        raise SourceError(
            f"{config.photos} holds both {' and '.join(several)} ({first}); run them apart, each with its own output, by "
            "--include or --exclude"
        )
    if files.parquet:
        return _parquet(filesystem, root, files.parquet, config, given, clips=clips)
    if files.tars:
        return _attached(TarShards(filesystem, root, files.tars, config), given)
    if files.clips_found:
        _check_taken(config, clips=clips)
        found = Clips(ClipFiles(filesystem, root, files.clips_found), config)
        found.ignored, found.left_out = files.ignored, files.left_out
        return _attached(found, given)
    if not files.total and (config.include or config.exclude):
        raise SourceError(
            f"{config.photos} holds no picture ({PICTURE_NAMES}), clip, Parquet file or tar shard that include and exclude let "
            "in; globs are of paths below it, such as '2024/*.jpg'"
        )
    if not files.total:
        raise SourceError(
            f"{config.photos} holds no picture ({PICTURE_NAMES}), no clip ({CLIP_NAMES}), no Parquet file and no plain tar shard "
            f"({files.ignored} other files); is this the right folder? Compressed tars must be unpacked to plain ones"
        )
    return _attached(files, given)


def _parquet(
    filesystem: pafs.FileSystem, root: str, paths: list[str], config: InputConfig, given: GivenInput, *, clips: bool
) -> Source:
    from jobs.sources.clip_cells import hold_clips
    from jobs.sources.clips import Clips
    from jobs.sources.parquet import ParquetSource
    from jobs.sources.parquet_clips import ClipCells

    if not hold_clips(filesystem, paths, config.image_column):
        return ParquetSource(filesystem, root, paths, config, given)
    _check_taken(config, clips=clips)
    return _attached(Clips(ClipCells(filesystem, root, paths, config, given), config), given)


def _check_taken(config: InputConfig, *, clips: bool) -> None:
    """Raise SourceError for clips where they are of no use, before they are read."""
    if not clips:
        raise SourceError(
            f"{config.photos} holds clips, and this command works on pictures; of commands that read a source, anonymize and "
            "quarantine retry take clips"
        )


def _attached(files: "PictureFiles", given: GivenInput) -> Source:
    files.attach(given)
    return files


def resolve(photos: str, endpoint_url: str | None = None) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or a URI such as `s3://bucket/folder`. Raises SourceError for an unknown
    scheme."""
    if is_local(photos):
        return pafs.LocalFileSystem(), os.path.abspath(photos)  # noqa: PTH100  keeps symlinks as the user wrote them
    try:
        if photos.startswith(S3):
            bucket, prefix = split_uri(photos)
            return arrow_filesystem(bucket, endpoint_url), f"{bucket}/{prefix}".rstrip("/")
        filesystem, path = pafs.FileSystem.from_uri(photos)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{photos} can not be opened: {error}") from error
    return filesystem, path


def is_local(photos: str) -> bool:
    """True for a plain path; URIs have a scheme and `://`."""
    return not is_uri(photos)


def check_apart(config: InputConfig) -> None:
    """Refuse places to write that overlap with each other or with the photos.

    Raises:
        SourceError: the output lies in the photos (it would become input), the keystore in the output (it would be
        published), or so.
    """
    for (one, first), (other, second) in combinations(config.places.items(), 2):
        if holds(first, second) or holds(second, first):
            raise SourceError(f"{one} {first} and {other} {second} overlap; keys must not lie with the pictures")
    for source in filter(None, (config.photos, config.image_root)):
        photos: Place = Path(source) if is_local(source) else source
        for name, place in config.places.items():
            if holds(photos, place):
                raise SourceError(f"{name} {place} lies inside the photos {source}; give a directory outside of them")
        if holds(config.output, photos):
            raise SourceError(f"photos {source} lie inside the output {config.output}; give another output")


def id_problem(image_id: str) -> str:
    """Why a key record could not carry this id; "" when it can."""
    if not image_id:
        return "missing_id: the id is empty"
    if len(image_id) > MAX_NAME_CHARACTERS:
        return f"bad_id: the id has {len(image_id)} characters, more than {MAX_NAME_CHARACTERS}"
    return ""


def read_picture(filesystem: pafs.FileSystem, path: str, max_bytes: int) -> tuple[bytes | None, str]:
    """A file's bytes and "", or None and the reason it can not be used. Raises MachineError, which says nothing of the file."""
    try:
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.File:
            return None, f"unreadable: it is no file any more but {info.type.name}"
        if info.size is not None and info.size > max_bytes:
            return None, f"too_large: the file has {info.size} bytes, more than the {max_bytes} allowed"
        with filesystem.open_input_stream(path) as stream:
            return stream.read(), ""
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_fault_of_the_machine(error, path)
        # Messages of the file system quote the path, which the row has anyway; only their kind is kept.
        return None, f"unreadable: {type(error).__name__}"


def read_object(endpoint_url: str | None, path: str, max_bytes: int) -> tuple[bytes | None, str]:
    """As `read_picture`, of an object of S3, `bucket/key`, by one request."""
    bucket, _, key = path.partition("/")
    try:
        return S3Store(bucket, "", endpoint_url).read(key, max_bytes), ""
    except OSError as error:
        # What the server says of this object alone; no credentials, or none that it takes, would meet every row.
        if isinstance(error, CredentialsError) or error.errno not in (errno.ENOENT, errno.EACCES, errno.EFBIG):
            raise MachineError(
                f"{path} could not be read: {error.strerror}; then run the same command again"
            ) from error
        if error.errno == errno.EFBIG:
            return None, f"too_large: {error.strerror}"
        return None, f"unreadable: {type(error).__name__}"


def raise_fault_of_the_machine(error: Exception, path: str) -> None:
    """Raise MachineError when it was the disk, the network or the memory that failed, and not the file at `path`."""
    if kind_of_reading(error) is FaultKind.MACHINE:
        raise MachineError(
            f"{path} could not be read: {describe(error)}; see to the disk, the network and the memory, then run the same "
            "command again: it goes on where it stopped"
        ) from error


def segments_of(units: Iterable[ReadUnit], rows: int) -> Iterator[list[ReadUnit]]:
    """Units in lists of about so many rows, made as they are asked for."""
    segment: list[ReadUnit] = []
    count = 0
    for unit in units:
        segment.append(unit)
        count += unit.rows
        if count >= rows:
            yield segment
            segment, count = [], 0
    if segment:
        yield segment


def shares_of(rows: npt.NDArray[np.int64], size: UnitSize) -> Iterator[npt.NDArray[np.int64]]:
    """The rows in their order, as many at a time as `size` says of those that are left."""
    start = 0
    while start < len(rows):
        share = rows[start : start + size(len(rows) - start)]
        start += len(share)
        yield share


def unfinished(total: int, finished: Collection[int]) -> npt.NDArray[np.bool_]:
    """For each position whether it is not finished."""
    # Of a `RowSet` at once: millions of numbers one by one would be as many objects.
    among: Callable[[int], npt.NDArray[np.bool_]] | None = getattr(finished, "among", None)
    if among is not None:
        return ~among(total)
    left = np.ones(total, np.bool_)
    left[np.fromiter(finished, np.int64, len(finished))] = False
    return left


def version_of(name: str, size: int, modified_ns: int) -> int:
    """What tells a file from another one that takes its name: 16 bits of a digest of its name, size and modification time.

    Few on purpose. A row publishes them, and a size depends on the face: from 16 bits nobody learns it who does not know the
    time.
    """
    told = f"{name}\0{size}\0{modified_ns}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=2).digest(), "big")


def failed(row: int, image_id: str, reason: str) -> dict[str, Any]:
    """A source row that can not be used."""
    return {ROW: row, ID: image_id, FAILURE: reason, ENCODED: None}


def listing_digest(lines: Iterable[str]) -> str:
    """sha256 over a listing, one length-prefixed entry after the other."""
    digest = hashlib.sha256()
    for line in lines:
        encoded = line.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
