"""The committing envelope: `salt(32) || commitment(32) || AES-256-GCM`, the one way the keystore encrypts at rest.

AES-GCM alone does not commit to its key: one ciphertext can be made to open under two keys. Here HKDF-SHA256 (RFC 5869) over
(key, salt, H(context)) yields both the encryption key and a commitment, so a ciphertext opens under one key and one context only.
Every salt is fresh, so every derived key encrypts once and the nonce is a constant. Both keys and records are wrapped this way.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ENVELOPE_VERSION = 1
KEY_BYTES = 32
SALT_BYTES = 32
COMMITMENT_BYTES = 32
TAG_BYTES = 16
OVERHEAD_BYTES = SALT_BYTES + COMMITMENT_BYTES + TAG_BYTES
_NONCE = bytes(12)  # constant: each derived key is used for one encryption
_SHA256 = SHA256()
_LABEL = b"keyanon envelope v1\n"


class EnvelopeError(Exception):
    """The envelope does not open under this key and context; the caller knows what it was and says so."""


def seal(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt under a 32-byte key, bound to `context` (canonical bytes that name the thing encrypted)."""
    salt = os.urandom(SALT_BYTES)
    encryption_key, commitment = _derive(key, salt, context)
    return b"".join((salt, commitment, AESGCM(encryption_key).encrypt(_NONCE, plaintext, context)))


def open_envelope(key: bytes, envelope: bytes, context: bytes) -> bytes:
    """Decrypt. Raises EnvelopeError when key, context or bytes are not the ones it was sealed with."""
    if len(envelope) < OVERHEAD_BYTES:
        raise EnvelopeError("an envelope is cut short")
    salt, commitment = envelope[:SALT_BYTES], envelope[SALT_BYTES : SALT_BYTES + COMMITMENT_BYTES]
    encryption_key, expected = _derive(key, salt, context)
    if not hmac.compare_digest(commitment, expected):
        raise EnvelopeError("an envelope belongs to another key or context")
    try:
        return AESGCM(encryption_key).decrypt(_NONCE, envelope[SALT_BYTES + COMMITMENT_BYTES :], context)
    except InvalidTag:
        raise EnvelopeError("an envelope was altered") from None


def _derive(key: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    if len(key) != KEY_BYTES:
        raise ValueError(f"an envelope key has {KEY_BYTES} bytes")
    info = _LABEL + hashlib.sha256(context).digest()
    material = HKDF(_SHA256, KEY_BYTES + COMMITMENT_BYTES, salt, info).derive(key)
    return material[:KEY_BYTES], material[KEY_BYTES:]
