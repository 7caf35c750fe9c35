"""The life of a request, as pure functions on values: no clock, no database, no key is touched here.

A request is *pending* from the moment it is made. People other than the requester approve it, each once; each approval counts
for one exact content of the request (its digest, which the approver was shown and names), so any change to the request (a new
revision, a new digest) leaves it with no approvals. When as many distinct people as the request asks for have approved, it
becomes *approved* and a grant exists, which lives until the grant's lifetime or the request's own expiry is over, whichever
comes first. The requester, and nobody else, may then take the keys out, once: the request is *released*, and that is final.
Anyone may deny a pending or approved request (the requester too: that is a withdrawal), which is final as well. A request
whose expiry has passed is *expired*: nothing can be done with it but look at it, and so is an approved one whose grant has
run out. A change of the policy ends what is open (ending.py). Where the policy names roles, the approvals are enough only once
an approver of each is among those people.

A request can ask for a change of who decides instead of keys (changes.py): the last approval needed makes that, and the request
is *applied*. Whom the change benefits counts as little as the requester.

    pending --approve (m-th)--> approved --release--> released        pending --approve (m-th)--> applied, of a change
       |  \\--change--> pending (no approvals)  /
       \\--deny--> denied <-------deny--------/        any of pending, approved --time--> expired

Every function either returns or raises ApprovalError / GrantError with a code for the audit log. All times are aware datetimes
handed in by the caller.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from keystore.decisions.policy import MIN_APPROVALS
from keystore.errors import ApprovalError, GrantError


class State(StrEnum):
    """Where a request stands."""

    PENDING = "pending"
    APPROVED = "approved"
    RELEASED = "released"
    APPLIED = "applied"
    DENIED = "denied"
    EXPIRED = "expired"


FINAL_STATES = frozenset({State.RELEASED, State.APPLIED, State.DENIED, State.EXPIRED})


@dataclass(frozen=True)
class Approval:
    """One person's approval of one exact content of a request; with a key of their own, in the role they were enrolled in.

    grant_seconds: how long the grant may live at most, where they chose that.
    """

    approver: str
    digest: str
    role: str | None = None
    grant_seconds: int | None = None


@dataclass(frozen=True)
class Grant:
    """A one-shot permission to take the keys of one request, until `expires_at`."""

    grant_id: str
    expires_at: datetime


@dataclass(frozen=True)
class RequestLife:
    """What the rules need to know of a request. `stored` is the state as last written; time may have moved on.

    benefits: people whose approval does not count, as the requester's does not.
    """

    request_id: str
    requester: str
    digest: str
    approvals_required: int
    expires_at: datetime
    stored: State
    approvals: tuple[Approval, ...] = ()
    roles_required: tuple[str, ...] = ()
    benefits: frozenset[str] = frozenset()
    grant: Grant | None = None

    def state(self, now: datetime) -> State:
        """Return the state at `now`. A permission ends at its expiry, not after it."""
        if self.stored in (State.PENDING, State.APPROVED):
            if now >= self.expires_at:
                return State.EXPIRED
            if self.grant is not None and now >= self.grant.expires_at:
                return State.EXPIRED
        return self.stored

    def approvers(self) -> frozenset[str]:
        """Return the distinct people whose approval is for the present content, but the requester and whom it benefits."""
        return frozenset(one.approver for one in self._counted())

    def missing_roles(self) -> list[str]:
        """Return which of the roles that must be present none of these people has."""
        return sorted(set(self.roles_required) - {one.role for one in self._counted()})

    def shortest_grant(self, most: timedelta) -> timedelta:
        """Return how long a grant may live: `most`, or the shortest time that one of these people chose."""
        times = [timedelta(seconds=one.grant_seconds) for one in self._counted() if one.grant_seconds is not None]
        return min([most, *times])

    def _counted(self) -> list[Approval]:
        nobody = self.benefits | {self.requester}
        return [one for one in self.approvals if one.digest == self.digest and one.approver not in nobody]


def check_approve(life: RequestLife, approver: str, shown: str, now: datetime) -> None:
    """Raise ApprovalError unless this person may now approve this request, and `shown` is the digest of its present content."""
    _check_state(life, "approved", frozenset({State.PENDING}), now)
    if approver == life.requester:
        raise ApprovalError(
            "self-approval",
            f"request {life.request_id} can not be approved by the person who made it; ask someone else",
        )
    if approver in life.benefits:
        raise ApprovalError(
            "own-benefit",
            f"request {life.request_id} can not be approved by the person whom it benefits; ask someone else",
        )
    if not hmac.compare_digest(shown.encode(), life.digest.encode()):
        raise ApprovalError(
            "changed",
            f"request {life.request_id} is not what was shown: it was changed since, or the digest was mistyped. Read it again, "
            "and approve the digest that is shown then",
        )
    if approver in life.approvers():
        raise ApprovalError(
            "twice", f"request {life.request_id} already has this person's approval; another person is needed"
        )


def is_approved(life: RequestLife) -> bool:
    """Return whether enough distinct people, of all roles, have approved the present content. Never true for fewer than two."""
    return len(life.approvers()) >= max(MIN_APPROVALS, life.approvals_required) and not life.missing_roles()


def grant_expiry(life: RequestLife, now: datetime, grant_lifetime: timedelta) -> datetime:
    """Return when a grant made `now` ends: never later than the request itself, or than an approver chose."""
    return min(life.expires_at, now + life.shortest_grant(grant_lifetime))


def check_deny(life: RequestLife, now: datetime) -> None:
    """Raise ApprovalError unless the request can still be denied."""
    _check_state(life, "denied", frozenset({State.PENDING, State.APPROVED}), now)


def check_change(life: RequestLife, person: str, now: datetime) -> None:
    """Raise ApprovalError unless this person may change this request now."""
    _check_state(life, "changed", frozenset({State.PENDING, State.APPROVED}), now)
    if person != life.requester:
        raise ApprovalError("not-requester", f"request {life.request_id} can be changed by its requester only")


def check_release(life: RequestLife, person: str, now: datetime, *, glass_broken: bool = False) -> Grant:
    """Return the grant that allows this person to take the keys now. Raises GrantError.

    glass_broken: the log says that this content was granted without approvals, by who might (decisions.break_glass).
    """
    state = life.state(now)
    if state is State.RELEASED:
        raise GrantError(
            "used", f"the grant of request {life.request_id} was used; a grant works once. Make a new request"
        )
    if state is State.APPLIED:
        raise GrantError("applied", f"request {life.request_id} was for a change, and gives no keys")
    if state is State.EXPIRED:
        raise GrantError("expired", f"request {life.request_id} or its grant has expired; make a new request")
    if state is State.DENIED:
        raise GrantError("denied", f"request {life.request_id} was denied")
    if person != life.requester:
        raise GrantError(
            "not-requester", f"the grant of request {life.request_id} is for the person who made the request only"
        )
    if state is not State.APPROVED or life.grant is None or not (glass_broken or is_approved(life)):
        roles = life.missing_roles()
        missing = max(MIN_APPROVALS, life.approvals_required) - len(life.approvers())
        missing = max(missing, len(roles))
        of = f", among them of {', '.join(roles)}" if roles else ""
        raise GrantError(
            "not-approved", f"request {life.request_id} is not approved: {missing} more approval(s) needed{of}"
        )
    return life.grant


def _check_state(life: RequestLife, verb: str, allowed: frozenset[State], now: datetime) -> None:
    state = life.state(now)
    if state not in allowed:
        raise ApprovalError(
            f"state-{state}",
            f"request {life.request_id} is {state} and can not be {verb}; make a new request if it is still needed",
        )
