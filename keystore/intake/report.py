"""What an ingest did, for people and for machines."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from keystore.errors import TamperedError


class RejectedRecord(BaseModel):
    """A record that was not taken in, and why; the other records of its shard were."""

    model_config = ConfigDict(frozen=True)

    shard: str
    index: int
    record_id: str | None
    reason: str


class IngestReport(BaseModel):
    """What an ingest did. `failed_shards` (shard name, reason) could not be read at all; they stay in the inbox."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    shards: list[str]
    ingested: int
    already_present: int
    rejected: list[RejectedRecord]
    erased: list[str] = []  # ids of copies of records whose subject or image was erased: not taken in again
    failed_shards: dict[str, str]


class ShardsNotTakenIn(TamperedError):
    """Some shards are damaged or missing; `report` says what was taken in all the same."""

    def __init__(self, message: str, report: IngestReport) -> None:
        super().__init__(message)
        self.report = report

    @classmethod
    def of(cls, report: IngestReport) -> Self:
        """Return the error of a report with failed shards."""
        reasons = "; ".join(report.failed_shards.values())
        return cls(f"{len(report.failed_shards)} shard(s) of run {report.run_id} were not taken in: {reasons}", report)
