"""Who is signed in: a random number in a cookie, and behind it, in memory, the id of a token that is asked for again each time.

A token that expires or is revoked ends its sessions with it; so does a restart. The token itself is not kept.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

IDLE_SECONDS = 15 * 60  # after which whoever went away is signed out
LIFE_SECONDS = 8 * 3600  # after which everybody is
MAX_OF_A_TOKEN = 5  # at once; the one that was used longest ago ends for another
_ID_BYTES = 32


@dataclass
class Session:
    """One browser of one token. csrf: what each form of it carries. notice: what the next page says, once."""

    token_id: str
    begun: float
    used: float
    csrf: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(_ID_BYTES))
    notice: str = field(repr=False, default="")

    def take_notice(self) -> str:
        """Return what is to be said, and forget it."""
        said, self.notice = self.notice, ""
        return said


class Sessions:
    """The sessions of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_digest: dict[bytes, Session] = {}

    def begin(self, token_id: str) -> str:
        """Begin a session of a token and return what its cookie holds."""
        text = secrets.token_urlsafe(_ID_BYTES)
        with self._lock:
            now = self._clock()
            self._by_digest = {key: one for key, one in self._by_digest.items() if not _ended(one, now)}
            of_token = sorted(
                (key for key, one in self._by_digest.items() if one.token_id == token_id),
                key=lambda key: self._by_digest[key].used,
            )
            for key in of_token[: max(0, len(of_token) + 1 - MAX_OF_A_TOKEN)]:
                del self._by_digest[key]
            self._by_digest[_digest(text)] = Session(token_id, now, now)
        return text

    def find(self, text: str) -> Session | None:
        """Return the session of a cookie, which is used with this; None where there is none, or none any more."""
        with self._lock:
            now = self._clock()
            session = self._by_digest.get(_digest(text))
            if session is None or _ended(session, now):
                self._by_digest.pop(_digest(text), None)
                return None
            session.used = now
            return session

    def end(self, session: Session) -> None:
        """End a session."""
        with self._lock:
            self._by_digest = {key: one for key, one in self._by_digest.items() if one is not session}


def _ended(session: Session, now: float) -> bool:
    return now - session.used >= IDLE_SECONDS or now - session.begun >= LIFE_SECONDS


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
