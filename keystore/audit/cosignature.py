"""Cosignatures of checkpoints: C2SP tlog-cosignature, of Ed25519 (type 0x04) and of ML-DSA-44 (type 0x06, FIPS 204, no context).

The signature line of a witness holds keyid || T (8 bytes, seconds since 1970) || signature, where
keyid = SHA-256(name || 0x0A || type || public key)[:4]; its verifier key is `name+keyid+base64(type || public key)`. Signed is

    Ed25519      cosignature/v1 LF time T LF and the checkpoint's text
    ML-DSA-44    "subtree/v1" LF NUL || len(name) || name || T || len(origin) || origin || 0 (8 bytes) || size (8 bytes) || root

New witnesses have ML-DSA-44 keys, as C2SP asks of new deployments: it holds against a quantum computer, and names the witness.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from keystore.audit.checkpoint import KEY_ID_BYTES, Checkpoint
from keystore.errors import AuditError

WitnessPrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey
WitnessPublicKey = Ed25519PublicKey | MLDSA44PublicKey

ED25519, ML_DSA_44 = b"\x04", b"\x06"
SIGNATURE_PREFIX = "— "
MAX_NAME_BYTES = 255
_PUBLIC: Final[dict[bytes, tuple[type[Ed25519PublicKey] | type[MLDSA44PublicKey], int]]] = {
    ED25519: (Ed25519PublicKey, 32),
    ML_DSA_44: (MLDSA44PublicKey, 1312),
}
_U64 = struct.Struct(">Q")


def _typed(public_key: WitnessPublicKey) -> bytes:
    kind = ED25519 if isinstance(public_key, Ed25519PublicKey) else ML_DSA_44
    return kind + public_key.public_bytes_raw()


def _key_id(name: str, typed: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + typed).digest()[:KEY_ID_BYTES]


def witness_vkey(name: str, public_key: WitnessPublicKey) -> str:
    """Return the verifier key of a witness called `name` (no spaces, no plus signs)."""
    typed = _typed(public_key)
    return f"{name}+{_key_id(name, typed).hex()}+{base64.b64encode(typed).decode()}"


def parse_witness_vkey(vkey: str) -> tuple[str, WitnessPublicKey]:
    """Return the name and the public key of a witness. Raises AuditError."""
    try:
        name, key_id, encoded = vkey.strip().split("+", 2)
        typed = base64.b64decode(encoded, validate=True)
        public_type, length = _PUBLIC[typed[:1]]
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or any(one.isspace() for one in name):
            raise ValueError
        if len(typed) != 1 + length or bytes.fromhex(key_id) != _key_id(name, typed):
            raise ValueError
        return name, public_type.from_public_bytes(typed[1:])
    except (KeyError, ValueError, binascii.Error):
        raise AuditError("the witness's verifier key is malformed; take it again from who runs the witness") from None


def _message(checkpoint: Checkpoint, name: str, kind: bytes, seconds: int) -> bytes:
    if kind == ED25519:
        return f"cosignature/v1\ntime {seconds}\n{checkpoint.text()}".encode()
    tree = _U64.pack(0) + _U64.pack(checkpoint.size) + checkpoint.root
    return b"subtree/v1\n\0" + _counted(name) + _U64.pack(seconds) + _counted(checkpoint.origin) + tree


def _counted(text: str) -> bytes:
    return bytes([len(text.encode())]) + text.encode()


def cosign(checkpoint: Checkpoint, name: str, key: WitnessPrivateKey, seconds: int) -> str:
    """Return a witness's signature line for a checkpoint."""
    typed = _typed(key.public_key())
    signature = key.sign(_message(checkpoint, name, typed[:1], seconds))
    signed = _key_id(name, typed) + _U64.pack(seconds) + signature
    return f"{SIGNATURE_PREFIX}{name} {base64.b64encode(signed).decode()}\n"


def check_cosignature(checkpoint: Checkpoint, lines: str, vkey: str) -> int:
    """Return when a witness signed a checkpoint, by a line among these. Raises AuditError: there is no valid one of it."""
    name, public_key = parse_witness_vkey(vkey)
    typed = _typed(public_key)
    key_id = _key_id(name, typed)
    for line in lines.splitlines():
        try:
            dash, signer, encoded = line.split(" ")
            data = base64.b64decode(encoded, validate=True)
            if dash + " " != SIGNATURE_PREFIX or signer != name or data[:KEY_ID_BYTES] != key_id:
                continue
            (seconds,) = _U64.unpack_from(data, KEY_ID_BYTES)
            signature = data[KEY_ID_BYTES + _U64.size :]
            public_key.verify(signature, _message(checkpoint, name, typed[:1], seconds))
        except (ValueError, binascii.Error, struct.error, InvalidSignature):
            continue
        return int(seconds)
    raise AuditError(f"witness {name} did not sign this checkpoint, or another key answers in its name; find out which")
