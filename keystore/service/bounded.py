"""One HTTP call to an address that is not believed: no redirect is followed, and its answer has a bounded size and time."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx2

_PLAIN = {"Accept-Encoding": "identity"}  # compressed, an answer's size would say little


class TooLongError(Exception):
    """An answer has more bytes than it may have."""


@dataclass(frozen=True)
class Answer:
    """status: of HTTP. content: its body, as it came."""

    status: int
    content: bytes


def ask(
    method: str,
    url: str,
    authorities: ssl.SSLContext,
    max_bytes: int,
    seconds: float,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Call, and return the answer, whatever its status. seconds: for all of it; half of them for one step.

    Raises TooLongError, httpx2.HTTPError: not reached, or too slow; httpx2.InvalidURL.
    """
    content = bytearray()
    with (
        httpx2.Client(timeout=seconds / 2, follow_redirects=False, trust_env=False, verify=authorities) as http,
        _cut_off(http, seconds),
        http.stream(method, url, data=form, headers={**_PLAIN, **(headers or {})}) as answer,
    ):
        for part in answer.iter_raw():
            content += part
            if len(content) > max_bytes:
                raise TooLongError
    return Answer(answer.status_code, bytes(content))


@contextlib.contextmanager
def _cut_off(http: httpx2.Client, seconds: float) -> Iterator[None]:
    """Close the connection when the time for a whole answer is up: what comes byte by byte keeps every single wait short."""
    timer = threading.Timer(seconds, http.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
