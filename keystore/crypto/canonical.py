"""Canonical JSON: one value, one sequence of bytes, so that digests, signatures and associated data mean the same everywhere.

Keys sorted by code point, no whitespace, UTF-8 unescaped, floats in Python's shortest round-trip form, no NaN or infinity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

# Floats of these sizes are written without an exponent by Python, and to the letter so by pydantic-core.
_PLAIN_FROM, _PLAIN_BELOW = 1e-4, 1e16

# Made once: `json.dumps` with these settings makes an encoder for every call.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value. Raises ValueError for NaN, infinity and unpaired surrogates."""
    return _encode(value).encode()


def canonical_flat(value: Mapping[str, str | int | None]) -> bytes:
    """Return what `canonical_json` returns, several times faster, for an object of texts and whole numbers.

    Raises ValueError for unpaired surrogates. (pydantic-core writes floats in another form than Python, so none may be in it.)
    """
    return to_json({name: value[name] for name in _sorted(tuple(value))})


def canonical_sorted(value: Any) -> bytes:
    """Return what `canonical_json` returns, several times faster, for a value whose objects have their keys in order already.

    Its floats must be plain (`are_plain`): pydantic-core writes others in another form than Python. Times become ISO 8601, in UTC
    with `Z`. Raises ValueError for unpaired surrogates.
    """
    return to_json(value)


def are_plain(numbers: Iterable[float]) -> bool:
    """Return whether `canonical_sorted` may write these: zero, or of a size that is written without an exponent."""
    return all(_PLAIN_FROM <= one < _PLAIN_BELOW or -_PLAIN_BELOW < one <= -_PLAIN_FROM or one == 0 for one in numbers)


@lru_cache(maxsize=256)
def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` in lowercase hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def utc_now() -> datetime:
    """The clock of a keystore unless another is given."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Return an aware datetime as `2026-11-22T10:11:12.123456Z`: fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """Inverse of `timestamp`. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
