"""Reading for people: rows become views, names are put back where they are still on file. Nothing here writes or decrypts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Row, select

from keystore.crypto.canonical import parse_timestamp
from keystore.decisions import people
from keystore.decisions.lifecycle import RequestLife
from keystore.decisions.requests import images_of
from keystore.decisions.views import ApprovalView, GrantView, RequestedImage, RequestView
from keystore.storage import schema


def known_request(connection: Connection, request_id: str) -> str | None:
    """Return the id if there is such a request: free text from a caller does not get into the log."""
    found = connection.execute(
        select(schema.requests.c.request_id).where(schema.requests.c.request_id == request_id)
    ).scalar()
    return None if found is None else str(found)


def request_view(connection: Connection, row: Row[tuple[object, ...]], life: RequestLife, now: datetime) -> RequestView:
    """Return a request as people see it at `now`."""
    names = people.names(connection)
    approvals, grants, releases = schema.approvals, schema.grants, schema.releases
    given = connection.execute(
        select(approvals)
        .where(approvals.c.request_id == row.request_id, approvals.c.digest == row.digest)
        .order_by(approvals.c.approved_at)
    )
    grant = connection.execute(
        select(grants, releases.c.released_at)
        .outerjoin(releases, releases.c.grant_id == grants.c.grant_id)
        .where(grants.c.request_id == row.request_id, grants.c.digest == row.digest)
    ).first()
    return RequestView(
        request_id=row.request_id,
        revision=row.revision,
        state=life.state(now),
        requester=names.get(row.requester, people.ERASED_NAME),
        case=row.case_reference,
        purpose=row.purpose,
        legal_basis=row.legal_basis,
        images=[
            RequestedImage(record_id=record, dataset=dataset, image_id=image)
            for record, dataset, image in images_of(connection, row.request_id)
        ],
        created_at=parse_timestamp(row.created_at),
        expires_at=parse_timestamp(row.expires_at),
        digest=row.digest,
        approvals_required=row.approvals_required,
        approvals=[
            ApprovalView(
                approver=names.get(one.approver, people.ERASED_NAME), approved_at=parse_timestamp(one.approved_at)
            )
            for one in given
        ],
        denied_by=None if row.denied_by is None else names.get(row.denied_by, people.ERASED_NAME),
        grant=None
        if grant is None
        else GrantView(
            grant_id=grant.grant_id,
            created_at=parse_timestamp(grant.created_at),
            expires_at=parse_timestamp(grant.expires_at),
            used_at=None if grant.released_at is None else parse_timestamp(grant.released_at),
        ),
    )
