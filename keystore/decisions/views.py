"""A request as people see it: typed, frozen, printable, JSON-able, without any key material."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from keystore.decisions.lifecycle import State


class View(BaseModel):
    """Base of these views; `model_dump_json()` is fit for machine output."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


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
    case: str = Field(repr=False)
    purpose: str = Field(repr=False)
    legal_basis: str = Field(repr=False)
    images: list[RequestedImage]
    created_at: datetime
    expires_at: datetime
    digest: str
    approvals_required: int
    approvals: list[ApprovalView]
    denied_by: str | None
    grant: GrantView | None
