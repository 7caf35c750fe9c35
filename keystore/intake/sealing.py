"""Sealing: a worker encrypts key records to the keystore's ingest key. A worker can write a record and open none.

HPKE once for many: a `Sealer` makes a batch key, seals that to the ingest key, and puts each record in a committing envelope
under it. It lives in the process that made the image keys, as long as that works on one block of pictures, so that no queue,
block or spill file between the maker and the shard ever holds a plaintext key. A record that was altered costs that record alone.

Records of version 1, each sealed by HPKE itself, are still read. The byte formats are in docs/keystore.md. HPKE is used without
sender authentication: whoever holds the ingest public key can seal. Who may write into the inbox is therefore a matter of file
permissions, and ingest checks every record against its header and refuses a second meaning of an id.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from keystore.crypto import envelope, hybrid
from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.errors import InvalidRecordError
from keystore.intake.records import KeyRecord

SEALED_MAGIC = b"KASEAL02"
SEALED_INFO = b"keyanon sealed record v2\n"
BATCH_INFO = b"keyanon batch key v1\n"
OLD_SEALED_MAGIC = b"KASEAL01"
OLD_SEALED_INFO = b"keyanon sealed record v1\n"
RECORD_ID_BYTES = 36
MAX_HEADER_BYTES = 64 * 1024
MAX_BATCHES_IN_MEMORY = 1000  # of an Opener; a shard of this project's writers has a few
_LENGTH = struct.Struct(">I")
_START = len(SEALED_MAGIC) + _LENGTH.size


@dataclass(frozen=True)
class SealedHeader:
    """What a sealed record says about itself in clear; the ciphertext is bound to it."""

    record_id: str
    run_id: str
    dataset: str
    key_id: str


class Sealer:
    """Seals the records of one run and data set to the keystore, under one batch key that is in this object only.

    Raises InvalidRecordError for a malformed public key.
    """

    def __init__(self, ingest_public_key: bytes, run_id: str, dataset: str) -> None:
        self._run_id, self._dataset = run_id, dataset
        about = {"dataset": dataset, "key_id": hybrid.key_id(ingest_public_key), "run_id": run_id}
        said = canonical_json(about)
        self._context = SEALED_INFO + said
        self._batch_key = os.urandom(envelope.KEY_BYTES)
        encrypted = hybrid.encrypt(self._batch_key, ingest_public_key, BATCH_INFO + said)
        self._head = _LENGTH.pack(len(said)) + said + encrypted

    def seal(self, record: KeyRecord) -> bytes:
        """Seal one record (some 120 bytes of overhead in a shard). Raises InvalidRecordError for another run's or data set's."""
        if (record.run_id, record.dataset) != (self._run_id, self._dataset):
            raise InvalidRecordError(f"record {record.record_id!r} is of another run or data set than its batch")
        ident = record.record_id.encode()
        rest = ident + envelope.seal(self._batch_key, record.canonical_bytes(), self._context + ident)
        return join_head(self._head, rest)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Sealer is never pickled, since it holds a batch key; make one where the records are made")

    def __repr__(self) -> str:
        return f"Sealer(run {self._run_id!r}, data set {self._dataset!r})"


def seal_record(record: KeyRecord, ingest_public_key: bytes) -> bytes:
    """Seal one record as a batch of its own. Raises InvalidRecordError for a malformed public key."""
    return Sealer(ingest_public_key, record.run_id, record.dataset).seal(record)


class Opener:
    """Opens sealed records with the ingest keys of a keystore that are not retired, each batch key once."""

    def __init__(self, ingest_keys: Sequence[hybrid.RecipientKey]) -> None:
        self._keys = {hybrid.key_id(key.public_bytes): key for key in ingest_keys}
        self._batches: dict[bytes, _Batch] = {}

    def open(self, head: bytes | None, rest: bytes) -> tuple[KeyRecord, bytes]:
        """Return a sealed record, which comes as `split_head` gives it, and the bytes that were sealed.

        Raises InvalidRecordError: malformed, altered, sealed to another key or to a retired one.
        """
        if head is None:
            header, plaintext = self._open_old(rest)
        else:
            batch = self._batches.get(head) or self._open_head(head)
            ident = rest[:RECORD_ID_BYTES]
            header = (_text_of(ident), batch.run_id, batch.dataset)
            plaintext = batch.open(ident, rest)
        if plaintext is None:
            raise InvalidRecordError(f"record {header[0]!r} was altered after it was sealed")
        record = KeyRecord.from_canonical_bytes(plaintext)
        if (record.record_id, record.run_id, record.dataset) != header:
            raise InvalidRecordError(f"record {header[0]!r} is not the record its header names")
        return record, plaintext

    def sha256_hex(self, head: bytes | None, rest: bytes) -> str:
        """Return the SHA-256 in hexadecimal of a whole sealed record that was opened."""
        if head is None:
            return sha256_hex(rest)
        digest = self._batches[head].begun.copy()
        digest.update(rest)
        return digest.hexdigest()

    def _open_head(self, head: bytes) -> _Batch:
        if len(head) > MAX_HEADER_BYTES:
            raise InvalidRecordError("a sealed record is cut short")
        about, encrypted = _split_head(head)
        said = _read_about(about)
        batch_key = self._key(said["key_id"]).open(encrypted, BATCH_INFO + about)
        if batch_key is not None and len(batch_key) != envelope.KEY_BYTES:
            batch_key = None
        begun = hashlib.sha256(join_head(head, b""))
        batch = _Batch(said["run_id"], said["dataset"], SEALED_INFO + about, batch_key, begun)
        if len(self._batches) >= MAX_BATCHES_IN_MEMORY:
            self._batches.clear()
        self._batches[head] = batch
        return batch

    def _open_old(self, sealed: bytes) -> tuple[tuple[str, str, str], bytes | None]:
        header = sealed_header(sealed)
        said, ciphertext = _split(sealed)
        plaintext = self._key(header.key_id).open(ciphertext, OLD_SEALED_INFO + said)
        return (header.record_id, header.run_id, header.dataset), plaintext

    def _key(self, key_id: str) -> hybrid.RecipientKey:
        if key_id not in self._keys:
            raise InvalidRecordError(f"it is sealed to another ingest key ({key_id[:16]}), or to one that was retired")
        return self._keys[key_id]

    def __repr__(self) -> str:
        return f"Opener({len(self._keys)} ingest keys)"


@dataclass(frozen=True, repr=False)
class _Batch:
    """The head of many records, opened. key: None where it did not open. begun: SHA-256 of what each record begins with."""

    run_id: str
    dataset: str
    context: bytes
    key: bytes | None
    begun: hashlib._Hash

    def open(self, ident: bytes, rest: bytes) -> bytes | None:
        """Return what was sealed under this head, None where it was altered."""
        try:
            if self.key is not None:
                return envelope.open_envelope(self.key, rest[RECORD_ID_BYTES:], self.context + ident)
        except envelope.EnvelopeError:
            pass
        return None


def sealed_header(sealed: bytes) -> SealedHeader:
    """Read the clear header of a sealed record, of either version; it is authentic once the record was opened.

    Raises InvalidRecordError.
    """
    head, rest = _split(sealed)
    if sealed.startswith(OLD_SEALED_MAGIC):
        return SealedHeader(**_read_texts(head, ("record_id", "run_id", "dataset", "key_id")))
    return SealedHeader(record_id=_text_of(rest[:RECORD_ID_BYTES]), **_read_about(_split_head(head)[0]))


def named_record(head: bytes | None, rest: bytes) -> str | None:
    """Return the record id that a sealed record names in clear, whether it opens or not; None where it names none."""
    try:
        return sealed_header(rest if head is None else join_head(head, rest)).record_id
    except InvalidRecordError:
        return None


def open_record(sealed: bytes, ingest_private_key: hybrid.RecipientKey) -> KeyRecord:
    """Open one sealed record. Raises InvalidRecordError when it is malformed, altered, or sealed to another keystore."""
    return Opener([ingest_private_key]).open(*split_head(sealed))[0]


def split_head(sealed: bytes) -> tuple[bytes | None, bytes]:
    """Return what a sealed record of version 2 shares with its batch, and its rest; None and all of it for other bytes."""
    if not sealed.startswith(SEALED_MAGIC):
        return None, sealed
    try:
        return _split(sealed)
    except InvalidRecordError:
        return None, sealed


def join_head(head: bytes, rest: bytes) -> bytes:
    """Inverse of `split_head`."""
    return b"".join((SEALED_MAGIC, _LENGTH.pack(len(head)), head, rest))


def _text_of(ident: bytes) -> str:
    if len(ident) < RECORD_ID_BYTES:
        raise InvalidRecordError("a sealed record is cut short")
    try:
        return ident.decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidRecordError("a sealed record has a malformed header") from error


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    if len(sealed) < _START or sealed[: len(SEALED_MAGIC)] not in (SEALED_MAGIC, OLD_SEALED_MAGIC):
        raise InvalidRecordError("these bytes are not a sealed key record of version 1 or 2")
    (length,) = _LENGTH.unpack_from(sealed, len(SEALED_MAGIC))
    if length > MAX_HEADER_BYTES or len(sealed) < _START + length:
        raise InvalidRecordError("a sealed record is cut short")
    return sealed[_START : _START + length], sealed[_START + length :]


def _split_head(head: bytes) -> tuple[bytes, bytes]:
    if len(head) < _LENGTH.size:
        raise InvalidRecordError("a sealed record is cut short")
    (length,) = _LENGTH.unpack_from(head)
    if len(head) < _LENGTH.size + length:
        raise InvalidRecordError("a sealed record is cut short")
    return head[_LENGTH.size : _LENGTH.size + length], head[_LENGTH.size + length :]


def _read_about(about: bytes) -> dict[str, str]:
    return _read_texts(about, ("run_id", "dataset", "key_id"))


def _read_texts(data: bytes, names: Sequence[str]) -> dict[str, str]:
    try:
        document = json.loads(data)
        texts = {name: document[name] for name in names}
        "".join(texts.values()).encode()  # texts all, without the lone surrogates that JSON can spell
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRecordError("a sealed record has a malformed header") from error
    return texts
