"""What the log says of broken glass, held against the rules: who might, of what, once, and who reviewed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystore.decisions.break_glass import LIFETIME
from keystore.decisions.policy import MIN_APPROVALS
from keystore.verification.replay_changes import check_agreed
from keystore.verification.replay_policy import check_granted, lives_longer

if TYPE_CHECKING:
    from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest


def apply_break(state: LoggedDecisions, request: LoggedRequest, leaf: dict[str, Any], entry: str) -> None:
    """Take the entry into account that grants a request without approvals."""
    if leaf["by"] != request.requester or leaf["by"] not in state.break_glass_of_policy:
        state.problems.append(f"{entry} is by a person who may not break the glass")
    if unreviewed(state):
        state.problems.append(f"{entry} breaks the glass while an earlier time was not reviewed")
    if request.state != "pending" or leaf["records"] != request.records:
        state.problems.append(f"{entry} grants something else than was just asked for")
    if lives_longer(leaf, LIFETIME.total_seconds()):
        state.problems.append(f"{entry} lives longer than an hour")
    check_granted(state, request, leaf, entry)
    request.grants[leaf["digest"]] = (leaf["grant"], leaf["expires_at"])
    request.state = "approved"
    state.breaks[leaf["request"]] = {"digest": leaf["digest"], "reviewed": False}


def apply_review(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take a review into account, of request `broken` where approvers signed it, of `request` where it is by names alone."""
    entry, is_signed = f"entry {leaf['seq']} (review)", "broken" in leaf
    ident = leaf["broken" if is_signed else "request"]
    broken, requester = state.breaks[ident], state.requests[ident].requester
    if is_signed:
        check_agreed(state, leaf)
        if (leaf["digest"], leaf["who"]) != (broken["digest"], requester):
            state.problems.append(f"{entry} is of something else than broke the glass")
    elif "review" in state.signed_too:
        state.problems.append(f"{entry} is by names alone, and approvers sign it since entry {state.signed_from}")
    if broken["reviewed"] or len(set(leaf["by"]) - {requester}) < max(MIN_APPROVALS, state.approvals_of_policy):
        state.problems.append(f"{entry} reviews a second time, or is by fewer people than it takes")
    broken["reviewed"] = True


def unreviewed(state: LoggedDecisions) -> list[str]:
    """Return the requests that broke the glass and were not reviewed."""
    return [request for request, broken in state.breaks.items() if not broken["reviewed"]]
