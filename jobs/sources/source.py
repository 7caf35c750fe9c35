"""Where the pictures come from.

The driver lists the input once: this fixes the number of rows, their ids, and the digest that a resumed run is
recognised by. Reading happens in Ray tasks, file by file; whatever can not be read becomes a row that says so, and
never an error of the job.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from jobs.blocks import ENCODED, FAILURE, ID, ROW
from jobs.errors import MachineError, SourceError
from jobs.faults import FaultKind, describe, kind_of_reading
from jobs.names import CHANGED_SUFFIXES, KEPT_SUFFIXES, suffix_of
from jobs.sources.config import InputConfig
from jobs.sources.given_faces import GivenInput
from jobs.storage.place import S3, Place, holds, is_uri, split_uri
from jobs.storage.s3 import arrow_filesystem
from keystore.intake.records import MAX_NAME_CHARACTERS

PICTURE_SUFFIXES = KEPT_SUFFIXES | CHANGED_SUFFIXES
PICTURE_NAMES = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, GIF"
PARQUET_SUFFIX = ".parquet"

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
    """A listed input. Rows are numbered 0..total - 1 in the listing's order.

    size_bytes: of all encoded pictures, about. digest: sha256 over names, sizes and modification times, for resuming.
    ignored: files that are no input of keyanon.
    schema: the user's own columns by their output names (Parquet), image_column among them; None for files. renamed:
    columns whose name keyanon's own have, source name to output name.
    """

    kind: str
    total: int
    size_bytes: int
    digest: str
    ignored: int = 0
    schema: pa.Schema | None = None
    image_column: str | None = None
    renamed: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def units(self, finished: Collection[int], size: UnitSize) -> Iterator[ReadUnit]:
        """Read tasks for all rows that are not `finished`; one of Parquet reads a row group, in blocks of the first size."""


class ListedDatasource(Datasource):  # type: ignore[misc]  # Ray ships no types
    """Ray's view of a `Source`: one read task for each unit, whatever parallelism Ray proposes."""

    def __init__(self, units: Sequence[ReadUnit], name: str) -> None:
        super().__init__()
        self._units = list(units)
        self._name = name

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(unit.size_bytes for unit in self._units)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                unit.read,
                BlockMetadata(num_rows=unit.rows, size_bytes=unit.size_bytes, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for unit in self._units
        ]


def open_source(config: InputConfig, given: GivenInput | None = None) -> Source:
    """List the input named by `config.photos`. given: where its user says what of the faces in it.

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
        return _listed(filesystem, root, config, given)
    except (OSError, pa.ArrowException) as error:
        if is_local(config.photos):
            raise
        raise_fault_of_the_machine(error, config.photos)
        raise SourceError(f"{config.photos} can not be read ({error}); check its name and the credentials") from error


def _listed(filesystem: pafs.FileSystem, root: str, config: InputConfig, given: GivenInput) -> Source:
    from jobs.sources.parquet import ParquetSource
    from jobs.sources.picture_files import PictureFiles

    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"{config.photos} does not exist; give a folder of pictures, a picture, or Parquet")
    if info.type == pafs.FileType.File:
        if root.lower().endswith(PARQUET_SUFFIX):
            return ParquetSource(filesystem, root, [root], config, given)
        if suffix_of(root) not in PICTURE_SUFFIXES:
            raise SourceError(f"{config.photos} is neither a picture ({PICTURE_NAMES}) nor Parquet by its name")
        return PictureFiles.single(filesystem, root, config, given)
    files = PictureFiles.listed(filesystem, root, config)
    if files.parquet and files.total:
        raise SourceError(
            f"{config.photos} holds both pictures and Parquet ({files.parquet[0]}); "
            "run the two apart, each with its own output"
        )
    if files.parquet:
        return ParquetSource(filesystem, root, files.parquet, config, given)
    if not files.total:
        raise SourceError(
            f"{config.photos} holds no picture ({PICTURE_NAMES}) and no Parquet file ({files.ignored} other files); "
            "is this the right folder?"
        )
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
    photos: Place = Path(config.photos) if is_local(config.photos) else config.photos
    for name, place in config.places.items():
        if holds(photos, place):
            raise SourceError(
                f"{name} {place} lies inside the photos {config.photos}; give a directory outside of them"
            )
    if holds(config.output, photos):
        raise SourceError(f"photos {config.photos} lie inside the output {config.output}; give another output")


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


def raise_fault_of_the_machine(error: Exception, path: str) -> None:
    """Raise MachineError when it was the disk, the network or the memory that failed, and not the file at `path`."""
    if kind_of_reading(error) is FaultKind.MACHINE:
        raise MachineError(
            f"{path} could not be read: {describe(error)}; see to the disk, the network and the memory, then run the same "
            "command again: it goes on where it stopped"
        ) from error


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
