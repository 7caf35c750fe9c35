"""Shards: files of sealed records, published durably and read without trust.

    shard, version 2 = "KASHARD2" || u32 heads || (u32 length || head) * heads
                       || u32 count || (u32 head || u32 length || rest of the sealed record) * count || SHA-256 of all before it
    shard, version 1 = "KASHARD1" || u32 count || (u32 length || sealed record) * count || SHA-256 of all before it

The head of a sealed record of version 2, which many share, is written once. A record without one names head 0xffffffff.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from keystore.errors import InvalidRecordError, ShardExistsError, StorageError, TamperedError
from keystore.intake.records import MAX_CANONICAL_BYTES
from keystore.intake.sealing import join_head, split_head
from keystore.storage import durable

SHARD_MAGIC = b"KASHARD2"
OLD_SHARD_MAGIC = b"KASHARD1"
SHARD_SUFFIX = ".keys"
DIGEST_BYTES = 32
MAX_SEALED_BYTES = 2 * MAX_CANONICAL_BYTES
MAX_SHARD_BYTES = 1024 * 1024 * 1024  # read into memory at once by ingest
_NO_HEAD = 0xFFFFFFFF
_LENGTH = struct.Struct(">I")
_HEAD_AND_LENGTH = struct.Struct(">II")
Parts = tuple[bytes | None, bytes]  # of a sealed record
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def shard_path(directory: Path, name: str) -> Path:
    """Return where the shard called `name` (a base name, without suffix) lives. Raises InvalidRecordError for a bad name."""
    return directory / shard_file(name)


def shard_file(name: str) -> str:
    """Return the file name of the shard called `name`. Raises InvalidRecordError for a bad name."""
    if not _SHARD_NAME.fullmatch(name) or name.endswith(SHARD_SUFFIX):
        raise InvalidRecordError(
            f"{name!r} is not a shard name; use letters, digits, '.', '_' and '-', without the suffix {SHARD_SUFFIX}"
        )
    return name + SHARD_SUFFIX


def write_shard(directory: Path, name: str, sealed: Sequence[bytes]) -> Path:
    """Publish `directory/name.keys` durably: after return it survives a power cut; before, it is not visible at all.

    Raises ShardExistsError when a shard of that name exists (it is left as it is), StorageError when it can not be written.
    """
    path = shard_path(directory, name)
    try:
        durable.make_directory(directory)
        durable.write_new(path, shard_bytes(sealed))
    except FileExistsError as error:
        raise ShardExistsError(
            f"{path} exists and was not overwritten; ingest it, or choose another shard name"
        ) from error
    except OSError as error:
        raise StorageError(
            f"sealed shard {path} can not be written ({error.strerror}); free space or mend the permissions"
        ) from error
    return path


def shard_bytes(sealed: Sequence[bytes]) -> bytes:
    """Return the bytes of a shard of these sealed records."""
    body = _framed(sealed)
    return body + hashlib.sha256(body).digest()


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
    """Return the sealed records in the bytes of a shard, each with its head. Raises TamperedError naming the shard."""
    return [rest if head is None else join_head(head, rest) for head, rest in shard_parts(data, name)]


def shard_parts(data: bytes, name: str) -> list[Parts]:
    """As `parse_shard`, with each record as `split_head` gives it; those that share a head have the same object."""
    damaged = TamperedError(
        f"sealed shard {name} is truncated or was altered; restore it from a copy or run its images again"
    )
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if not hmac.compare_digest(hashlib.sha256(body).digest(), digest):
        raise damaged
    try:
        if body.startswith(SHARD_MAGIC):
            return _read(body)
        if body.startswith(OLD_SHARD_MAGIC):
            return _read_old(body)
    except (struct.error, IndexError, ValueError):
        raise damaged from None
    raise damaged


def _framed(sealed: Sequence[bytes]) -> bytes:
    heads: dict[bytes, int] = {}
    records: list[bytes] = []
    begin, number = b"", _NO_HEAD  # of the record before, which the next one most often begins like
    for one in sealed:
        if begin and one.startswith(begin):
            rest = one[len(begin) :]
        else:
            head, rest = split_head(one)
            begin = b"" if head is None else join_head(head, b"")
            number = _NO_HEAD if head is None else heads.setdefault(head, len(heads))
        records += [_HEAD_AND_LENGTH.pack(number, len(rest)), rest]
    framed = [part for head in heads for part in (_LENGTH.pack(len(head)), head)]
    return b"".join([SHARD_MAGIC, _LENGTH.pack(len(heads)), *framed, _LENGTH.pack(len(sealed)), *records])


def _read(body: bytes) -> list[Parts]:
    position = len(SHARD_MAGIC)
    count, position = _number(body, position)
    heads: list[bytes] = []
    for _ in range(count):
        length, position = _number(body, position)
        head, position = _part(body, position, length)
        heads.append(head)
    count, position = _number(body, position)
    sealed: list[Parts] = []
    for _ in range(count):
        number, length = _HEAD_AND_LENGTH.unpack_from(body, position)
        rest, position = _part(body, position + _HEAD_AND_LENGTH.size, length)
        sealed.append(split_head(rest) if number == _NO_HEAD else (heads[number], rest))
    _check_end(body, position)
    return sealed


def _read_old(body: bytes) -> list[Parts]:
    count, position = _number(body, len(OLD_SHARD_MAGIC))
    sealed: list[Parts] = []
    for _ in range(count):
        length, position = _number(body, position)
        one, position = _part(body, position, length)
        sealed.append(split_head(one))
    _check_end(body, position)
    return sealed


def _number(body: bytes, position: int) -> tuple[int, int]:
    (number,) = _LENGTH.unpack_from(body, position)
    return number, position + _LENGTH.size


def _part(body: bytes, position: int, length: int) -> tuple[bytes, int]:
    if length > MAX_SEALED_BYTES or len(body) < position + length:
        raise ValueError
    return body[position : position + length], position + length


def _check_end(body: bytes, position: int) -> None:
    if position != len(body):
        raise ValueError
