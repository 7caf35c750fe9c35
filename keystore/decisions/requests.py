"""Requests in the database: what lifecycle.py decides on values is read from rows here, signed, written and logged.

Every function works inside the writing transaction it is given. What the approvers sign is in content.py, with which keys in
people.py and approvers.py.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, parse_timestamp, timestamp
from keystore.decisions import approvers, changes, lifecycle, people, signatures, stored_policy
from keystore.decisions.changes import Breaks, Change
from keystore.decisions.content import Words, change_of, images_of, request_digest
from keystore.decisions.lifecycle import Approval, Grant, RequestLife, State
from keystore.decisions.policy import MIN_GRANT_SECONDS, Policy
from keystore.decisions.signatures import OwnSignature
from keystore.errors import ApprovalError, GrantError, RequestNotFound, TamperedError
from keystore.storage import schema
from keystore.vault.keyring import Keyring
from keystore.vault.records import ImageRow

REQUEST_SALT_BYTES = 32


class RequestDesk:
    """Makes, changes, approves and denies requests of one keystore, and checks a release."""

    def __init__(self, keystore_id: str, keyring: Keyring) -> None:
        self._keystore_id = keystore_id
        self._keyring = keyring

    def create(
        self,
        connection: Connection,
        log: LogWriter,
        policy: Policy,
        requester: str,
        images: Sequence[ImageRow],
        words: Words,
        lifetime: timedelta,
    ) -> str:
        """File a request and return its id. Raises PolicyError."""
        self._check_policy(policy, len(images), words, lifetime)
        row = self._new_row(log, policy, requester, words, lifetime, os.urandom(REQUEST_SALT_BYTES).hex())
        row["digest"] = request_digest(self._keystore_id, row, images)
        connection.execute(schema.requests.insert().values(**row))
        connection.execute(
            schema.request_images.insert(),
            [
                {"request_id": row["request_id"], "record_id": one, "dataset": dataset, "image_id": image}
                for one, dataset, image in images
            ],
        )
        self._log_content(log, "request", row, requester, len(images))
        return str(row["request_id"])

    def propose(
        self, connection: Connection, log: LogWriter, policy: Policy, requester: str, change: Change, breaks: Breaks
    ) -> str:
        """File a change that approvers sign, and return the request's id. Raises ApprovalError, PolicyError: it can not be."""
        if change["kind"] == "policy":
            change = {**change, "was": policy.content()}
        changes.check(connection, change, signed=True, breaks=breaks)
        if not approvers.are_enough(connection, policy.approvals, policy.roles, changes.benefits(change) | {requester}):
            raise ApprovalError(
                "approvers",
                "without the one who proposes this and whom it benefits, too few approvers have keys to sign it; let somebody "
                "else propose it, enrol another approver first, or, where keys are lost: keyanon keystore approver lost-keys",
            )
        row = self._new_row(log, policy, requester, Words("", "", ""), changes.LIFETIME, "")
        row["change"] = canonical_json(change)
        row["digest"] = request_digest(self._keystore_id, row, [])
        connection.execute(schema.requests.insert().values(**row))
        self._log_content(log, "request", row, requester, 0, change=change)
        return str(row["request_id"])

    def _new_row(
        self, log: LogWriter, policy: Policy, requester: str, words: Words, lifetime: timedelta, salt: str
    ) -> dict[str, object]:
        return {
            "request_id": str(uuid4()),
            "revision": 1,
            "state": State.PENDING.value,
            "requester": requester,
            "case_reference": words.case,
            "purpose": words.purpose,
            "legal_basis": words.legal_basis,
            "created_at": timestamp(log.now),
            "expires_at": timestamp(log.now + lifetime),
            "salt": salt,
            "policy_digest": policy.digest(),
            "approvals_required": policy.approvals,
        }

    def change(
        self,
        connection: Connection,
        log: LogWriter,
        policy: Policy,
        request_id: str,
        person: str,
        words: Words,
        lifetime: timedelta | None,
    ) -> None:
        """Give a request new words or a new expiry, under the present policy; its approvals and its grant are
        void. Raises a Refusal."""
        row = self.row(connection, request_id)
        if row.change is not None:
            raise ApprovalError("is-change", "a change that was filed stays as it is; withdraw it, and file another")
        lifecycle.check_change(self.life(connection, row), person, log.now)
        images = images_of(connection, request_id)
        expires = parse_timestamp(row.expires_at) if lifetime is None else log.now + lifetime
        self._check_policy(policy, len(images), words, expires - log.now)
        content: dict[str, object] = dict(row._mapping) | {
            "revision": row.revision + 1,
            "state": State.PENDING.value,
            "case_reference": words.case,
            "purpose": words.purpose,
            "legal_basis": words.legal_basis,
            "expires_at": timestamp(expires),
            "salt": os.urandom(REQUEST_SALT_BYTES).hex(),
            "policy_digest": policy.digest(),
            "approvals_required": policy.approvals,
        }
        content["digest"] = request_digest(self._keystore_id, content, images)
        connection.execute(schema.requests.update().where(schema.requests.c.request_id == request_id).values(**content))
        self._log_content(log, "change", content, person, len(images))

    def approve(
        self,
        connection: Connection,
        log: LogWriter,
        policy: Policy,
        request_id: str,
        approver: str,
        shown: str,
        own: OwnSignature | None = None,
        grant_seconds: int | None = None,
        breaks: Breaks | None = None,
    ) -> None:
        """Approve the content of digest `shown`: by the approver's `own` signature, or one made here with the key kept for them.

        grant_seconds: how long the grant may live, where the approver chose less than the policy allows. breaks: of a change.

        The last approval needed makes the grant, or the change. Raises ApprovalError; PolicyError: it can not be made any more.
        """
        row = self.row(connection, request_id)
        life = self.life(connection, row)
        lifecycle.check_approve(life, approver, shown, log.now)
        self._check_content(connection, row)
        if row.policy_digest != policy.digest():
            raise ApprovalError(
                "policy-changed",
                f"the policy changed since request {request_id} was made; its requester must change or renew it",
            )
        change = change_of(row.change)
        changes.check_name_of_key(change)
        if grant_seconds is not None and change is not None:
            raise ApprovalError("grant-time", "a change has no grant: choose no time for one")
        if grant_seconds is not None and not MIN_GRANT_SECONDS <= grant_seconds <= policy.grant_lifetime_seconds:
            raise ApprovalError(
                "grant-time",
                f"a grant lives {MIN_GRANT_SECONDS} to {policy.grant_lifetime_seconds} seconds; choose a time within that",
            )
        self._check_people(connection, life, approver)
        enrolled, of = approvers.enrolled(connection, approver), (self._keystore_id, request_id, row.digest)
        if own is None and enrolled is None and not policy.own_keys and change is None:
            key: dict[str, Any] = {}
            approved_at = timestamp(log.now)
            message = signatures.approval_message(*of, approver, approved_at, grant_seconds)
            signature = people.sign_as(connection, self._keyring, log, approver, message)
        else:
            signed = approvers.check_own(*of, enrolled, own, log.now, grant_seconds)
            approved_at, signature, key = signed.approved_at, signed.signature, signed.in_log()
        connection.execute(
            schema.approvals.insert().values(
                request_id=request_id,
                digest=row.digest,
                approver=approver,
                signature=signature,
                approved_at=approved_at,
                key_id=None if own is None else own.key_id,
                assertion=None if own is None or own.assertion is None else canonical_json(own.assertion.content()),
                grant_seconds=grant_seconds,
            )
        )
        log.append(
            "approve",
            approver=approver,
            digest=row.digest,
            request=request_id,
            signature=base64.b64encode(signature).decode(),
            **key,
            **signatures.chosen(grant_seconds),
        )
        life = self.life(connection, row)
        if not lifecycle.is_approved(life):
            return
        if change is None:
            log.append("grant", **self._grant(connection, log, policy, life))
            return
        changes.check(connection, change, signed=True, breaks=breaks or {})
        self._set_state(connection, request_id, State.APPLIED)
        changes.make(connection, log, change, sorted(life.approvers()), request_id)

    def break_glass(self, connection: Connection, log: LogWriter, policy: Policy, request_id: str, person: str) -> None:
        """Grant a request that was just filed, without approvals; who calls has checked that (break_glass.check)."""
        life = self.life(connection, self.row(connection, request_id))
        records = len(images_of(connection, request_id))
        log.append("break-glass", by=person, records=records, **self._grant(connection, log, policy, life))

    def _grant(self, connection: Connection, log: LogWriter, policy: Policy, life: RequestLife) -> dict[str, str]:
        """Make the grant of a request's present content; return what the log says of it."""
        lifetime = timedelta(seconds=policy.grant_lifetime_seconds)
        expires_at, grant_id = timestamp(lifecycle.grant_expiry(life, log.now, lifetime)), str(uuid4())
        connection.execute(
            schema.grants.insert().values(
                grant_id=grant_id,
                request_id=life.request_id,
                digest=life.digest,
                created_at=timestamp(log.now),
                expires_at=expires_at,
            )
        )
        self._set_state(connection, life.request_id, State.APPROVED)
        return {"digest": life.digest, "expires_at": expires_at, "grant": grant_id, "request": life.request_id}

    def deny(self, connection: Connection, log: LogWriter, request_id: str, person: str) -> None:
        """End a request without release. Raises ApprovalError."""
        lifecycle.check_deny(self.life(connection, self.row(connection, request_id)), log.now)
        table = schema.requests
        connection.execute(
            table.update().where(table.c.request_id == request_id).values(state=State.DENIED.value, denied_by=person)
        )
        log.append("deny", by=person, request=request_id)

    def check_release(
        self,
        connection: Connection,
        log: LogWriter,
        policy: Policy,
        request_id: str,
        person: str,
        broken: str | None = None,
    ) -> tuple[Grant, str]:
        """Return the grant and the request's digest if this person may take the keys now; every signature is verified again.

        broken: the digest for which, the log says, this request broke the glass.

        Raises GrantError, TamperedError.
        """
        row = self.row(connection, request_id)
        life = self.life(connection, row)
        grant = lifecycle.check_release(life, person, log.now, glass_broken=broken == row.digest)
        self._check_content(connection, row)
        if row.policy_digest != policy.digest():
            raise GrantError(
                "policy-changed", f"the policy changed since request {request_id} was approved; make a new request"
            )
        self._check_people(connection, life)
        for one in approvers.signed(connection, [request_id], row.digest):
            if not one.holds(self._keystore_id):
                raise TamperedError(
                    f"an approval of request {request_id} is not signed by its approver: the database was altered; restore it"
                )
        return grant, row.digest

    def use_grant(self, connection: Connection, log: LogWriter, request_id: str, grant_id: str, recipient: str) -> None:
        """Write down that a grant was used; the table's primary key lets that happen once."""
        connection.execute(
            schema.releases.insert().values(grant_id=grant_id, recipient=recipient, released_at=timestamp(log.now))
        )
        self._set_state(connection, request_id, State.RELEASED)

    def row(self, connection: Connection, request_id: str) -> Row[tuple[object, ...]]:
        """Return a request's row. Raises RequestNotFound."""
        row = connection.execute(select(schema.requests).where(schema.requests.c.request_id == request_id)).first()
        if row is None:
            raise RequestNotFound(
                "unknown-request", f"there is no request {request_id!r}; list the requests to find its id"
            )
        return row

    def life(self, connection: Connection, row: Row[tuple[object, ...]]) -> RequestLife:
        """Return what the rules need to know of a request."""
        grants = schema.grants
        policy = stored_policy.of_digest(connection, str(row.policy_digest))
        grant = connection.execute(
            select(grants).where(grants.c.request_id == row.request_id, grants.c.digest == row.digest)
        ).first()
        return RequestLife(
            request_id=row.request_id,
            requester=row.requester,
            digest=row.digest,
            approvals_required=row.approvals_required,
            expires_at=parse_timestamp(row.expires_at),
            stored=State(row.state),
            approvals=tuple(
                Approval(one.approver, one.digest, one.role, one.grant_seconds)
                for one in approvers.signed(connection, [row.request_id])
            ),
            roles_required=() if policy is None else policy.roles,
            benefits=changes.benefits(change_of(row.change)),
            grant=None if grant is None else Grant(grant.grant_id, parse_timestamp(grant.expires_at)),
        )

    def _check_content(self, connection: Connection, row: Row[tuple[object, ...]]) -> None:
        if request_digest(self._keystore_id, dict(row._mapping), images_of(connection, row.request_id)) != row.digest:
            raise TamperedError(
                f"request {row.request_id} in the database is not the one that was filed; its approvals are void, restore it"
            )

    def _check_people(self, connection: Connection, life: RequestLife, *more: str) -> None:
        if people.unrecognisable(connection, {life.requester, *life.approvers(), *more}):
            raise ApprovalError(
                "unknown-person",
                f"someone in request {life.request_id} can not be told from the others (erased before this version, "
                "or with a look-alike name); make a new request",
            )

    def _check_policy(self, policy: Policy, images: int, words: Words, lifetime: timedelta) -> None:
        policy.check_request(
            images=images, case=words.case, purpose=words.purpose, legal_basis=words.legal_basis, lifetime=lifetime
        )

    def _set_state(self, connection: Connection, request_id: str, state: State) -> None:
        connection.execute(
            schema.requests.update().where(schema.requests.c.request_id == request_id).values(state=state.value)
        )

    def _log_content(
        self, log: LogWriter, kind: str, row: dict[str, object], by: str, records: int, **more: object
    ) -> None:
        # Record ids stay out: public sidecars lead from them to file names. The digest stands for them.
        log.append(
            kind,
            approvals_required=row["approvals_required"],
            digest=row["digest"],
            expires_at=row["expires_at"],
            policy=row["policy_digest"],
            records=records,
            request=row["request_id"],
            requester=by,
            revision=row["revision"],
            **more,
        )
