"""Round after round, what lies in an inbox is taken in: what one round leaves there is tried again, later and later."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jobs.output.bucket_inbox import Courier
    from keystore.ingest_opening import IngestOpening
    from keystore.intake.report import IngestReport

FIRST_WAIT_SECONDS: Final = 60.0  # until a shard is tried again that could not be taken in; twice as long each time
LONGEST_WAIT_SECONDS: Final = 3600.0

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Left:
    """A shard that stayed in the inbox. due: when it is tried again, by `time.monotonic`. wait: seconds, the next time. refused:
    it was read, and is not what may be taken in; else something ended the try."""

    due: float
    wait: float
    refused: bool = False


@dataclass
class Rounds:
    """Takes in what lies in the inbox. A shard that stays may be damaged, which a person sees to; or its run was not announced
    yet, or the disk failed, which passes: so it is tried again, with a growing wait."""

    opened: "IngestOpening"
    run: str | None
    accept: str | None
    kek: str | None
    processes: int
    courier: "Courier | None"
    left: dict[tuple[str, str], _Left] = field(default_factory=dict)  # run and shard; no more than lie in the inbox

    @property
    def refused(self) -> int:
        """Shards that stay in the inbox for what they are."""
        return sum(one.refused for one in self.left.values())

    def take_in(self) -> Iterator["IngestReport"]:
        """Reports of the runs of which anything was tried, each when it is there: what ends a round leaves those before it
        counted. What could not be taken in is said on the log."""
        if self.courier is not None:
            self.courier.deliver()  # what one that died had taken in
            self.courier.fetch()
        pending = {run: names for run, names in self.opened.pending().items() if self.run in (None, run)}
        self._forget({(run, name) for run, names in pending.items() for name in names})
        now = monotonic()
        due = {run: [name for name in names if self._is_due(run, name, now)] for run, names in pending.items()}
        for run, names in due.items():
            if names:
                yield self._take(run, names)
        if self.courier is not None:
            self.courier.deliver()

    def _take(self, run: str, names: list[str]) -> "IngestReport":
        from keystore.intake.report import ShardsNotTakenIn

        self._put_off(run, names)  # whatever ends this
        if self.accept is not None and not self.opened.knows(run):
            self.opened.inbox(run, self.accept)
        try:
            report = self._ingest(run, names)
        except ShardsNotTakenIn as error:
            _LOGGER.error("%s", error)
            report = error.report
        for one in report.rejected:
            _LOGGER.error("run %s: record %d of shard %s was not taken in: %s", run, one.index, one.shard, one.reason)
        stay = {*report.failed_shards, *(one.shard for one in report.rejected)}
        for name in names:
            left = self.left.pop((run, name))
            if name in stay:
                self.left[run, name] = replace(left, refused=True)
        return report

    def _ingest(self, run: str, names: list[str]) -> "IngestReport":
        from keystore.ingest_processes import ingest_by_processes

        if self.processes == 1:
            return self.opened.ingest(run, names)
        return ingest_by_processes(
            self.opened.path, self.kek, run, names, self.processes, receipts=True, inbox=self.opened.inbox_root
        )

    def _is_due(self, run: str, name: str, now: float) -> bool:
        left = self.left.get((run, name))
        return left is None or left.due <= now

    def _put_off(self, run: str, names: Collection[str]) -> None:
        now = monotonic()
        for name in names:
            before = self.left.get((run, name))
            wait = FIRST_WAIT_SECONDS if before is None else before.wait
            refused = before is not None and before.refused
            self.left[run, name] = _Left(now + wait, min(2 * wait, LONGEST_WAIT_SECONDS), refused)

    def _forget(self, but: Collection[tuple[str, str]]) -> None:
        self.left = {key: left for key, left in self.left.items() if key in but}


@dataclass
class Totals:
    """What a service took in, in numbers by run: it may go on for years."""

    runs: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, reports: Iterable["IngestReport"]) -> None:
        """Count each report when it comes."""
        for report in reports:
            self.runs.setdefault(report.run_id, Counter()).update(
                shards=len(report.shards) - len(report.failed_shards),
                ingested=report.ingested,
                already_present=report.already_present,
                erased=len(report.erased),
                rejected=len(report.rejected),
                failed=len(report.failed_shards),
            )
