"""Approvers with keys of their own: who is enrolled, in which role, and what becomes of it when a key is taken off the list.

The private key is made and stays on the approver's machine (keystore.approver_key); here are public keys only. A key is enrolled
once, for one person in one role, by as many other people as a request needs (decisions.changes). A person has one key at a time,
and whoever has one approves with it and no other way.

A key that is taken off the list (lost, stolen, its holder gone or erased) ends every open request that it approved: those are
made again. What was released stays on record, approved by a key that was enrolled then.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, parse_timestamp, timestamp
from keystore.decisions import signatures
from keystore.decisions.lifecycle import State
from keystore.decisions.passkeys import Assertion, Passkey
from keystore.decisions.policy import MIN_APPROVALS, ROLE_PATTERN, Policy
from keystore.decisions.signatures import SIGNED_WITHIN, OwnKey, OwnSignature
from keystore.decisions.views import ApproverView, PasskeyView
from keystore.errors import ApprovalError, PolicyError
from keystore.storage import schema
from keystore.storage.bulk import rows_with


@dataclass(frozen=True)
class SignedApproval:
    """An approval as it is stored, with the key that it must verify by. key_id, role: of a key of the approver's own."""

    request_id: str
    digest: str
    approver: str
    approved_at: str
    signature: bytes
    key_id: str | None
    role: str | None
    key: OwnKey | None
    assertion: Assertion | None = None
    grant_seconds: int | None = None

    def holds(self, keystore_id: str) -> bool:
        """Return whether the signature is over this approval."""
        of = (keystore_id, self.request_id, self.digest)
        if self.key_id is None:
            message = signatures.approval_message(*of, self.approver, self.approved_at, self.grant_seconds)
        else:
            message = signatures.own_approval_message(*of, self.key_id, self.approved_at, self.grant_seconds)
        return self.key is not None and self.key.signed(self.signature, self.assertion, message)


def signed(connection: Connection, requests: Sequence[str] | None, digest: str | None = None) -> list[SignedApproval]:
    """Return approvals of these requests, of one content if a digest is given; all, if None. Those of one are oldest first."""
    table, own, kept = schema.approvals, schema.approver_keys, schema.people
    query = (
        select(table, own.c.role, own.c.public_key.label("own_key"), own.c.passkey, kept.c.public_key.label("kept_key"))
        .join(kept, kept.c.person == table.c.approver)
        .outerjoin(own, (own.c.key_id == table.c.key_id) & (own.c.person == table.c.approver))
        .order_by(table.c.approved_at)
    )
    if digest is not None:
        query = query.where(table.c.digest == digest)
    return [
        SignedApproval(
            row.request_id,
            row.digest,
            row.approver,
            row.approved_at,
            row.signature,
            row.key_id,
            row.role,
            _key(row.kept_key, None) if row.key_id is None else _key(row.own_key, row.passkey),
            None if row.assertion is None else Assertion.of(json.loads(row.assertion)),
            row.grant_seconds,
        )
        for row in rows_with(connection, query, table.c.request_id, requests)
    ]


def _key(public_key: bytes | None, passkey: bytes | None) -> OwnKey | None:
    if public_key is None:
        return None
    return OwnKey(public_key, None if passkey is None else Passkey.of(json.loads(passkey)))


def enrolled(connection: Connection, person: str) -> Row[tuple[object, ...]] | None:
    """Return the row of the key that this person (a commitment) approves with now."""
    table = schema.approver_keys
    return connection.execute(select(table).where(table.c.person == person, table.c.removed_at.is_(None))).first()


def check_own(
    keystore_id: str,
    request_id: str,
    digest: str,
    key: Row[tuple[object, ...]] | None,
    own: OwnSignature | None,
    now: datetime,
    grant_seconds: int | None = None,
) -> OwnSignature:
    """Return the signature if it is one of the enrolled `key` over this content, made just now. Raises ApprovalError."""
    if key is None:
        raise ApprovalError(
            "not-enrolled",
            "this approver has no enrolled key, and only those who have may sign for themselves, or approve where the policy "
            "asks for own keys; have one enrolled (keyanon keystore approver enrol)",
        )
    if own is None:
        raise ApprovalError(
            "own-key",
            "this approver has an enrolled key and approves with it; sign with it (keyanon approve --key FILE; a passkey, in the "
            "console)",
        )
    if own.key_id != key.key_id:
        raise ApprovalError("wrong-key", "this is not the key that is enrolled for this approver; use that one")
    if not signatures.is_in_time(own.approved_at, now):
        raise ApprovalError(
            "signed-when",
            f"an approval is handed in within {SIGNED_WITHIN.seconds // 60} minutes of its signature; set the clock, sign again",
        )
    message = signatures.own_approval_message(
        keystore_id, request_id, digest, own.key_id, own.approved_at, grant_seconds
    )
    enrolled_key = _key(key.public_key, key.passkey)
    if enrolled_key is None or not enrolled_key.signed(own.signature, own.assertion, message):
        raise ApprovalError(
            "signature", "the signature is not of this key over what is shown; read it again and sign that"
        )
    return own


def check_enrolment(connection: Connection, change: Mapping[str, Any]) -> None:
    """Raise ApprovalError, PolicyError unless this key (decisions.changes) can be put on the list now."""
    if not re.fullmatch(ROLE_PATTERN, change["role"]):
        raise PolicyError("role", "a role is named by 1 to 32 small letters, digits and hyphens, such as dpo or legal")
    if enrolled(connection, change["person"]) is not None:
        raise ApprovalError(
            "enrolled", "this approver has an enrolled key; replace that one (keystore approver replace)"
        )
    check_new(connection, change["key"])


def check_new(connection: Connection, key_id: str) -> None:
    """Raise ApprovalError where a key was ever enrolled."""
    table = schema.approver_keys
    if connection.execute(select(table.c.key_id).where(table.c.key_id == key_id)).first() is not None:
        raise ApprovalError("known-key", "this key was enrolled before, and is so once only; make a new one")


def put_on_list(connection: Connection, now: datetime, change: Mapping[str, Any]) -> None:
    """Put a key (decisions.changes) on the list."""
    connection.execute(
        schema.approver_keys.insert().values(
            key_id=change["key"],
            person=change["person"],
            public_key=base64.b64decode(change["public_key"]),
            role=change["role"],
            enrolled_at=timestamp(now),
            passkey=canonical_json(change["passkey"]) if "passkey" in change else None,
        )
    )


def on_list(connection: Connection, key_id: str) -> Row[tuple[object, ...]]:
    """Return the row of a key that counts now. Raises ApprovalError: there is none of this id."""
    table = schema.approver_keys
    row = connection.execute(select(table).where(table.c.key_id == key_id, table.c.removed_at.is_(None))).first()
    if row is None:
        raise ApprovalError("unknown-key", "no key of this id is enrolled; list the approvers to find it")
    return row


def take_off_list(connection: Connection, now: datetime, key_id: str) -> None:
    """Take a key off the list, and end the open requests that it approved."""
    keys, requests, approvals = schema.approver_keys, schema.requests, schema.approvals
    connection.execute(keys.update().where(keys.c.key_id == key_id).values(removed_at=timestamp(now)))
    rests_on_it = (
        select(approvals.c.request_id)
        .where(approvals.c.request_id == requests.c.request_id, approvals.c.digest == requests.c.digest)
        .where(approvals.c.key_id == key_id)
    )
    still_open = requests.c.state.in_([State.PENDING.value, State.APPROVED.value])
    connection.execute(requests.update().where(still_open, rests_on_it.exists()).values(state=State.DENIED.value))


def forget(connection: Connection, log: LogWriter, person: str) -> None:
    """Take the key of a person who is erased off the list; the entry of the erasure says so."""
    row = enrolled(connection, person)
    if row is not None:
        take_off_list(connection, log.now, str(row.key_id))


def are_enough(
    connection: Connection, approvals: int, roles: Collection[str], without: Collection[str] = frozenset()
) -> bool:
    """Return whether so many approvers have enrolled keys, of all roles, that they can sign; `without` these people."""
    present = _roles(connection, without)
    return len(present) >= max(MIN_APPROVALS, approvals) and set(roles) <= set(present)


def check_enough(connection: Connection, policy: Policy) -> None:
    """Raise PolicyError where the list has too few approvers, or none of a role, for anything to be approved."""
    if not are_enough(connection, policy.approvals, policy.roles):
        present = _roles(connection, frozenset())
        missing = sorted(set(policy.roles) - set(present))
        of = f" and {', '.join(missing)} of none" if missing else ""
        raise PolicyError(
            "approvers",
            f"{len(present)} approvers are enrolled{of}; the policy asks for {policy.approvals}: nothing could be approved. "
            "Enrol them first",
        )


def _roles(connection: Connection, without: Collection[str]) -> list[str]:
    table = schema.approver_keys
    rows = connection.execute(select(table.c.role, table.c.person).where(table.c.removed_at.is_(None)))
    return [row.role for row in rows if row.person not in without]


def views(connection: Connection, names: Mapping[str, str]) -> list[ApproverView]:
    """Return all keys, newest first, with the names that are on file."""
    return [
        ApproverView(
            key=row.key_id,
            person=names[row.person],
            role=row.role,
            public_key=base64.b64encode(row.public_key).decode(),
            enrolled_at=parse_timestamp(row.enrolled_at),
            removed_at=None if row.removed_at is None else parse_timestamp(row.removed_at),
            passkey=None if row.passkey is None else PasskeyView(**json.loads(row.passkey)),
        )
        for row in connection.execute(select(schema.approver_keys).order_by(schema.approver_keys.c.enrolled_at.desc()))
    ]
