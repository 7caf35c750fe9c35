"""Signed checkpoints of the log: C2SP tlog-checkpoint in a C2SP signed note, with Ed25519.

The text is three lines (origin, size, base64 root); a blank line and the signature line follow. The verifier key ("vkey") is
`name+keyid+base64(0x01 || public key)`, where keyid = SHA-256(name || 0x0A || 0x01 || public key)[:4] in hexadecimal.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keystore.audit.merkle import HASH_BYTES
from keystore.errors import AuditError

AUDIT_KEY_NAME = "audit.pub"  # the file that publishes the verifier key
ED25519_ALGORITHM = b"\x01"
ED25519_PUBLIC_BYTES = 32
KEY_ID_BYTES = 4
MAX_NOTE_CHARACTERS = 32 * 1024  # with the cosignatures of several witnesses, some 3,300 each of ML-DSA-44
_SIGNATURE_PREFIX = "— "


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log: whose it is, how many leaves, and their Merkle root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519_ALGORITHM + public).digest()[:KEY_ID_BYTES]


def verifier_key(name: str, public_key: Ed25519PublicKey) -> str:
    """Return the vkey of a signer called `name` (no spaces, no plus signs)."""
    public = public_key.public_bytes_raw()
    return f"{name}+{_key_id(name, public).hex()}+{base64.b64encode(ED25519_ALGORITHM + public).decode()}"


@lru_cache(maxsize=64)
def parse_verifier_key(vkey: str) -> tuple[str, Ed25519PublicKey]:
    """Return the name and the public key of a vkey. Raises AuditError."""
    parts = vkey.strip().split("+", 2)  # base64 may hold further plus signs
    try:
        name, key_id, encoded = parts
        data = base64.b64decode(encoded, validate=True)
        public = data[1:]
        if not name or any(character.isspace() for character in name) or len(public) != ED25519_PUBLIC_BYTES:
            raise ValueError
        if data[:1] != ED25519_ALGORITHM or bytes.fromhex(key_id) != _key_id(name, public):
            raise ValueError
    except (ValueError, binascii.Error):
        raise AuditError(
            "the verifier key of the audit log is malformed; take it again from who published it"
        ) from None
    return name, Ed25519PublicKey.from_public_bytes(public)


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey, name: str | None = None) -> str:
    """Return the checkpoint as a signed note; the signer's name is the origin unless another is given."""
    text, name = checkpoint.text(), name or checkpoint.origin
    signature = _key_id(name, key.public_key().public_bytes_raw()) + key.sign(text.encode())
    return f"{text}\n{_SIGNATURE_PREFIX}{name} {base64.b64encode(signature).decode()}\n"


def open_checkpoint(note: str, vkey: str, *more: str) -> Checkpoint:
    """Verify a signed note and return its checkpoint: one of the log `vkey` is named after, signed by it or by one of `more`.

    Signatures of other keys beside ours are ignored. Raises AuditError.
    """
    origin, _ = parse_verifier_key(vkey)
    checkpoint, text, signatures = _parse(note)
    if checkpoint.origin != origin:
        raise AuditError(
            f"the checkpoint is of log {checkpoint.origin!r}, not of {origin!r}; it belongs to another keystore"
        )
    for trusted in (vkey, *more):
        name, public_key = parse_verifier_key(trusted)
        key_id = _key_id(name, public_key.public_bytes_raw())
        for signer, signature in signatures:
            if signer == name and signature[:KEY_ID_BYTES] == key_id:
                try:
                    public_key.verify(signature[KEY_ID_BYTES:], text.encode())
                except InvalidSignature:
                    break
                return checkpoint
    raise AuditError("the checkpoint has no valid signature of this keystore's audit key; it was forged or damaged")


def _parse(note: str) -> tuple[Checkpoint, str, list[tuple[str, bytes]]]:
    malformed = AuditError("the checkpoint is not a signed note; give the whole text that the keystore printed")
    text, separator, tail = note.rpartition("\n\n")
    text += "\n"
    lines = text.split("\n")
    if len(note) > MAX_NOTE_CHARACTERS or not separator or len(lines) < 4 or not tail.endswith("\n"):
        raise malformed
    origin, size, root = lines[0], lines[1], lines[2]
    if not origin or not size.isascii() or not size.isdigit() or str(int(size)) != size:
        raise malformed
    signatures: list[tuple[str, bytes]] = []
    try:
        root_hash = base64.b64decode(root, validate=True)
        for line in tail.removesuffix("\n").split("\n"):
            if not line.startswith(_SIGNATURE_PREFIX):
                raise malformed
            signer, encoded = line.removeprefix(_SIGNATURE_PREFIX).split(" ")
            signatures.append((signer, base64.b64decode(encoded, validate=True)))
    except (ValueError, binascii.Error):
        raise malformed from None
    if len(root_hash) != HASH_BYTES or base64.b64encode(root_hash).decode() != root:
        raise malformed
    return Checkpoint(origin, int(size), root_hash), text, signatures
