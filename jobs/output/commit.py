"""The end of a run: every input row accounted for exactly once, keys ingested, and nothing left that does not count."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import CommitError, MachineError, PublishError
from jobs.names import IMAGES, SIDECARS, image_name, sidecar_name
from jobs.output.keys import KeyHolder, check_keys
from jobs.output.layout import ROWS, SHARD_SUFFIX, OutputLayout, shard_file
from jobs.output.row_sets import RowSet
from jobs.output.row_shards import (
    RECORDS,
    KeyShard,
    keep_positions,
    named_records,
    new_shard_name,
    read_shard,
    reason_code,
    retry_of,
    row_shards,
    standing_rows,
    to_parquet,
    unlisted,
)
from jobs.output.settled import Settled
from jobs.output.shared_lease import HeldLease
from jobs.output.staging import Staging, sweep
from jobs.sources.ids import RowNumbers
from jobs.storage.store import Copy

_COLUMNS: Final = [
    "row",
    "status",
    "reason",
    "record_id",
    "faces",
    "kept",
    "permanent",
    "fidelity",
    "pseudonym",
]


@dataclass
class PseudonymCounts:
    """Anonymized pictures of a run with pseudonyms; all 0 of another. shown: whose largest face is its subject's pseudonym.
    several: of them, those with further faces, which have none. without: of which nobody said a subject."""

    shown: int = 0
    several: int = 0
    without: int = 0

    def add(self, anonymized: pa.Table) -> None:
        said = anonymized.column("pseudonym")
        shown = pc.fill_null(said, False)
        self.shown += _true(shown)
        self.several += _true(pc.and_(shown, pc.greater(anonymized.column("faces"), 1)))
        self.without += _true(pc.fill_null(pc.invert(said), False))


@dataclass
class Tally:
    """What the row shards of a run say, in numbers. quarantine_reasons: of the rows kept out alone.
    keyed: rows whose keys are in a key shard. bytes_of: sizes by part of the output. fresh: of this attempt."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    quarantine_reasons: Counter[str] = field(default_factory=Counter)
    fidelities: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    fresh_faces: int = 0
    kept_faces: int = 0
    pseudonyms: PseudonymCounts = field(default_factory=PseudonymCounts)
    keyed: Counter[KeyShard] = field(default_factory=Counter)
    bytes_of: dict[str, int] = field(default_factory=dict)

    def add(self, table: pa.Table, fresh: npt.NDArray[np.bool_]) -> None:
        """Count some rows. fresh: which of them were made by this attempt. Raises CommitError for one that should have a key, and
        has none."""
        self.rows += table.num_rows
        status, reason, permanent = (table.column(name) for name in ("status", "reason", "permanent"))
        self.statuses.update(_counted(status))
        out = pc.equal(status, "quarantined")
        self.reasons.update(_codes(reason))
        self.quarantine_reasons.update(_codes(reason.filter(out)))
        self.fidelities.update(_counted(table.column("fidelity").drop_null()))
        self.kept_faces += pc.sum(table.column("kept"), min_count=0).as_py()
        done = pc.equal(status, "anonymized")
        keyless = pc.is_null(table.column("record_id"))
        wrong = pc.and_(done, pc.xor(keyless, pc.fill_null(permanent, False)))
        for row in table.filter(wrong).to_pylist():
            what = "is permanent and names" if row["permanent"] else "is not permanent and lacks"
            raise CommitError(
                f"row {row['row']} {what} a key record; its shard was edited: anonymize again into an empty output"
            )
        faces = table.column("faces").filter(done)
        self.faces += pc.sum(faces, min_count=0).as_py()
        self.pseudonyms.add(table.filter(done))
        made = pc.and_(done, pa.chunked_array([pa.array(fresh)]))
        self.fresh_faces += pc.sum(table.column("faces").filter(made), min_count=0).as_py()


def _true(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column, min_count=0).as_py())


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}


def _codes(reasons: pa.ChunkedArray) -> Counter[str]:
    found: Counter[str] = Counter()
    for reason, count in _counted(reasons).items():
        if reason:
            found[reason_code(reason)] += count
    return found


def quarantined_rows(layout: OutputLayout, reason: str | None = None, before_retry: int | None = None) -> RowSet:
    """Numbers of the quarantined rows, of one reason's code where it is given.

    before_retry: only those that no retry of this number or a later one has made.
    """
    found = RowSet()
    for part in standing_rows(layout.store, ["row", "status", "reason"]):
        if before_retry is None or retry_of(part.shard) < before_retry:
            out = part.table.filter(pc.equal(part.table.column("status"), "quarantined"))
            rows = zip(out.column("row").to_pylist(), out.column("reason").to_pylist(), strict=True)
            found.add([row for row, why in rows if reason in (None, reason_code(why))])
    return found


def complete(
    layout: OutputLayout,
    lease: HeldLease,
    keys: KeyHolder | None,
    run_id: str,
    numbers: RowNumbers | int,
    finished: RowSet | None = None,
    wanted: int | None = None,
) -> tuple[Tally, list[str]]:
    """Account for every row, take in the keys, and leave nothing behind that does not count.

    keys: None where they are discarded. numbers: of the rows, in the listing's order; or how many, from 0. finished: rows of
    earlier attempts, which must stand still, also those that are not in the listing any more. wanted: only the first so many rows
    were asked for; others may be there.

    Returns the account, and the key shards that were removed because nothing was published with them.

    Raises:
        CommitError: a row is too many, or its key is missing. MachineError: rows are missing, which the same command makes.
        PublishError, OSError, MachineError: the output can not be read or written. LeaseError: another attempt holds the output.
        KeysWaitingError: not every key is taken in yet. KeystoreError: a sealed shard was tampered with.
    """
    tally = settle(layout, numbers, finished, wanted)
    lease.commit([])  # from here on things are removed: not by an attempt that was overtaken and does not know it yet
    removed = [] if keys is None else _take_in_keys(layout, keys, run_id, tally)
    _remove_leftovers(layout, lease)
    # Only now: a shard that is replaced gives up the name under which its keys lay in the inbox.
    _drop_superseded(layout, lease)
    _remove_unseen_shards(layout, lease)
    sweep(layout.store)
    tally.bytes_of = {part: sum(size for _, size in layout.store.sizes(part)) for part in (IMAGES, SIDECARS, ROWS)}
    return tally, removed


def _take_in_keys(layout: OutputLayout, keys: KeyHolder, run_id: str, tally: Tally) -> list[str]:
    """Have the keys of all published pictures taken in; the key shards removed because no row shard belongs to them.

    A picture whose subject was erased has no key and never will. Raises CommitError when another key is missing, KeystoreError,
    KeysWaitingError, MachineError.
    """
    settled = Settled.read(layout.store)
    known = settled.names if keys.receipts else frozenset()
    removed = keys.take_in(run_id, tally.keyed, known)
    check_keys(keys, run_id, (one for one in _records(layout) if one[0].name not in known))
    if keys.receipts:
        settled.add(shard.name for shard in tally.keyed)
        keys.settle(run_id)
    return removed


def _records(layout: OutputLayout) -> Iterator[tuple[KeyShard, list[str]]]:
    for part in standing_rows(layout.store, ["row", *RECORDS]):
        if ids := named_records(part.table):
            yield part.key_shard, ids


def settle(
    layout: OutputLayout, numbers: RowNumbers | int, finished: RowSet | None = None, wanted: int | None = None
) -> Tally:
    """Count what the shards say; see `complete`. Raises CommitError for a row that stands twice, is none of the input's, or is
    gone and not in the input, MachineError for one that is not there yet, PublishError."""
    tally, seen, before = Tally(), RowSet(), finished if finished is not None else RowSet()
    for part in standing_rows(layout.store, _COLUMNS):
        keyed = part.table.num_rows - part.table.column("record_id").null_count
        if keyed:
            tally.keyed[part.key_shard] += keyed
        rows = part.table.column("row").to_numpy()
        seen.add(rows)
        tally.add(part.table, ~before.has(rows))
    listed: RowNumbers = np.arange(numbers, dtype=np.int64) if isinstance(numbers, int) else numbers
    needed, known = RowSet(listed[:wanted]), RowSet(listed)
    needed.add(before)
    missing = needed.without(seen)
    lost = ~known.has(missing)  # they stood, and no attempt would make them again
    known.add(before)
    unknown = len(seen.without(known))
    said = (
        f"{len(listed)} input rows, {tally.rows} output rows, {len(missing)} missing (first: {missing[:5].tolist()}), "
        f"{unknown} unknown"
    )
    if len(seen) != tally.rows or unknown or lost.any():
        raise CommitError(
            f"{said}; `keyanon verify` names what is twice or gone: restore the output from a backup, or anonymize again into an "
            "empty one"
        )
    if len(missing):
        raise MachineError(f"{said}; the output is not complete, run the same command again")
    return tally


def _remove_leftovers(layout: OutputLayout, lease: HeldLease) -> None:
    """Remove pictures and sidecars that a killed attempt linked, of rows that list none now that they were done again."""
    if layout.schema is not None:
        return
    there: dict[str, str | None] = {}
    for part in standing_rows(layout.store, ["row", "image_id", "output", "sidecar"]):
        lacking = pc.or_(pc.is_null(part.table.column("output")), pc.is_null(part.table.column("sidecar")))
        ids = part.table.column("image_id").filter(lacking).to_pylist()
        if ids:
            there |= layout.store.existing([name for image_id in ids for name in _names(layout, image_id)])
    lease.check()  # after looking: see `Publisher._make_free`
    for name in unlisted(layout.store, there.keys()):
        layout.store.delete(name, there[name])


def _names(layout: OutputLayout, image_id: str) -> tuple[str, ...]:
    """What a picture's files would be called; nothing for an id that can not be a path and never had files."""
    try:
        return image_name(image_id, layout.output_format), sidecar_name(image_id)
    except PublishError:
        return ()


def _drop_superseded(layout: OutputLayout, lease: HeldLease) -> None:
    """Put shards without the rows that were done again beside those that hold them, then remove these.

    Killed in between, the new shard, of the latest retry, supersedes the old one, and the next commit removes that.
    """
    store, staging = layout.store, Staging.of(layout.store, lease.token.attempt)
    latest = max(map(retry_of, row_shards(layout.store)), default=0)
    if not latest:
        return
    for part in [part for part in standing_rows(layout.store, ["row"]) if part.superseded]:
        if part.positions:
            name = new_shard_name(part.table.column("row").to_pylist(), latest)
            store.make_folder(staging.folder)
            kept = to_parquet(keep_positions(read_shard(store, shard_file(part.shard)), part.positions))
            staging.finish(name, kept)
            store.publish([Copy(staging.shard(name), shard_file(name), kept)])
            lease.commit([name], [part.shard])
        else:
            lease.commit([], [part.shard])
        store.delete(shard_file(part.shard))


def _remove_unseen_shards(layout: OutputLayout, lease: HeldLease) -> None:
    """Remove row shards of a bucket that no segment lists, so that any program may read `rows/` when a run is complete."""
    if not layout.store.shared:
        return
    lease.check()
    visible = set(row_shards(layout.store))
    for file in list(layout.store.children(ROWS, SHARD_SUFFIX)):
        if file.removesuffix(SHARD_SUFFIX) not in visible:
            layout.store.delete(f"{ROWS}/{file}")
