"""Where a run stands, as its output and its lease say it. It needs no keystore and changes nothing."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow.compute as pc

from jobs.errors import PublishError
from jobs.output.layout import MANIFEST
from jobs.output.manifest import COMPLETE, Manifest, read_existing
from jobs.output.reader import OutputError
from jobs.output.row_shards import standing_rows
from jobs.output.shared_lease import holder_of
from jobs.storage.store import Store


class Activity(StrEnum):
    """What a run does now."""

    RUNNING = "running"
    STOPPED = "stopped"
    COMPLETE = "complete"


@dataclass(frozen=True)
class RunStatus:
    """since: when what it does now began; None where nobody wrote that down, as of a run that was stopped. total: None before the
    input was listed. gone: rows whose pictures were not in the input any more when it was listed last. holder: host and process
    of a run that is going on. manifest: None before it is written."""

    activity: Activity
    since: str | None
    started_at: str | None
    attempts: int
    rows: int
    total: int | None
    gone: int
    statuses: dict[str, int]
    holder: dict[str, Any] | None
    manifest: Manifest | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the manifest but its ids."""
        told = {name: value for name, value in asdict(self).items() if name != "manifest"}
        run = self.manifest
        return {
            "kind": "status",
            "run_id": None if run is None else run.run_id,
            "dataset": None if run is None else run.dataset,
            **told,
        }


def status_of(store: Store) -> RunStatus:
    """Where the run of an output stands.

    Raises:
        OutputError: no run has begun there, or its rows can not be read. MachineError: a server or a disk can not be reached.
    """
    try:
        holder = holder_of(store)
        manifest = None if store.see(MANIFEST) is None else read_existing(store)
        if manifest is None and holder is None:
            raise OutputError(f"{store} is not the output of a keyanon run; give the one of `keyanon anonymize`")
        statuses: Counter[str] = Counter()
        for part in standing_rows(store, ["row", "status"]):
            for counted in pc.value_counts(part.table.column("status")).to_pylist():
                statuses[counted["values"]] += counted["counts"]
    except (PublishError, OSError) as error:
        raise OutputError(f"{store} can not be looked at: {error}") from error
    finished_at = None if manifest is None or manifest.state != COMPLETE else manifest.finished_at
    if holder is not None:
        activity, since = Activity.RUNNING, holder.get("since")
    else:
        activity, since = (Activity.COMPLETE, finished_at) if finished_at else (Activity.STOPPED, None)
    return RunStatus(
        activity=activity,
        since=since,
        started_at=None if manifest is None else manifest.started_at,
        attempts=1 if manifest is None else manifest.attempts,
        rows=statuses.total(),
        total=None if manifest is None else manifest.total_rows,
        gone=0 if manifest is None else manifest.gone_rows,
        statuses=dict(sorted(statuses.items())),
        holder=None if holder is None else {name: holder.get(name) for name in ("host", "pid")},
        manifest=manifest,
    )
