"""Reading for people: rows become views, names are put back where they are still on file. Nothing here writes or decrypts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, select

from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.decisions import approvers, changes, people, stored_policy
from keystore.decisions.content import change_of, images_of
from keystore.decisions.lifecycle import FINAL_STATES, RequestLife, State
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


@dataclass(frozen=True)
class Listing:
    """Which requests are listed: those of one person (a commitment), of images of one data set only, for changes only."""

    requester: str | None = None
    dataset: str | None = None
    only_changes: bool = False

    def query(self) -> Select[tuple[str]]:
        """Return the query of their ids."""
        table, images = schema.requests.c, schema.request_images.c
        query = select(table.request_id)
        if self.requester is not None:
            query = query.where(table.requester == self.requester)
        if self.dataset is not None:
            query = query.where(~exists().where(images.request_id == table.request_id, images.dataset != self.dataset))
        return query.where(table.change.is_not(None)) if self.only_changes else query


def request_ids(
    connection: Connection, listing: Listing, limit: int | None, state: State | None, now: datetime
) -> list[str]:
    """Return the ids of requests, newest first, `limit` at most: all, or those that are in a state at `now`."""
    query = listing.query() if state is None else listing.query().where(_in_state(state, now))
    newest = query.order_by(schema.requests.c.created_at.desc()).limit(limit)
    return [str(one) for one in connection.execute(newest).scalars()]


def count_requests(connection: Connection, listing: Listing, most: int, now: datetime) -> Mapping[State, int]:
    """Return how many requests are in each state at `now`, up to `most` of each."""
    counts = {}
    for state in State:
        some = listing.query().where(_in_state(state, now)).limit(most).subquery()
        counts[state] = int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    return counts


def _in_state(state: State, now: datetime) -> ColumnElement[bool]:
    """As `RequestLife.state`, for the database."""
    table, grants, moment = schema.requests.c, schema.grants.c, timestamp(now)
    grant = exists().where(grants.request_id == table.request_id, grants.digest == table.digest)
    grant_over = grant.where(grants.expires_at <= moment)
    stored, is_open = table.state == state.value, table.state.in_([State.PENDING.value, State.APPROVED.value])
    if state is State.EXPIRED:
        return stored | (is_open & ((table.expires_at <= moment) | grant_over))
    return stored if state in FINAL_STATES else stored & (table.expires_at > moment) & ~grant_over


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
