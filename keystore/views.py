"""What the keystore shows: typed, frozen, printable, JSON-able, without any key material."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from keystore.decisions.lifecycle import State


class View(BaseModel):
    """Base of all views; `model_dump_json()` is fit for machine output."""

    model_config = ConfigDict(frozen=True)


class RequestedImage(View):
    """One image of a request."""

    record_id: str
    dataset: str
    image_id: str


class ApprovalView(View):
    """Who approved, and when. An erased person has no name any more."""

    approver: str
    approved_at: datetime


class GrantView(View):
    """The one-shot permission of a request."""

    grant_id: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class RequestView(View):
    """A request as people see it. `state` is that of the moment the view was made."""

    request_id: str
    revision: int
    state: State
    requester: str
    case: str
    purpose: str
    legal_basis: str
    images: list[RequestedImage]
    created_at: datetime
    expires_at: datetime
    digest: str
    approvals_required: int
    approvals: list[ApprovalView]
    denied_by: str | None
    grant: GrantView | None


class RecordView(View):
    """What may be known of a stored key record without opening it."""

    record_id: str
    run_id: str
    dataset: str
    image_id: str
    source_sha256: str
    ingested_at: datetime


class RejectedRecord(View):
    """A record that was not taken in, and why; the other records of its shard were."""

    shard: str
    index: int
    record_id: str | None
    reason: str


class IngestReport(View):
    """What an ingest did. `failed_shards` (shard name, reason) could not be read at all; they stay in the inbox."""

    run_id: str
    shards: list[str]
    ingested: int
    already_present: int
    rejected: list[RejectedRecord]
    failed_shards: dict[str, str]


class AuditReport(View):
    """The verdict of an audit. `problems` is empty exactly when `ok`."""

    ok: bool
    origin: str
    size: int
    root: str
    checkpoint: str
    witnessed_size: int | None
    problems: list[str]
