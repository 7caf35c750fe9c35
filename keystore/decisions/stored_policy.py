"""The policies of a keystore, present and past, in its database."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import timestamp
from keystore.decisions.ending import void_open
from keystore.decisions.policy import MIN_APPROVALS, Policy
from keystore.errors import PolicyError, TamperedError
from keystore.storage import schema


def read(connection: Connection) -> Policy:
    """Return the present policy. Raises TamperedError when what is stored is no policy, PolicyError when it is too weak."""
    document = connection.execute(
        select(schema.policies.c.document).order_by(schema.policies.c.version.desc()).limit(1)
    ).scalar()
    try:
        return Policy.model_validate_json(document or b"")
    except ValidationError as error:
        if [item["loc"] for item in error.errors()] == [("approvals",)]:
            raise PolicyError(
                "approvals",
                f"the policy of this keystore asks for fewer than {MIN_APPROVALS} approvals, as older versions allowed; set "
                "another one",
            ) from None
        raise TamperedError(
            "the policy in the database is not a valid policy; restore the database from a backup"
        ) from error


def of_digest(connection: Connection, digest: str) -> Policy | None:
    """Return the policy of a digest, None where there is none, or none that this version knows."""
    document = connection.execute(select(schema.policies.c.document).where(schema.policies.c.digest == digest)).scalar()
    try:
        return None if document is None else Policy.model_validate_json(document)
    except ValidationError:
        return None


def write(connection: Connection, log: LogWriter, policy: Policy, by: list[str] | None, **more: str) -> None:
    """Make `policy` the present one, end every open request, and log both. `by` nobody: the first policy, of who made the
    keystore. more: for the log.

    What was agreed to under one policy does not come back when another is changed back to it.
    """
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
    void_open(connection, log.now)
    said = {"digest": policy.digest(), "policy": policy.content(), "version": latest + 1}
    log.append("policy", by=by, ends_open=True, **said, **more)
