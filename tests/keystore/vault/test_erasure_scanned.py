"""A planted key, and its subject's pseudonym, are reached by nothing that scans what is left and tries to decrypt: heap, WAL,
backups, kept shards and old ingest keys.

The scanner is told more than a thief knows: the wrapped form and the context of everything on the way to the planted record. It
looks for each in all bytes that are left, and opens what it finds with every KEK that is left. Before the erasure it gets there.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from keystore.crypto import envelope
from keystore.crypto.hybrid import HybridPrivateKey
from keystore.embedded import Keystore
from keystore.errors import KeystoreError
from keystore.intake.sealing import open_record
from keystore.intake.shards import parse_shard
from keystore.kek.provider import open_kek
from keystore.naming_opening import NamingOpening
from keystore.storage import schema
from keystore.vault.keyring import INGEST_KIND, PSEUDONYM_KIND, SHRED_KIND, Keyring
from keystore.vault.records import record_context
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH, SERVER, database_name

PLANTED = "planted.png"
PREFIX_BYTES = 32  # of an envelope: its salt


@dataclass
class Trail:
    """Everything that leads to the planted record, as it was stored before it was erased."""

    keystore_id: str
    record: dict[str, Any]
    shred_key: dict[str, Any]
    epoch: dict[str, Any]
    ingest_key: dict[str, Any]
    ingest_epoch: dict[str, Any]
    shard: bytes
    secret: bytes  # the planted image key
    pseudonym: dict[str, Any]
    pseudonym_epoch: dict[str, Any]
    pseudonym_secret: bytes

    @classmethod
    def of(cls, keystore: Keystore, shard: bytes, secret: bytes, pseudonym_secret: bytes) -> Trail:
        with keystore._database.read() as connection:

            def row(table: Any, column: str, value: str) -> dict[str, Any]:
                found = connection.execute(select(table).where(table.c[column] == value)).one()
                return dict(found._mapping)

            record = row(schema.records, "image_id", PLANTED)
            shred_key = row(schema.shred_keys, "shred_key_id", record["shred_key_id"])
            (ingest,) = connection.execute(select(schema.ingest_keys)).all()
            pseudonym = row(schema.pseudonyms, "owner", shred_key["owner"])
            return cls(
                keystore.id,
                record,
                shred_key,
                row(schema.epoch_keys, "epoch_id", shred_key["epoch_id"]),
                dict(ingest._mapping),
                row(schema.epoch_keys, "epoch_id", ingest.epoch_id),
                shard,
                secret,
                pseudonym,
                row(schema.epoch_keys, "epoch_id", pseudonym["epoch_id"]),
                pseudonym_secret,
            )

    def ways(self, places: list[Path]) -> set[str]:
        """How the planted key is reached from the bytes that lie in these places, with the KEKs among them."""
        files = [
            one
            for place in places
            for one in ([place] if place.is_file() else sorted(place.rglob("*")))
            if one.is_file()
        ]
        data = [one.read_bytes() for one in files]
        ways = set()
        secrets = (self.secret, self.pseudonym_secret)
        spelled = [one for secret in secrets for one in (secret, base64.b64encode(secret), secret.hex().encode())]
        if any(spelling in one for spelling in spelled for one in data):
            ways.add("in clear")
        for kek in files:
            if kek.suffix == ".key":
                ways |= {f"{way} by {kek.name}" for way in self._opened(kek, data)}
        return ways

    def _opened(self, path: Path, data: list[bytes]) -> Iterator[str]:
        def there(stored: bytes) -> bool:
            return any(stored[:PREFIX_BYTES] in one for one in data)

        kek = open_kek(f"file:{path}")
        keyring = Keyring(kek, self.keystore_id, 1)

        def epoch_key(epoch: dict[str, Any]) -> bytes | None:
            if not there(epoch["wrapped"]):
                return None
            try:
                return kek.unwrap(epoch["wrapped"], keyring._context(f"epoch {epoch['purpose']}", epoch["epoch_id"]))
            except KeystoreError:
                return None

        key = epoch_key(self.epoch)
        if key is not None and there(self.shred_key["wrapped"]) and there(self.record["envelope"]):
            name = self.shred_key["shred_key_id"]
            shred = envelope.open_envelope(key, self.shred_key["wrapped"], keyring._context(SHRED_KIND, name))
            context = record_context(self.keystore_id, self.record)
            assert base64.b64encode(self.secret) in envelope.open_envelope(shred, self.record["envelope"], context)
            yield "stored record"
        key = epoch_key(self.pseudonym_epoch)
        if key is not None and there(self.pseudonym["wrapped"]):
            context = keyring._context(PSEUDONYM_KIND, self.pseudonym["owner"])
            assert envelope.open_envelope(key, self.pseudonym["wrapped"], context) == self.pseudonym_secret
            yield "pseudonym"
        key = epoch_key(self.ingest_epoch)
        if key is not None and there(self.ingest_key["wrapped"]) and any(self.shard in one for one in data):
            name = self.ingest_key["key_id"]
            raw = envelope.open_envelope(key, self.ingest_key["wrapped"], keyring._context(INGEST_KIND, name))
            private = HybridPrivateKey.from_secret_bytes(raw)
            opened = [open_record(sealed, private) for sealed in parse_shard(self.shard, "kept")]
            assert self.secret in [one.image_key.get_secret_value() for one in opened]
            yield "kept shard"


def bytes_of(keystore: Keystore) -> list[Path]:
    """Where a keystore's bytes lie: its directory, and the server's heap and WAL where it is in PostgreSQL."""
    name = database_name(keystore.path)
    if name is None:
        return [keystore.path]
    with SERVER[0].connect(name) as connection:
        connection.execute("CHECKPOINT")
        (oid,) = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    return [keystore.path, SERVER[0].data / "base" / str(oid), SERVER[0].data / "pg_wal"]


def back_up(keystore: Keystore, place: Path) -> Path:
    """A backup of the database alone, apart from the KEK as it should be."""
    place.mkdir()
    name = database_name(keystore.path)
    if name is None:
        keystore._database.fold()
        shutil.copy(keystore.path / "keystore.db", place)
    else:
        SERVER[0].run("pg_dump", "--format=plain", f"--file={place / 'dump.sql'}", SERVER[0].uri(name))
        text = (place / "dump.sql").read_text()
        binary = b"".join(bytes.fromhex(one.split()[0]) for one in text.split("\\\\x")[1:] if one.split())
        (place / "dump.bin").write_bytes(binary)  # bytes are in hexadecimal in it
    return place


@pytest.mark.slow
@ON_BOTH
def test_a_planted_key_is_reached_from_nothing_that_is_left(
    keystore, make, clock, tmp_path: Path, database: str
) -> None:
    secret = bytes(range(1, 33))
    planted = make.record(PLANTED, subject="p. smith", image_key=secret)
    others = [make.record(f"n{number}.png") for number in range(3)]
    shard = make.deposit(keystore, [planted, *others], "part-5")
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(shard, kept)
    keystore.ingest(make.RUN)
    with contextlib.closing(NamingOpening.open(keystore.path, clock=clock)) as naming:
        pseudonym = naming.pseudonyms.secrets("photos", ["p. smith", "another"])["p. smith"].secret
    sealed = shard.read_bytes() if shard.exists() else (kept / shard.name).read_bytes()
    trail = Trail.of(keystore, sealed, secret, pseudonym)
    backup = back_up(keystore, tmp_path / "backup")

    everything = {f"{way} by kek.key" for way in ("stored record", "kept shard", "pseudonym")}
    assert trail.ways([*bytes_of(keystore), kept]) == everything, "the scanner works"
    assert trail.ways([keystore.path / "kek.key", backup, kept]) == everything, "on a backup too"

    keystore.erase("photos", "Olga", subject="p. smith")
    keystore.renew_ingest_key("Olga")
    keystore.retire_ingest_keys("Olga")
    alone = trail.ways([*bytes_of(keystore), kept])
    if database == "sqlite":
        assert alone == set(), "the keystore's own files, and a kept shard"
    else:
        assert alone == everything, (
            "dead rows and the WAL hold what was erased, until the KEK is rotated: docs/keystore.md says so"
        )
    assert trail.ways([*bytes_of(keystore), backup, kept]) == everything, "a backup, and the KEK that it was made under"

    keystore.rotate_kek(f"file:{keystore.path}/kek-2.key", "Olga")
    (keystore.path / "kek.key").unlink()
    assert trail.ways([*bytes_of(keystore), backup, kept]) == set()
    assert len(make.take(keystore, make.approved(keystore, "n1.png"))) == 1, "what was not erased is there"
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
