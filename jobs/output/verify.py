"""Whether all parts of an output agree, row by row: segments, row shards, pictures, sidecars, and the keystore.

Nothing is written, and nothing is trusted: every picture and sidecar is read and compared with the digest in its row, every
sidecar with its row, every row with its key record.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from jobs.ahead import AT_ONCE
from jobs.blocks import SIDECAR
from jobs.errors import PublishError
from jobs.names import IMAGES, SIDECARS
from jobs.output.bucket_inbox import BucketInbox
from jobs.output.layout import MANIFEST, ROWS, SHARD_SUFFIX, shard_file
from jobs.output.manifest import COMPLETE, Manifest, read_existing
from jobs.output.name_sets import NameSet
from jobs.output.publisher import picture_cells
from jobs.output.reader import OutputError
from jobs.output.row_shards import StandingRows, each_shard, is_named_for, read_shard, row_shards, standing_rows
from jobs.output.shared_lease import holder_of
from jobs.storage.opening import open_store
from jobs.storage.place import as_place, is_service
from jobs.storage.store import Store
from keyanon_core.errors import SidecarError
from keyanon_core.sidecar import MAX_SIDECAR_BYTES, Sidecar
from keystore.embedded import Keystore
from keystore.intake.folder import INBOX_NAME
from keystore.intake.shards import SHARD_SUFFIX as KEYS_SUFFIX
from keystore.vault.parts import part_id
from keystore.verification.published import MISSING, Published

READ_AT_ONCE: Final = 32  # rows whose pictures and sidecars are in memory together
_COLUMNS: Final = (
    "row", "image_id", "status", "reason", "record_id", "output", "sidecar", "output_sha256", "sidecar_sha256", "permanent",
    "track_records",
)  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """One thing that is not as another says. what: a name for programs. where: the picture, file or shard."""

    what: str
    where: str
    problem: str


@dataclass
class Verification:
    """keystore: None when none was asked. awaiting: keys that lie in the inbox still, as of a run that was stopped. erased: keys
    that were erased. unused_records: of the run in the keystore, of which no row knows; blocks that Ray made twice leave
    some."""

    run_id: str
    complete: bool
    running: bool
    keystore: str | None
    rows: int = 0
    total: int = 0
    pictures: int = 0
    sidecars: int = 0
    records: int = 0
    awaiting: int = 0
    erased: int = 0
    unused_records: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)

    def add(self, what: str, where: str, problem: str) -> None:
        """Name a disagreement."""
        self.disagreements.append(Disagreement(what, where, problem))

    def counts(self) -> dict[str, int]:
        """Disagreements by what they are of."""
        return dict(Counter(one.what for one in self.disagreements).most_common())


def verify_output(store: Store, keystore: Keystore | None) -> Verification:
    """Compare everything with everything.

    keystore: that of the run; None leaves it out.

    Raises:
        OutputError: there is no run, or its manifest or segments can not be read. MachineError: a place can not be reached.
        KeystoreError: the keystore can not be read.
    """
    try:
        running = holder_of(store) is not None
        manifest = None if store.see(MANIFEST) is None else read_existing(store)
        if manifest is None:
            raise OutputError(f"{store} is not the output of a keyanon run; give the one of `keyanon anonymize`")
        return _Verifier(store, keystore, manifest, running).verify()
    except (PublishError, OSError) as error:
        raise OutputError(f"{store} can not be verified: {error}") from error


class _Verifier:
    """One look at one output."""

    def __init__(self, store: Store, keystore: Keystore | None, manifest: Manifest, running: bool) -> None:
        self._store, self._keystore, self._manifest = store, keystore, manifest
        self._found = Verification(
            run_id=manifest.run_id,
            complete=manifest.state == COMPLETE,
            running=running,
            keystore=None if keystore is None else str(keystore.path),
            total=manifest.total_rows,
        )
        # Numbers of the rows that stand. They are no positions in the listing: where pictures of a stopped run were taken away
        # before they were anonymized, rows keep numbers beyond the count of what is left.
        self._seen, self._larger = bytearray(manifest.total_rows), set[int]()
        self._listed = NameSet()  # pictures and sidecars
        self._files = manifest.input_kind != "parquet"

    def verify(self) -> Verification:
        found = self._found
        if self._keystore is not None and self._keystore.id != self._manifest.keystore_id:
            found.add("keystore", str(self._keystore.path), f"the keys are in keystore {self._manifest.keystore_id}")
            self._keystore = None
        visible = row_shards(self._store)
        readable = list(self._readable(visible))
        columns = [*_COLUMNS, *([] if self._files else [str(self._manifest.image_column), SIDECAR])]
        for part in standing_rows(self._store, columns, readable, AT_ONCE if self._files else 1):  # pictures are large
            self._look_at(part)
        missing = self._seen.count(0) - len(self._larger)
        if found.complete and missing > 0:
            found.add("row", f"row {self._seen.index(0)}", f"{missing} rows are missing; no row has this number")
        if not found.running:
            self._look_for_unlisted(visible)
        if self._keystore is not None:
            stored = self._keystore.count_records(found.run_id)
            found.unused_records = max(stored - found.records, 0)
        return found

    def _readable(self, visible: Sequence[str]) -> Iterator[str]:
        """Those of some shards that can be read; what is wrong with one is said."""
        for name, numbers in zip(visible, each_shard(self._store, self._row_numbers, visible), strict=True):
            if isinstance(numbers, Exception):
                self._found.add("shard", shard_file(name), str(numbers))
                continue
            if not numbers or not is_named_for(name, numbers):
                self._found.add("row", shard_file(name), "its rows have other numbers than those that it is named for")
            yield name

    def _row_numbers(self, name: str) -> list[int] | Exception:
        """Of a shard's rows, null ones left out; the error of a damaged shard. Raises MachineError."""
        try:
            table = read_shard(self._store, shard_file(name), _COLUMNS)
        except (PublishError, OSError) as error:
            return error
        return [number for number in table.column("row").to_pylist() if number is not None]

    def _look_at(self, part: StandingRows) -> None:
        rows = part.table.select(_COLUMNS).to_pylist()
        self._count(part.shard, rows)
        for start in range(0, len(rows), READ_AT_ONCE):
            some = rows[start : start + READ_AT_ONCE]
            contents = self._contents(some, part.table.slice(start, len(some)))
            for row, (picture, sidecar) in zip(some, contents, strict=True):
                self._compare_row(row, picture, sidecar)
        self._compare_keys(part.key_shard.name, [row for row in rows if row["record_id"] is not None])

    def _count(self, shard: str, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self._found.rows += 1
            number = row["row"]
            if number is None or number < 0:
                self._found.add("row", row["image_id"], f"{number} in {shard_file(shard)} is the number of no row")
            elif number in self._larger or (number < len(self._seen) and self._seen[number]):
                self._found.add("row", row["image_id"], f"row {number} stands twice, once in {shard_file(shard)}")
            elif number < len(self._seen):
                self._seen[number] = 1
            else:
                self._larger.add(number)

    def _contents(self, rows: Sequence[dict[str, Any]], table: pa.Table) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Picture and sidecar of each row, None where there is none."""
        if not self._files:
            pictures = picture_cells(table, str(self._manifest.image_column))
            yield from zip(pictures.to_pylist(), table.column(SIDECAR).to_pylist(), strict=True)
            return
        names = [row[part] for row in rows for part in ("output", "sidecar")]
        plain = [
            name for name in names if name is not None and ".." not in name.split("/") and not name.startswith("/")
        ]
        self._listed.add(plain)
        there = dict(zip(plain, self._store.read_all(plain), strict=True))
        for at in range(0, len(names), 2):
            yield there.get(names[at]), there.get(names[at + 1])

    def _compare_row(self, row: dict[str, Any], picture: bytes | None, sidecar: bytes | None) -> None:
        found, image_id = self._found, row["image_id"]
        if problem := _contradiction(row, self._manifest.keys, files=self._files):
            found.add("row", image_id, problem)
        for what, content in (("picture", picture), ("sidecar", sidecar)):
            column = "output" if what == "picture" else what
            where = row[column] or image_id
            digest = row[f"{column}_sha256"]
            if content is None and digest is not None:
                found.add(what, where, "it is missing")
            elif content is not None and hashlib.sha256(content).hexdigest() != digest:
                found.add(what, where, "it is not what its row lists")
            elif content is not None:
                found.pictures += what == "picture"
                found.sidecars += what == "sidecar"
                if what == "sidecar" and (problem := _of_another(row, content)):
                    found.add(what, where, problem)

    def _compare_keys(self, key_shard: str, rows: Sequence[dict[str, Any]]) -> None:
        keystore, found = self._keystore, self._found
        if keystore is None or not rows:
            return
        records = [(row, record_id, image_id) for row in rows for record_id, image_id in _records_of(row).items()]
        published = [
            Published(
                record_id,
                found.run_id,
                self._manifest.dataset,
                image_id,
                row["output_sha256"],
                {"sidecar_sha256": row["sidecar_sha256"]},
            )
            for row, record_id, image_id in records
        ]
        problems = keystore.disagreements(published)
        missing = [record_id for record_id, problem in problems.items() if problem == MISSING]
        erased = keystore.erased_among(missing)
        waits = bool(missing) and self._waits(keystore, f"{key_shard}{KEYS_SUFFIX}")
        for _, record_id, image_id in records:
            problem = problems.get(record_id)
            if problem is None:
                found.records += 1
            elif problem != MISSING:
                found.add("key", image_id, problem)
            elif record_id in erased:
                found.erased += 1
            elif waits:
                found.awaiting += 1
            else:
                found.add("key", image_id, f"key record {record_id} is not in the keystore, nor in its inbox")

    def _waits(self, keystore: Keystore, shard: str) -> bool:
        """Whether a key shard of the run lies in the keystore's own inbox, or where the run handed its keys in."""
        config, run_id = self._manifest.config, self._found.run_id
        said = config.get("inbox")
        elsewhere = (
            [] if said is None or is_service(said) else [as_place(said)]
        )  # a service's own lies with its keystore
        inboxes = [keystore.path / INBOX_NAME, *elsewhere]
        return any(
            (inbox / run_id / shard).is_file()
            if isinstance(inbox, Path)
            else BucketInbox(open_store(inbox, config.get("endpoint_url"))).holds(run_id, shard)
            for inbox in inboxes
        )

    def _look_for_unlisted(self, visible: Sequence[str]) -> None:
        found = self._found
        for folder in (IMAGES, SIDECARS):
            for name, _ in self._listed.strays(self._store.sizes(folder)):
                found.add("file", name, "no row lists it; `keyanon reconcile` removes what a killed attempt left")
        for file in self._store.children(ROWS, SHARD_SUFFIX):
            if file.removesuffix(SHARD_SUFFIX) not in visible:
                found.add("shard", f"{ROWS}/{file}", "no segment lists it; `keyanon reconcile` removes it")


def _contradiction(row: dict[str, Any], keys: str, *, files: bool) -> str:
    """What a row says that can not be so; "" when nothing is."""
    published = row["output_sha256"] is not None
    keyed = row["record_id"] is not None
    anonymized = row["status"] == "anonymized"
    if row["status"] not in ("anonymized", "no_face", "quarantined"):
        return f"no row has the status {row['status']!r}"
    if row["status"] == "quarantined" and published:
        return "it is quarantined and lists a picture"
    if anonymized and not published:
        return "it is anonymized and lists no picture"
    if (anonymized and not row["permanent"] and keys == "store") != keyed:
        return "it has a key record and should have none" if keyed else "it should have a key record and has none"
    if keyed and row["record_id"] not in _records_of(row):
        return "the key records of its tracks are others than its key record"
    if not keyed and row["track_records"]:
        return "it has no key record and lists some of tracks"
    if keyed != (row["sidecar_sha256"] is not None):
        return "key record and sidecar do not come together"
    if files and (published, keyed) != (row["output"] is not None, row["sidecar"] is not None):
        return "its names and its digests do not come together"
    if not anonymized and not row["reason"]:
        return f"it is {row['status']} without a reason"
    return ""


def _records_of(row: dict[str, Any]) -> dict[str, str]:
    """The image ids of a row's key records by their record ids: of a piece of a clip one for each track."""
    if not row["track_records"]:
        return {row["record_id"]: row["image_id"]}
    return {one["record_id"]: part_id(row["image_id"], one["track"]) for one in row["track_records"]}


def _of_another(row: dict[str, Any], content: bytes) -> str:
    """Why a sidecar is not this row's; "" when it is."""
    if len(content) > MAX_SIDECAR_BYTES:
        return f"it exceeds a sidecar's limit of {MAX_SIDECAR_BYTES} bytes"
    try:
        sidecar = Sidecar.from_bytes(content)
    except SidecarError as error:
        return str(error)
    if (sidecar.record_id, sidecar.image_id) != (row["record_id"], row["image_id"]):
        return f"it belongs to {sidecar.image_id!r:.200} and record {sidecar.record_id!r:.80}"
    return ""
