"""Requests in the database: what lifecycle.py decides on values is read from rows here, signed, written and logged.

Every function works inside the writing transaction it is given. The request's digest is over all of its content
and a salt, so the
digest can be in the log for good without giving the words away.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, parse_timestamp, sha256_hex, timestamp
from keystore.decisions import lifecycle, people
from keystore.decisions.lifecycle import Approval, Grant, RequestLife, State
from keystore.decisions.policy import Policy
from keystore.errors import ApprovalError, GrantError, RecordNotFound, RequestNotFound, TamperedError
from keystore.storage import schema
from keystore.vault.keyring import Keyring
from keystore.vault.records import ImageRow

REQUEST_SALT_BYTES = 32


@dataclass(frozen=True)
class Words:
    """What a requester writes."""

    case: str = field(repr=False)
    purpose: str = field(repr=False)
    legal_basis: str = field(repr=False)


def request_digest(keystore_id: str, row: dict[str, object], images: Sequence[ImageRow]) -> str:
    """Return the digest that approvers sign: SHA-256 of the canonical content of a request, from its row and images."""
    names = (
        "request_id",
        "revision",
        "requester",
        "case_reference",
        "purpose",
        "legal_basis",
        "created_at",
        "expires_at",
        "salt",
    )
    content = {name: row[name] for name in (*names, "policy_digest", "approvals_required")}
    chosen = [{"record_id": record, "dataset": dataset, "image_id": image} for record, dataset, image in sorted(images)]
    return sha256_hex(
        canonical_json({**content, "images": chosen, "keystore": keystore_id, "type": "keyanon request v1"})
    )


def images_of(connection: Connection, request_id: str) -> list[ImageRow]:
    """Return the images of a request, sorted by record id."""
    table = schema.request_images
    rows = connection.execute(select(table).where(table.c.request_id == request_id).order_by(table.c.record_id))
    return [(row.record_id, row.dataset, row.image_id) for row in rows]


def find_images(
    connection: Connection, wanted: Sequence[str], dataset: str | None, run_id: str | None
) -> list[ImageRow]:
    """Return the records that image ids (or record ids) name. Raises RecordNotFound when one is unknown or names several."""
    table = schema.records
    found: dict[str, ImageRow] = {}
    for one in wanted:
        query = select(table).where((table.c.image_id == one) | (table.c.record_id == one))
        if dataset is not None:
            query = query.where(table.c.dataset == dataset)
        if run_id is not None:
            query = query.where(table.c.run_id == run_id)
        rows = connection.execute(query.order_by(table.c.ingested_at)).all()
        if not rows:
            raise RecordNotFound(
                "unknown-record",
                f"no key record is stored for image {one!r}; check the id and whether its run was ingested (an image whose key "
                "was discarded has no record and can not be restored)",
            )
        if len(rows) > 1:
            choices = ", ".join(f"{row.record_id} (data set {row.dataset!r}, run {row.run_id!r})" for row in rows[:5])
            raise RecordNotFound(
                "ambiguous-record", f"image {one!r} has {len(rows)} key records; name one by its record id: {choices}"
            )
        found[rows[0].record_id] = (rows[0].record_id, rows[0].dataset, rows[0].image_id)
    return list(found.values())


def void_open(connection: Connection) -> None:
    """End every request that is not ended, by nobody: whether its grant was used already can not be known any more."""
    table = schema.requests
    still_open = table.c.state.in_([State.PENDING.value, State.APPROVED.value])
    connection.execute(table.update().where(still_open).values(state=State.DENIED.value))


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
        row: dict[str, object] = {
            "request_id": str(uuid4()),
            "revision": 1,
            "state": State.PENDING.value,
            "requester": requester,
            "case_reference": words.case,
            "purpose": words.purpose,
            "legal_basis": words.legal_basis,
            "created_at": timestamp(log.now),
            "expires_at": timestamp(log.now + lifetime),
            "salt": os.urandom(REQUEST_SALT_BYTES).hex(),
            "policy_digest": policy.digest(),
            "approvals_required": policy.approvals,
        }
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
        self, connection: Connection, log: LogWriter, policy: Policy, request_id: str, approver: str, shown: str
    ) -> None:
        """Sign the content of digest `shown` as this person; the last approval needed makes the grant. Raises ApprovalError."""
        row = self.row(connection, request_id)
        life = self.life(connection, row)
        lifecycle.check_approve(life, approver, shown, log.now)
        self._check_content(connection, row)
        if row.policy_digest != policy.digest():
            raise ApprovalError(
                "policy-changed",
                f"the policy changed since request {request_id} was made; its requester must change or renew it",
            )
        self._check_people(connection, life, approver)
        approved_at = timestamp(log.now)
        message = people.approval_message(self._keystore_id, request_id, row.digest, approver, approved_at)
        signature = people.sign_as(connection, self._keyring, log, approver, message)
        connection.execute(
            schema.approvals.insert().values(
                request_id=request_id,
                digest=row.digest,
                approver=approver,
                signature=signature,
                approved_at=approved_at,
            )
        )
        log.append(
            "approve",
            approver=approver,
            digest=row.digest,
            request=request_id,
            signature=base64.b64encode(signature).decode(),
        )
        life = self.life(connection, row)
        if lifecycle.is_approved(life):
            grant_id = str(uuid4())
            expires_at = timestamp(
                lifecycle.grant_expiry(life, log.now, timedelta(seconds=policy.grant_lifetime_seconds))
            )
            connection.execute(
                schema.grants.insert().values(
                    grant_id=grant_id,
                    request_id=request_id,
                    digest=row.digest,
                    created_at=approved_at,
                    expires_at=expires_at,
                )
            )
            self._set_state(connection, request_id, State.APPROVED)
            log.append("grant", digest=row.digest, expires_at=expires_at, grant=grant_id, request=request_id)

    def deny(self, connection: Connection, log: LogWriter, request_id: str, person: str) -> None:
        """End a request without release. Raises ApprovalError."""
        lifecycle.check_deny(self.life(connection, self.row(connection, request_id)), log.now)
        table = schema.requests
        connection.execute(
            table.update().where(table.c.request_id == request_id).values(state=State.DENIED.value, denied_by=person)
        )
        log.append("deny", by=person, request=request_id)

    def check_release(
        self, connection: Connection, log: LogWriter, policy: Policy, request_id: str, person: str
    ) -> tuple[Grant, str]:
        """Return the grant and the request's digest if this person may take the keys now; every signature is verified again.

        Raises GrantError, TamperedError.
        """
        row = self.row(connection, request_id)
        life = self.life(connection, row)
        grant = lifecycle.check_release(life, person, log.now)
        self._check_content(connection, row)
        if row.policy_digest != policy.digest():
            raise GrantError(
                "policy-changed", f"the policy changed since request {request_id} was approved; make a new request"
            )
        self._check_people(connection, life)
        table = schema.approvals
        counted = connection.execute(
            select(table, schema.people.c.public_key)
            .join(schema.people, schema.people.c.person == table.c.approver)
            .where(table.c.request_id == request_id, table.c.digest == row.digest)
        ).all()
        for one in counted:
            message = people.approval_message(self._keystore_id, request_id, row.digest, one.approver, one.approved_at)
            if not people.signature_holds(one.public_key, one.signature, message):
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
        approvals, grants = schema.approvals, schema.grants
        given = connection.execute(select(approvals).where(approvals.c.request_id == row.request_id)).all()
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
            approvals=tuple(Approval(one.approver, one.digest) for one in given),
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

    def _log_content(self, log: LogWriter, kind: str, row: dict[str, object], by: str, records: int) -> None:
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
        )
