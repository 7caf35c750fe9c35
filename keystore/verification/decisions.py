"""Do the tables show what the log says was decided: identity, policies, people, requests, approvals, grants, releases?"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from keystore.crypto.canonical import sha256_hex
from keystore.decisions import approvers
from keystore.decisions.bindings import binding_digest
from keystore.decisions.content import change_of, images_of_each, request_digest
from keystore.decisions.identity import name_commitment
from keystore.decisions.lifecycle import State
from keystore.decisions.tokens import token_digest
from keystore.storage import schema
from keystore.storage.bulk import VALUES_PER_QUERY, rows_with
from keystore.vault.accounts import own_keys_account
from keystore.vault.records import ImageRow
from keystore.verification.leaves import guarded
from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest


def decisions_problems(connection: Connection, logged: LoggedDecisions, time: str | None = None) -> list[str]:
    """Return where the tables are not as the log says: nothing, when all is well.

    time: of the last entry. Then `logged` is what lives then (replay_decisions.living), and of requests and tokens only these are
    looked at, and what the tables say is open at that time; without it, all that there ever were.
    """
    problems: list[str] = []
    for check in (_check_identity, _check_policies_and_people):
        guarded(lambda check=check: check(connection, logged, problems), problems)  # type: ignore[misc]
    for one in (_check_requests, _check_access):
        guarded(lambda one=one: one(connection, logged, problems, time), problems)  # type: ignore[misc]
    return problems


def _check_identity(connection: Connection, logged: LoggedDecisions, problems: list[str]) -> None:
    row = connection.execute(select(schema.identity)).first()
    if row is None or logged.created is None:
        problems.append("the log does not begin with the creation of a keystore")
    elif (row.keystore_id, row.audit_vkey) != (logged.created.get("keystore"), logged.created.get("vkey")):
        problems.append("the keystore's identity is not the one it was created with")
    if logged.own_keys is not None and own_keys_account(connection) != logged.own_keys:
        problems.append("the keystore's own wrapped keys are not those of the log: one was added, dropped or exchanged")


def _check_policies_and_people(connection: Connection, logged: LoggedDecisions, problems: list[str]) -> None:
    policies = connection.execute(select(schema.policies).order_by(schema.policies.c.version)).all()
    if [row.digest for row in policies] != logged.policies or any(
        sha256_hex(row.document) != row.digest for row in policies
    ):
        problems.append("the policies are not those of the log")
    enrolled: dict[str, str] = {}
    for row in connection.execute(select(schema.people)):
        if row.public_key is not None:
            enrolled[row.person] = base64.b64encode(row.public_key).decode()
        if row.name is not None and name_commitment(row.salt, row.name) != row.person:
            problems.append(f"the name on file for person {row.person[:12]} is not the one in the log")
        if row.person not in logged.mentioned:
            problems.append(f"person {row.person[:12]} is on file and never did anything")
        # People without a tag are of an older schema, which logged no erasure; they can not act any more.
        if row.tag is not None and (row.name is None) != (row.person in logged.erased_people):
            problems.append(
                f"the name of person {row.person[:12]} was erased, or put back, without an entry in the log"
            )
    own = {
        row.key_id: {
            "person": row.person,
            "public_key": base64.b64encode(row.public_key).decode(),
            "removed": row.removed_at is not None,
            "role": row.role,
            **({} if row.passkey is None else {"passkey": json.loads(row.passkey)}),
        }
        for row in connection.execute(select(schema.approver_keys))
    }
    if enrolled != logged.enrolled or own != logged.approver_keys:
        problems.append("the approvers' public keys are not those of the log")


def _check_requests(connection: Connection, logged: LoggedDecisions, problems: list[str], time: str | None) -> None:
    keystore_id = str(connection.execute(select(schema.identity.c.keystore_id)).scalar())
    table, seen = schema.requests.c, dict[str, LoggedRequest]()
    concerned = None
    if time is not None:
        is_open = table.state.in_([State.PENDING.value, State.APPROVED.value]) & (table.expires_at > time)
        opened = connection.execute(select(table.request_id).where(is_open)).scalars()
        concerned = sorted(logged.requests.keys() | set(opened))
    for row, images in _with_images(
        connection, rows_with(connection, select(schema.requests), table.request_id, concerned)
    ):
        if request_digest(keystore_id, dict(row._mapping), images) != row.digest:
            problems.append(f"request {row.request_id} was altered: its content is not the one its digest stands for")
        seen[row.request_id] = LoggedRequest(
            row.requester,
            row.digest,
            row.revision,
            row.expires_at,
            row.approvals_required,
            row.policy_digest,
            len(images),
            row.state,
            row.denied_by,
            change=change_of(row.change),
        )
    for one in approvers.signed(connection, concerned):
        if not one.holds(keystore_id):
            problems.append(f"an approval of request {one.request_id} is not signed by its approver")
        if one.request_id in seen:
            of = (one.digest, one.approver)
            seen[one.request_id].approvals[of] = base64.b64encode(one.signature).decode()
            if one.key_id is not None:
                seen[one.request_id].keys[of] = one.key_id
            if one.grant_seconds is not None:
                seen[one.request_id].grant_seconds[of] = one.grant_seconds
    grants = rows_with(connection, select(schema.grants), schema.grants.c.request_id, concerned)
    for row in grants:
        if row.request_id in seen:
            seen[row.request_id].grants[row.digest] = (row.grant_id, row.expires_at)
    for request_id in sorted(seen.keys() | logged.requests.keys()):
        if seen.get(request_id) != logged.requests.get(request_id):
            problems.append(f"request {request_id}, its approvals or its grant are not those of the log")
    granted = None if concerned is None else [row.grant_id for row in grants]
    used = rows_with(connection, select(schema.releases), schema.releases.c.grant_id, granted)
    releases = {row.grant_id: row.recipient for row in used}
    if releases != logged.releases:
        problems.append("the releases are not those of the log")


def _with_images(connection: Connection, requests: Sequence[Row[Any]]) -> Iterator[tuple[Row[Any], list[ImageRow]]]:
    """Each request with its images, read many at a time: all that were ever asked for would not fit into memory."""
    for start in range(0, len(requests), VALUES_PER_QUERY):
        some = requests[start : start + VALUES_PER_QUERY]
        images = images_of_each(connection, [row.request_id for row in some])
        yield from ((row, images[row.request_id]) for row in some)


def _check_access(connection: Connection, logged: LoggedDecisions, problems: list[str], time: str | None) -> None:
    table, concerned = schema.tokens.c, None
    if time is not None:
        is_good = (table.expires_at > time) & table.revoked_at.is_(None)
        good = connection.execute(select(table.token_id).where(is_good)).scalars()
        concerned = sorted(logged.tokens.keys() | set(good))
    rows = rows_with(connection, select(schema.tokens), table.token_id, concerned)
    tokens = {row.token_id: token_digest(dict(row._mapping)) for row in rows}
    if tokens != {ident: one["digest"] for ident, one in logged.tokens.items()}:
        problems.append("the tokens are not those of the log: one was added, dropped, changed or brought back")
    bindings = {
        row.binding_id: binding_digest(dict(row._mapping)) for row in connection.execute(select(schema.bindings))
    }
    if bindings != {ident: one["digest"] for ident, one in logged.bindings.items()}:
        problems.append("the bindings of identities are not those of the log: one was added, dropped or changed")
