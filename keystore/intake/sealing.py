"""Sealing: a worker encrypts each key record to the keystore's ingest key, and publishes a shard of sealed records durably.

A worker can write a record and open none. Sealing is per record, in the process that made the key, so that no queue, block or
spill file between the maker and the shard ever holds a plaintext key. The byte formats are in docs/keystore.md.

HPKE is used without sender authentication: whoever holds the ingest public key can seal. Who may write into the inbox is
therefore a matter of file permissions, and ingest checks every record against its header and refuses a second meaning of an id.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keystore.crypto import hybrid
from keystore.crypto.canonical import canonical_json
from keystore.errors import InvalidRecordError, ShardExistsError, StorageError, TamperedError
from keystore.intake.records import MAX_CANONICAL_BYTES, KeyRecord
from keystore.storage import durable

SEALED_MAGIC = b"KASEAL01"
SEALED_INFO = b"keyanon sealed record v1\n"
SHARD_MAGIC = b"KASHARD1"
SHARD_SUFFIX = ".keys"
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 64 * 1024
MAX_SEALED_BYTES = 2 * MAX_CANONICAL_BYTES
MAX_SHARD_BYTES = 1024 * 1024 * 1024  # read into memory at once by ingest
_LENGTH = struct.Struct(">I")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class SealedHeader:
    """What a sealed record says about itself in clear; HPKE's `info` binds it to the ciphertext."""

    record_id: str
    run_id: str
    dataset: str
    key_id: str


def seal_record(record: KeyRecord, ingest_public_key: bytes) -> bytes:
    """Seal one record to the keystore (about 1.2 kB of overhead). Raises InvalidRecordError for a malformed public key."""
    header = canonical_json(
        {
            "dataset": record.dataset,
            "key_id": hybrid.key_id(ingest_public_key),
            "record_id": record.record_id,
            "run_id": record.run_id,
            "version": record.version,
        }
    )
    ciphertext = hybrid.encrypt(record.canonical_bytes(), ingest_public_key, SEALED_INFO + header)
    return SEALED_MAGIC + _LENGTH.pack(len(header)) + header + ciphertext


def sealed_header(sealed: bytes) -> SealedHeader:
    """Read the clear header of a sealed record; it is authentic only once `open_record` succeeds. Raises InvalidRecordError."""
    header, _ = _split(sealed)
    try:
        document = json.loads(header)
        fields = {name: document[name] for name in ("record_id", "run_id", "dataset", "key_id")}
        "".join(fields.values()).encode()  # texts all four, without the lone surrogates that JSON can spell
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRecordError("a sealed record has a malformed header") from error
    return SealedHeader(**fields)


def open_record(sealed: bytes, ingest_private_key: hybrid.HybridPrivateKey) -> KeyRecord:
    """Open a sealed record. Raises InvalidRecordError when it is malformed, altered, or sealed to another keystore."""
    header = sealed_header(sealed)
    if header.key_id != hybrid.key_id(ingest_private_key.public_bytes):
        raise InvalidRecordError(f"record {header.record_id!r} is sealed to another ingest key ({header.key_id[:16]})")
    header_bytes, ciphertext = _split(sealed)
    plaintext = ingest_private_key.open(ciphertext, SEALED_INFO + header_bytes)
    if plaintext is None:
        raise InvalidRecordError(f"record {header.record_id!r} was altered after it was sealed")
    record = KeyRecord.from_canonical_bytes(plaintext)
    if (record.record_id, record.run_id, record.dataset) != (header.record_id, header.run_id, header.dataset):
        raise InvalidRecordError(f"record {header.record_id!r} is not the record its header names")
    return record


class Opener:
    """Opens sealed records with the ingest keys of a keystore that are not retired."""

    def __init__(self, ingest_keys: Sequence[hybrid.HybridPrivateKey]) -> None:
        self._keys = {hybrid.key_id(key.public_bytes): key for key in ingest_keys}

    def open(self, sealed: bytes) -> KeyRecord:
        """Open a sealed record. Raises InvalidRecordError: malformed, altered, sealed to another key or to a retired one."""
        ident = sealed_header(sealed).key_id
        if ident not in self._keys:
            raise InvalidRecordError(f"it is sealed to another ingest key ({ident[:16]}), or to one that was retired")
        return open_record(sealed, self._keys[ident])


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    start = len(SEALED_MAGIC) + _LENGTH.size
    if len(sealed) < start or sealed[: len(SEALED_MAGIC)] != SEALED_MAGIC:
        raise InvalidRecordError("these bytes are not a sealed key record of version 1")
    (length,) = _LENGTH.unpack_from(sealed, len(SEALED_MAGIC))
    if length > MAX_HEADER_BYTES or len(sealed) < start + length:
        raise InvalidRecordError("a sealed record is cut short")
    return sealed[start : start + length], sealed[start + length :]


def shard_path(directory: Path, name: str) -> Path:
    """Return where the shard called `name` (a base name, without suffix) lives. Raises InvalidRecordError for a bad name."""
    if not _SHARD_NAME.fullmatch(name) or name.endswith(SHARD_SUFFIX):
        raise InvalidRecordError(
            f"{name!r} is not a shard name; use letters, digits, '.', '_' and '-', without the suffix {SHARD_SUFFIX}"
        )
    return directory / (name + SHARD_SUFFIX)


def write_shard(directory: Path, name: str, sealed: Sequence[bytes]) -> Path:
    """Publish `directory/name.keys` durably: after return it survives a power cut; before, it is not visible at all.

    Raises ShardExistsError when a shard of that name exists (it is left as it is), StorageError when it can not be written.
    """
    path = shard_path(directory, name)
    body = b"".join([SHARD_MAGIC, _LENGTH.pack(len(sealed)), *(_LENGTH.pack(len(one)) + one for one in sealed)])
    try:
        durable.make_directory(directory)
        durable.write_new(path, body + hashlib.sha256(body).digest())
    except FileExistsError as error:
        raise ShardExistsError(
            f"{path} exists and was not overwritten; ingest it, or choose another shard name"
        ) from error
    except OSError as error:
        raise StorageError(
            f"sealed shard {path} can not be written ({error.strerror}); free space or mend the permissions"
        ) from error
    return path


def read_shard(path: Path) -> list[bytes]:
    """Return the sealed records of a shard. Raises TamperedError naming the shard, StorageError when it can not be read.

    The digest finds accidents and careless edits; what stops a forger is that every record is itself authenticated encryption.
    """
    return parse_shard(read_shard_bytes(path), str(path))


def read_shard_bytes(path: Path) -> bytes:
    """Return the bytes of a shard, unchecked but for their number. Raises TamperedError, StorageError."""
    try:
        return durable.read_regular(path, MAX_SHARD_BYTES)
    except durable.NotRegularError as error:
        raise TamperedError(
            f"sealed shard {path} is a link, a pipe or a directory, and no file; find out who put it there"
        ) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise TamperedError(
                f"sealed shard {path} is larger than {MAX_SHARD_BYTES} bytes; no writer of this project makes such"
            ) from error
        raise StorageError(
            f"sealed shard {path} can not be read ({error.strerror}); mend the permissions or restore it"
        ) from error


def parse_shard(data: bytes, name: str) -> list[bytes]:
    """Return the sealed records in the bytes of a shard. Raises TamperedError naming the shard."""
    damaged = TamperedError(
        f"sealed shard {name} is truncated or was altered; restore it from a copy or run its images again"
    )
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    position = len(SHARD_MAGIC) + _LENGTH.size
    if len(body) < position or not body.startswith(SHARD_MAGIC):
        raise damaged
    if not hmac.compare_digest(hashlib.sha256(body).digest(), digest):
        raise damaged
    (count,) = _LENGTH.unpack_from(body, len(SHARD_MAGIC))
    sealed: list[bytes] = []
    for _ in range(count):
        if len(body) < position + _LENGTH.size:
            raise damaged
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size
        if length > MAX_SEALED_BYTES or len(body) < position + length:
            raise damaged
        sealed.append(body[position : position + length])
        position += length
    if position != len(body):
        raise damaged
    return sealed
