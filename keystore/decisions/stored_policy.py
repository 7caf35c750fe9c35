"""The policies of a keystore, present and past, in its database."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import timestamp
from keystore.decisions.policy import Policy
from keystore.errors import TamperedError
from keystore.storage import schema


def read(connection: Connection) -> Policy:
    """Return the present policy. Raises TamperedError when what is stored is no policy."""
    document = connection.execute(
        select(schema.policies.c.document).order_by(schema.policies.c.version.desc()).limit(1)
    ).scalar()
    try:
        return Policy.model_validate_json(document or b"")
    except ValidationError as error:
        raise TamperedError(
            "the policy in the database is not a valid policy; restore the database from a backup"
        ) from error


def write(connection: Connection, log: LogWriter, policy: Policy, by: str | None) -> None:
    """Make `policy` the present one, and log it."""
    latest = (
        connection.execute(
            select(schema.policies.c.version).order_by(schema.policies.c.version.desc()).limit(1)
        ).scalar()
        or 0
    )
    connection.execute(
        schema.policies.insert().values(
            version=latest + 1, document=policy.document(), digest=policy.digest(), set_at=timestamp(log.now)
        )
    )
    log.append("policy", by=by, digest=policy.digest(), policy=policy.model_dump(mode="json"), version=latest + 1)
