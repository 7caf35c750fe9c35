"""The people of a keystore: found by a keyed index that outlives their names, known by commitment, signing with an Ed25519
key kept for them.

Embedded mode trusts the account of the operating system: whoever may read the KEK may sign as anyone. The signatures bind each
approval to one content of a request and to one person's key; they do not prove that this person was at the keyboard. Those of
approvers with keys of their own do (approvers.py).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.decisions import approvers
from keystore.decisions.identity import (
    EMBEDDED_ISSUER,
    NAME_SALT_BYTES,
    name_commitment,
    normalise_name,
    person_tag,
)
from keystore.errors import ApprovalError, TamperedError
from keystore.storage import schema
from keystore.vault import epochs
from keystore.vault.keyring import APPROVER_KIND, Keyring

ERASED_NAME = "(erased)"
NOBODY = ""  # the commitment of no person
INDEX_KEY_BYTES = 32
_INDEX_INFO = b"keyanon people index v1"


class People:
    """The people of one keystore, found under a key that only it has."""

    def __init__(self, index_key: bytes) -> None:
        self._key = HKDF(SHA256(), length=INDEX_KEY_BYTES, salt=None, info=_INDEX_INFO).derive(index_key)

    def find(self, connection: Connection, name: str) -> str | None:
        """Return the commitment of the person with this name, None when nobody of that name was ever here.

        Raises ApprovalError for a bad name, for one that looks like somebody else's, and for that of an erased person.
        """
        normal = normalise_name(name)
        row = connection.execute(select(schema.people).where(schema.people.c.tag == self._tag(normal))).first()
        if row is None:
            return None
        if row.name is None:
            raise ApprovalError(
                "erased-person",
                "the person of this name, or of one that looks like it, was erased and can not act here any more; whoever "
                "is meant now needs another name",
            )
        if row.name != normal:
            raise ApprovalError(
                "name",
                "this name looks like that of another person on file; write it as before, or take one that differs",
            )
        return str(row.person)

    def find_or_add(self, connection: Connection, name: str) -> str:
        """Return the commitment of the person with this name, filing the name when it is new. Raises ApprovalError as `find`."""
        person = self.find(connection, name)
        if person is None:
            normal, salt = normalise_name(name), os.urandom(NAME_SALT_BYTES)
            person = name_commitment(salt, normal)
            row = {"person": person, "salt": salt, "name": normal, "tag": self._tag(normal)}
            connection.execute(schema.people.insert().values(**row))
        return person

    def erase(self, connection: Connection, log: LogWriter, keyring: Keyring, name: str, by: str) -> None:
        """Forget a person's name and signing key, with the epoch key it lay under; the index stays.

        Raises ApprovalError when nobody has this name.
        """
        person = self.find(connection, name)
        if person is None:
            raise ApprovalError("unknown-person", "nobody of this name ever acted in this keystore; nothing was erased")
        of_person = schema.people.c.person == person
        epoch_id = connection.execute(select(schema.people.c.epoch_id).where(of_person)).scalar()
        connection.execute(
            schema.people.update().where(of_person).values(name=None, salt=None, wrapped=None, epoch_id=None)
        )
        if epoch_id is not None:
            epochs.renew(connection, log, keyring, epoch_id)
        approvers.forget(connection, log, person)
        log.append("erase-person", by=by, person=person)

    def has_untagged(self, connection: Connection) -> bool:
        """Return whether people of an older schema may still have to be filed."""
        table = schema.people
        query = select(table.c.person).where(table.c.tag.is_(None), table.c.name.is_not(None))
        return connection.execute(query).first() is not None

    def file_tags(self, connection: Connection) -> None:
        """File the people of an older schema under their tags. Of two whose names look alike the second stays without one."""
        table = schema.people
        for row in connection.execute(select(table).where(table.c.tag.is_(None), table.c.name.is_not(None))).all():
            tag = self._tag(row.name)
            if connection.execute(select(table.c.person).where(table.c.tag == tag)).first() is None:
                connection.execute(table.update().where(table.c.person == row.person).values(tag=tag))

    def _tag(self, normal_name: str) -> str:
        return person_tag(self._key, EMBEDDED_ISSUER, normal_name)


def unrecognisable(connection: Connection, persons: Collection[str]) -> bool:
    """Return whether one of these people is filed under no tag: whether two of them are one can not be told then."""
    table = schema.people
    query = select(table.c.person).where(table.c.person.in_(list(persons)), table.c.tag.is_(None))
    return connection.execute(query).first() is not None


def names(connection: Connection) -> dict[str, str]:
    """Return the names that are still on file, by commitment."""
    rows = connection.execute(select(schema.people.c.person, schema.people.c.name))
    return {row.person: row.name if row.name is not None else ERASED_NAME for row in rows}


def sign_as(connection: Connection, keyring: Keyring, log: LogWriter, person: str, message: bytes) -> bytes:
    """Sign with this person's key; on first use a key is made, wrapped, and its enrolment logged."""
    row = connection.execute(select(schema.people).where(schema.people.c.person == person)).one()
    if row.wrapped is None:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        connection.execute(
            schema.people.update()
            .where(schema.people.c.person == person)
            .values(
                public_key=public,
                **epochs.wrap(connection, log, keyring, key.private_bytes_raw(), APPROVER_KIND, person),
            )
        )
        log.append("enrol", person=person, public_key=base64.b64encode(public).decode())
    else:
        key = Ed25519PrivateKey.from_private_bytes(
            keyring.unwrap(connection, row.epoch_id, row.wrapped, APPROVER_KIND, person)
        )
        if key.public_key().public_bytes_raw() != row.public_key:
            raise TamperedError(
                "an approver's public key in the database was exchanged; restore the database from a backup"
            )
    return key.sign(message)
