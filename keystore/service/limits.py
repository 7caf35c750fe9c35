"""How often: a bucket of tries for each key, which fills again with time. In memory: a restart empties nothing but these."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

MAX_KEYS = 10_000  # beyond that the half that was asked for longest ago is forgotten


class Rates:
    """Tries by key: at most `most` at once, and as many again in `seconds`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # (tries left, when that was so)

    def take(self, key: Hashable, most: int, seconds: float) -> float:
        """Use one try up. Return 0, or after how many seconds there is one again (nothing was used up then)."""
        return self._look(key, most, seconds, use=1)

    def wait(self, key: Hashable, most: int, seconds: float) -> float:
        """Return after how many seconds there is a try: 0 where there is one now. Uses none up."""
        return self._look(key, most, seconds, use=0)

    def _look(self, key: Hashable, most: int, seconds: float, *, use: int) -> float:
        per_second = most / seconds
        with self._lock:
            now = self._clock()
            left, when = self._buckets.get(key, (float(most), now))
            left = min(float(most), left + (now - when) * per_second)
            short = 1 - left
            if short <= 0:
                left -= use
            self._buckets[key] = (left, now)
            if len(self._buckets) > MAX_KEYS:
                self._forget()
        return max(0.0, short / per_second)

    def _forget(self) -> None:
        by_age = sorted(self._buckets, key=lambda key: self._buckets[key][1])
        for key in by_age[: MAX_KEYS // 2]:
            del self._buckets[key]
