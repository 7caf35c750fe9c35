"""A private key that a service keeps and decapsulates with: what is sealed for keyanon's own keys opens for it too.

No service is asked here. X-Wing (draft-connolly-cfrg-xwing-kem) and HPKE's key schedule (RFC 9180) are written out.
"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keystore.crypto.hybrid import HybridPrivateKey, encrypt
from keystore.errors import InvalidRecordError
from keystore.intake.sealing import Opener, seal_record, split_head
from keystore.recipient import Expected, Recipient

SUITE = b"HPKE" + bytes.fromhex("647a 0001 0002")  # X-Wing, HKDF-SHA256, AES-256-GCM
ENCAPSULATED_BYTES = 1088 + 32


class Service:
    """Keeps a key, says its public half, and makes shared secrets of what was encapsulated to it."""

    def __init__(self) -> None:
        self._mlkem, self._x25519, self.asked = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate(), 0
        self.public_key = self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()

    def decapsulate(self, encapsulated: bytes) -> bytes:
        self.asked += 1
        ours, theirs = self._x25519.public_key().public_bytes_raw(), encapsulated[1088:]
        shared = self._x25519.exchange(X25519PublicKey.from_public_bytes(theirs))
        return hashlib.sha3_256(
            self._mlkem.decapsulate(encapsulated[:1088]) + shared + theirs + ours + b"\\.//^\\"
        ).digest()


class KeptKey:
    """`RecipientKey` of such a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def public_bytes(self) -> bytes:
        return self._service.public_key

    def open(self, ciphertext: bytes, info: bytes) -> bytes | None:
        encapsulated, sealed = ciphertext[:ENCAPSULATED_BYTES], ciphertext[ENCAPSULATED_BYTES:]
        if len(encapsulated) < ENCAPSULATED_BYTES:
            return None
        context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
        secret = extract(self._service.decapsulate(encapsulated), b"secret", b"")
        try:
            cipher = AESGCM(expand(secret, b"key", context, 32))
            return cipher.decrypt(expand(secret, b"base_nonce", context, 12), sealed, b"")
        except InvalidTag:
            return None


def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE + label + secret, "sha256")


def expand(key: bytes, label: bytes, info: bytes, count: int) -> bytes:
    said = count.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info + b"\1"
    return hmac.digest(key, said, "sha256")[:count]


def test_it_opens_what_was_sealed_to_it_and_nothing_else() -> None:
    key, other = KeptKey(Service()), HybridPrivateKey.generate()
    sealed = encrypt(b"a key", key.public_bytes, b"for this")
    assert key.open(sealed, b"for this") == b"a key"
    assert key.open(sealed, b"for that") is None
    assert key.open(sealed[:-1], b"for this") is None and key.open(sealed[:1000], b"for this") is None
    assert key.open(encrypt(b"a key", other.public_bytes, b"for this"), b"for this") is None


def test_shards_sealed_to_it_open_and_each_batch_asks_the_service_once(make) -> None:
    service, record = Service(), make.record("d.png")
    opener, sealed = Opener([HybridPrivateKey.generate(), KeptKey(service)]), seal_record(record, service.public_key)
    for _ in range(2):
        assert opener.open(*split_head(sealed))[0] == record
    assert service.asked == 1
    with pytest.raises(InvalidRecordError):
        opener.open(*split_head(sealed[:-1] + bytes([sealed[-1] ^ 1])))


def test_a_release_opens_with_it(keystore, make) -> None:
    request, recipient = make.approved(keystore), Recipient(KeptKey(Service()))
    sealed = keystore.release(request, recipient.public_key, "Alice")
    expected = Expected.of(keystore.show(request), keystore.audit_vkey)
    assert [one.image_id for one in recipient.open(sealed, expected)] == ["a.png"]
