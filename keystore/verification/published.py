"""Whether stored records belong to what was published with them. What leaves is a word for each record that does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from keystore.errors import InvalidRecordError, TamperedError
from keystore.intake.records import KeyRecord
from keystore.vault.records import ImageRow, RecordVault

MISSING = "missing"


@dataclass(frozen=True)
class Published:
    """What was published under a record, as whoever published it says. run_id: None where they do not. `details`: entries that
    the record's must equal."""

    record_id: str
    run_id: str | None
    dataset: str
    image_id: str
    output_sha256: str | None
    details: Mapping[str, str | None] = field(default_factory=dict)


def disagreements(connection: Connection, vault: RecordVault, published: Iterable[Published]) -> dict[str, str]:
    """Return why a record does not belong to what was published under it, by record id; `MISSING` where there is none."""
    found = {one.record_id: _problem(connection, vault, one) for one in published}
    return {record_id: problem for record_id, problem in found.items() if problem}


def published_digest(connection: Connection, vault: RecordVault, image: ImageRow) -> str | None:
    """Return the SHA-256, in hex, of the file that was published with a record; None where there is none, or no such record.

    Raises TamperedError, InvalidRecordError.
    """
    opened = vault.open(connection, image)
    return None if opened is None else KeyRecord.from_canonical_bytes(opened).output_sha256


def _problem(connection: Connection, vault: RecordVault, published: Published) -> str:
    try:
        opened = vault.open(connection, (published.record_id, published.dataset, published.image_id))
        if opened is None:
            return MISSING
        record = KeyRecord.from_canonical_bytes(opened)
    except (TamperedError, InvalidRecordError) as error:
        return str(error)
    wrong = [] if published.run_id in (None, record.run_id) else ["run_id"]
    wrong += [] if published.output_sha256 == record.output_sha256 else ["output_sha256"]
    wrong += [name for name, value in published.details.items() if record.details.get(name) != value]
    return f"its key record has another {' and another '.join(wrong)}" if wrong else ""
