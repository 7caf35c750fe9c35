"""API tokens: whom the service takes a caller for, in which role, for which data set, until when.

A token is 256 random bits; the keystore keeps their digest only. It stands for a person on file, so that whoever holds an
approver's token and a requester's is one person to the rules. Issuing and revoking are entries of the log, and every row has a
keyed tag, so that who can write into the database, and no more, makes no token and brings none back to life.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, parse_timestamp, sha256_hex, timestamp
from keystore.decisions.api_token import OF_JOBS, TOKEN, Role, TokenView
from keystore.decisions.people import ERASED_NAME, names
from keystore.errors import TokenError
from keystore.storage import schema

ID_BYTES = 8
SECRET_BYTES = 32
MAX_LIFETIME = timedelta(days=366)
MAX_DATASET_CHARACTERS = 1000
_INFO = b"keyanon tokens v1"
_SECRET_LABEL = b"keyanon token v1\n"
_TAG_BYTES = 32


@dataclass(frozen=True)
class Caller:
    """Who presented a valid token. dataset: the only one that it is good for, None for all."""

    token_id: str
    person: str
    role: Role
    dataset: str | None

    def may_touch(self, dataset: str) -> bool:
        """Return whether the token is good for a data set."""
        return self.dataset is None or self.dataset == dataset


class Tokens:
    """The tokens of one keystore, whose rows are tagged under a key that only it has."""

    def __init__(self, index_key: bytes) -> None:
        self._key = HKDF(SHA256(), length=_TAG_BYTES, salt=None, info=_INFO).derive(index_key)

    def issue(
        self,
        connection: Connection,
        log: LogWriter,
        person: str,
        role: Role,
        dataset: str | None,
        lifetime: timedelta,
        by: str,
        binding: str | None = None,
    ) -> str:
        """Make a token for a person (a commitment) and return its text, which nobody can ask for again.

        binding: by which the person signed in for it. Raises TokenError.
        """
        if role in OF_JOBS and dataset is None:
            raise TokenError("dataset", f"a token of role {role.value} is for one data set; say which")
        if dataset is not None and not (dataset and len(dataset) <= MAX_DATASET_CHARACTERS):
            raise TokenError("dataset", f"a data set's name has 1 to {MAX_DATASET_CHARACTERS} characters")
        if not timedelta(0) < lifetime <= MAX_LIFETIME:
            raise TokenError("lifetime", f"a token lives {MAX_LIFETIME.days} days at most; ask for less")
        token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_bytes(SECRET_BYTES)
        row = {
            "token_id": token_id,
            "person": person,
            "role": role.value,
            "dataset": dataset,
            "secret_sha256": _secret_digest(secret),
            "created_at": timestamp(log.now),
            "expires_at": timestamp(log.now + lifetime),
            "revoked_at": None,
            "binding": binding,
        }
        connection.execute(schema.tokens.insert().values(**row, tag=self._tag(row)))
        signed_in = {} if binding is None else {"binding": binding}
        log.append(
            "token",
            by=by,
            digest=token_digest(row),
            expires_at=row["expires_at"],
            person=person,
            role=role.value,
            token=token_id,
            **signed_in,
        )
        return f"kat1_{token_id}_{secret.hex()}"

    def revoke(self, connection: Connection, log: LogWriter, token_id: str, by: str) -> None:
        """End a token now. Raises TokenError: there is none of this id, or it ended before."""
        found = connection.execute(select(schema.tokens).where(schema.tokens.c.token_id == token_id)).first()
        if found is None:
            raise TokenError("unknown-token", "there is no such token; list the tokens to find its id")
        if found.revoked_at is not None:
            raise TokenError("revoked", f"token {token_id} was revoked before")
        if log.now >= parse_timestamp(found.expires_at):  # the verifier does not remember it any more
            raise TokenError(
                "expired", f"token {token_id} has expired, and is good for nothing; there is nothing to revoke"
            )
        self._end(connection, log, found, by)

    def revoke_of(self, connection: Connection, log: LogWriter, binding: str, by: str) -> None:
        """End now every token that came from a binding and has not ended."""
        table = schema.tokens
        living = (table.c.binding == binding) & table.c.revoked_at.is_(None) & (table.c.expires_at > timestamp(log.now))
        for row in connection.execute(select(table).where(living).order_by(table.c.token_id)).all():
            self._end(connection, log, row, by)

    def _end(self, connection: Connection, log: LogWriter, found: Row[Any], by: str) -> None:
        row = dict(found._mapping) | {"revoked_at": timestamp(log.now)}
        connection.execute(
            schema.tokens.update()
            .where(schema.tokens.c.token_id == found.token_id)
            .values(revoked_at=row["revoked_at"], tag=self._tag(row))
        )
        log.append("revoke-token", by=by, digest=token_digest(row), token=found.token_id)

    def authenticate(self, connection: Connection, text: str, now: datetime) -> Caller | None:
        """Return whose token this is, None for one that is unknown, wrong, expired, revoked or of an erased person."""
        match = TOKEN.fullmatch(text)
        if match is None:
            return None
        row = connection.execute(select(schema.tokens).where(schema.tokens.c.token_id == match[1])).first()
        if row is None or not hmac.compare_digest(_secret_digest(bytes.fromhex(match[2])), row.secret_sha256):
            return None
        return self._holder(connection, row, now)

    def holder(self, connection: Connection, token_id: str, now: datetime) -> Caller | None:
        """Return whose token of this id is good now; that somebody has it was seen before."""
        row = connection.execute(select(schema.tokens).where(schema.tokens.c.token_id == token_id)).first()
        return None if row is None else self._holder(connection, row, now)

    def _holder(self, connection: Connection, row: Row[tuple[object, ...]], now: datetime) -> Caller | None:
        if not hmac.compare_digest(self._tag(dict(row._mapping)), row.tag):
            return None  # a row that somebody else wrote
        if row.revoked_at is not None or not parse_timestamp(row.created_at) <= now < parse_timestamp(row.expires_at):
            return None
        name = names(connection).get(row.person, ERASED_NAME)
        return None if name == ERASED_NAME else Caller(row.token_id, name, Role(row.role), row.dataset)

    def _tag(self, row: Mapping[str, Any]) -> bytes:
        return hmac.digest(self._key, _content(row), "sha256")


def token_id_of(text: str) -> str:
    """Return the id in a token's text."""
    return text.split("_")[1]


def token_views(connection: Connection) -> list[TokenView]:
    """Return all tokens, newest first."""
    people = names(connection)
    return [
        TokenView(
            token_id=row.token_id,
            person=people.get(row.person, ERASED_NAME),
            role=Role(row.role),
            dataset=row.dataset,
            created_at=parse_timestamp(row.created_at),
            expires_at=parse_timestamp(row.expires_at),
            revoked_at=None if row.revoked_at is None else parse_timestamp(row.revoked_at),
        )
        for row in connection.execute(select(schema.tokens).order_by(schema.tokens.c.created_at.desc()))
    ]


def token_digest(row: Mapping[str, Any]) -> str:
    """Return what the log says of a token's row; the secret's digest in it keeps the data set's name from being guessed."""
    return sha256_hex(_content(row))


def _content(row: Mapping[str, Any]) -> bytes:
    # Tokens of before there were bindings are the same as those of none.
    content = {name: value for name, value in row.items() if name != "tag" and (name, value) != ("binding", None)}
    return canonical_json({**content, "type": "keyanon token v1"})


def _secret_digest(secret: bytes) -> str:
    return hashlib.sha256(_SECRET_LABEL + secret).hexdigest()
