"""The vault: key records at rest, each in a committing envelope under the shred key of its subject or image.

A shred key's row is the thing whose deletion erases: without it, every envelope under it is noise. The envelope's associated data
names the row it is in, so a record moved to another row does not open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from keystore.crypto import envelope
from keystore.crypto.canonical import canonical_sorted
from keystore.errors import RecordNotFound, TamperedError
from keystore.storage import schema
from keystore.vault.keyring import SHRED_KIND, Keyring

ImageRow = tuple[str, str, str]  # record id, data set, image id


def record_context(keystore_id: str, row: Mapping[str, Any]) -> bytes:
    """Return the associated data of a record's envelope, from its row."""
    return canonical_sorted(
        {
            "dataset": row["dataset"],
            "envelope_version": row["envelope_version"],
            "image_id": row["image_id"],
            "keystore": keystore_id,
            "record_id": row["record_id"],
            "record_version": row["record_version"],
            "run_id": row["run_id"],
            "shred_key_id": row["shred_key_id"],
            "source_sha256": row["source_sha256"],
            "type": "keyanon record v1",
        }
    )


@dataclass(frozen=True)
class RecordVault:
    """Opens records of one keystore; storing.py puts them in."""

    keystore_id: str
    keyring: Keyring

    def open(self, connection: Connection, image: ImageRow) -> bytes | None:
        """Return a record's bytes in clear, None when there is none. Raises TamperedError: row, key and envelope do not fit."""
        record_id, dataset, image_id = image
        row = connection.execute(
            select(schema.records, schema.shred_keys.c.wrapped, schema.shred_keys.c.epoch_id)
            .join(schema.shred_keys, schema.shred_keys.c.shred_key_id == schema.records.c.shred_key_id)
            .where(schema.records.c.record_id == record_id)
        ).first()
        if row is None:
            return None
        if (row.dataset, row.image_id) != (dataset, image_id):
            raise TamperedError(f"record {record_id} is not of the image that was requested; restore the database")
        shred_key = self.keyring.unwrap(connection, row.epoch_id, row.wrapped, SHRED_KIND, row.shred_key_id)
        try:
            return envelope.open_envelope(shred_key, row.envelope, record_context(self.keystore_id, row._asdict()))
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
