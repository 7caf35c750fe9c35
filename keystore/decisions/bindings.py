"""Bindings: which person on file an identity provider's (issuer, subject) stands for, in which role, for which data set.

An operator binds; nobody is known by an identity alone. The pair is kept nowhere: a row has a keyed hash of it, by which it
is found again. Rows stay for good, unbound or their person erased, so that one identity never stands for two people and an
erased person does not come back as somebody new. Binding and unbinding are entries of the log, and every row has a keyed tag, as
tokens have.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, Row, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json, parse_timestamp, sha256_hex, timestamp
from keystore.decisions.api_token import OF_JOBS, Role
from keystore.decisions.people import ERASED_NAME, names
from keystore.decisions.tokens import MAX_DATASET_CHARACTERS, Tokens
from keystore.decisions.views import View
from keystore.errors import BindingError
from keystore.storage import schema

ID_BYTES = 8
MAX_ISSUER_CHARACTERS = 2000
_SUBJECT = re.compile(
    r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?"
)  # OpenID Connect Core, section 2: 255 ASCII characters
_INFO = b"keyanon identities v1"
_TAG_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """Whom an identity provider vouches for. Its parts are compared as they are, character by character."""

    issuer: str
    subject: str

    def check(self) -> None:
        """Raise BindingError unless a provider could say this."""
        try:
            parts = urlsplit(self.issuer)
            named = parts.scheme in ("https", "http") and bool(parts.hostname) and "@" not in parts.netloc
        except ValueError:
            named = False
        if not named or parts.query or parts.fragment or len(self.issuer) > MAX_ISSUER_CHARACTERS:
            raise BindingError(
                "issuer", "an issuer is the https:// address that the provider calls itself, no more in it"
            )
        if not _SUBJECT.fullmatch(self.subject):
            raise BindingError("subject", "a subject is the `sub` of the provider: 1 to 255 printable ASCII characters")


class BindingView(View):
    """A binding as its operator sees it. identity: the begin of the tag, by which bindings of one identity are seen to be so."""

    binding_id: str
    identity: str
    person: str
    role: Role
    dataset: str | None
    bound_at: datetime
    unbound_at: datetime | None


class Bindings:
    """The bindings of one keystore, whose rows are found and tagged under a key that only it has."""

    def __init__(self, index_key: bytes) -> None:
        self._key = HKDF(SHA256(), length=_TAG_BYTES, salt=None, info=_INFO).derive(index_key)

    def bind(
        self,
        connection: Connection,
        log: LogWriter,
        identity: Identity,
        person: str,
        role: Role,
        dataset: str | None,
        by: str,
    ) -> str:
        """Let an identity stand for a person (a commitment) in a role, and return the binding's id. Raises BindingError."""
        identity.check()
        if role in OF_JOBS:
            raise BindingError(
                "role", f"nobody signs in for {role.value}: a job has a token (keyanon keystore token issue)"
            )
        if dataset is not None and not (dataset and len(dataset) <= MAX_DATASET_CHARACTERS):
            raise BindingError("dataset", f"a data set's name has 1 to {MAX_DATASET_CHARACTERS} characters")
        tag = self._identity_tag(identity)
        for row in connection.execute(select(schema.bindings).where(schema.bindings.c.identity == tag)).all():
            if row.person != person:
                raise BindingError(
                    "another-person",
                    "this identity stands, or stood, for another person on file, erased or not; it never stands for a second one",
                )
            if (row.role, row.dataset, row.unbound_at) == (role.value, dataset, None):
                raise BindingError("bound", f"this identity is bound so by {row.binding_id}; there is nothing to do")
        fresh = {
            "binding_id": secrets.token_hex(ID_BYTES),
            "identity": tag,
            "person": person,
            "role": role.value,
            "dataset": dataset,
            "bound_at": timestamp(log.now),
            "unbound_at": None,
        }
        connection.execute(schema.bindings.insert().values(**fresh, tag=self._tag(fresh)))
        log.append(
            "bind-identity",
            binding=fresh["binding_id"],
            by=by,
            digest=binding_digest(fresh),
            identity=tag,
            person=person,
            role=role.value,
        )
        return str(fresh["binding_id"])

    def unbind(self, connection: Connection, log: LogWriter, tokens: Tokens, binding_id: str, by: str) -> None:
        """End a binding now, and every token that came from it. Raises BindingError: there is none, or it ended before."""
        table = schema.bindings
        found = connection.execute(select(table).where(table.c.binding_id == binding_id)).first()
        if found is None:
            raise BindingError("unknown-binding", "there is no such binding; list the identities to find its id")
        if found.unbound_at is not None:
            raise BindingError("unbound", f"binding {binding_id} ended before")
        row = dict(found._mapping) | {"unbound_at": timestamp(log.now)}
        connection.execute(
            table.update()
            .where(table.c.binding_id == binding_id)
            .values(unbound_at=row["unbound_at"], tag=self._tag(row))
        )
        log.append("unbind-identity", binding=binding_id, by=by, digest=binding_digest(row))
        tokens.revoke_of(connection, log, binding_id, by)

    def of(self, connection: Connection, identity: Identity) -> list[BindingView]:
        """Return what an identity is bound to now: nothing where its person was erased."""
        query = select(schema.bindings).where(schema.bindings.c.identity == self._identity_tag(identity))
        return self._live(connection, connection.execute(query).all())

    def live(self, connection: Connection, binding_id: str) -> str | None:
        """Return the person (a commitment) of a binding that holds now, else None."""
        row = connection.execute(select(schema.bindings).where(schema.bindings.c.binding_id == binding_id)).first()
        return None if row is None or not self._live(connection, [row]) else str(row.person)

    def _live(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[BindingView]:
        mine = [
            row
            for row in rows
            if row.unbound_at is None and hmac.compare_digest(self._tag(dict(row._mapping)), row.tag)
        ]  # others are rows that somebody else wrote
        return [one for one in _views(connection, mine) if one.person != ERASED_NAME]

    def _identity_tag(self, identity: Identity) -> str:
        pair = {"issuer": identity.issuer, "subject": identity.subject, "type": "keyanon identity v1"}
        return hmac.digest(self._key, canonical_json(pair), "sha256").hex()

    def _tag(self, row: Mapping[str, Any]) -> bytes:
        return hmac.digest(self._key, _content(row), "sha256")


def binding_views(connection: Connection) -> list[BindingView]:
    """Return all bindings, newest first."""
    return _views(
        connection, connection.execute(select(schema.bindings).order_by(schema.bindings.c.bound_at.desc())).all()
    )


def binding_digest(row: Mapping[str, Any]) -> str:
    """Return what the log says of a binding's row; the identity's tag in it keeps the data set's name from being guessed."""
    return sha256_hex(_content(row))


def _content(row: Mapping[str, Any]) -> bytes:
    content = {name: value for name, value in row.items() if name != "tag"}
    return canonical_json({**content, "type": "keyanon binding v1"})


def _views(connection: Connection, rows: Sequence[Row[Any]]) -> list[BindingView]:
    people = names(connection)
    return [
        BindingView(
            binding_id=row.binding_id,
            identity=row.identity[:12],
            person=people.get(row.person, ERASED_NAME),
            role=Role(row.role),
            dataset=row.dataset,
            bound_at=parse_timestamp(row.bound_at),
            unbound_at=None if row.unbound_at is None else parse_timestamp(row.unbound_at),
        )
        for row in rows
    ]
