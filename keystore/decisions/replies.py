"""Releases that may have been lost on their way: kept as they were sent, sealed, for the same key to fetch again.

What is kept opens with the recipient's ephemeral private key only, which was never here. An erasure drops every reply, and so
does time.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import parse_timestamp, timestamp
from keystore.storage import schema

MAX_LIFETIME = timedelta(hours=1)
MAX_FETCHES = 5


def keep(connection: Connection, grant_id: str, sealed: bytes, until: datetime) -> None:
    """Keep what a release sent."""
    connection.execute(
        schema.replies.insert().values(grant_id=grant_id, sealed=sealed, until=timestamp(until), fetched=0)
    )


def fetch_again(
    connection: Connection, log: LogWriter, request_id: str, requester: str, recipient: str
) -> bytes | None:
    """Return what was sent for a request to this very recipient, on record; None where nothing is kept, or not for them.

    requester: the commitment of who asks; recipient: id of their public key.
    """
    replies, releases, grants, requests = schema.replies, schema.releases, schema.grants, schema.requests
    row = connection.execute(
        select(replies)
        .join(releases, releases.c.grant_id == replies.c.grant_id)
        .join(grants, grants.c.grant_id == replies.c.grant_id)
        .join(requests, requests.c.request_id == grants.c.request_id)
        .where(
            requests.c.request_id == request_id,
            requests.c.requester == requester,
            releases.c.recipient == recipient,
            replies.c.fetched < MAX_FETCHES,
        )
    ).first()
    if row is None or log.now >= parse_timestamp(row.until):
        return None
    of_grant = replies.c.grant_id == row.grant_id
    connection.execute(replies.update().where(of_grant).values(fetched=row.fetched + 1))
    log.append("release-again", by=requester, grant=row.grant_id, recipient=recipient, request=request_id)
    return bytes(row.sealed)


def drop(connection: Connection, before: datetime | None = None) -> int:
    """Drop the replies whose time was over `before`, or all; return how many."""
    statement = schema.replies.delete()
    if before is not None:
        statement = statement.where(schema.replies.c.until <= timestamp(before))
    return connection.execute(statement).rowcount


def any_before(connection: Connection, moment: datetime) -> bool:
    """Return whether there are replies whose time was over at a moment."""
    query = select(schema.replies.c.grant_id).where(schema.replies.c.until <= timestamp(moment)).limit(1)
    return connection.execute(query).first() is not None
