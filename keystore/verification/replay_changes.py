"""What the log says of changes of who decides, held against the rules: from some entry on enough approvers sign them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.decisions.changes import benefits, has_key_of_its_name, made_by, people_of
from keystore.decisions.content import request_digest
from keystore.decisions.policy import MIN_APPROVALS

if TYPE_CHECKING:
    from keystore.verification.replay_decisions import LoggedDecisions


def check_filed(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Check that a change is in the log as its digest says, which approvers sign."""
    state.mentioned |= people_of(leaf["change"])
    row: dict[str, object] = dict.fromkeys(("case_reference", "purpose", "legal_basis", "salt"), "")
    row |= {name: leaf[name] for name in ("revision", "requester", "expires_at", "approvals_required")}
    row |= {"request_id": leaf["request"], "created_at": leaf["time"], "policy_digest": leaf["policy"]}
    row["change"] = canonical_json(leaf["change"])
    keystore_id = "" if state.created is None else state.created["keystore"]
    if request_digest(keystore_id, row, []) != leaf["digest"]:
        state.problems.append(f"entry {leaf['seq']} files another change than its digest stands for")
    if not has_key_of_its_name(leaf["change"]):
        state.problems.append(f"entry {leaf['seq']} files a change that calls a key by another's name")


def check_agreed(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Check who agreed to the change that an entry makes; called before it is taken into account."""
    entry = f"entry {leaf['seq']} ({leaf['type']})"
    if "request" not in leaf:
        if state.signed_from is not None:
            since = f"approvers sign every such change since entry {state.signed_from}"
            state.problems.append(f"{entry} is by names alone, and {since}")
        state.by_names.append(leaf["seq"])
        return
    request = state.requests[leaf["request"]]
    change = dict(request.change or {})
    nobody = benefits(request.change) | {request.requester}
    was = change.pop("was", None)
    if request.policy != state.policies[-1]:
        state.problems.append(f"{entry} makes a change after the policy that it was filed under was changed")
    if change != made_by(leaf) or (was is not None and sha256_hex(canonical_json(was)) != state.policies[-1]):
        state.problems.append(f"{entry} makes another change than was signed, or of something else")
    signed = {approver for digest, approver in request.approvals if digest == request.digest} - nobody
    roles = {state.approver_keys[key]["role"] for (_, approver), key in request.keys.items() if approver in signed}
    enough = len(signed) >= max(MIN_APPROVALS, state.approvals_of_policy) and set(state.roles_of_policy) <= roles
    if request.state != "pending" or leaf["time"] >= request.expires_at or not enough or leaf["by"] != sorted(signed):
        state.problems.append(f"{entry} came when not enough approvers had signed it, or a second time")
    request.end("applied", leaf["time"])
