"""The auditor's opening: reads the log, proves and verifies, with no private key and no KEK, and writes nothing."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from keystore import opening
from keystore.audit.log import latest_note, leaf_hashes
from keystore.audit.merkle import consistency_proof, inclusion_proof
from keystore.errors import AuditError
from keystore.storage import schema
from keystore.storage.database import DATABASE_NAME, check_schema, read_only
from keystore.verification.report import AuditReport
from keystore.verification.verify import verify_audit


class Auditor:
    """A keystore directory, as an auditor sees it. Raises StorageError where there is none, SchemaError for another schema."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        opening.check_exists(self.path)
        self._database = self.path / DATABASE_NAME
        with read_only(self._database) as connection:
            check_schema(connection, self._database)

    def checkpoint(self) -> str:
        """Return the latest signed checkpoint (C2SP signed note); keep copies elsewhere. Raises AuditError."""
        with read_only(self._database) as connection:
            return latest_note(connection)

    def entries(self) -> list[bytes]:
        """Return the leaves of the log, in order."""
        with read_only(self._database) as connection:
            query = select(schema.log.c.leaf).order_by(schema.log.c.seq)
            return [bytes(leaf) for leaf in connection.execute(query).scalars()]

    def prove_inclusion(self, index: int) -> list[bytes]:
        """Return the inclusion proof of an entry in the latest checkpoint. Raises AuditError when there is no such entry."""
        with read_only(self._database) as connection:
            try:
                return inclusion_proof(leaf_hashes(connection), index)
            except ValueError as error:
                raise AuditError(f"{error}; ask for an entry of the log") from error

    def prove_consistency(self, old_size: int) -> list[bytes]:
        """Return the proof that the latest checkpoint extends the one of `old_size`. Raises AuditError."""
        with read_only(self._database) as connection:
            try:
                return consistency_proof(leaf_hashes(connection), old_size)
            except ValueError as error:
                raise AuditError(f"{error}; the log is shorter than it was, restore the newest database") from error

    def verify(self, checkpoint: str | None = None, vkey: str | None = None) -> AuditReport:
        """Verify the log and all that it accounts for (keystore.verification.verify)."""
        return verify_audit(self.path, checkpoint, vkey)
