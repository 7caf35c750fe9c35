"""The end of a run: every input row accounted for exactly once, keys ingested, and nothing left that does not count."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from jobs.errors import CommitError, PublishError
from jobs.names import IMAGES, SIDECARS, image_name, sidecar_name
from jobs.output.layout import ROWS, SHARD_SUFFIX, OutputLayout, shard_file
from jobs.output.row_shards import (
    keep_positions,
    new_shard_name,
    read_shard,
    reason_code,
    retry_of,
    row_shards,
    standing_rows,
    to_parquet,
    unlisted,
)
from jobs.output.shared_lease import HeldLease
from jobs.output.staging import Staging, sweep
from jobs.storage.store import Copy
from keystore.service import Keystore

_COLUMNS: Final = [
    "row",
    "status",
    "reason",
    "record_id",
    "faces",
    "kept",
    "permanent",
    "fidelity",
]


@dataclass
class Tally:
    """What the row shards of a run say, in numbers. bytes_of: sizes by part of the output. fresh: of this attempt."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    fidelities: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    fresh_faces: int = 0
    kept_faces: int = 0
    record_ids: set[str] = field(default_factory=set)
    bytes_of: dict[str, int] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any], fresh: bool) -> None:
        """Count one row. fresh: it was made by this attempt. Raises CommitError for one that should have a key, and has none."""
        self.rows += 1
        self.statuses[row["status"]] += 1
        if row["reason"]:
            self.reasons[reason_code(row["reason"])] += 1
        if row["fidelity"] is not None:
            self.fidelities[row["fidelity"]] += 1
        self.kept_faces += row["kept"]
        if row["status"] == "anonymized":
            self.faces += row["faces"]
            if (row["record_id"] is None) != bool(row["permanent"]):
                wrong = "is permanent and names" if row["permanent"] else "is not permanent and lacks"
                raise CommitError(
                    f"row {row['row']} {wrong} a key record; its shard was edited: anonymize again into an empty output"
                )
            if row["record_id"] is not None:
                self.record_ids.add(row["record_id"])
            self.fresh_faces += row["faces"] if fresh else 0


def finished_rows(layout: OutputLayout) -> set[int]:
    """Numbers of the rows that earlier attempts finished. Raises PublishError for a damaged row shard."""
    return {row for part in standing_rows(layout.store, ["row"]) for row in part.table.column("row").to_pylist()}


def quarantined_rows(layout: OutputLayout, reason: str | None = None, before_retry: int | None = None) -> set[int]:
    """Numbers of the quarantined rows, of one reason's code where it is given.

    before_retry: only those that no retry of this number or a later one has made.
    """
    found: set[int] = set()
    for part in standing_rows(layout.store, ["row", "status", "reason"]):
        if before_retry is None or retry_of(part.shard) < before_retry:
            found |= {
                row["row"]
                for row in part.table.to_pylist()
                if row["status"] == "quarantined" and reason in (None, reason_code(row["reason"]))
            }
    return found


def complete(
    layout: OutputLayout,
    lease: HeldLease,
    keystore: Keystore | None,
    run_id: str,
    total: int,
    finished: frozenset[int] = frozenset(),
) -> tuple[Tally, list[str]]:
    """Account for every row, take in the keys, and leave nothing behind that does not count.

    keystore: None where the keys are discarded.

    Returns the account, and the key shards that were removed because nothing was published with them.

    Raises:
        CommitError: rows or keys are missing. PublishError, OSError, MachineError: the output can not be read or written.
        LeaseError: another attempt holds the output.
        KeystoreError: a sealed shard was tampered with.
    """
    tally = settle(layout, total, finished)
    lease.commit([])  # from here on things are removed: not by an attempt that was overtaken and does not know it yet
    removed = [] if keystore is None else _take_in_keys(keystore, run_id, tally)
    _remove_leftovers(layout, lease)
    # Only now: a shard that is replaced gives up the name under which its keys lay in the inbox.
    _drop_superseded(layout, lease)
    _remove_unseen_shards(layout, lease)
    sweep(layout.store)
    tally.bytes_of = {part: sum(size for _, size in layout.store.sizes(part)) for part in (IMAGES, SIDECARS, ROWS)}
    return tally, removed


def _take_in_keys(keystore: Keystore, run_id: str, tally: Tally) -> list[str]:
    """Ingest the keys of all published pictures; the key shards removed because no row shard belongs to them.

    A picture whose subject was erased has no key and never will. Raises CommitError when another key is missing, KeystoreError.
    """
    removed = keystore.reconcile(run_id, tally.shards)
    ingested = keystore.ingest(run_id)
    stored = {view.record_id for view in keystore.find_records(run_id=run_id)}
    lost = tally.record_ids - stored - set(ingested.erased)
    if lost := lost - keystore.erased_among(lost):
        rejected = "; ".join(f"{one.shard}[{one.index}]: {one.reason}" for one in ingested.rejected[:3])
        raise CommitError(
            f"{len(lost)} published pictures have no key in keystore {keystore.path} (first record: {min(lost)}"
            f"{'; ' + rejected if rejected else ''}); restore its inbox, or anonymize again into an empty output"
        )
    return removed


def settle(layout: OutputLayout, total: int, finished: frozenset[int] = frozenset()) -> Tally:
    """Count what the shards say. Raises CommitError unless every row stands exactly once, PublishError."""
    tally, seen = Tally(), set()
    for part in standing_rows(layout.store, _COLUMNS):
        tally.shards.append(part.shard)
        for row in part.table.to_pylist():
            seen.add(row["row"])
            tally.add(row, row["row"] not in finished)
    if len(seen) != tally.rows or seen != set(range(total)):
        missing = sorted(set(range(total)) - seen)
        raise CommitError(
            f"{total} input rows, {tally.rows} output rows, {len(missing)} missing (first: {missing[:5]}), "
            f"{len(seen - set(range(total)))} unknown; the output is not complete, run the same command again"
        )
    return tally


def _remove_leftovers(layout: OutputLayout, lease: HeldLease) -> None:
    """Remove pictures and sidecars that a killed attempt linked, of rows that list none now that they were done again."""
    if layout.schema is not None:
        return
    without: list[str] = []
    for part in standing_rows(layout.store, ["row", "image_id", "output", "sidecar"]):
        for row in part.table.to_pylist():
            if row["output"] is None or row["sidecar"] is None:
                without += _names(layout, row["image_id"])
    there = layout.store.existing(without)
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
    parts = list(standing_rows(layout.store, ["row"]))
    latest = max((retry_of(part.shard) for part in parts), default=0)
    for part in parts:
        if not part.superseded:
            continue
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
