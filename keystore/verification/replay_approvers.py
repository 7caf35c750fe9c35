"""What the log says of approvers with keys of their own, held against the rules: who enrolled whom, whose signature counts."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from keystore.crypto.canonical import parse_timestamp
from keystore.decisions.passkeys import Assertion, Passkey
from keystore.decisions.policy import MIN_APPROVALS
from keystore.decisions.signatures import OwnKey, is_in_time, key_id_of, own_approval_message
from keystore.verification.replay_changes import check_agreed

if TYPE_CHECKING:
    from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest


def apply_enrolment(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take an entry into account that puts a key on the list, takes one off it, or both."""
    entry, person = f"entry {leaf['seq']} ({leaf['type']})", leaf["person"]
    if leaf["type"] == "erase-person":
        state.erased_people.add(person)
        if _enrolled(state, person) and "erase-person" in state.signed_too:
            state.problems.append(f"{entry} takes a key off the list that approvers sign, and no approver signed it")
        for key in _enrolled(state, person):
            _take_off(state, key, leaf["time"])
        return
    check_agreed(state, leaf)
    itself = set() if leaf["type"] == "replace-approver" and "request" in leaf else {person}
    if len(set(leaf["by"]) - itself) < max(MIN_APPROVALS, state.approvals_of_policy):
        state.problems.append(f"{entry} is by fewer people than it takes")
    gone = {"remove-approver": leaf["key"], "replace-approver": leaf.get("replaced")}.get(leaf["type"])
    if gone is not None:
        if gone not in _enrolled(state, person):
            state.problems.append(f"{entry} removes a key that was not enrolled")
        _take_off(state, gone, leaf["time"])
    if leaf["type"] == "replace-approver" and leaf["role"] != state.approver_keys[leaf["replaced"]]["role"]:
        state.problems.append(f"{entry} replaces a key by one of another role")
    if leaf["type"] != "remove-approver":
        _put_on(state, leaf, entry)


def _put_on(state: LoggedDecisions, leaf: dict[str, Any], entry: str) -> None:
    if _enrolled(state, leaf["person"]) or leaf["key"] in state.approver_keys:
        state.problems.append(f"{entry} enrols a person, or a key, a second time")
    if key_id_of(base64.b64decode(leaf["public_key"], validate=True)) != leaf["key"]:
        state.problems.append(f"{entry} calls a key by another's name")
    said: dict[str, Any] = {name: leaf[name] for name in ("passkey", "person", "public_key", "role") if name in leaf}
    state.approver_keys[leaf["key"]] = {**said, "removed": False}


def apply_loss(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take an entry into account that says that keys are lost: names count again."""
    if len(set(leaf["by"])) < max(MIN_APPROVALS, state.approvals_of_policy):
        state.problems.append(f"entry {leaf['seq']} (lost-keys) is by fewer people than it takes")
    for key in leaf["keys"]:
        if state.approver_keys[key]["removed"]:
            state.problems.append(f"entry {leaf['seq']} (lost-keys) removes a key that was not enrolled")
        _take_off(state, key, leaf["time"])
    left = [one["role"] for one in state.approver_keys.values() if not one["removed"]]
    if len(left) >= max(MIN_APPROVALS, state.approvals_of_policy) and set(state.roles_of_policy) <= set(left):
        state.problems.append(f"entry {leaf['seq']} (lost-keys) came while {len(left)} keys were left, enough to sign")
    state.signed_from, state.signed_too = None, []
    state.lost_keys.append(leaf["seq"])


def check_key(state: LoggedDecisions, request: LoggedRequest, leaf: dict[str, Any], entry: str) -> None:
    """Check with which key an approval is signed, and the signature where it is the approver's own."""
    enrolled, key = _enrolled(state, leaf["approver"]), leaf.get("key")
    if key is None:
        if enrolled or state.own_keys_of_policy or request.change is not None:
            state.problems.append(f"{entry} is not signed with a key of the approver's own")
        return
    request.keys[leaf["digest"], leaf["approver"]] = key
    if key not in enrolled:
        state.problems.append(f"{entry} is signed with a key that was not enrolled for its approver then")
        return
    keystore_id = "" if state.created is None else state.created["keystore"]
    chosen = leaf.get("grant_seconds")
    message = own_approval_message(keystore_id, leaf["request"], leaf["digest"], key, leaf["approved_at"], chosen)
    said = state.approver_keys[key]
    own = OwnKey(base64.b64decode(said["public_key"], validate=True), Passkey.of(said.get("passkey")))
    signature = base64.b64decode(leaf["signature"], validate=True)
    if not own.signed(signature, Assertion.of(leaf.get("assertion")), message):
        state.problems.append(f"{entry} is not signed by its approver")
    if not is_in_time(leaf["approved_at"], parse_timestamp(leaf["time"])):
        state.problems.append(f"{entry} was signed at another time than it was handed in")


def roles_present(state: LoggedDecisions, request: LoggedRequest, digest: str) -> set[str]:
    """Return in which roles people approved this content of a request."""
    return {state.approver_keys[key]["role"] for (of, _), key in request.keys.items() if of == digest}


def _enrolled(state: LoggedDecisions, person: str) -> list[str]:
    return [key for key, one in state.approver_keys.items() if one["person"] == person and not one["removed"]]


def _take_off(state: LoggedDecisions, key: str, time: str) -> None:
    state.approver_keys[key]["removed"] = True
    for request in state.requests.values():
        rests_on_it = any(of == request.digest and used == key for (of, _), used in request.keys.items())
        if request.state in ("pending", "approved") and rests_on_it:
            request.end("denied", time)
