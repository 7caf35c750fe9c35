"""The recovery job: granted keys in, restored pictures and a report out.

A grant is good for one release. Therefore everything that can fail on this machine is done first: the run's rows are found,
every picture and sidecar is opened, the prior is loaded and compared, the output is created and written to. Only then is the
grant used, and from there on a failure belongs to one picture and stops none of the others.

A picture that turns out damaged before the grant is used stops the recovery and names itself: it may be restored from a
backup, and a grant spent without it would have to be asked for again. Where no backup will come, `skip_damaged` goes on with
the others, so that whoever damages one picture does not withhold them all.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import torch

from jobs.exit_codes import ExitCode, exit_code_of
from jobs.names import IMAGES, image_name, suffix_of
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import OutputError, Row, find_rows, read_manifest
from jobs.run.key_records import to_picture_key
from jobs.run.track_names import track_of
from jobs.run.usable_cpus import usable_cpus
from jobs.sources.source import CLIP_SUFFIXES
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from jobs.storage.store import Store
from keyanon_core.clips.encoding import encode_restored
from keyanon_core.clips.form import CONTAINERS
from keyanon_core.clips.frames import is_published_piece
from keyanon_core.clips.joining import join_pieces
from keyanon_core.device import AUTO, usable_device
from keyanon_core.errors import KeyanonError, PictureError, PriorError, SidecarError
from keyanon_core.formats.published import published_pixels
from keyanon_core.imaging import encode_picture
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import DEFAULT_FACE_BATCH
from keyanon_core.precision import STRICT, multiplying
from keyanon_core.priors import Prior, load_prior
from keyanon_core.sidecar import Sidecar
from keystore.decisions.views import RequestedImage, RequestView
from keystore.intake.records import KeyRecord
from keystore.recipient import Expected, Recipient
from keystore.vault.parts import whole_id

REPORT_FILE: Final = "report.json"
RESTORED_CLIP: Final = ".mkv"
PRIVATE_DIRECTORY_MODE: Final = 0o700  # restored pictures show people in clear: their owner only

_T = TypeVar("_T")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)
Progress = Callable[[str, str], None]  # image id and what became of it


class Releasing(Protocol):
    """What a recovery asks of a keystore: an open `Keystore` here, a `ServiceClient` elsewhere."""

    @property
    def audit_vkey(self) -> str:
        """The verifier key that a release must be signed for, from a place that the job trusts."""

    def show(self, request_id: str) -> RequestView:
        """Return one request."""

    def release(self, request_id: str, recipient_public_key: bytes, by: str) -> bytes:
        """Use its grant."""


@dataclass
class PictureReport:
    """What became of one requested picture. Numbers and digests only; never a key. tracks: of a piece of a clip whose keys were
    released, None being those of faces on no track; None where its one key is of everybody."""

    image_id: str
    record_id: str | None = None
    status: str = "failed"
    reason: str = ""
    output: str | None = None
    fidelity: str | None = None
    faces: int = 0
    commitment_verified: bool = False
    exact: bool = False
    picture_intact: bool | None = None
    sidecar_intact: bool | None = None
    source_sha256: str | None = None
    nfe: int = 0
    iterations: int = 0
    worst_residual: float | None = None
    solver: list[dict[str, Any]] = field(default_factory=list)  # a line for every inverted step
    tracks: list[int | None] | None = None
    exit_code: ExitCode = ExitCode.OK


@dataclass
class RecoveryReport:
    """The report of one recovery, written to `RESTORED/report.json`."""

    request_id: str
    by: str
    prior: str | None
    device: str | None = None
    pictures: list[PictureReport] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)  # joined of restored pieces

    @property
    def exit_code(self) -> ExitCode:
        """`OK`, or the code of the first picture that failed."""
        return next((p.exit_code for p in self.pictures if p.exit_code is not ExitCode.OK), ExitCode.OK)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "request": self.request_id,
            "by": self.by,
            "prior_digest": self.prior,
            "device": self.device,
            "exit_code": int(self.exit_code),
            "psnr_db": None,  # needs the source, which a recovery does not hold
            "clips": self.clips,
            "pictures": [{**vars(picture), "exit_code": int(picture.exit_code)} for picture in self.pictures],
        }


@dataclass(frozen=True)
class Prepared:
    """Everything a recovery needs beside the keys, opened and found usable."""

    output: PublishedPictures
    restored: Path
    rows: Mapping[str, Row]  # by record id
    prior: Prior | None
    damaged: Mapping[str, KeyanonError] = field(default_factory=dict)  # by record id: why it is not tried
    workers: int = 1  # pictures restored at a time


def prepare(
    output: Place | Store,
    restored: Path,
    images: Sequence[RequestedImage],
    prior: str | None = None,
    device: str = AUTO,
    *,
    skip_damaged: bool = False,
    workers: int = 1,
    shards: Collection[str] = (),
) -> Prepared:
    """Do all that can fail without a key. Uses no grant.

    Args:
        output: what `keyanon anonymize` wrote. restored: an absent or empty directory. images: those of the request.
        prior: where the prior is now; None takes it from where the run had it. device: where it computes, of `usable_device`.
        skip_damaged: go on without pictures that are damaged, as long as one is whole.
        workers: pictures that are checked, and later restored, at a time. shards: see `find_rows`.

    Raises:
        OutputError: a picture is not in `output`, the run discarded its keys, or `restored` is not empty or not writable.
        SidecarError, PictureError, OutputError: the sidecar or picture that the message names is missing, malformed, or
            they do not belong together.
        PriorError: the prior is not the one of the run. DeviceError: the device can not be used.
    """
    place = usable_device(device)
    output = output if isinstance(output, Store) else open_store(output)
    manifest = read_manifest(output)
    if manifest.get("keys") == "discard":
        raise OutputError(f"{output} was anonymized with its keys discarded; nothing in it can be restored")
    wanted = {image.record_id: image.image_id for image in images}
    rows = find_rows(output, wanted.keys(), shards)
    missing = {image_id for record_id, image_id in wanted.items() if record_id not in rows}
    if missing:
        raise OutputError(
            f"{output} holds no row for {_some(missing)}; give the output of the run that anonymized them"
        )
    published = PublishedPictures(output)
    needed: dict[str, str] = {}  # digest of the prior that a record's sidecar asks for
    damaged: dict[str, KeyanonError] = {}
    once = {(row.shard, row.position): row for row in rows.values()}
    found_of = dict(zip(once, at_once(partial(_checked, published), once.values(), workers), strict=True))
    for record_id, row in rows.items():
        checked = found_of[row.shard, row.position]
        if isinstance(checked, KeyanonError):
            damaged[record_id] = checked
        elif row.track_records and whole_id(wanted[record_id]) != row.image_id:
            damaged[record_id] = OutputError(
                f"{row.image_id}: its row lists the key record of {wanted[record_id]}, which no run writes; restore {row.shard}"
            )
        elif checked[0] != "lossless":
            needed[record_id] = checked[1]
    asked: dict[str, Any] = manifest.get("config", {})
    found: Prior | None = None
    if needed:
        try:
            found = load_prior(prior or asked.get("prior") or "embedded", device=place)
            found.networks.physical_batch = int(asked.get("face_batch") or DEFAULT_FACE_BATCH)
        except PriorError as error:
            damaged.update(dict.fromkeys(needed, error))
        else:
            strangers = {record_id: digest for record_id, digest in needed.items() if digest != found.digest}
            damaged.update({key: _other_prior(rows[key], digest, found) for key, digest in strangers.items()})
    if damaged and (not skip_damaged or len(damaged) == len(rows)):
        raise next(iter(damaged.values()))
    _claim(restored)
    return Prepared(published, restored, rows, found, damaged, workers)


def recover_request(
    keystore: Releasing, request_id: str, by: str, prepared: Prepared, progress: Progress | None = None
) -> RecoveryReport:
    """Use the grant once and restore its pictures into `prepared.restored`.

    Raises:
        KeystoreError: the grant is refused; nothing was released. Failures of single pictures are in the report.
    """
    recipient, view = Recipient.generate(), keystore.show(request_id)
    sealed = keystore.release(request_id, recipient.public_key, by)
    records = recipient.open(sealed, Expected.of(view, keystore.audit_vkey))
    report = RecoveryReport(request_id, by, None)
    if prepared.prior is not None:
        report.prior, report.device = prepared.prior.digest, str(prepared.prior.networks.device)
    recoverer = PictureRecoverer(prepared.prior)
    ordered = _by_picture(records, prepared.rows)
    with multiplying(STRICT):  # for all threads: the flag that each sets for itself, and sets back, is the process's
        for entry in at_once(partial(_recover_one, recoverer, prepared=prepared), ordered, prepared.workers):
            report.pictures.append(entry)
            if progress is not None:
                progress(entry.image_id, entry.status)
    report.pictures.sort(key=lambda entry: entry.image_id)
    report.clips = _join_restored(prepared.restored, report.pictures)
    write_private(prepared.restored / REPORT_FILE, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    return report


def _by_picture(records: Iterable[KeyRecord], rows: Mapping[str, Row]) -> list[list[KeyRecord]]:
    """The records of each picture together, in the order of the shards that its rows stand in, so that each is read once."""
    found: dict[tuple[str, int, str], list[KeyRecord]] = {}
    for record in sorted(records, key=lambda record: record.image_id):
        row = rows.get(record.record_id)
        place = ("", 0, record.record_id) if row is None else (row.shard, row.position, "")
        found.setdefault(place, []).append(record)
    return sorted(found.values(), key=lambda some: (_shard_of(rows.get(some[0].record_id)), some[0].image_id))


def _shard_of(row: Row | None) -> str:
    return "" if row is None else row.shard


def _recover_one(recoverer: PictureRecoverer, records: Sequence[KeyRecord], prepared: Prepared) -> PictureReport:
    """Restore one picture by all of its records that were released; every failure becomes its report's reason and exit code."""
    record = records[0]
    row = prepared.rows.get(record.record_id)
    entry = PictureReport(record.image_id, record.record_id, fidelity=record.fidelity)
    entry.faces = sum(len(one.faces) for one in records)
    try:
        key, *others = map(to_picture_key, records)
        if key.part is not None:
            entry.image_id, entry.tracks = key.image_id, [track_of(one.part or "") for one in (key, *others)]
        if row is None:
            raise OutputError(
                f"{record.image_id}: record {record.record_id} is of another run than {prepared.output.store}"
            )
        if record.record_id in prepared.damaged:
            raise prepared.damaged[record.record_id]
        encoded, sidecar = prepared.output.picture(row), prepared.output.sidecar(row)
        recovered = recoverer.recover(encoded, sidecar, key, *others)
        name = restored_name(row)
        if is_published_piece(encoded):
            restored = encode_restored(encoded, recovered.pixels)
        else:
            restored = encode_picture(recovered.pixels, "png", profile=recovered.profile)
        write_private(prepared.restored / name, restored)
    except (KeyanonError, OSError) as error:
        entry.reason, entry.exit_code = str(error), exit_code_of(error)
        return entry
    except Exception as error:
        logger.debug("the defect came from here", exc_info=error)
        entry.reason, entry.exit_code = f"unexpected {type(error).__name__}", ExitCode.UNEXPECTED
        return entry
    entry.status, entry.output, entry.commitment_verified = "recovered", str(name), True
    entry.source_sha256 = record.source_sha256
    return _vouch(entry, recovered)


def _vouch(entry: PictureReport, recovered: RecoveredPicture) -> PictureReport:
    """Copy what the recoverer can say about its result."""
    entry.exact, entry.nfe = recovered.exact, recovered.nfe
    entry.picture_intact, entry.sidecar_intact = recovered.picture_intact, recovered.sidecar_intact
    entry.iterations = sum(step.iterations for step in recovered.solver)
    entry.solver = [asdict(step) for step in recovered.solver]
    entry.worst_residual = max((float(step.residual) for step in recovered.solver), default=None)
    return entry


def restored_name(row: Row) -> PurePosixPath:
    """Where a restored picture goes, relative to RESTORED: as in the output for folders, by image id for Parquet; a clip's piece
    as Matroska.

    Raises:
        PublishError: the id can not be a path below RESTORED; no run writes such a row.
    """
    name = row.image_id if row.output is not None else quote(row.image_id, safe=" ()+,=@")
    if row.output is not None and suffix_of(name) in CLIP_SUFFIXES:
        return PurePosixPath(f"{image_name(name, 'same')}{RESTORED_CLIP}").relative_to(IMAGES)
    return PurePosixPath(image_name(name, "png")).relative_to(IMAGES)


def _join_restored(restored: Path, pictures: Sequence[PictureReport]) -> list[str]:
    """Make one clip of the restored pieces of each, in their order; what lies between them is left out. Returns their names. The
    grant is used: pieces that can not be joined stay apart, and cost neither the report nor other clips."""
    pieces: dict[str, list[Path]] = {}
    for one in pictures:
        if one.output is not None and one.output.endswith(RESTORED_CLIP):
            pieces.setdefault(str(PurePosixPath(one.output).parent) + RESTORED_CLIP, []).append(restored / one.output)
    joined = []
    for name, parts in pieces.items():
        try:
            _join(restored / name, parts)
        except (KeyanonError, OSError, ValueError, TypeError) as error:
            logger.warning("%s was restored in pieces that can not be joined: %s", name, error)
        else:
            joined.append(name)
    return joined


def _join(path: Path, parts: Sequence[Path]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # mkstemp creates with mode 0600
    os.close(descriptor)
    try:
        join_pieces((part.read_bytes() for part in parts), Path(temporary), CONTAINERS[RESTORED_CLIP])
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; it appears whole or not at all."""
    path.parent.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # mkstemp creates with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(temporary).rename(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def default_workers(device: torch.device) -> int:
    """Pictures to restore at a time: a GPU solves one, CPUs one each."""
    return 1 if device.type != "cpu" else usable_cpus()


def at_once(act: Callable[[_T], _R], things: Iterable[_T], workers: int) -> Iterator[_R]:
    """Results in order, of some things at a time, in threads, since keys stay in this process. Each has its share of the CPUs."""
    if workers == 1:
        yield from map(act, things)
        return
    threads = max(usable_cpus() // workers, 1)
    pool = ThreadPoolExecutor(workers, "keyanon-recover", torch.set_num_threads, (threads,))
    try:
        yield from pool.map(act, things)
    finally:  # interrupted, it does not begin what is left
        pool.shutdown(cancel_futures=True)


def _checked(output: PublishedPictures, row: Row) -> tuple[str, str] | KeyanonError:
    try:
        return _check_published(output, row)
    except KeyanonError as error:
        return error


def _check_published(output: PublishedPictures, row: Row) -> tuple[str, str]:
    """Open one row's picture and sidecar; (fidelity, prior digest) as the sidecar states them. Every error names the picture."""
    stored, encoded = output.sidecar(row), output.picture(row)
    try:
        sidecar = Sidecar.from_bytes(stored)
        height, width = sidecar.shape
        pixels = published_pixels(encoded, max_pixels=height * width).pixels
    except SidecarError as error:
        raise SidecarError(f"{row.image_id}: {error}") from error
    except PictureError as error:
        raise PictureError(error.reason, f"{row.image_id}: {error}") from error
    if sidecar.record_id != row.record_id or sidecar.image_id != row.image_id:
        raise SidecarError(
            f"{row.image_id}: its sidecar belongs to {sidecar.image_id!r:.200}; restore it from the run's output"
        )
    if pixels.shape[:2] != sidecar.shape:
        raise PictureError("size", f"{row.image_id}: the picture is not {width} x {height} as when it was published")
    restored_name(row)
    return sidecar.fidelity, sidecar.prior_digest


def _other_prior(row: Row, digest: str, prior: Prior) -> PriorError:
    return PriorError(
        f"{row.image_id}: it was anonymized with the prior of digest {digest!r:.80}, and {prior.name} is {prior.digest}; "
        "name the right one with --prior"
    )


def _claim(restored: Path) -> None:
    """Create RESTORED for its owner alone and prove that it can be written; refuse one that holds anything."""
    try:
        restored.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
        if any(restored.iterdir()):
            raise OutputError(f"{restored} is not empty; give an empty directory for the restored pictures")
        probe = restored / ".probe"
        write_private(probe, b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{restored} can not be written ({error.strerror}); the grant was not used") from error


def _some(values: Collection[str], shown: int = 3) -> str:
    """The first few of `values`, and how many more there are."""
    first: Sequence[str] = sorted(values)[:shown]
    more = len(values) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
