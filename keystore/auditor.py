"""The auditor's opening: reads the log, proves and verifies, with no private key and no KEK, and writes nothing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, select

from keystore import opening
from keystore.audit.checkpoint import Checkpoint, open_checkpoint
from keystore.audit.log import latest_note
from keystore.audit.tree import prove_consistency, prove_inclusion
from keystore.errors import AuditError
from keystore.intake.ingest_key import IngestKey
from keystore.storage import schema
from keystore.storage.places import reading
from keystore.vault import ingest_keys
from keystore.verification.reading import trusted_vkeys
from keystore.verification.report import AuditReport
from keystore.verification.verify import verify_audit


class Auditor:
    """A keystore directory, as an auditor sees it. Raises StorageError where there is none, SchemaError for another schema."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with reading(self.path):
            pass

    def checkpoint(self) -> str:
        """Return the latest signed checkpoint (C2SP signed note); keep copies elsewhere. Raises AuditError."""
        with reading(self.path) as connection:
            return latest_note(connection)

    def entries(self) -> list[bytes]:
        """Return the leaves of the log, in order."""
        with reading(self.path) as connection:
            query = select(schema.log.c.leaf).order_by(schema.log.c.seq)
            return [bytes(leaf) for leaf in connection.execute(query).scalars()]

    def prove_inclusion(self, index: int) -> list[bytes]:
        """Return the inclusion proof of an entry in the latest checkpoint. Raises AuditError when there is no such entry."""
        with reading(self.path) as connection:
            try:
                return prove_inclusion(connection, self._latest(connection), index)
            except ValueError as error:
                raise AuditError(f"{error}; ask for an entry of the log") from error

    def prove_consistency(self, old_size: int) -> list[bytes]:
        """Return the proof that the latest checkpoint extends the one of `old_size`. Raises AuditError."""
        with reading(self.path) as connection:
            try:
                return prove_consistency(connection, self._latest(connection), old_size)
            except ValueError as error:
                raise AuditError(f"{error}; the log is shorter than it was, restore the newest database") from error

    def _latest(self, connection: Connection) -> Checkpoint:
        vkey = str(connection.execute(select(schema.identity.c.audit_vkey)).scalar_one())
        return open_checkpoint(latest_note(connection), *trusted_vkeys(connection, vkey, []))

    def ingest_key(self) -> IngestKey:
        """Return what a job needs to hand keys in here.

        Raises TamperedError, AuditError: the published files are missing or not what the database says.
        """
        with reading(self.path) as connection:
            key = ingest_keys.public_keys(connection)[-1]
            vkey = connection.execute(select(schema.identity.c.audit_vkey)).scalar_one()
        opening.check_public_keys(self.path, key, vkey)
        return IngestKey(key, vkey)

    def verify(self, checkpoint: str | None = None, vkey: str | None = None) -> AuditReport:
        """Verify the log and all that it accounts for (keystore.verification.verify)."""
        return verify_audit(self.path, checkpoint, vkey)
