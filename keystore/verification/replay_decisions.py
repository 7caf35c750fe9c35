"""What the log says was decided: its entries on policies, people, requests and releases, held against the rules.

A grant without enough distinct approvals, a release by someone else, a second use, are problems even when the Merkle tree is
sound. The state is small however long the log is: a release rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.decisions.policy import MIN_APPROVALS
from keystore.decisions.replies import MAX_LIFETIME
from keystore.verification import replay_access
from keystore.verification.replay_approvers import apply_enrolment, apply_loss, check_key, roles_present
from keystore.verification.replay_break_glass import apply_break, apply_review
from keystore.verification.replay_changes import check_filed
from keystore.verification.replay_policy import (
    check_asked,
    check_current,
    check_granted,
    lives_longer,
    set_policy,
    void_open,
)

KINDS = frozenset(
    {
        "approve",
        "break-glass",
        "clock",
        "change",
        "created",
        "deny",
        "enrol",
        "enrol-approver",
        "erase-person",
        "grant",
        "lost-keys",
        "policy",
        "release",
        "release-again",
        "remove-approver",
        "replace-approver",
        "request",
        "review",
        "signed-changes",
        "witness",
    }
    | replay_access.KINDS
)
"""Types of entry that say what was decided."""


@dataclass
class LoggedRequest:
    """One request as the log tells it."""

    requester: str
    digest: str
    revision: int
    expires_at: str
    approvals_required: int
    policy: str  # digest
    records: int
    state: str = "pending"
    denied_by: str | None = None
    approvals: dict[tuple[str, str], str] = field(default_factory=dict)  # (digest, approver) -> signature, base64
    keys: dict[tuple[str, str], str] = field(default_factory=dict)  # (digest, approver) -> id of the approver's own key
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> (grant id, expires_at)
    grant_seconds: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (digest, approver) -> time that they chose
    change: dict[str, Any] | None = None  # decisions.changes; None: it asks for keys
    needed_until: str = field(default="", compare=False)  # nothing that the rules allow happens to it from then on

    def end(self, state: str, time: str, by: str | None = None) -> None:
        """Be ended at `time`. For a while it may still be that its reply was lost. Raises ValueError: that is no time."""
        self.state, self.denied_by = state, by
        try:
            self.needed_until = timestamp(parse_timestamp(time) + MAX_LIFETIME)
        except OverflowError as error:
            raise ValueError(f"{time} is no time") from error


@dataclass
class LoggedDecisions:
    """Whose keystore it is, what may be decided in it, and what was."""

    created: dict[str, Any] | None = None
    own_keys: str | None = None  # account of the keystore's own keys, as last logged
    policies: list[str] = field(default_factory=list)  # digests, oldest first
    policy: dict[str, Any] = field(default_factory=dict)  # the present one
    ends_open_from: int | None = None  # entry from which a change of the policy ends every open request
    breaks: dict[str, dict[str, Any]] = field(default_factory=dict)  # request that broke the glass -> digest, reviewed
    approver_keys: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> person, public_key, role, removed
    mentioned: set[str] = field(default_factory=set)  # people
    erased_people: set[str] = field(default_factory=set)
    enrolled: dict[str, str] = field(default_factory=dict)  # person -> public key, base64
    requests: dict[str, LoggedRequest] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # grant id -> recipient
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)  # id -> digest of its row, needed_until
    bindings: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> digest of its row, person, role, ended
    identities: dict[str, str] = field(default_factory=dict)  # tag of an identity -> the one person it may stand for
    signed_from: int | None = None  # entry from which approvers sign changes of who decides
    signed_too: list[str] = field(default_factory=list)  # types of entry that they sign besides (changes.SIGNED_TOO)
    lost_keys: list[int] = field(default_factory=list)  # entries that ended that, by names
    by_names: list[int] = field(default_factory=list)  # entries that changed who decides, without signatures
    problems: list[str] = field(default_factory=list)
    weaknesses: list[str] = field(default_factory=list)  # what older versions allowed, and no auditor should overlook
    went_back: bool = False  # whether time did: then what was over may not be

    @property
    def approvals_of_policy(self) -> int:
        """How many people must agree. Raises KeyError: before any policy."""
        approvals: int = self.policy["approvals"]
        return approvals

    @property
    def own_keys_of_policy(self) -> bool:
        """Whether each of them must have a key of their own; older policies do not say."""
        return bool(self.policy.get("own_keys", False))

    @property
    def roles_of_policy(self) -> list[str]:
        """Of which roles one must be among them."""
        return list(self.policy.get("roles", []))

    @property
    def break_glass_of_policy(self) -> list[str]:
        """The people who may break the glass."""
        return list(self.policy.get("break_glass", []))


def living(state: LoggedDecisions, time: str) -> LoggedDecisions:
    """Return what a decision from `time` on can rest on: without the requests that are over, their releases, and such tokens.

    As long as time does not go back, no entry that the rules allow is about any of these again.
    """
    owed = {request for request, broken in state.breaks.items() if not broken["reviewed"]}
    requests = {name: one for name, one in state.requests.items() if one.needed_until > time or name in owed}
    granted = {grant for one in requests.values() for grant, _ in one.grants.values()}
    releases = {grant: recipient for grant, recipient in state.releases.items() if grant in granted}
    tokens = {name: one for name, one in state.tokens.items() if one["needed_until"] > time}
    return replace(state, requests=requests, releases=releases, tokens=tokens)


def apply_decision(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take one entry of any type into account. Raises ValueError, LookupError, TypeError, AttributeError: it is malformed."""
    kind = leaf["type"]
    _check_people(state, leaf)
    if "own_keys" in leaf:
        state.own_keys = leaf["own_keys"]
    if kind == "created":
        if leaf["seq"] != 0:
            state.problems.append(f"entry {leaf['seq']} creates the keystore a second time")
        state.created = leaf
    elif kind == "policy":
        set_policy(state, leaf)
    elif kind == "enrol":
        if leaf["person"] in state.enrolled:
            state.problems.append(f"entry {leaf['seq']} enrols a person a second time")
        state.enrolled[leaf["person"]] = leaf["public_key"]
    elif kind in ("enrol-approver", "remove-approver", "replace-approver", "erase-person"):
        apply_enrolment(state, leaf)
    elif kind == "signed-changes":
        state.signed_from = leaf["seq"] if state.signed_from is None else state.signed_from
        state.signed_too = sorted({*state.signed_too, *leaf.get("also", [])})  # no later entry takes any of it back
    elif kind == "lost-keys":
        apply_loss(state, leaf)
    elif kind in ("request", "change"):
        _file(state, leaf)
    elif says_time_went_back(leaf):
        # Nothing could show that the database was not rolled back, or how long a permission has lived.
        void_open(state, leaf["time"])
        state.went_back = True
    elif kind == "review":
        apply_review(state, leaf)
    elif kind in ("approve", "break-glass", "grant", "deny", "release"):
        _decide(state, leaf)
    elif kind == "release-again":
        if state.releases.get(leaf["grant"]) != leaf["recipient"]:
            state.problems.append(f"entry {leaf['seq']} repeats a release that was not made, or to somebody else")
    elif kind in replay_access.KINDS:
        replay_access.apply_access(state, leaf)


def says_time_went_back(leaf: dict[str, Any]) -> bool:
    """Return whether an entry may be earlier than the one before it, and ends what was open. Raises LookupError."""
    return leaf["type"] == "witness" or (leaf["type"] == "clock" and bool(leaf["back"]))


def _check_people(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    named = [leaf.get(role) for role in ("requester", "approver", "person")]
    by = leaf.get("by")
    acting = {one for one in (*named, *(by if isinstance(by, list) else [by])) if one is not None}
    if acting & state.erased_people:
        state.problems.append(f"entry {leaf['seq']} is of a person who was erased before it")
    state.mentioned |= acting


def _file(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
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
        leaf["policy"],
        leaf["records"] if isinstance(leaf["records"], int) else len(leaf["records"]),  # older entries list them
        change=leaf.get("change"),
        needed_until=leaf["expires_at"],
    )
    if fresh.change is not None:
        check_filed(state, leaf)
    check_asked(state, fresh, leaf)
    if present is not None:
        if present.change is not None or fresh.change is not None:
            state.problems.append(
                f"entry {leaf['seq']} makes another request of one for a change, or the other way round"
            )
        if leaf["requester"] != present.requester:
            state.problems.append(f"entry {leaf['seq']} is a change of request {leaf['request']} by someone else")
        if present.state not in ("pending", "approved") or leaf["time"] >= present.expires_at:
            state.problems.append(f"entry {leaf['seq']} changes request {leaf['request']} after it ended")
        if leaf["revision"] != present.revision + 1:
            state.problems.append(f"entry {leaf['seq']} is not the next revision of request {leaf['request']}")
        fresh.approvals, fresh.keys, fresh.grants = present.approvals, present.keys, present.grants
        fresh.grant_seconds = present.grant_seconds
    state.requests[leaf["request"]] = fresh


def _decide(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    request = state.requests[leaf["request"]]
    entry = f"entry {leaf['seq']} ({leaf['type']} of request {leaf['request']})"
    if request.state in ("released", "applied", "denied") or leaf["time"] >= request.expires_at:
        state.problems.append(f"{entry} comes after the request ended")
    if leaf["type"] == "deny":
        request.end("denied", leaf["time"], leaf["by"])
        return
    if leaf["digest"] != request.digest:
        state.problems.append(f"{entry} is for another content of the request")
    check_current(state, request, entry)
    if leaf["type"] in ("approve", "grant") and request.state != "pending":
        state.problems.append(f"{entry} comes when the request was not pending")
    if leaf["type"] == "approve":
        if leaf["approver"] == request.requester or (leaf["digest"], leaf["approver"]) in request.approvals:
            state.problems.append(f"{entry} is by the requester, or by one person twice")
        request.approvals[leaf["digest"], leaf["approver"]] = leaf["signature"]
        if "grant_seconds" in leaf:
            request.grant_seconds[leaf["digest"], leaf["approver"]] = leaf["grant_seconds"]
        check_key(state, request, leaf, entry)
    elif leaf["type"] == "break-glass":
        apply_break(state, request, leaf, entry)
    elif leaf["type"] == "grant":
        approvers = {approver for digest, approver in request.approvals if digest == leaf["digest"]}
        if len(approvers) < max(1, request.approvals_required):
            state.problems.append(f"{entry} came before enough people agreed")
        elif len(approvers) < MIN_APPROVALS:
            state.weaknesses.append(f"{entry} needed one person's approval only")
        if set(state.roles_of_policy) - roles_present(state, request, leaf["digest"]):
            state.problems.append(f"{entry} came before an approver of each role agreed")
        times = [seconds for (of, _), seconds in request.grant_seconds.items() if of == leaf["digest"]]
        if times and lives_longer(leaf, min(times)):
            state.problems.append(f"{entry} lives longer than an approver chose")
        check_granted(state, request, leaf, entry)
        request.grants[leaf["digest"]] = (leaf["grant"], leaf["expires_at"])
        request.state = "approved"
    else:
        grant_id, expires_at = request.grants[leaf["digest"]]
        if grant_id != leaf["grant"] or leaf["by"] != request.requester or leaf["time"] >= expires_at:
            state.problems.append(f"{entry} has no grant that allows it")
        state.releases[leaf["grant"]] = leaf["recipient"]
        request.end("released", leaf["time"])
