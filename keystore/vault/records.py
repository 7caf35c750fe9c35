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
from keystore.errors import RecordNotFound, TamperedError
from keystore.storage import schema
from keystore.vault.accounts import key_digest, record_digest
from keystore.vault.keyring import SHRED_KIND, Keyring, owner_tag

ImageRow = tuple[str, str, str]  # record id, data set, image id


@dataclass(frozen=True)
class NewRecord:
    """A record to be stored: what its row says, and its bytes, which only its shred key will open again."""

    record_id: str
    run_id: str
    dataset: str
    image_id: str
    subject: str | None = field(repr=False)
    source_sha256: str
    version: int
    plaintext: bytes = field(repr=False)


@dataclass
class Stored:
    """What was stored for one entry of the log: the digests that it accounts for."""

    entry: int
    records: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


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

    def store(self, connection: Connection, record: NewRecord, values: dict[str, object], stored: Stored) -> None:
        """Insert one record under its shred key, and note what was inserted in `stored`; `values` are the columns that
        say where it came from."""
        shred_key_id, shred_key = self._shred_key(connection, record, str(values["ingested_at"]), stored)
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
        row["envelope"] = envelope.seal(shred_key, record.plaintext, self.context(row))
        connection.execute(schema.records.insert().values(**row, entry=stored.entry))
        stored.records.append(record_digest(row))

    def open(self, connection: Connection, image: ImageRow) -> bytes | None:
        """Return a record's bytes in clear, None when there is none. Raises TamperedError: row, key and envelope do not fit."""
        record_id, dataset, image_id = image
        row = connection.execute(
            select(schema.records, schema.shred_keys.c.wrapped)
            .join(schema.shred_keys, schema.shred_keys.c.shred_key_id == schema.records.c.shred_key_id)
            .where(schema.records.c.record_id == record_id)
        ).first()
        if row is None:
            return None
        if (row.dataset, row.image_id) != (dataset, image_id):
            raise TamperedError(f"record {record_id} is not of the image that was requested; restore the database")
        shred_key = self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        try:
            return envelope.open_envelope(shred_key, row.envelope, self.context(row))
        except envelope.EnvelopeError as error:
            raise TamperedError(
                f"record {record_id} in the database was altered ({error}); restore it from a backup"
            ) from error

    def open_images(self, connection: Connection, images: Sequence[ImageRow]) -> list[bytes]:
        """Return the records of a request's images in clear. Raises RecordNotFound for an erased one, TamperedError."""
        records = []
        for image in images:
            record = self.open(connection, image)
            if record is None:
                raise RecordNotFound(
                    "erased-record", f"the key of image {image[2]!r} is no longer stored; make a request without it"
                )
            records.append(record)
        return records

    def _shred_key(self, connection: Connection, record: NewRecord, now: str, stored: Stored) -> tuple[str, bytes]:
        owner = owner_tag(self.index_key, record.dataset, record.subject, record.image_id)
        table = schema.shred_keys
        row = connection.execute(select(table).where(table.c.dataset == record.dataset, table.c.owner == owner)).first()
        if row is not None:
            return row.shred_key_id, self.keyring.unwrap(row.wrapped, SHRED_KIND, row.shred_key_id)
        shred_key_id, key = os.urandom(16).hex(), os.urandom(envelope.KEY_BYTES)
        values = {
            "shred_key_id": shred_key_id,
            "dataset": record.dataset,
            "owner": owner,
            "wrapped": self.keyring.wrap(key, SHRED_KIND, shred_key_id),
            "kek_version": self.keyring.kek_version,
            "created_at": now,
        }
        connection.execute(table.insert().values(**values, entry=stored.entry))
        stored.keys.append(key_digest(values))
        return shred_key_id, key
