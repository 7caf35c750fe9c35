"""Reading for people: rows become views, names are put back where they are still on file. Nothing here writes or decrypts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Row, func, select

from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.decisions import approvers, changes, people, stored_policy
from keystore.decisions.content import change_of, images_of
from keystore.decisions.lifecycle import RequestLife, State
from keystore.decisions.views import ApprovalView, GrantView, RequestedImage, RequestView
from keystore.storage import schema


def known_request(connection: Connection, request_id: str) -> str | None:
    """Return the id if there is such a request: free text from a caller does not get into the log."""
    found = connection.execute(
        select(schema.requests.c.request_id).where(schema.requests.c.request_id == request_id)
    ).scalar()
    return None if found is None else str(found)


def asks_for_change(connection: Connection, request_id: str) -> bool:
    """Return whether there is such a request, and it is for a change of who decides (decisions.changes)."""
    table = schema.requests
    query = select(table.c.request_id).where(table.c.request_id == request_id, table.c.change.is_not(None))
    return connection.execute(query).first() is not None


def request_ids(
    connection: Connection, requester: str | None, dataset: str | None, limit: int | None, *, only_changes: bool = False
) -> list[str]:
    """Return the ids of requests, newest first: of one person (a commitment), of images of one data set only, `limit` at most;
    all, or those for changes of who decides."""
    table, images = schema.requests, schema.request_images
    query = select(table.c.request_id).order_by(table.c.created_at.desc())
    if requester is not None:
        query = query.where(table.c.requester == requester)
    if dataset is not None:
        foreign = select(images.c.request_id).where(images.c.dataset != dataset)
        query = query.where(table.c.request_id.not_in(foreign))
    if only_changes:
        query = query.where(table.c.change.is_not(None))
    return [str(one) for one in connection.execute(query.limit(limit)).scalars()]


def count_open(connection: Connection, requester: str, now: datetime) -> int:
    """Return how many requests of a person (a commitment) are pending or approved, and have not expired."""
    table = schema.requests
    still_open = table.c.state.in_([State.PENDING.value, State.APPROVED.value])
    query = select(func.count()).where(table.c.requester == requester, still_open, table.c.expires_at > timestamp(now))
    return int(connection.execute(query).scalar_one())


def overlap(connection: Connection, request_id: str) -> tuple[int, int]:
    """Return how many images of a request other requests name too, and how many requests those are."""
    table, other = schema.request_images, schema.request_images.alias()
    query = (
        select(func.count(table.c.record_id.distinct()), func.count(other.c.request_id.distinct()))
        .join(other, (other.c.record_id == table.c.record_id) & (other.c.request_id != table.c.request_id))
        .where(table.c.request_id == request_id)
    )
    images, requests = connection.execute(query).one()
    return int(images), int(requests)


def request_view(
    connection: Connection, keystore_id: str, row: Row[tuple[object, ...]], life: RequestLife, now: datetime
) -> RequestView:
    """Return a request as people see it at `now`."""
    names = people.names(connection)
    policy = stored_policy.of_digest(connection, str(row.policy_digest))
    change = change_of(row.change)
    overlap_images, overlap_requests = overlap(connection, str(row.request_id))
    grants, releases = schema.grants, schema.releases
    grant = connection.execute(
        select(grants, releases.c.released_at)
        .outerjoin(releases, releases.c.grant_id == grants.c.grant_id)
        .where(grants.c.request_id == row.request_id, grants.c.digest == row.digest)
    ).first()
    return RequestView(
        keystore=keystore_id,
        request_id=row.request_id,
        revision=row.revision,
        state=life.state(now),
        requester=names.get(row.requester, people.ERASED_NAME),
        requester_id=row.requester,
        case=row.case_reference,
        purpose=row.purpose,
        legal_basis=row.legal_basis,
        images=[
            RequestedImage(record_id=record, dataset=dataset, image_id=image)
            for record, dataset, image in images_of(connection, row.request_id)
        ],
        overlap_images=overlap_images,
        overlap_requests=overlap_requests,
        created_at=parse_timestamp(row.created_at),
        expires_at=parse_timestamp(row.expires_at),
        digest=row.digest,
        salt=row.salt,
        policy_digest=row.policy_digest,
        approvals_required=row.approvals_required,
        own_keys=change is not None or (policy is not None and policy.own_keys),
        roles=[] if policy is None else list(policy.roles),
        approvals=[
            ApprovalView(
                approver=names.get(one.approver, people.ERASED_NAME),
                approved_at=parse_timestamp(one.approved_at),
                key=one.key_id,
                role=one.role,
                grant_seconds=one.grant_seconds,
            )
            for one in approvers.signed(connection, [str(row.request_id)], str(row.digest))
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
        change=change,
        change_people={}
        if change is None
        else {one: names.get(one, people.ERASED_NAME) for one in changes.people_of(change)},
    )
