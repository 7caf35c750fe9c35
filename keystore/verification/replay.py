"""What the log says happened: its leaves, replayed into the state that the tables must show. Pure: bytes in,
values and problems out.

The replay also holds the log against the rules: a grant without enough distinct approvals, a release by someone
else, a second use, are
problems even when the Merkle tree is sound.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoggedRequest:
    """One request as the log tells it."""

    requester: str
    digest: str
    revision: int
    expires_at: str
    approvals_required: int
    records: list[str]
    state: str = "pending"
    denied_by: str | None = None
    approvals: dict[tuple[str, str], str] = field(default_factory=dict)  # (digest, approver) -> signature, base64
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> (grant id, expires_at)


@dataclass
class LoggedState:
    """All that the log tells."""

    created: dict[str, Any] | None = None
    policies: list[str] = field(default_factory=list)  # digests, oldest first
    erased_people: set[str] = field(default_factory=set)
    enrolled: dict[str, str] = field(default_factory=dict)  # person -> public key, base64
    shards: dict[tuple[str, str, str], int] = field(default_factory=dict)  # (run, shard, sha256) -> records taken in
    requests: dict[str, LoggedRequest] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # grant id -> recipient
    problems: list[str] = field(default_factory=list)


def replay(leaves: Iterable[bytes]) -> LoggedState:
    """Return the state that the leaves lead to, with every leaf that does not fit as a problem."""
    state = LoggedState()
    last_time = ""
    for seq, data in enumerate(leaves):
        try:
            leaf = json.loads(data)
            if leaf["seq"] != seq:
                state.problems.append(f"entry {seq} says it is entry {leaf['seq']}")
            if leaf["time"] < last_time:
                state.problems.append(f"entry {seq} is earlier than the entry before it")
            last_time = leaf["time"]
            _apply(state, leaf)
        except (ValueError, KeyError, TypeError) as error:
            state.problems.append(f"entry {seq} is malformed or refers to nothing ({type(error).__name__}: {error})")
    return state


def _apply(state: LoggedState, leaf: dict[str, Any]) -> None:
    kind = leaf["type"]
    if kind == "created":
        if leaf["seq"] != 0:
            state.problems.append(f"entry {leaf['seq']} creates the keystore a second time")
        state.created = leaf
    elif kind == "policy":
        state.policies.append(leaf["digest"])
    elif kind == "enrol":
        if leaf["person"] in state.enrolled:
            state.problems.append(f"entry {leaf['seq']} enrols a person a second time")
        state.enrolled[leaf["person"]] = leaf["public_key"]
    elif kind == "erase-person":
        state.erased_people.add(leaf["person"])
    elif kind == "ingest":
        shard = (leaf["run"], leaf["shard"], leaf["shard_sha256"])
        state.shards[shard] = state.shards.get(shard, 0) + leaf["ingested"]
    elif kind in ("request", "change"):
        _file(state, leaf)
    elif kind == "witness":
        _void_open(state)
    elif kind in ("approve", "grant", "deny", "release"):
        _decide(state, leaf)
    elif kind not in ("reconcile", "refused"):
        state.problems.append(f"entry {leaf['seq']} has the unknown type {kind!r}")


def _file(state: LoggedState, leaf: dict[str, Any]) -> None:
    present = state.requests.get(leaf["request"])
    if (present is None) != (leaf["type"] == "request"):
        state.problems.append(
            f"entry {leaf['seq']} makes request {leaf['request']} twice, or changes one that was never made"
        )
    fresh = LoggedRequest(
        leaf["requester"],
        leaf["digest"],
        leaf["revision"],
        leaf["expires_at"],
        leaf["approvals_required"],
        leaf["records"],
    )
    if present is not None:
        if leaf["requester"] != present.requester:
            state.problems.append(f"entry {leaf['seq']} is a change of request {leaf['request']} by someone else")
        fresh.approvals, fresh.grants = present.approvals, present.grants
    state.requests[leaf["request"]] = fresh


def _void_open(state: LoggedState) -> None:
    # Nothing could show that the database was not rolled back: no grant from before outlives that.
    for request in state.requests.values():
        if request.state in ("pending", "approved"):
            request.state, request.denied_by = "denied", None


def _decide(state: LoggedState, leaf: dict[str, Any]) -> None:
    request = state.requests[leaf["request"]]
    entry = f"entry {leaf['seq']} ({leaf['type']} of request {leaf['request']})"
    if request.state in ("released", "denied") or leaf["time"] >= request.expires_at:
        state.problems.append(f"{entry} comes after the request ended")
    if leaf["type"] == "deny":
        request.state, request.denied_by = "denied", leaf["by"]
        return
    if leaf["digest"] != request.digest:
        state.problems.append(f"{entry} is for another content of the request")
    if leaf["type"] == "approve":
        if leaf["approver"] == request.requester or (leaf["digest"], leaf["approver"]) in request.approvals:
            state.problems.append(f"{entry} is by the requester, or by one person twice")
        request.approvals[leaf["digest"], leaf["approver"]] = leaf["signature"]
    elif leaf["type"] == "grant":
        approvers = {approver for digest, approver in request.approvals if digest == leaf["digest"]}
        if len(approvers) < max(1, request.approvals_required):
            state.problems.append(f"{entry} came before enough people agreed")
        request.grants[leaf["digest"]] = (leaf["grant"], leaf["expires_at"])
        request.state = "approved"
    else:
        grant_id, expires_at = request.grants[leaf["digest"]]
        if grant_id != leaf["grant"] or leaf["by"] != request.requester or leaf["time"] >= expires_at:
            state.problems.append(f"{entry} has no grant that allows it")
        state.releases[leaf["grant"]] = leaf["recipient"]
        request.state = "released"
