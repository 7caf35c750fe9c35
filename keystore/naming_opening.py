"""The naming opening: hands the pseudonyms of a data set's subjects to a run, and can do nothing else with the keystore.

It holds the index key that subjects are filed under, the pseudonyms' epoch keys, and the key that an ingest signs its own entries
with, beside which it stands in a run's keeper. It reads no record and takes none in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Self

from keystore import opening
from keystore.audit.log import Clock
from keystore.audit.witness import WITNESS_DIRECTORY
from keystore.crypto.canonical import utc_now
from keystore.ledger import Ledger
from keystore.storage.database import Database
from keystore.unlocking import IngestKeys, unlock_ingest
from keystore.vault.keyring import NAMING_PURPOSES
from keystore.vault.pseudonyms import PseudonymSecret, PseudonymVault


class PseudonymDesk:
    """Gives a data set's pseudonyms out and settles them, whatever the door through which a run asks."""

    def __init__(self, database: Database, ledger: Ledger, vault: PseudonymVault) -> None:
        self._database, self._ledger, self._vault = database, ledger, vault

    def secrets(self, dataset: str, subjects: Collection[str]) -> dict[str, PseudonymSecret]:
        """Return the pseudonyms of subjects, each made at the first ask. Raises as `PseudonymVault.known`, StorageError."""
        with self._database.read() as connection:
            found = self._vault.known(connection, dataset, subjects)
        if len(found) < len(set(subjects)):
            with self._ledger.transaction("pseudonyms", None, None) as (connection, log):
                found = self._vault.make(connection, log, dataset, subjects)
                log.append("pseudonyms")
        return found

    def settle(self, dataset: str, subject: str, number: int) -> int:
        """Settle which carrier of a subject holds, unless one is settled; return the one that does. Raises as `secrets`."""
        with self._database.write() as connection:
            return self._vault.settle(connection, dataset, subject, number)


class NamingOpening:
    """A keystore that is open for a run's pseudonyms. Make one with `open`, and `close` it."""

    def __init__(self, path: Path, database: Database, keys: IngestKeys, clock: Clock) -> None:
        self._path = path
        self._database = database
        self._ledger = Ledger(database, keys.signer, path / WITNESS_DIRECTORY, clock, None)
        vault = PseudonymVault(keys.keyring.for_purposes(NAMING_PURPOSES), keys.index_key)
        self.pseudonyms = PseudonymDesk(database, self._ledger, vault)

    @classmethod
    def open(cls, path: Path, kek_uri: str | None = None, *, clock: Clock = utc_now) -> Self:
        """Open an existing keystore. Raises as `IngestOpening.open`."""
        with contextlib.ExitStack() as undo:
            database = opening.existing(path)
            undo.callback(database.close)
            kek = opening.open_matching_kek(database, path, kek_uri)
            opened = cls(path, database, unlock_ingest(database, kek), clock)
            opened._ledger.check_witness(None)
            undo.pop_all()
        return opened

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __repr__(self) -> str:
        return f"NamingOpening({str(self._path)!r})"
