"""The vault: key records at rest, each in a committing envelope under the shred key of its subject or image.

A shred key's row is the thing whose deletion erases: without it, every envelope under it is noise. The envelope's associated data
names the row it is in, so a record moved to another row does not open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Row, select

from keystore.crypto import envelope
from keystore.crypto.canonical import canonical_json
from keystore.decisions.requests import ImageRow
from keystore.errors import InvalidRecordError, RecordNotFound, TamperedError
from keystore.intake.records import KeyRecord
from keystore.storage import schema
from keystore.vault.keyring import SHRED_KIND, Keyring, owner_tag


@dataclass(frozen=True)
class RecordVault:
    """Seals records under shred keys and opens them again; the only code that sees both."""

    keystore_id: str
    keyring: Keyring
    index_key: bytes = field(repr=False)

    def context(self, row: Row[tuple[object, ...]] | dict[str, object]) -> bytes:
        """Return the associated data of a record's envelope, from its row."""
        values = dict(row._mapping) if isinstance(row, Row) else row
        names = (
            "record_id",
            "run_id",
            "dataset",
            "image_id",
            "source_sha256",
            "record_version",
            "envelope_version",
            "shred_key_id",
        )
        return canonical_json(
            {"keystore": self.keystore_id, "type": "keyanon record v1"} | {name: values[name] for name in names}
        )

    def store(self, connection: Connection, record: KeyRecord, values: dict[str, object]) -> None:
        """Insert one record under its shred key; `values` are the columns that say where it came from."""
        shred_key_id, shred_key = self._shred_key(connection, record, str(values["ingested_at"]))
        row: dict[str, object] = values | {
            "record_id": record.record_id,
            "run_id": record.run_id,
            "dataset": record.dataset,
            "image_id": record.image_id,
            "source_sha256": record.source_sha256,
            "record_version": record.version,
            "envelope_version": envelope.ENVELOPE_VERSION,
            "shred_key_id": shred_key_id,
        }
        sealed = envelope.seal(shred_key, record.canonical_bytes(), self.context(row))
        connection.execute(schema.records.insert().values(**row, envelope=sealed))

    def open(self, connection: Connection, record_id: str) -> KeyRecord | None:
        """Return a record in clear, None when there is none. Raises TamperedError when row, key and envelope do not fit."""
        row = connection.execute(
            select(schema.records, schema.shred_keys.c.wrapped)
            .join(schema.shred_keys, schema.shred_keys.c.shred_key_id == schema.records.c.shred_key_id)
            .where(schema.records.c.record_id == record_id)
        ).first()
        if row is None:
            return None
        shred_key = self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        try:
            record = KeyRecord.from_canonical_bytes(envelope.open_envelope(shred_key, row.envelope, self.context(row)))
        except (envelope.EnvelopeError, InvalidRecordError) as error:
            raise TamperedError(
                f"record {record_id} in the database was altered ({error}); restore it from a backup"
            ) from error
        if (record.record_id, record.dataset, record.image_id) != (row.record_id, row.dataset, row.image_id):
            raise TamperedError(
                f"record {record_id} in the database is not the record its row names; restore it from a backup"
            )
        return record

    def open_images(self, connection: Connection, images: Sequence[ImageRow]) -> list[KeyRecord]:
        """Return the records of a request's images in clear. Raises RecordNotFound for an erased one, TamperedError."""
        records = []
        for record_id, dataset, image_id in images:
            record = self.open(connection, record_id)
            if record is None:
                raise RecordNotFound(
                    "erased-record", f"the key of image {image_id!r} is no longer stored; make a request without it"
                )
            if (record.dataset, record.image_id) != (dataset, image_id):
                raise TamperedError(f"record {record_id} is not of the image that was requested; restore the database")
            records.append(record)
        return records

    def _shred_key(self, connection: Connection, record: KeyRecord, now: str) -> tuple[str, bytes]:
        owner = owner_tag(self.index_key, record.dataset, record.subject, record.image_id)
        table = schema.shred_keys
        row = connection.execute(select(table).where(table.c.dataset == record.dataset, table.c.owner == owner)).first()
        if row is not None:
            return row.shred_key_id, self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        shred_key_id, key = os.urandom(16).hex(), os.urandom(envelope.KEY_BYTES)
        connection.execute(
            table.insert().values(
                shred_key_id=shred_key_id,
                dataset=record.dataset,
                owner=owner,
                wrapped=self.keyring.wrap(key, SHRED_KIND, shred_key_id),
                kek_version=self.keyring.kek_version,
                created_at=now,
            )
        )
        return shred_key_id, key
