"""What the log says of tokens and of the identities that people sign in with, held against the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.decisions.tokens import MAX_LIFETIME

if TYPE_CHECKING:
    from keystore.verification.replay_decisions import LoggedDecisions

KINDS = frozenset({"bind-identity", "revoke-token", "token", "unbind-identity"})
"""Types of entry that say whom the service lets in."""


def apply_access(state: LoggedDecisions, leaf: dict[str, Any]) -> None:
    """Take an entry of one of these types into account. Raises as `apply_decision`."""
    kind, entry = leaf["type"], f"entry {leaf['seq']}"
    if kind == "bind-identity":
        if leaf["binding"] in state.bindings:
            state.problems.append(f"{entry} makes binding {leaf['binding']} twice")
        if state.identities.setdefault(leaf["identity"], leaf["person"]) != leaf["person"]:
            state.problems.append(f"{entry} lets an identity stand for a second person")
        said = {name: leaf[name] for name in ("digest", "person", "role")}
        state.bindings[leaf["binding"]] = {**said, "ended": False}
    elif kind == "unbind-identity":
        binding = state.bindings.get(leaf["binding"])
        if binding is None or binding["ended"]:
            state.problems.append(f"{entry} ends binding {leaf['binding']}, which is not there or ended before")
            return
        binding |= {"digest": leaf["digest"], "ended": True}
    else:
        if (leaf["token"] in state.tokens) != (kind == "revoke-token"):
            state.problems.append(f"{entry} issues token {leaf['token']} twice, or revokes one without issue")
        if "binding" in leaf:
            _check_sign_in(state, leaf, entry)
        state.tokens[leaf["token"]] = {"digest": leaf["digest"], "needed_until": _last_moment(leaf)}


def _last_moment(leaf: dict[str, Any]) -> str:
    """Return when the token of an entry is over. Raises ValueError: it says no time."""
    if leaf["type"] == "revoke-token":
        return str(leaf["time"])
    if "expires_at" in leaf:
        return str(leaf["expires_at"])
    try:
        return timestamp(parse_timestamp(leaf["time"]) + MAX_LIFETIME)  # older entries do not say it
    except OverflowError as error:
        raise ValueError(f"{leaf['time']} is no time") from error


def _check_sign_in(state: LoggedDecisions, leaf: dict[str, Any], entry: str) -> None:
    of = state.bindings.get(leaf["binding"])
    if of is None or of["ended"] or (of["person"], of["role"]) != (leaf["person"], leaf["role"]):
        state.problems.append(f"{entry} issues a token by a binding that did not hold for its person and role then")
