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

from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.decisions.policy import MIN_APPROVALS
from keystore.vault.epochs import LOGGED_STEPS, EpochState


@dataclass
class LoggedRequest:
    """One request as the log tells it."""

    requester: str
    digest: str
    revision: int
    expires_at: str
    approvals_required: int
    records: int
    state: str = "pending"
    denied_by: str | None = None
    approvals: dict[tuple[str, str], str] = field(default_factory=dict)  # (digest, approver) -> signature, base64
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> (grant id, expires_at)


@dataclass(frozen=True)
class KeysAccount:
    """What one entry says of the shred keys that it put under one epoch."""

    keys: int
    account: str


@dataclass(frozen=True)
class LoggedEpoch:
    """An epoch key as the log tells it."""

    purpose: str
    state: str
    digest: str


@dataclass(frozen=True)
class Erasure:
    """What one entry says it erased: the line of the erasure list, and the account of what went."""

    line: str
    account: str


@dataclass
class LoggedState:
    """All that the log tells."""

    created: dict[str, Any] | None = None
    policies: list[str] = field(default_factory=list)  # digests, oldest first
    approvals_of_policy: int = 0  # of the present one
    records: dict[int, str] = field(default_factory=dict)  # entry -> account of the records that it stored
    epochs: dict[str, LoggedEpoch] = field(default_factory=dict)
    shred_keys: dict[tuple[int, str], KeysAccount] = field(default_factory=dict)  # (entry, epoch) -> of what it holds
    refused: dict[int, str] = field(default_factory=dict)  # entry -> account of what came erased, and was not stored
    erasures: dict[int, Erasure] = field(default_factory=dict)  # entry -> what it erased
    own_keys: str | None = None  # account of the keystore's own keys, as last logged
    mentioned: set[str] = field(default_factory=set)  # people
    erased_people: set[str] = field(default_factory=set)
    enrolled: dict[str, str] = field(default_factory=dict)  # person -> public key, base64
    shards: dict[tuple[str, str, str], int] = field(default_factory=dict)  # (run, shard, sha256) -> records taken in
    runs: dict[str, str] = field(default_factory=dict)  # run -> digest of its data set
    requests: dict[str, LoggedRequest] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # grant id -> recipient
    problems: list[str] = field(default_factory=list)
    weaknesses: list[str] = field(default_factory=list)  # what older versions allowed, and no auditor should overlook


def replay(leaves: Iterable[bytes]) -> LoggedState:
    """Return the state that the leaves lead to, with every leaf that does not fit as a problem."""
    state = LoggedState()
    last_time = ""
    for seq, data in enumerate(leaves):
        try:
            leaf = json.loads(data)
            if leaf["seq"] != seq:
                state.problems.append(f"entry {seq} says it is entry {leaf['seq']}")
            if leaf["time"] < last_time and leaf["type"] not in ("clock", "witness"):
                state.problems.append(f"entry {seq} is earlier than the entry before it")
            last_time = leaf["time"]
            _check_people(state, leaf)
            _apply(state, leaf)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            state.problems.append(f"entry {seq} is malformed or refers to nothing ({type(error).__name__}: {error})")
    return state


def _check_people(state: LoggedState, leaf: dict[str, Any]) -> None:
    named = [leaf.get(role) for role in ("requester", "approver", "person")]
    by = leaf.get("by")
    acting = {one for one in (*named, *(by if isinstance(by, list) else [by])) if one is not None}
    if acting & state.erased_people:
        state.problems.append(f"entry {leaf['seq']} is of a person who was erased before it")
    state.mentioned |= acting


def _apply(state: LoggedState, leaf: dict[str, Any]) -> None:
    kind = leaf["type"]
    _apply_epochs(state, leaf)
    if kind == "created":
        if leaf["seq"] != 0:
            state.problems.append(f"entry {leaf['seq']} creates the keystore a second time")
        state.created = leaf
        state.own_keys = leaf.get("own_keys")
    elif kind == "policy":
        _set_policy(state, leaf)
    elif kind == "inventory":
        state.records[leaf["seq"]] = leaf["records_account"]
        state.own_keys = leaf["own_keys"]
        if leaf["unopened"] or leaf["missing"]:
            lost = f"{leaf['unopened']} records that did not open and {leaf['missing']} that were missing"
            state.problems.append(f"entry {leaf['seq']}, of the upgrade of this keystore, counts {lost}")
    elif kind == "enrol":
        if leaf["person"] in state.enrolled:
            state.problems.append(f"entry {leaf['seq']} enrols a person a second time")
        state.enrolled[leaf["person"]] = leaf["public_key"]
    elif kind == "run":
        state.runs[leaf["run"]] = leaf["digest"]
    elif kind == "erase":
        state.erasures[leaf["seq"]] = Erasure(leaf["erasure"], leaf["account"])
    elif kind in ("ingest-key", "retire", "rotate"):
        state.own_keys = leaf["own_keys"]
    elif kind == "epochs":
        state.own_keys = leaf["own_keys"]
        if leaf["unopened"]:
            state.problems.append(
                f"entry {leaf['seq']}, of the upgrade of this keystore, counts {leaf['unopened']} keys that did not open"
            )
    elif kind == "erase-person":
        state.erased_people.add(leaf["person"])
    elif kind == "ingest":
        shard = (leaf["run"], leaf["shard"], leaf["shard_sha256"])
        state.shards[shard] = state.shards.get(shard, 0) + leaf["ingested"]
        if "records_account" in leaf:  # else an entry from before accounts were kept; an inventory covers it
            state.records[leaf["seq"]] = leaf["records_account"]
        if "refused_account" in leaf:
            state.refused[leaf["seq"]] = leaf["refused_account"]
    elif kind in ("request", "change"):
        _file(state, leaf)
    elif kind == "witness" or (kind == "clock" and leaf["back"]):
        _void_open(state)
    elif kind in ("approve", "grant", "deny", "release"):
        _decide(state, leaf)
    elif kind not in ("reconcile", "refused", "clock"):
        state.problems.append(f"entry {leaf['seq']} has the unknown type {kind!r}")


def _apply_epochs(state: LoggedState, leaf: dict[str, Any]) -> None:
    ended = 0
    for ident, said in sorted(leaf.get("epochs", {}).items()):
        before = state.epochs.get(ident)
        after = EpochState(said["state"])
        if after not in LOGGED_STEPS[None if before is None else EpochState(before.state)] or (
            before is not None and before.purpose != said["purpose"]
        ):
            state.problems.append(f"entry {leaf['seq']} takes epoch {ident} a way that no key goes")
        state.epochs[ident] = LoggedEpoch(said["purpose"], said["state"], said["digest"])
        if after is EpochState.DESTROYED:
            of_it = [one for one in state.shred_keys if one[1] == ident]
            ended += sum(state.shred_keys.pop(one).keys for one in of_it)
    stored = {ident: KeysAccount(said["keys"], said["account"]) for ident, said in leaf.get("shred_keys", {}).items()}
    for ident, said in stored.items():
        if ident not in state.epochs or state.epochs[ident].state == EpochState.DESTROYED.value:
            state.problems.append(f"entry {leaf['seq']} puts keys under epoch {ident}, which is not there any more")
        state.shred_keys[leaf["seq"], ident] = said
    if (
        leaf["type"] == "erase"
        and "epochs" in leaf
        and ended != leaf["keys"] + sum(one.keys for one in stored.values())
    ):
        state.problems.append(f"entry {leaf['seq']} erases {leaf['keys']} key(s), and others did not come through it")


def _set_policy(state: LoggedState, leaf: dict[str, Any]) -> None:
    state.policies.append(leaf["digest"])
    state.approvals_of_policy = leaf["policy"]["approvals"]
    if sha256_hex(canonical_json(leaf["policy"])) != leaf["digest"]:
        state.problems.append(f"entry {leaf['seq']} shows another policy than the one it sets")
    if state.approvals_of_policy < MIN_APPROVALS:
        state.weaknesses.append(f"entry {leaf['seq']} sets a policy under which one person alone can approve")
    if isinstance(leaf["by"], list) and len(set(leaf["by"])) < MIN_APPROVALS:
        state.problems.append(f"entry {leaf['seq']} changes the policy by one person alone")


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
        leaf["records"] if isinstance(leaf["records"], int) else len(leaf["records"]),  # older entries list them
    )
    if (leaf["policy"], leaf["approvals_required"]) != (state.policies[-1], state.approvals_of_policy):
        state.problems.append(f"entry {leaf['seq']} is not under the policy of its time")
    if present is not None:
        if leaf["requester"] != present.requester:
            state.problems.append(f"entry {leaf['seq']} is a change of request {leaf['request']} by someone else")
        if present.state not in ("pending", "approved") or leaf["time"] >= present.expires_at:
            state.problems.append(f"entry {leaf['seq']} changes request {leaf['request']} after it ended")
        if leaf["revision"] != present.revision + 1:
            state.problems.append(f"entry {leaf['seq']} is not the next revision of request {leaf['request']}")
        fresh.approvals, fresh.grants = present.approvals, present.grants
    state.requests[leaf["request"]] = fresh


def _void_open(state: LoggedState) -> None:
    # Nothing could show that the database was not rolled back, or how long a permission has lived: none outlives that.
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
    if leaf["type"] in ("approve", "grant") and request.state != "pending":
        state.problems.append(f"{entry} comes when the request was not pending")
    if leaf["type"] == "approve":
        if leaf["approver"] == request.requester or (leaf["digest"], leaf["approver"]) in request.approvals:
            state.problems.append(f"{entry} is by the requester, or by one person twice")
        request.approvals[leaf["digest"], leaf["approver"]] = leaf["signature"]
    elif leaf["type"] == "grant":
        approvers = {approver for digest, approver in request.approvals if digest == leaf["digest"]}
        if len(approvers) < max(1, request.approvals_required):
            state.problems.append(f"{entry} came before enough people agreed")
        elif len(approvers) < MIN_APPROVALS:
            state.weaknesses.append(f"{entry} needed one person's approval only")
        if leaf["expires_at"] > request.expires_at:
            state.problems.append(f"{entry} outlives its request")
        request.grants[leaf["digest"]] = (leaf["grant"], leaf["expires_at"])
        request.state = "approved"
    else:
        grant_id, expires_at = request.grants[leaf["digest"]]
        if grant_id != leaf["grant"] or leaf["by"] != request.requester or leaf["time"] >= expires_at:
            state.problems.append(f"{entry} has no grant that allows it")
        state.releases[leaf["grant"]] = leaf["recipient"]
        request.state = "released"
