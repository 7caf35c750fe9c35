"""What the log says of the policy, held against the rules: who changed it, what ended with it, what may be asked and granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystore.crypto.canonical import canonical_json, parse_timestamp, sha256_hex
from keystore.decisions.changes import LIFETIME
from keystore.decisions.policy import MIN_APPROVALS
from keystore.verification.replay_changes import check_agreed

if TYPE_CHECKING:
    from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest


def set_policy(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take an entry into account that makes a policy the present one; those of this version end every open request, too."""
    entry, policy = f"entry {leaf['seq']}", dict(leaf["policy"])
    digest = sha256_hex(canonical_json(policy))
    if state.policies:  # the first is of who made the keystore
        check_agreed(state, leaf)
        if len(set(leaf["by"] or ())) < MIN_APPROVALS:
            state.problems.append(f"{entry} changes the policy by one person alone")
    if leaf.get("ends_open") is True:
        state.ends_open_from = leaf["seq"] if state.ends_open_from is None else state.ends_open_from
    elif state.ends_open_from is not None:
        since = f"every change of the policy does since entry {state.ends_open_from}"
        state.problems.append(f"{entry} changes the policy and ends no open request, and {since}")
    if state.ends_open_from is not None:
        void_open(state, leaf["time"], leaf["time"])
    state.policies.append(leaf["digest"])
    state.policy = policy
    state.mentioned |= set(state.break_glass_of_policy)
    if digest != leaf["digest"]:
        state.problems.append(f"{entry} shows another policy than the one it sets")
    if state.approvals_of_policy < MIN_APPROVALS:
        state.weaknesses.append(f"{entry} sets a policy under which one person alone can approve")


def void_open(state: LoggedDecisions, time: str, expired: str = "") -> None:
    """End the open requests at `time`, by nobody. expired: what had by then stays so; without it, no time is believed."""
    for request in state.requests.values():
        _, until = request.grants.get(request.digest, ("", request.expires_at))
        if request.state in ("pending", "approved") and min(until, request.expires_at) > expired:
            request.end("denied", time)


def check_asked(state: LoggedDecisions, request: LoggedRequest, leaf: dict[str, Any]) -> None:
    """Check that what an entry files is under the policy of its time, and asks for no more than that allows."""
    entry = f"entry {leaf['seq']}"
    if (request.policy, request.approvals_required) != (state.policies[-1], state.approvals_of_policy):
        state.problems.append(f"{entry} is not under the policy of its time")
    if request.change is None and request.records > state.policy["max_images"]:
        state.problems.append(f"{entry} asks for more images than the policy of its time allows")
    most = LIFETIME.total_seconds() if request.change is not None else state.policy["max_lifetime_seconds"]
    if lives_longer(leaf, most):
        state.problems.append(f"{entry} stands for longer than the policy of its time allows")


def check_current(state: LoggedDecisions, request: LoggedRequest, entry: str) -> None:
    """Check that what an entry decides is decided under the policy that the request was made under."""
    if request.policy != state.policies[-1]:
        state.problems.append(f"{entry} comes after the policy that it was made under was changed")


def check_granted(state: LoggedDecisions, request: LoggedRequest, leaf: dict[str, Any], entry: str) -> None:
    """Check how long the grant of an entry lives."""
    if leaf["expires_at"] > request.expires_at:
        state.problems.append(f"{entry} outlives its request")
    if lives_longer(leaf, state.policy["grant_lifetime_seconds"]):
        state.problems.append(f"{entry} lives longer than the policy lets a grant live")


def lives_longer(leaf: dict[str, Any], seconds: float) -> bool:
    """Return whether what an entry makes expires more than so many seconds after it. Raises ValueError: it says no time."""
    return (parse_timestamp(leaf["expires_at"]) - parse_timestamp(leaf["time"])).total_seconds() > seconds
