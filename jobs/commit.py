"""The end of a run: every input row accounted for exactly once, keys ingested, leftovers of killed attempts removed."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import CommitError, PublishError
from jobs.output_names import IMAGES, SIDECARS, image_name, sidecar_name
from jobs.sink import ROWS, SHARD_SUFFIX, OutputLayout, is_shard_name
from keystore import durable

_COLUMNS: Final = [
    "row",
    "image_id",
    "status",
    "reason",
    "record_id",
    "output",
    "sidecar",
    "output_sha256",
    "faces",
    "kept",
    "permanent",
]


@dataclass
class Tally:
    """What the row shards of a run say, in numbers. bytes_of: sizes by part of the output. fresh: of this attempt."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
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
            self.reasons[row["reason"].split(":", 1)[0]] += 1
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
    return {row for shard in shards(layout) for row in _read(shard, ["row"]).column("row").to_pylist()}


def shards(layout: OutputLayout) -> list[Path]:
    """The visible row shards, sorted by name. Raises PublishError for a file that is none."""
    found = sorted(path for path in layout.rows.glob(f"*{SHARD_SUFFIX}") if not path.name.startswith("."))
    for path in found:
        if not is_shard_name(path.name.removesuffix(SHARD_SUFFIX)):
            raise PublishError(f"{path} was not written by this run; move it away and run the same command again")
    return found


def settle(layout: OutputLayout, total: int, finished: frozenset[int] = frozenset()) -> Tally:
    """Make the shards hold every row once, sweep leftovers, and count.

    Raises:
        CommitError: rows are missing or unknown. PublishError, OSError: the output can not be read or written.
    """
    _resolve_duplicates(layout)
    tally, seen = Tally(), set()
    published: set[str] = set()
    unpublished: list[str] = []
    for shard in shards(layout):
        tally.shards.append(shard.name.removesuffix(SHARD_SUFFIX))
        for row in _read(shard, _COLUMNS).to_pylist():
            seen.add(row["row"])
            tally.add(row, row["row"] not in finished)
            published.update(name for name in (row["output"], row["sidecar"]) if name is not None)
            if row["output"] is None:
                unpublished.append(row["image_id"])
    if len(seen) != tally.rows or seen != set(range(total)):
        missing = sorted(set(range(total)) - seen)
        raise CommitError(
            f"{total} input rows, {tally.rows} output rows, {len(missing)} missing (first: {missing[:5]}), "
            f"{len(seen - set(range(total)))} unknown; the output is not complete, run the same command again"
        )
    _sweep(layout, published, unpublished)
    tally.bytes_of = {
        part: sum(p.stat().st_size for p in _files(layout.root / part)) for part in (IMAGES, SIDECARS, ROWS)
    }
    return tally


def _resolve_duplicates(layout: OutputLayout) -> None:
    """Where two attempts published the same row, keep the one whose picture is there: its key is the right one."""
    holders: dict[int, list[tuple[Path, str | None, str | None]]] = {}
    for shard in shards(layout):
        for row in _read(shard, ["row", "output", "output_sha256"]).to_pylist():
            holders.setdefault(row["row"], []).append((shard, row["output"], row["output_sha256"]))
    losers: dict[Path, set[int]] = {}
    for row, claims in holders.items():
        if len(claims) > 1:
            winner = next(
                (shard for shard, output, digest in claims if _is_there(layout, output, digest)), claims[0][0]
            )
            for shard, _, _ in claims:
                if shard != winner:
                    losers.setdefault(shard, set()).add(row)
    for shard, rows in losers.items():
        table = _read(shard, None)
        kept = table.filter(pc.invert(pc.is_in(table.column("row"), pa.array(sorted(rows), pa.int64()))))
        if kept.num_rows:
            buffer = pa.BufferOutputStream()
            pq.write_table(kept, buffer, compression="zstd")
            durable.replace(shard, buffer.getvalue())
        else:
            shard.unlink()


def _is_there(layout: OutputLayout, output: str | None, digest: str | None) -> bool:
    if output is None:
        return False
    path = layout.root / output
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _sweep(layout: OutputLayout, published: set[str], unpublished: list[str]) -> None:
    """Remove what killed attempts left: temporary files, and pictures of rows that were quarantined when they were done
    again."""
    for part in (IMAGES, SIDECARS, ROWS):
        for path in _files(layout.root / part):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)
    if layout.schema is not None:
        return
    for image_id in unpublished:
        try:
            names = (image_name(image_id, layout.output_format), sidecar_name(image_id))
        except PublishError:  # an id that can not be a path never had files
            continue
        for name in names:
            if name not in published:
                (layout.root / name).unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _read(shard: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(shard) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise PublishError(
            f"row shard {shard} is damaged ({error}); remove it and run the same command again"
        ) from error
