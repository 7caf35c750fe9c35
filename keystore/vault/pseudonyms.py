"""Pseudonyms: for each subject of a data set a secret that its faces' carriers are derived from, and which carrier holds.

A secret opens no record. Whoever has it can make its subject's carriers and so tell whether a published face is that subject's:
it goes to the jobs of its data set alone. It lies under an epoch key of a purpose of its own, and is erased with its subject;
other subjects' secrets stay what they are. A subject that comes back later has another one.

Which carrier holds is settled once, by the first job that says so. It is no secret; its row has a tag under the subject's secret,
so that who can only write rows settles none. A secret is wrapped in the name of its owner, a keyed hash of data set and subject:
a row that is moved to another subject, or to a data set whose jobs the writer has a token of, does not open.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from keystore.audit.log import LogWriter
from keystore.crypto import envelope
from keystore.crypto.canonical import timestamp
from keystore.errors import InvalidRecordError, TamperedError
from keystore.storage import schema
from keystore.storage.bulk import insert_many
from keystore.vault import epochs
from keystore.vault.accounts import pseudonym_digest
from keystore.vault.keyring import PSEUDONYM_KIND, PSEUDONYMS_PURPOSE, Epoch, Keyring, owner_tag
from keystore.vault.pseudonym_limits import MAX_CARRIERS, MAX_SUBJECT_CHARACTERS, MAX_SUBJECTS


@dataclass(frozen=True)
class PseudonymSecret:
    """secret: 32 bytes, which no repr shows. number: of the carrier that holds; None until one is settled."""

    secret: bytes = field(repr=False)
    number: int | None = None


class PseudonymVault:
    """The pseudonyms of one keystore, for an opening that may unwrap them."""

    def __init__(self, keyring: Keyring, index_key: bytes) -> None:
        self._keyring = keyring
        self._index_key = index_key

    def known(self, connection: Connection, dataset: str, subjects: Collection[str]) -> dict[str, PseudonymSecret]:
        """Return the pseudonyms of those of the subjects that have one.

        Raises InvalidRecordError: too many subjects, or a bad name; TamperedError: a row was altered.
        """
        owners = self._owners(dataset, subjects)
        table = schema.pseudonyms
        rows = connection.execute(select(table).where(table.c.dataset == dataset, table.c.owner.in_(owners))).all()
        return {owners[row.owner]: self._opened(connection, row) for row in rows}

    def make(
        self, connection: Connection, log: LogWriter, dataset: str, subjects: Collection[str]
    ) -> dict[str, PseudonymSecret]:
        """Return the pseudonyms of all the subjects, made where there is none; the log's next entry accounts for the new ones.

        Raises as `known`.
        """
        found = self.known(connection, dataset, subjects)
        wanted = sorted(set(subjects) - found.keys())
        while wanted:
            epoch, room = self._with_room(connection, log)
            made, wanted = wanted[:room], wanted[room:]
            found |= self._insert(connection, log, epoch, dataset, made)
        return found

    def settle(self, connection: Connection, dataset: str, subject: str, number: int) -> int:
        """Settle which carrier of a subject holds, unless one is settled. Return the one that holds now.

        Raises InvalidRecordError: the number is none, or the subject has no pseudonym (it was erased meanwhile); as `known`.
        """
        if not 0 <= number < MAX_CARRIERS:
            raise InvalidRecordError(f"a carrier's number must lie in [0, {MAX_CARRIERS}), not {number}")
        pseudonym = self.known(connection, dataset, [subject]).get(subject)
        if pseudonym is None:
            raise InvalidRecordError(
                "this subject has no pseudonym: ask for it first; it may have been erased meanwhile"
            )
        if pseudonym.number is not None:
            return pseudonym.number
        table = schema.pseudonyms
        (owner,) = self._owners(dataset, [subject])
        connection.execute(
            table.update()
            .where(table.c.dataset == dataset, table.c.owner == owner)
            .values(number=number, tag=_tag(pseudonym.secret, number))
        )
        return number

    def _owners(self, dataset: str, subjects: Collection[str]) -> dict[str, str]:
        if len(subjects) > MAX_SUBJECTS or any(not 0 < len(one) <= MAX_SUBJECT_CHARACTERS for one in subjects):
            raise InvalidRecordError(
                f"ask for the pseudonyms of at most {MAX_SUBJECTS} subjects at once, each of 1 to {MAX_SUBJECT_CHARACTERS} "
                "characters"
            )
        return {owner_tag(self._index_key, dataset, subject, ""): subject for subject in subjects}

    def _opened(self, connection: Connection, row: Any) -> PseudonymSecret:
        secret = self._keyring.unwrap(connection, row.epoch_id, row.wrapped, PSEUDONYM_KIND, row.owner)
        settled = row.number is not None
        if settled and not hmac.compare_digest(bytes(row.tag or b""), _tag(secret, row.number)):
            raise TamperedError(
                "which carrier of a pseudonym holds was altered in the database; restore it from a backup"
            )
        return PseudonymSecret(secret, row.number)

    def _with_room(self, connection: Connection, log: LogWriter) -> tuple[Epoch, int]:
        """An active epoch key, and how many more secrets may lie under it: an erasure wraps all of them again."""
        epoch = epochs.active(connection, log, self._keyring, PSEUDONYMS_PURPOSE)
        table = schema.pseudonyms
        count = connection.execute(
            select(func.count()).select_from(table).where(table.c.epoch_id == epoch.epoch_id)
        ).scalar_one()
        if count < epochs.EPOCH_KEYS:
            return epoch, epochs.EPOCH_KEYS - count
        epochs.deactivate(connection, log, [epoch.epoch_id])
        return epochs.begin(connection, log, self._keyring, PSEUDONYMS_PURPOSE), epochs.EPOCH_KEYS

    def _insert(
        self, connection: Connection, log: LogWriter, epoch: Epoch, dataset: str, subjects: Sequence[str]
    ) -> dict[str, PseudonymSecret]:
        secrets = {subject: os.urandom(envelope.KEY_BYTES) for subject in subjects}
        rows = [self._row(log, epoch, dataset, subject, secret) for subject, secret in secrets.items()]
        insert_many(connection, schema.pseudonyms, rows)
        epochs.account_for_keys(log, epoch.epoch_id, [pseudonym_digest(row) for row in rows], schema.pseudonyms)
        return {subject: PseudonymSecret(secret) for subject, secret in secrets.items()}

    def _row(self, log: LogWriter, epoch: Epoch, dataset: str, subject: str, secret: bytes) -> Mapping[str, Any]:
        owner = owner_tag(self._index_key, dataset, subject, "")
        return {
            "pseudonym_id": os.urandom(16).hex(),
            "dataset": dataset,
            "owner": owner,
            "wrapped": self._keyring.seal(epoch, secret, PSEUDONYM_KIND, owner),
            "epoch_id": epoch.epoch_id,
            "created_at": timestamp(log.now),
            "entry": log.size,
        }


def _tag(secret: bytes, number: int) -> bytes:
    return hmac.digest(secret, b"keyanon settled carrier v1\n" + str(number).encode(), "sha256")
