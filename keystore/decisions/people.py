"""The people of a keystore: found by normalised name, known by commitment, signing with an Ed25519 key kept for them.

Embedded mode trusts the account of the operating system: whoever may read the KEK may sign as anyone. The signatures bind each
approval to one content of a request and to one person's key; they do not prove that this person was at the keyboard.
"""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, select

from keystore.audit.log import LogWriter
from keystore.crypto.canonical import canonical_json
from keystore.decisions.identity import NAME_SALT_BYTES, name_commitment, normalise_name
from keystore.errors import TamperedError
from keystore.storage import schema
from keystore.vault.keyring import APPROVER_KIND, Keyring

ERASED_NAME = "(erased)"


def find_or_add(connection: Connection, name: str) -> str:
    """Return the commitment of the person with this name, filing the name when it is new. Raises ApprovalError for a bad name."""
    normal = normalise_name(name)
    person = connection.execute(select(schema.people.c.person).where(schema.people.c.name == normal)).scalar()
    if person is None:
        salt = os.urandom(NAME_SALT_BYTES)
        person = name_commitment(salt, normal)
        connection.execute(schema.people.insert().values(person=person, salt=salt, name=normal))
    return str(person)


def names(connection: Connection) -> dict[str, str]:
    """Return the names that are still on file, by commitment."""
    rows = connection.execute(select(schema.people.c.person, schema.people.c.name))
    return {row.person: row.name if row.name is not None else ERASED_NAME for row in rows}


def approval_message(keystore_id: str, request_id: str, digest: str, approver: str, approved_at: str) -> bytes:
    """Return what an approver signs."""
    return b"keyanon approval v1\n" + canonical_json(
        {
            "approved_at": approved_at,
            "approver": approver,
            "digest": digest,
            "keystore": keystore_id,
            "request": request_id,
        }
    )


def sign_as(connection: Connection, keyring: Keyring, log: LogWriter, person: str, message: bytes) -> bytes:
    """Sign with this person's key; on first use a key is made, wrapped under the KEK, and its enrolment logged."""
    row = connection.execute(select(schema.people).where(schema.people.c.person == person)).one()
    if row.wrapped is None:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        connection.execute(
            schema.people.update()
            .where(schema.people.c.person == person)
            .values(
                public_key=public,
                wrapped=keyring.wrap(key.private_bytes_raw(), APPROVER_KIND, person),
                kek_version=keyring.kek_version,
            )
        )
        log.append("enrol", person=person, public_key=base64.b64encode(public).decode())
    else:
        key = Ed25519PrivateKey.from_private_bytes(keyring.unwrap(row.wrapped, APPROVER_KIND, person))
        if key.public_key().public_bytes_raw() != row.public_key:
            raise TamperedError(
                "an approver's public key in the database was exchanged; restore the database from a backup"
            )
    return key.sign(message)


def signature_holds(public_key: bytes | None, signature: bytes, message: bytes) -> bool:
    """Return whether an approver's signature is over this message."""
    if public_key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
