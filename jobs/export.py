"""The pictures of a run over tar shards, in tar shards again, as they came in: `keyanon export`.

A shard of the export has the name of its source, and the members of it in their order: each picture's place is taken by the
published one. What else a sample has goes along where it can show nobody: text and numbers, by name. A sample of which one
picture was not published is left out whole. The pictures of a segment are parts of many shards, and a tar is visible as soon as
it is there: so shards are not written while a run commits, but afterwards, from what stands.

Shard by shard: of all rows only which row shard has some of which tar shard is held.
"""

import contextlib
import hashlib
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.ahead import ahead
from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError, MachineError, PublishError
from jobs.faults import FaultKind, kind_of_reading
from jobs.names import as_text, is_text, name_problem, suffix_of
from jobs.output.manifest import Manifest, read_complete
from jobs.output.reader import OutputError
from jobs.output.row_shards import Standing
from jobs.sources.source import PICTURE_SUFFIXES, is_local, open_shards, version_of
from jobs.sources.tar_shards import WHOLE, DamagedShardError, Shards, list_members, plain_name
from jobs.storage.json_files import to_json
from jobs.storage.local import PART
from jobs.storage.opening import open_store
from jobs.storage.place import Place, holds
from jobs.storage.store import Store
from keystore.storage import durable

SIBLINGS: Final = frozenset(
    {".txt", ".json", ".jsonl", ".cls", ".cls2", ".id", ".index", ".inx", ".csv", ".tsv", ".label", ".caption", ".xml"}
)
"""Suffixes of what is kept beside a picture: text and numbers. All else may show a face, or hold one's numbers."""
MAX_TEXT_BYTES: Final = 1024 * 1024  # of one such member
MARKER: Final = "_keyanon-export.json"
_LOCK: Final = ".lock"
_TABLES: Final = 4  # of row shards that are held: one has rows of several tar shards that follow each other
_COLUMNS: Final = ("row", "image_id", "output", "output_sha256", "source_version")


@dataclass
class ExportReport:
    """What an export wrote. there: shards that an earlier one had finished. left_out: members beside pictures, by suffix.
    damaged: shards whose end could not be read."""

    shards: int = 0
    there: int = 0
    pictures: int = 0
    siblings: int = 0
    samples_left_out: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)


class _Published(NamedTuple):
    """A published picture: its name in the output, and its digest as its row lists it."""

    name: str
    sha256: str


class _Member(NamedTuple):
    """One member of a source's shard. sample: what WebDataset tells its samples apart by. published: of a picture."""

    name: str
    sample: str
    size: int
    offset: int
    is_plain: bool
    published: _Published | None

    @property
    def is_picture(self) -> bool:
        return suffix_of(self.name) in PICTURE_SUFFIXES


@dataclass
class _Rows:
    """What the rows of one tar shard say, by the ids of their pictures. Two members of one name have two rows."""

    published: dict[str, _Published] = field(default_factory=dict)
    versions: defaultdict[str, set[int | None]] = field(default_factory=lambda: defaultdict(set))


def export_tars(
    output: Place,
    destination: Place,
    photos: str | None = None,
    keep: Sequence[str] = (),
    endpoint_url: str | None = None,
) -> ExportReport:
    """Write the published pictures of a complete run over tar shards as tar shards, or go on where an export was stopped.

    Args:
        destination: a place of its own. photos: where the run's source is now, None for where it was. keep: globs of further
        members that are kept, by their names in a shard.

    Raises:
        PublishError: the run is not complete, its source has changed, or the destination holds something else or can not be
        written. ConfigError: the source are no tar shards, or places overlap. SourceError: it can not be listed. OutputError: a
        picture is not what its row lists. MachineError: a disk or server fails.
    """
    store = open_store(output, endpoint_url)
    manifest = read_complete(store)
    config = _config_of(manifest, output, photos, endpoint_url)
    photographs: Place = Path(config.photos) if is_local(config.photos) else config.photos
    for name, place in (*config.places.items(), ("photos", photographs)):
        if holds(place, destination) or holds(destination, place):
            raise ConfigError(f"{name} {place} and the export's {destination} overlap; give a folder of its own")
    shards = open_shards(config)
    if shards is None or manifest.input_kind != "tar":
        raise ConfigError(
            f"{config.photos} are no tar shards; the pictures of {store} are under images/ by their own names"
        )
    target = open_store(destination, endpoint_url)
    try:
        target.check()
        with _alone_in(target):
            export = _Export(store, shards, target, keep)
            _begin(target, {"run_id": manifest.run_id, "rows": export.digest, "keep": sorted(keep)})
            return export.write_all()
    except OSError as error:
        fault = MachineError if kind_of_reading(error) is FaultKind.MACHINE else PublishError
        raise fault(
            f"the export into {destination} stopped ({error.strerror or error}); see to the disk, the server and the source, "
            "then run the command again: it goes on"
        ) from error


def _config_of(manifest: Manifest, output: Place, photos: str | None, endpoint_url: str | None) -> AnonymizeConfig:
    changed = {"photos": photos, "endpoint_url": endpoint_url}
    given = {name: value for name, value in changed.items() if value is not None}
    return AnonymizeConfig.load(None, {**manifest.config, **given, "output": output})


@contextlib.contextmanager
def _alone_in(target: Store) -> Iterator[None]:
    """Keep another export out of a folder. In a bucket two write the same shards, of which each is made once."""
    if not isinstance(target.root, Path):
        yield
        return
    durable.make_directory(target.root, 0o755)
    with durable.locked(target.root / _LOCK):
        for path in target.root.rglob(f".*{PART}"):  # what a killed export left half-written
            path.unlink()
        yield


def _begin(target: Store, said: dict[str, Any]) -> None:
    """Say what is exported here. Raises PublishError, OSError, MachineError."""
    wanted, seen = to_json(said), target.see(MARKER)
    if seen is None:
        if any(name != _LOCK for name, _ in target.sizes("")):
            raise PublishError(f"{target} holds other files; give an empty folder")
        with contextlib.suppress(FileExistsError):  # by another export, a moment ago
            target.create(MARKER, wanted)
        seen = target.see(MARKER)
    try:
        found = json.loads(b"" if seen is None else seen.content)
        differ = sorted(name for name in said if found.get(name) != said[name])
    except (ValueError, AttributeError) as error:
        raise PublishError(f"{target.full(MARKER)} is damaged; give an empty folder") from error
    if differ:
        raise PublishError(
            f"{target} is the export of another run or of other rows ({', '.join(differ)} differ); give an empty folder"
        )


class _Export:
    """Writes the shards of one export. digest: of the rows that stand; a retry makes other shards."""

    def __init__(self, store: Store, shards: Shards, target: Store, keep: Collection[str]) -> None:
        """Look through the ids of all rows. Raises PublishError: some are of a shard that is not there."""
        self._store, self._shards, self._target, self._keep = store, shards, target, keep
        standing = Standing(store)
        self.digest = hashlib.sha256("\n".join(standing.shards).encode()).hexdigest()
        self._read = lru_cache(_TABLES)(partial(standing.read, columns=_COLUMNS))
        self._with_rows_of: defaultdict[str, list[str]] = defaultdict(list)
        self._report = ExportReport()
        for name in standing.shards:
            for shard in self._shards_in(name, standing):
                self._with_rows_of[shard].append(name)

    def write_all(self) -> ExportReport:
        there = self._target.existing([name for name in self._shards.by_name if not name_problem(name)])
        for name, info in self._shards.by_name.items():
            if problem := name_problem(name):
                raise PublishError(f"shard {name!r} can not be written below {self._target}: {problem}; rename it")
            if name in there:
                self._report.there += 1
            else:
                self._write(name, info)
        return self._report

    def _shards_in(self, name: str, standing: Standing) -> set[str]:
        """The tar shards that rows of a row shard are of."""
        found, last = set[str](), None
        for image_id in standing.read(name, ["row", "image_id"]).table.column("image_id").to_pylist():
            if last is None or not image_id.startswith(f"{last}/"):
                last = self._shards.of(image_id)
                if last is None:
                    raise PublishError(
                        f"{image_id} and its shard are not in the input any more; put it back, or say by --photos where it is"
                    )
                found.add(last)
        return found

    def _rows_of(self, shard: str) -> _Rows:
        rows = _Rows()
        for name in self._with_rows_of[shard]:
            for row in self._read(name).table.select(_COLUMNS).to_pylist():
                if row["image_id"].startswith(f"{shard}/"):
                    rows.versions[row["image_id"]].add(row["source_version"])
                    if row["output"] is not None:
                        rows.published[row["image_id"]] = _Published(row["output"], row["output_sha256"])
        return rows

    def _write(self, name: str, info: pafs.FileInfo) -> None:
        members = self._members(name, info, self._rows_of(name))
        left_out = _samples_left_out(members)
        kept = [one for one in members if one.sample not in left_out]
        written = ExportReport(shards=1, samples_left_out=len(left_out))
        try:
            with (
                self._shards.filesystem.open_input_file(info.path) as source,
                self._shards.filesystem.open_input_file(info.path) as near,  # read by several threads, at places
                self._target.writing(name) as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for member, content in zip(kept, ahead(partial(self._content, near), kept), strict=True):
                    self._add(tar, member, content, source, written)
        except FileExistsError:  # by another export of the same, a moment ago
            written = ExportReport(there=1)
        self._report = _sum(self._report, written)

    def _members(self, shard: str, info: pafs.FileInfo, rows: _Rows) -> list[_Member]:
        """Its members but for folders, up to where it is damaged, or ends within one.

        Raises PublishError: it is not as the run saw it.
        """
        found, ids = list[_Member](), {f"{shard}/{WHOLE}"}
        try:
            for header in list_members(self._shards.filesystem, info.path):
                is_plain = header.isreg() and not header.issparse()
                if is_plain and header.offset_data + header.size > info.size:
                    raise DamagedShardError(header.name)
                name = plain_name(header.name)
                if header.isdir():
                    continue
                folder, _, file = name.rpartition("/")
                sample, image_id = f"{folder}/{file.partition('.')[0]}", as_text(f"{shard}/{name}")
                member = _Member(name, sample, header.size, header.offset_data, is_plain, rows.published.get(image_id))
                if member.is_picture:
                    _check_is_as_listed(rows, image_id, version_of(image_id, header.size, info.mtime_ns or 0))
                    ids.add(image_id)
                found.append(member)
        except (DamagedShardError, tarfile.TarError, pa.ArrowException, ValueError, RecursionError):
            self._report.damaged.append(shard)
            return found
        if gone := sorted(rows.versions.keys() - ids):
            raise PublishError(f"{gone[0]} is not in its shard any more; put it back as it was")
        return found

    def _content(self, source: pa.NativeFile, member: _Member) -> bytes | None:
        """What is written of a member; None where that is nothing, or is copied from the source without being held."""
        if member.is_picture:
            if member.published is None:
                raise OutputError(f"{member.name} was not published")  # its sample was left out
            return self._picture(member.published)
        if (
            not member.is_plain
            or not is_text(member.name)
            or name_problem(member.name)
            or self._is_kept_as_it_is(member)
        ):
            return None
        if PurePosixPath(member.name).suffix.lower() not in SIBLINGS or member.size > MAX_TEXT_BYTES:
            return None
        content = source.read_at(member.size, member.offset)
        return bytes(content) if _is_plain_text(content) else None

    def _is_kept_as_it_is(self, member: _Member) -> bool:
        if not member.is_plain or not is_text(member.name) or name_problem(member.name) or member.is_picture:
            return False
        return any(fnmatchcase(member.name, glob) for glob in self._keep)

    def _add(
        self, tar: tarfile.TarFile, member: _Member, content: bytes | None, source: pa.NativeFile, written: ExportReport
    ) -> None:
        header = tarfile.TarInfo(member.name)
        if content is not None:
            if member.published is not None and (suffix := suffix_of(member.published.name)) != suffix_of(member.name):
                header.name += suffix
            header.size = len(content)
            tar.addfile(header, pa.BufferReader(content))
            written.pictures += member.is_picture
            written.siblings += not member.is_picture
        elif self._is_kept_as_it_is(member):
            header.size = member.size
            source.seek(member.offset)
            tar.addfile(header, source)
            written.siblings += 1
        else:
            written.left_out[PurePosixPath(member.name).suffix.lower() or "(none)"] += 1

    def _picture(self, published: _Published) -> bytes:
        if name_problem(published.name):
            raise OutputError(f"a row names the file {published.name!r}, which no run writes; its shard was edited")
        try:
            encoded = self._store.read(published.name)
        except FileNotFoundError:
            encoded = None
        if encoded is None or hashlib.sha256(encoded).hexdigest() != published.sha256:
            raise OutputError(
                f"{self._store.full(published.name)} is {'missing' if encoded is None else 'not what its row lists'}; "
                "`keyanon verify` says what else is; restore it from a backup"
            )
        return encoded


def _check_is_as_listed(rows: _Rows, image_id: str, version: int) -> None:
    """Raise PublishError for a picture of which no row was made: the run did not see it."""
    known = rows.versions.get(image_id)
    if known is None:
        raise PublishError(f"{image_id} and maybe others have no row; run `keyanon anonymize` of this output first")
    if version not in known and None not in known:
        raise PublishError(
            f"the shard of {image_id} and maybe others have changed since the run; put them back, times included"
        )


def _samples_left_out(members: Collection[_Member]) -> set[str]:
    """Samples of which a picture was not published."""
    seen, left_out = set[str](), set[str]()
    for member in members:
        if member.is_picture:
            if member.published is None or member.name in seen:
                left_out.add(member.sample)
            seen.add(member.name)
    return left_out


def _sum(one: ExportReport, other: ExportReport) -> ExportReport:
    return ExportReport(*(getattr(one, part.name) + getattr(other, part.name) for part in fields(ExportReport)))


def _is_plain_text(content: bytes) -> bool:
    """False for what is no text whatever its name says, such as a picture."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False
