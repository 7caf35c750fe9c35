"""A witness of other keystores' logs: C2SP tlog-witness, the answer to `add-checkpoint`, without HTTP.

For each log it remembers the last checkpoint that it signed, durably and before it answers, and signs only one that is proved
to extend it. So a log that was rolled back or written anew gets no signature any more, whatever its own keys sign.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from keystore.audit.checkpoint import Checkpoint, open_checkpoint, parse_verifier_key
from keystore.audit.cosignature import MAX_NAME_BYTES, WitnessPrivateKey, cosign, witness_vkey
from keystore.audit.merkle import HASH_BYTES, ProofError, verify_consistency
from keystore.errors import AuditError, StorageError
from keystore.storage import durable

KEY_NAME, PUBLIC_NAME, LOCK_NAME = "witness.key", "witness.pub", ".lock"
NEW_KEYS = "keyanon-witness-2"  # the first line of a key file says of which kind its key is
MAX_BODY_BYTES = 64 * 1024
MAX_PROOF_HASHES = 63
MAX_FILE_BYTES = 8192
SIZE_TYPE = "text/x.tlog.size"


def _private_key(first_line: str, seed: bytes) -> WitnessPrivateKey:
    """Return the key that a key file holds. Raises ValueError."""
    if first_line == NEW_KEYS:
        return MLDSA44PrivateKey.from_seed_bytes(seed)
    if first_line == "keyanon-witness-1":
        return Ed25519PrivateKey.from_private_bytes(seed)
    raise ValueError


@dataclass(frozen=True)
class Answer:
    """What a witness answers: an HTTP status, a text, and its type."""

    status: int
    text: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class WitnessKey:
    """Under which name and key a witness signs."""

    name: str
    key: WitnessPrivateKey = field(repr=False)

    @property
    def vkey(self) -> str:
        """The verifier key that others know it by."""
        return witness_vkey(self.name, self.key.public_key())

    @classmethod
    def open_or_create(cls, directory: Path) -> WitnessKey:
        """Return the key in a directory, made (ML-DSA-44) where there is none. Raises StorageError."""
        path = directory / KEY_NAME
        try:
            durable.make_directory(directory)
            with durable.locked(directory / LOCK_NAME):
                if not path.exists():
                    seed = base64.b64encode(os.urandom(32)).decode()
                    name = f"keyanon.witness/{secrets.token_hex(8)}"
                    durable.replace(path, f"{NEW_KEYS}\n{name}\n{seed}\n".encode(), durable.SECRET_MODE)
                if path.stat().st_mode & 0o077:
                    raise StorageError(f"{path} is open to others; close it (chmod 600), and ask who has read it")
                first, name, seed = durable.read_regular(path, MAX_FILE_BYTES).decode().splitlines()
                found = cls(name, _private_key(first, base64.b64decode(seed, validate=True)))
                durable.replace(directory / PUBLIC_NAME, f"{found.vkey}\n".encode())
        except OSError as error:
            raise StorageError(f"witness directory {directory} can not be used ({error.strerror})") from error
        except (ValueError, binascii.Error):
            raise StorageError(f"{path} is no witness's key; put back a copy") from None
        return found


class LogWitness:
    """A witness of the logs whose verifier keys it was given. Raises AuditError: one is malformed, or names its log too long."""

    def __init__(self, directory: Path, key: WitnessKey, vkeys: Iterable[str]) -> None:
        self._directory, self._key = directory, key
        self._vkeys = {parse_verifier_key(vkey)[0]: vkey for vkey in vkeys}
        if any(len(origin.encode()) > MAX_NAME_BYTES for origin in self._vkeys):
            raise AuditError(f"a log's name has {MAX_NAME_BYTES} bytes at most to be witnessed")

    def latest(self, origin: str) -> str | None:
        """Return the last checkpoint of a log that was signed here, with that signature; None: of no log known here."""
        return self._read(origin) if origin in self._vkeys else None

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer `add-checkpoint`. Raises StorageError, AuditError: what is remembered can not be read or written."""
        try:
            old_size, proof, note = _parse(body)
        except ValueError:
            return Answer(400, "the request is malformed\n")
        vkey = self._vkeys.get(note.split("\n", 1)[0])
        if vkey is None:
            return Answer(404, "this log is not known here\n")
        try:
            new = open_checkpoint(note, vkey)
        except AuditError:
            return Answer(403, "the checkpoint is not signed by the log's key\n")
        if old_size > new.size:
            return Answer(400, "the old size is larger than the checkpoint's\n")
        try:
            with durable.locked(self._directory / LOCK_NAME):
                return self._add(old_size, proof, note, new, vkey)
        except OSError as error:
            raise StorageError(f"witness directory {self._directory} can not be written ({error.strerror})") from error

    def _add(self, old_size: int, proof: list[bytes], note: str, new: Checkpoint, vkey: str) -> Answer:
        remembered = self._read(new.origin)
        last = None if remembered is None else open_checkpoint(remembered, vkey)
        size = 0 if last is None else last.size
        if old_size != size or (last is not None and new.size == size and new.root != last.root):
            return Answer(409, f"{size}\n", SIZE_TYPE)
        try:
            if last is not None:
                verify_consistency(size, last.root, new.size, new.root, proof)
            elif proof:
                raise ProofError("nothing is proved of an empty tree")
        except ProofError as error:
            return Answer(422, f"{error}\n")
        line = cosign(new, self._key.name, self._key.key, int(time.time()))
        durable.replace(self._path(new.origin), (note + line).encode())
        return Answer(200, line)

    def _path(self, origin: str) -> Path:
        return self._directory / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"

    def _read(self, origin: str) -> str | None:
        try:
            return durable.read_regular(self._path(origin), MAX_FILE_BYTES).decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{self._path(origin)} can not be read ({type(error).__name__}); put back a copy"
            ) from error


def _parse(body: bytes) -> tuple[int, list[bytes], str]:
    """Return old size, proof and note of a request. Raises ValueError."""
    head, separator, note = body.decode().partition("\n\n")
    first, *lines = head.split("\n")
    old = first.removeprefix("old ")
    if not separator or not first.startswith("old ") or not old.isascii() or not old.isdigit() or str(int(old)) != old:
        raise ValueError
    proof = [base64.b64decode(line, validate=True) for line in lines]
    if len(proof) > MAX_PROOF_HASHES or any(len(one) != HASH_BYTES for one in proof):
        raise ValueError
    return int(old), proof, note
