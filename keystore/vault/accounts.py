"""Accounts: one digest for every stored record and key, so that the log can vouch for what the vault holds.

A digest covers the whole row and the bytes that were encrypted, and through the envelope's random salt it tells nobody what
it is of. An entry of the log holds the *account* of what it stored: SHA-256 over those digests, sorted. When something is
erased its digest stays behind, so that the account of the entry that stored it can still be drawn up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from keystore.crypto.canonical import canonical_flat, canonical_sorted, sha256_hex
from keystore.storage import schema

RECORD_KIND = "record"
KEY_KIND = "key"
REFUSED_KIND = "refused"  # a record that came when it, or its owner, had been erased, and was never stored
_EPOCH_COLUMNS = ("epoch_id", "purpose", "kek_version", "created_at")


def record_digest(row: Mapping[str, Any]) -> str:
    """Return the digest of a row of `records`."""
    return sha256_hex(
        canonical_sorted(
            {
                "dataset": row["dataset"],
                "encrypted_sha256": sha256_hex(row["envelope"]),
                "envelope_version": row["envelope_version"],
                "image_id": row["image_id"],
                "ingested_at": row["ingested_at"],
                "record_id": row["record_id"],
                "record_version": row["record_version"],
                "run_id": row["run_id"],
                "sealed_sha256": row["sealed_sha256"],
                "shard_name": row["shard_name"],
                "shard_sha256": row["shard_sha256"],
                "shred_key_id": row["shred_key_id"],
                "source_sha256": row["source_sha256"],
                "type": "keyanon record account v1",
            }
        )
    )


def key_digest(row: Mapping[str, Any]) -> str:
    """Return the digest of a row of `shred_keys`."""
    return sha256_hex(
        canonical_sorted(
            {
                "created_at": row["created_at"],
                "dataset": row["dataset"],
                "encrypted_sha256": sha256_hex(row["wrapped"]),
                "epoch_id": row["epoch_id"],
                "owner": row["owner"],
                "shred_key_id": row["shred_key_id"],
                "type": "keyanon shred key account v1",
            }
        )
    )


def pseudonym_digest(row: Mapping[str, Any]) -> str:
    """Return the digest of a row of `pseudonyms`, without which carrier is settled: that has a tag of its own."""
    columns = ("created_at", "dataset", "epoch_id", "owner", "pseudonym_id")
    return _digest("pseudonym", {name: row[name] for name in columns}, row["wrapped"])


def epoch_digest(row: Mapping[str, Any]) -> str:
    """Return the digest of a row of `epoch_keys`; its state stands beside it in the log."""
    return _digest("epoch key", {name: row[name] for name in _EPOCH_COLUMNS}, row["wrapped"])


def refused_digest(tag: str, entry: int) -> str:
    """Return the digest of a record that ingest refused because it was erased, from its keyed tag."""
    return sha256_hex(canonical_flat({"entry": entry, "tag": tag, "type": "keyanon refused record v1"}))


def account(digests: Iterable[str]) -> str:
    """Return what an entry of the log says of the things it stored or erased."""
    return sha256_hex("".join(f"{one}\n" for one in sorted(digests)).encode())


def own_keys_account(connection: Connection) -> str:
    """Return the account of the keystore's own wrapped keys: secrets, ingest keys and the KEK versions they are under."""
    digests = [
        _digest("secret", {"name": row.name, "epoch_id": row.epoch_id}, row.wrapped)
        for row in connection.execute(select(schema.secrets))
    ]
    digests += [
        _digest(
            "ingest key",
            {"key_id": row.key_id, "epoch_id": row.epoch_id, "retired_at": row.retired_at},
            row.public_key + row.wrapped,
        )
        for row in connection.execute(select(schema.ingest_keys))
    ]
    digests += [
        _digest("kek", {"version": row.version, "kek_id": row.kek_id}, b"")
        for row in connection.execute(select(schema.kek_versions))
    ]
    return account(digests)


def _digest(kind: str, values: Mapping[str, Any], encrypted: bytes) -> str:
    return sha256_hex(
        canonical_flat({"encrypted_sha256": sha256_hex(encrypted), "type": f"keyanon {kind} account v1", **values})
    )
