"""Reads what a run wrote: its manifest and its rows. It never sees key material, because an output holds none."""

import errno
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from PIL import Image

from jobs.blocks import SHARD_SCHEMA
from jobs.errors import JobError, MachineError, PublishError
from jobs.names import IMAGES, SIDECARS
from jobs.output.layout import MANIFEST, ROWS, shard_file
from jobs.output.manifest import COMPLETE
from jobs.output.row_shards import RECORDS, StandingRows, named_records, reason_code, row_shards, standing_rows
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from jobs.storage.store import Store
from keyanon_core.errors import SidecarError
from keyanon_core.procedure import Procedure
from keyanon_core.sidecar import MAX_SIDECAR_BYTES, Sidecar, SidecarFace

FORMAT_FACTS: Final = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression", "loop", "background"}
)  # what Pillow lists beside metadata, and every JPEG or WebP has


class OutputError(JobError):
    """A directory is not the output of a finished keyanon run, or a part of it is missing or unreadable."""


@dataclass(frozen=True)
class TrackRecord:
    """A key record of the faces of one track in a piece of a clip; track: None for those that are on none."""

    track: int | None
    record_id: str


@dataclass(frozen=True)
class Row:
    """One row of a run. `shard` is the Parquet file it stands in, by its name in the output, `position` its place there.
    `permanent`: its key is forgotten; None only where the user's own column did not say, and the row is quarantined. `fidelity`:
    how its faces come back; None where they do not, or an earlier version wrote the row. `source_version`: of its source's file,
    see `version_of`; None where an earlier version wrote the row. `output_sha256`: of its published file. `track_records`: of a
    piece of a clip all its key records, `record_id` is that of one; none where `record_id` is of all faces."""

    image_id: str
    status: str
    reason: str
    record_id: str | None
    output: str | None
    sidecar: str | None
    faces: int
    kept: int
    permanent: bool | None
    fidelity: str | None
    shard: str
    position: int
    source_version: int | None = None
    output_sha256: str | None = None
    track_records: tuple[TrackRecord, ...] = ()

    @property
    def record_ids(self) -> list[str]:
        """Of all its key records."""
        alone = [] if self.record_id is None else [self.record_id]
        return [one.record_id for one in self.track_records] or alone


_ROW_FIELDS: Final = tuple(f.name for f in fields(Row) if f.name in SHARD_SCHEMA.names)


@dataclass
class RunInspection:
    """What a run's output holds, in counts and sizes. keys: "store", or "discard" when none was kept. permanent: pictures
    anonymized for good, whose key was forgotten. fidelities: pictures that come back so; those of which no row says it are not
    counted."""

    run_id: str | None
    finished: bool
    keys: str = "store"
    rows: int = 0
    shards: int = 0
    faces: int = 0
    kept_faces: int = 0
    permanent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    fidelities: Counter[str] = field(default_factory=Counter)
    bytes_of: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def procedure(self) -> str:
        """How each face was made, for people; "" where the manifest does not say."""
        said = self.settings
        try:
            # Runs before there was a choice inverted always.
            share = said.get("payload_share") or 1.0
            made = Procedure(
                said["method"], said["transform"], said.get("inversion", "ddim"), said["steps"], payload_share=share
            )
            return str(made)
        except (KeyError, TypeError, ValueError):
            return ""

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON types."""
        return {
            "kind": "run",
            "run_id": self.run_id,
            "finished": self.finished,
            "rows": self.rows,
            "shards": self.shards,
            "faces": self.faces,
            "kept_faces": self.kept_faces,
            "keys": self.keys,
            "permanent": self.permanent,
            "procedure": self.procedure,
            "statuses": dict(self.statuses),
            "reasons": dict(self.reasons),
            "fidelities": dict(self.fidelities),
            "bytes": self.bytes_of,
            "settings": self.settings,
        }


def read_manifest(output: Place | Store) -> dict[str, Any]:
    """The run's manifest.

    Raises:
        OutputError: `output` is not what `keyanon anonymize` wrote. MachineError.
    """
    store = _store(output)
    path = store.full(MANIFEST)
    try:
        manifest = json.loads(store.read(MANIFEST))
    except FileNotFoundError as error:
        raise OutputError(f"{output} is not the output of a keyanon run: {path} is missing") from error
    except OSError as error:
        raise OutputError(f"{path} can not be read ({error.strerror or error})") from error
    except ValueError as error:
        raise OutputError(f"{path} can not be read ({error}); restore it from a backup of the output") from error
    if not isinstance(manifest, dict):
        raise OutputError(f"{path} is not a JSON object; restore it from a backup of the output")
    return manifest


def read_rows(output: Place | Store, shards: Collection[str] | None = None) -> Iterator[Row]:
    """Every row of a run that stands, without its pictures, shard by shard. shards: base names of those that are read, None for
    all.

    Raises:
        OutputError: a shard is not readable Parquet or lacks a column.
    """
    for part in _parts(output, SHARD_SCHEMA.names, shards):
        found = part.table.select(SHARD_SCHEMA.names).cast(SHARD_SCHEMA).to_pylist()
        for position, row in zip(part.positions, found, strict=True):
            said = {name: row[name] for name in _ROW_FIELDS}
            said["track_records"] = tuple(TrackRecord(**one) for one in row["track_records"] or ())
            yield Row(**said, shard=shard_file(part.shard), position=position)


def find_rows(output: Place | Store, record_ids: Collection[str], shards: Collection[str] = ()) -> dict[str, Row]:
    """The rows of some key records, by record. shards: base names of row shards that they are most likely in, which are read
    first; all others only where a row was in none of these. Raises OutputError as `read_rows`."""
    wanted = set(record_ids)
    found = _by_record(read_rows(output, set(shards)), wanted)
    if left := wanted - found.keys():
        parts = _parts(output, ["row", *RECORDS], None)
        theirs = {one.shard for one in parts if not left.isdisjoint(named_records(one.table))}
        found |= _by_record(read_rows(output, theirs), left)
    return found


def _by_record(rows: Iterable[Row], wanted: Set[str]) -> dict[str, Row]:
    return {record_id: row for row in rows for record_id in row.record_ids if record_id in wanted}


def _parts(output: Place | Store, columns: Sequence[str], shards: Collection[str] | None) -> Iterator[StandingRows]:
    try:
        yield from standing_rows(_store(output), columns, shards)
    except (PublishError, OSError, pa.ArrowException) as error:
        raise OutputError(f"{output} has no readable rows: {error}") from error


def inspect_run(output: Place | Store) -> RunInspection:
    """Count what a run wrote.

    Raises:
        OutputError: `output` is not the output of a keyanon run, or a shard can not be read.
    """
    store = _store(output)
    manifest = read_manifest(store)
    config = manifest.get("config")
    found = RunInspection(
        run_id=manifest.get("run_id"),
        finished=manifest.get("state") == COMPLETE,
        keys=str(manifest.get("keys", "store")),
        shards=len(row_shards(store)),
        settings=config if isinstance(config, dict) else {},
    )
    for row in read_rows(store):
        found.rows += 1
        found.faces += row.faces if row.status == "anonymized" else 0
        found.kept_faces += row.kept
        found.permanent += row.status == "anonymized" and bool(row.permanent)
        found.statuses[row.status] += 1
        if row.fidelity is not None:
            found.fidelities[row.fidelity] += 1
        if row.reason:
            found.reasons[reason_code(row.reason)] += 1
    for part in (IMAGES, SIDECARS, ROWS):
        found.bytes_of[part] = sum(size for _, size in store.sizes(part))
    return found


def inspect_sidecar(path: Place, endpoint_url: str | None = None) -> dict[str, Any]:
    """The public facts of one sidecar: what it belongs to and what it holds, in names and sizes.

    Raises:
        OutputError: the file can not be read. SidecarError: it is not a sidecar.
    """
    try:
        content = _read_one(path, endpoint_url, MAX_SIDECAR_BYTES)
        sidecar = Sidecar.from_bytes(content)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SidecarError(f"{path} exceeds a sidecar's limit of {MAX_SIDECAR_BYTES} bytes") from error
        raise OutputError(f"{path} can not be read ({error.strerror})") from error
    height, width = sidecar.shape
    return {
        "kind": "sidecar",
        "image_id": sidecar.image_id,
        "record_id": sidecar.record_id,
        "fidelity": sidecar.fidelity,
        "prior_digest": sidecar.prior_digest,
        "width": width,
        "height": height,
        "faces": len(sidecar.faces),
        "version": sidecar.version,
        "latent_bytes": [_latent_bytes(face) for face in sidecar.faces],
        "encrypted_source_bytes": [0 if face.source is None else len(face.source) for face in sidecar.faces],
        "bytes": len(content),
    }


def _latent_bytes(face: SidecarFace) -> int:
    whole = 0 if face.latent is None else face.latent.nbytes
    return whole + len(face.surroundings or b"") + len(face.codes or b"")


def inspect_picture(path: Place, endpoint_url: str | None = None) -> dict[str, Any]:
    """Format, size and metadata of one picture; an anonymized one has none, or its colour profile and a JPEG's orientation.

    Raises:
        OutputError: the file is not a picture, or it can not be read.
    """
    try:
        content = _read_one(path, endpoint_url)
        with Image.open(io.BytesIO(content)) as picture:
            named = {str(name) for name in picture.info if name not in FORMAT_FACTS}
            metadata = sorted({*named, *(["exif"] if picture.getexif() else [])})
            return {
                "kind": "picture",
                "format": picture.format,
                "width": picture.width,
                "height": picture.height,
                "mode": picture.mode,
                "metadata": metadata,
                "bytes": len(content),
            }
    except (MemoryError, MachineError):
        raise
    except Exception as error:  # Pillow's parsers raise whatever they stumble over
        raise OutputError(
            f"{path} is neither a run's output, nor a sidecar, nor a readable picture ({error})"
        ) from error


def _store(output: Place | Store) -> Store:
    return output if isinstance(output, Store) else open_store(output)


def _read_one(place: Place, endpoint_url: str | None, max_bytes: int | None = None) -> bytes:
    """One object or file by its whole name. Raises OSError, MachineError."""
    folder, name = (place.parent, place.name) if isinstance(place, Path) else place.rsplit("/", 1)
    return open_store(folder, endpoint_url).read(name, max_bytes)
