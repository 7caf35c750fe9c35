"""Changes of who decides: of the policy with its break-glass list, and of the list of approvers' own keys.

While too few approvers have keys of their own to sign anything (approvers.are_enough), people's names make a change. Once there
are enough, which the log says by an entry `signed-changes`, a change is filed as a request for no images, and counts when as many
approvers signed it, each with their own key, as the policy in force asks for, of its roles; who filed it and whom it benefits do
not count. They sign its digest, by the same message, checks and table as they do for keys (requests.py). Only lost keys lead
back, and loudly: an entry `lost-keys`, by people's names, after which names count until enough keys are enrolled again.

A change is canonical JSON, and the fields of the entry that makes it:

    {kind: "policy", policy, was}                                               was: the policy before; both whole
    {kind: "enrol-approver", person, role, key, public_key, passkey}            passkey: where it is one
    {kind: "remove-approver", person, key}
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json
from keystore.decisions import approvers, stored_policy
from keystore.decisions.policy import MIN_APPROVALS, Policy
from keystore.decisions.signatures import OwnKey, key_id_of
from keystore.errors import ApprovalError
from keystore.storage import schema

LIFETIME: Final = timedelta(days=7)  # within which a change is signed
Change = dict[str, Any]
_FIELDS: Final = {
    "policy": ("policy",),
    "enrol-approver": ("key", "passkey", "person", "public_key", "role"),
    "remove-approver": ("key", "person"),
}


def of_policy(policy: Policy) -> Change:
    """Return the change that makes `policy` the present one; what it was is said when it is filed."""
    return {"kind": "policy", "policy": policy.content()}


def of_enrolment(person: str, role: str, key: OwnKey) -> Change:
    """Return the change that puts a key on the list."""
    encoded = base64.b64encode(key.public_key).decode()
    said = {"key": key_id_of(key.public_key), "person": person, "public_key": encoded, "role": role}
    passkey = {} if key.passkey is None else {"passkey": key.passkey.content()}
    return {"kind": "enrol-approver", **said, **passkey}


def of_removal(connection: Connection, key_id: str) -> Change:
    """Return the change that takes a key off the list. Raises ApprovalError: it is not on it."""
    return {"kind": "remove-approver", "key": key_id, "person": str(approvers.on_list(connection, key_id).person)}


def made_by(leaf: Mapping[str, Any]) -> Change:
    """Return the change that an entry of the log makes, without what was before. Raises LookupError: it makes none."""
    return {"kind": leaf["type"], **{name: leaf[name] for name in _FIELDS[leaf["type"]] if name in leaf}}


def people_of(change: Mapping[str, Any]) -> set[str]:
    """Return the people (commitments) whom a change names."""
    lists = [change[name].get("break_glass", []) for name in ("was", "policy") if name in change]
    return {person for one in lists for person in one} | ({change["person"]} if "person" in change else set())


def benefits(change: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the people (commitments) whom a change benefits: whose key it is; who may break the glass, and might not before."""
    if change is None:
        return frozenset()
    if change["kind"] != "policy":
        return frozenset({change["person"]})
    was = change.get("was", {}).get("break_glass", [])
    return frozenset(change["policy"].get("break_glass", [])) - frozenset(was)


def check(connection: Connection, change: Change, *, signed: bool) -> None:
    """Raise ApprovalError, PolicyError where a change can not be made now. signed: names do not count any more."""
    people = schema.people
    gone = select(people.c.person).where(people.c.person.in_(list(benefits(change))), people.c.name.is_(None))
    if connection.execute(gone).first() is not None:
        raise ApprovalError("erased-person", "the change is for a person who was erased; withdraw it")
    if change["kind"] == "enrol-approver":
        approvers.check_enrolment(connection, change)
    elif change["kind"] == "remove-approver":
        approvers.on_list(connection, change["key"])
    else:
        policy = _policy(change)
        if policy.own_keys or signed:
            approvers.check_enough(connection, policy)


def check_names(change: Change, policy_approvals: int, by: Sequence[str]) -> None:
    """Raise ApprovalError where fewer people than it takes make a change by their names. by: commitments."""
    if change["kind"] == "policy":
        if len(set(by)) < MIN_APPROVALS:
            raise ApprovalError(
                "policy-alone", f"a policy is changed by {MIN_APPROVALS} people together; name another one"
            )
        return
    needed = max(MIN_APPROVALS, policy_approvals)
    if len(set(by) - benefits(change)) < needed:
        raise ApprovalError(
            "approver-alone", f"an approver is enrolled or removed by {needed} other people together; name more"
        )


def make(
    connection: Connection, log: LogWriter, change: Change, by: Sequence[str], request_id: str | None = None
) -> None:
    """Make a change that was checked and agreed to. request_id: by which it was signed; None: by names."""
    agreed, signed = sorted(set(by)), {} if request_id is None else {"request": request_id}
    if change["kind"] == "policy":
        stored_policy.write(connection, log, _policy(change), agreed, **signed)
        return
    put = approvers.put_on_list if change["kind"] == "enrol-approver" else approvers.take_off_list
    put(connection, log.now, change)
    log.append(change["kind"], by=agreed, **{name: said for name, said in change.items() if name != "kind"}, **signed)


def described(change: Mapping[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a change does, line by line, for people. names: of people, by commitment, as the keystore says."""
    if change["kind"] != "policy":
        verb = "enrol" if change["kind"] == "enrol-approver" else "remove"
        device = ", a passkey of " + change["passkey"]["origin"] if "passkey" in change else ""
        lines = [(f"{verb} the key", change["key"] + device), ("of", _named(change["person"], names))]
        return [*lines, ("in the role", change["role"])] if "role" in change else lines
    was, policy = change.get("was", {}), change["policy"]
    return [
        (f"policy: {name.replace('_', ' ')}", f"{_said(was.get(name), names)} -> {_said(policy.get(name), names)}")
        for name in sorted(was.keys() | policy.keys())
        if was.get(name) != policy.get(name)
    ] or [("policy", "as it is")]


def _said(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, list):
        return ", ".join(_named(one, names) for one in value)
    return "none" if value is None else str(value)


def _named(person: str, names: Mapping[str, str]) -> str:
    return f"{names[person]} ({person[:12]})" if person in names else person


def _policy(change: Mapping[str, Any]) -> Policy:
    return Policy.model_validate_json(canonical_json(change["policy"]))
