"""docs/keystore.md, followed by hand: another implementation that reads that page must be able to read these bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import text

from keystore.crypto import envelope, hybrid
from keystore.crypto.hybrid import HybridPrivateKey
from keystore.decisions.bindings import Bindings
from keystore.decisions.people import People
from keystore.decisions.tokens import Tokens
from keystore.intake.sealing import Sealer, open_record, seal_record
from keystore.intake.shards import parse_shard, read_shard, write_shard
from keystore.recipient import Expected, Recipient

KEY = HybridPrivateKey.generate()


def hpke_open(private: bytes, ciphertext: bytes, info: bytes) -> bytes:
    key = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(private[:64]), X25519PrivateKey.from_private_bytes(private[64:])
    )
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(ciphertext, key, info=info)


def split(data: bytes, magic: bytes) -> tuple[bytes, bytes]:
    assert data[:8] == magic
    (length,) = struct.unpack(">I", data[8:12])
    return data[12 : 12 + length], data[12 + length :]


def test_a_sealed_record_has_the_documented_bytes(make) -> None:
    record = make.record()
    head, rest = split(seal_record(record, KEY.public_bytes), b"KASEAL02")
    about, encrypted = split(b"........" + head, b"........")
    assert json.loads(about) == {
        "dataset": "photos",
        "key_id": hashlib.sha256(KEY.public_bytes).hexdigest(),
        "run_id": "run-1",
    }
    batch_key = hpke_open(KEY.secret_bytes(), encrypted, b"keyanon batch key v1\n" + about)
    assert len(batch_key) == 32
    assert rest[:36].decode() == record.record_id
    context = b"keyanon sealed record v2\n" + about + rest[:36]
    plaintext = json.loads(envelope.open_envelope(batch_key, rest[36:], context))
    assert base64.b64decode(plaintext["image_key"]) == record.image_key.get_secret_value()
    assert base64.b64decode(plaintext["faces"][0]["mask"]) == record.faces[0].mask


def test_a_shard_has_the_documented_bytes(tmp_path, make) -> None:
    sealer = Sealer(KEY.public_bytes, "run-1", "photos")
    sealed = [sealer.seal(make.record()), b"one", sealer.seal(make.record())]
    parts = [split(one, b"KASEAL02") for one in (sealed[0], sealed[2])]
    assert parts[0][0] == parts[1][0]

    def number(*values: int) -> bytes:
        return struct.pack(f">{len(values)}I", *values)

    body = b"KASHARD2" + number(1, len(parts[0][0])) + parts[0][0] + number(3)
    body += number(0, len(parts[0][1])) + parts[0][1] + number(0xFFFFFFFF, 3) + b"one"
    body += number(0, len(parts[1][1])) + parts[1][1]
    path = write_shard(tmp_path, "part", sealed)
    assert path.read_bytes() == body + hashlib.sha256(body).digest()
    assert read_shard(path) == sealed


def test_a_shard_of_version_1_is_read_as_documented() -> None:
    body = b"KASHARD1" + struct.pack(">I", 2) + struct.pack(">I", 3) + b"one" + struct.pack(">I", 0)
    assert parse_shard(body + hashlib.sha256(body).digest(), "part") == [b"one", b""]


def test_a_sealed_record_of_version_1_is_read_as_documented(make) -> None:
    record = make.record()
    header = json.dumps(
        {
            "dataset": record.dataset,
            "key_id": hashlib.sha256(KEY.public_bytes).hexdigest(),
            "record_id": record.record_id,
            "run_id": record.run_id,
            "version": record.version,
        },
        sort_keys=True,
    ).encode()
    ciphertext = hybrid.encrypt(record.canonical_bytes(), KEY.public_bytes, b"keyanon sealed record v1\n" + header)
    assert open_record(b"KASEAL01" + struct.pack(">I", len(header)) + header + ciphertext, KEY) == record


def test_an_envelope_has_the_documented_bytes() -> None:
    sealed = envelope.seal(b"k" * 32, b"hello", b"context")
    info = b"keyanon envelope v1\n" + hashlib.sha256(b"context").digest()
    material = HKDF(SHA256(), length=64, salt=sealed[:32], info=info).derive(b"k" * 32)
    assert sealed[32:64] == material[32:]
    assert AESGCM(material[:32]).decrypt(bytes(12), sealed[64:], b"context") == b"hello"


@pytest.mark.parametrize(
    ("rows", "info"),
    [(Tokens, b"keyanon tokens v1"), (Bindings, b"keyanon identities v1"), (People, b"keyanon people index v1")],
)
def test_rows_are_filed_and_tagged_under_the_documented_key(rows, info: bytes) -> None:
    index_key = bytes(range(32))
    assert rows(index_key)._key == HKDF(SHA256(), length=32, salt=None, info=info).derive(index_key)


def test_a_release_has_the_documented_bytes(keystore, make) -> None:
    request_id = make.approved(keystore)
    sealed = keystore.release(request_id, KEY.public_bytes, "Alice")
    public = base64.b64decode(keystore.audit_vkey.split("+", 2)[2])[1:]
    Ed25519PublicKey.from_public_bytes(public).verify(sealed[-64:], b"keyanon release signature v1\n" + sealed[:-64])
    header, ciphertext = split(sealed[:-64], b"KARLSE02")
    body = json.loads(hpke_open(KEY.secret_bytes(), ciphertext, b"keyanon release v2\n" + header))
    assert body["header"] == json.loads(header)
    view = keystore.show(request_id)
    assert view.grant is not None
    assert body["header"] == {
        "digest": view.digest,
        "grant": view.grant.grant_id,
        "keystore": keystore.id,
        "recipient": hashlib.sha256(KEY.public_bytes).hexdigest(),
        "request": request_id,
    }
    assert json.loads(base64.b64decode(body["records"][0]))["image_id"] == "a.png"
    assert Recipient(KEY).open(sealed, Expected.of(view, keystore.audit_vkey))[0].image_id == "a.png"


def test_a_request_digest_and_its_signature_are_as_documented(keystore, make) -> None:
    view = keystore.show(make.approved(keystore, "a.png", "b.png"))
    names = (
        "request_id, revision, requester, case_reference, purpose, legal_basis, created_at, expires_at, salt, "
        "policy_digest, approvals_required"
    )
    with keystore._database.read() as connection:
        row = connection.execute(text(f"SELECT {names} FROM requests")).mappings().one()
    images = sorted((one.model_dump() for one in view.images), key=lambda one: one["record_id"])
    content = {**row, "images": images, "keystore": keystore.id, "type": "keyanon request v1"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert hashlib.sha256(canonical).hexdigest() == view.digest
