"""X-Wing (ML-KEM-768 + X25519) key pairs as bytes, and one-shot HPKE (RFC 9180) to them.

Post-quantum, because faces stay sensitive for decades. The suite is X-Wing, HKDF-SHA256, AES-256-GCM; `info` binds the context.
A public key is ML-KEM-768 encapsulation key (1184) || X25519 key (32); a private key is ML-KEM seed (64) || X25519 scalar (32).
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from keystore.crypto.canonical import sha256_hex
from keystore.errors import InvalidRecordError

MLKEM_PUBLIC_BYTES = 1184
MLKEM_SEED_BYTES = 64
X25519_BYTES = 32
PUBLIC_KEY_BYTES = MLKEM_PUBLIC_BYTES + X25519_BYTES
PRIVATE_KEY_BYTES = MLKEM_SEED_BYTES + X25519_BYTES
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class RecipientKey(Protocol):
    """What opens what is sealed to an X-Wing public key: `HybridPrivateKey`, or a key that a service keeps (docs/keystore.md)."""

    @property
    def public_bytes(self) -> bytes:
        """The 1,216 bytes that others seal to."""

    def open(self, ciphertext: bytes, info: bytes) -> bytes | None:
        """See HybridPrivateKey.open."""


class HybridPrivateKey:
    """An X-Wing private key; its repr shows only the id of its public key."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self.public_bytes = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> HybridPrivateKey:
        """Return a fresh private key."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> HybridPrivateKey:
        """Rebuild a private key from its 96 bytes. Raises InvalidRecordError."""
        if len(data) != PRIVATE_KEY_BYTES:
            raise InvalidRecordError(f"an X-Wing private key has {PRIVATE_KEY_BYTES} bytes, not {len(data)}")
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(data[:MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(data[MLKEM_SEED_BYTES:]),
        )

    def secret_bytes(self) -> bytes:
        """Return the 96 secret bytes, to be wrapped under a KEK and nothing else."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    def open(self, ciphertext: bytes, info: bytes) -> bytes | None:
        """Return the plaintext, or None when ciphertext, key or `info` do not belong together."""
        try:
            return _SUITE.decrypt(ciphertext, MLKEM768X25519PrivateKey(self._mlkem, self._x25519), info=info)
        except (InvalidTag, ValueError):
            return None

    def __repr__(self) -> str:
        return f"HybridPrivateKey(public key {key_id(self.public_bytes)})"


def key_id(public_key: bytes) -> str:
    """Return the id of a public key: its SHA-256 in hexadecimal."""
    return sha256_hex(public_key)


def encrypt(plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
    """Seal `plaintext` to a 1,216-byte X-Wing public key with `info` bound in. Raises InvalidRecordError for a bad key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidRecordError(f"an X-Wing public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    try:
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_key[:MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public_key[MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, key, info=info)
    except ValueError as error:
        raise InvalidRecordError(
            "the X-Wing public key is malformed; read it again from the keystore or the recipient"
        ) from error
