"""Requests that end by what happened to the keystore, and by nobody."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, exists

from keystore.crypto.canonical import timestamp
from keystore.decisions.lifecycle import State
from keystore.storage import schema


def void_open(connection: Connection, now: datetime | None = None) -> None:
    """End every request that is not ended: denied, by nobody. now: what time has ended by then stays expired; without it no time
    is believed."""
    table, grants = schema.requests, schema.grants
    ended = table.update().where(table.c.state.in_([State.PENDING.value, State.APPROVED.value]))
    if now is not None:
        of_content = (grants.c.request_id == table.c.request_id) & (grants.c.digest == table.c.digest)
        lapsed = exists().where(of_content, grants.c.expires_at <= timestamp(now))
        ended = ended.where(table.c.expires_at > timestamp(now), ~lapsed)
    connection.execute(ended.values(state=State.DENIED.value))
