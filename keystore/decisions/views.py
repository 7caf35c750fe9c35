"""A request as people see it: typed, frozen, printable, JSON-able, without any key material."""

from __future__ import annotations

from datetime import datetime
from typing import Any

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
    """Who approved, and when; an erased person has no name any more.

    key: their own, None where the keystore keeps one; grant_seconds: how long the grant may live at most, where they chose that.
    """

    approver: str
    approved_at: datetime
    key: str | None = None
    role: str | None = None
    grant_seconds: int | None = None


class GrantView(View):
    """The one-shot permission of a request."""

    grant_id: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class PasskeyView(View):
    """What is known of a passkey beside its public key (decisions.passkeys)."""

    credential: str
    origin: str
    rp_id: str


class ApproverView(View):
    """A key that was enrolled for an approver, and until when it counted. public_key: base64; passkey: where it is one."""

    key: str
    person: str
    role: str
    public_key: str
    enrolled_at: datetime
    removed_at: datetime | None
    passkey: PasskeyView | None = None


class RequestView(View):
    """A request as people see it. `state` is that of the moment the view was made.

    overlap: how many of its images other requests name too, and how many requests those are. keystore, requester_id, salt and
    policy_digest are what the digest is of besides what one reads (content.shown_digest). change: what is to be changed, where
    it asks for that and not for keys (decisions.changes); change_people: the names of those in it, by commitment.
    """

    keystore: str
    request_id: str
    revision: int
    state: State
    requester: str
    requester_id: str = Field(repr=False)
    case: str = Field(repr=False)
    purpose: str = Field(repr=False)
    legal_basis: str = Field(repr=False)
    images: list[RequestedImage]
    overlap_images: int
    overlap_requests: int
    created_at: datetime
    expires_at: datetime
    digest: str
    salt: str = Field(repr=False)
    policy_digest: str
    approvals_required: int
    own_keys: bool
    roles: list[str]
    approvals: list[ApprovalView]
    denied_by: str | None
    grant: GrantView | None
    change: dict[str, Any] | None = None
    change_people: dict[str, str] = Field(default_factory=dict)
