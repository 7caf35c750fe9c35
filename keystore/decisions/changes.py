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
    {kind: "replace-approver", person, role, replaced, key, public_key, passkey}    the same person's, in the same role
    {kind: "review", broken, digest, who}           a break of the glass (decisions.break_glass) was looked into; who: broke it

The holder of a key that is replaced may sign that with it, and counts, as whom a change benefits does not: the same person has
the same role as before, so nobody gets a power that the old key had not, and as many people agree as for any release. So where no
more have keys than the policy asks for, a key that its holder still has can be replaced; one that is lost, by others only.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json
from keystore.decisions import approvers, stored_policy
from keystore.decisions.break_glass import check_unreviewed
from keystore.decisions.policy import MIN_APPROVALS, Policy
from keystore.decisions.signatures import OwnKey, key_id_of
from keystore.errors import ApprovalError, TamperedError
from keystore.storage import schema

LIFETIME: Final = timedelta(days=7)  # within which a change is signed
SIGNED_TOO: Final = ("erase-person", "review")  # `also` of an entry `signed-changes`; older versions signed neither
Change = dict[str, Any]
Breaks = Mapping[str, Mapping[str, Any]]  # what the verified log says of broken glass, by request: digest, reviewed
_FIELDS: Final = {
    "policy": ("policy",),
    "enrol-approver": ("key", "passkey", "person", "public_key", "role"),
    "remove-approver": ("key", "person"),
    "replace-approver": ("key", "passkey", "person", "public_key", "replaced", "role"),
    "review": ("broken", "digest", "who"),
}


def of_policy(policy: Policy) -> Change:
    """Return the change that makes `policy` the present one; what it was is said when it is filed."""
    return {"kind": "policy", "policy": policy.content()}


def of_enrolment(person: str, role: str, key: OwnKey) -> Change:
    """Return the change that puts a key on the list."""
    return {"kind": "enrol-approver", "person": person, "role": role, **_said_of(key)}


def of_replacement(connection: Connection, key_id: str, key: OwnKey) -> Change:
    """Return the change that puts a key in the place of another, of its person. Raises ApprovalError: that is not on the list."""
    row = approvers.on_list(connection, key_id)
    return {"kind": "replace-approver", "person": row.person, "replaced": key_id, "role": row.role, **_said_of(key)}


def _said_of(key: OwnKey) -> dict[str, Any]:
    said = {"key": key_id_of(key.public_key), "public_key": base64.b64encode(key.public_key).decode()}
    return said if key.passkey is None else {**said, "passkey": key.passkey.content()}


def of_removal(connection: Connection, key_id: str) -> Change:
    """Return the change that takes a key off the list. Raises ApprovalError: it is not on it."""
    return {"kind": "remove-approver", "key": key_id, "person": str(approvers.on_list(connection, key_id).person)}


def of_review(request_id: str, who: str, breaks: Breaks) -> Change:
    """Return what settles a break of the glass. who: broke it. Raises ApprovalError: nobody did by this request."""
    reviewed = breaks.get(request_id, {}).get("reviewed")
    check_unreviewed(request_id, reviewed)
    return {"kind": "review", "broken": request_id, "digest": breaks[request_id]["digest"], "who": who}


def made_by(leaf: Mapping[str, Any]) -> Change:
    """Return the change that an entry of the log makes, without what was before. Raises LookupError: it makes none."""
    return {"kind": leaf["type"], **{name: leaf[name] for name in _FIELDS[leaf["type"]] if name in leaf}}


def has_key_of_its_name(change: Mapping[str, Any]) -> bool:
    """Return whether the key that a change puts on the list, if it does, has the id that people are shown. Raises ValueError,
    LookupError: it is no change."""
    if change["kind"] not in ("enrol-approver", "replace-approver"):
        return True
    return bool(change["key"] == key_id_of(base64.b64decode(change["public_key"], validate=True)))


def check_name_of_key(change: Mapping[str, Any] | None) -> None:
    """Raise TamperedError where a change calls the key that it puts on the list by the id of another, which people would sign."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        if change is None or has_key_of_its_name(change):
            return
    raise TamperedError(
        "the key that this change puts on the list has another id than is shown: whoever filed or showed it altered one of the "
        "two. Nothing was signed; tell the keystore's operator and auditor"
    )


def people_of(change: Mapping[str, Any]) -> set[str]:
    """Return the people (commitments) whom a change names."""
    lists = [change[name].get("break_glass", []) for name in ("was", "policy") if name in change]
    return {person for one in lists for person in one} | {change[one] for one in ("person", "who") if one in change}


def benefits(change: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the people (commitments) whom a change benefits: whose key it is; who broke the glass, or may, and might not before.

    Nobody of a replacement, which leaves its person what they had.
    """
    if change is None or change["kind"] == "replace-approver":
        return frozenset()
    if change["kind"] == "review":
        return frozenset({change["who"]})
    if change["kind"] != "policy":
        return frozenset({change["person"]})
    was = change.get("was", {}).get("break_glass", [])
    return frozenset(change["policy"].get("break_glass", [])) - frozenset(was)


def check(connection: Connection, change: Change, *, signed: bool, breaks: Breaks) -> None:
    """Raise ApprovalError, PolicyError where a change can not be made now. signed: names do not count any more."""
    if change["kind"] == "review":
        check_unreviewed(change["broken"], breaks.get(change["broken"], {}).get("reviewed"))
        return
    people = schema.people
    concerned = benefits(change) | ({change["person"]} if "person" in change else set())
    gone = select(people.c.person).where(people.c.person.in_(list(concerned)), people.c.name.is_(None))
    if connection.execute(gone).first() is not None:
        raise ApprovalError("erased-person", "the change is for a person who was erased; withdraw it")
    if change["kind"] == "enrol-approver":
        approvers.check_enrolment(connection, change)
    elif change["kind"] == "remove-approver":
        approvers.on_list(connection, change["key"])
    elif change["kind"] == "replace-approver":
        approvers.on_list(connection, change["replaced"])
        approvers.check_new(connection, change["key"])
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
    if change["kind"] == "review":
        if len(set(by) - {change["who"]}) < needed:
            raise ApprovalError(
                "too-few",
                f"it takes {needed} people to review this, none of them the one who broke the glass; name more",
            )
        return
    if len(set(by) - {change["person"]}) < needed:
        raise ApprovalError(
            "approver-alone", f"the list of approvers is changed by {needed} other people together; name more"
        )


def make(
    connection: Connection, log: LogWriter, change: Change, by: Sequence[str], request_id: str | None = None
) -> None:
    """Make a change that was checked and agreed to. request_id: by which it was signed; None: by names."""
    agreed, signed = sorted(set(by)), {} if request_id is None else {"request": request_id}
    if change["kind"] == "policy":
        stored_policy.write(connection, log, _policy(change), agreed, **signed)
        return
    if change["kind"] == "review":
        said = {"request": change["broken"]} if request_id is None else {**_content(change), **signed}
        log.append("review", by=agreed, **said)
        return
    if change["kind"] != "enrol-approver":
        approvers.take_off_list(connection, log.now, change["replaced" if "replaced" in change else "key"])
    if change["kind"] != "remove-approver":
        approvers.put_on_list(connection, log.now, change)
    log.append(change["kind"], by=agreed, **_content(change), **signed)


def _content(change: Change) -> dict[str, Any]:
    return {name: said for name, said in change.items() if name != "kind"}


def title(change: Mapping[str, Any]) -> str:
    """Return in words what kind of change it is."""
    return "a review of a break of the glass" if change["kind"] == "review" else "a change of who decides"


def described(change: Mapping[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a change does, line by line, for people. names: of people, by commitment, as the keystore says."""
    if change["kind"] == "review":
        of = ("the glass was broken by", _named(change["who"], names))
        return [of, ("request", change["broken"]), ("whose digest was", change["digest"])]
    if change["kind"] != "policy":
        verb = {"enrol-approver": "enrol the key", "remove-approver": "remove the key"}.get(
            change["kind"], "by the key"
        )
        device = ", a passkey of " + change["passkey"]["origin"] if "passkey" in change else ""
        lines = [("replace the key", change["replaced"])] if "replaced" in change else []
        lines += [(verb, change["key"] + device), ("of", _named(change["person"], names))]
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
