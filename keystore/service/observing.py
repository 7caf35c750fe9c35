"""What the service tells its operator: a JSON line for each call and metrics for Prometheus. Neither holds a name, a purpose,
an image, a token or a path that a caller chose: of a call, its endpoint, its token's id, its status and its time.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystore.crypto.canonical import timestamp, utc_now

LOGGER = logging.getLogger("keystore.service")
NOTES = "keyanon.notes"  # in the scope: what the guard learns of a call
_UNEXPECTED = (
    b'{"error":"KeystoreError","code":"unexpected","detail":"the service met a defect; its operator has the log"}'
)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        calls = ["endpoint", "status"]
        self.calls = Counter("keyanon_calls", "Calls answered.", calls, registry=self.registry)
        self.seconds = Histogram("keyanon_call_seconds", "Time to answer.", ["endpoint"], registry=self.registry)
        self.releases = Counter(
            "keyanon_releases", "Releases sent, those that were sent again too.", registry=self.registry
        )
        self.refusals = Counter(
            "keyanon_refusals", "Refused by the rules, and logged.", ["code"], registry=self.registry
        )
        self.unreviewed = Gauge(
            "keyanon_break_glass_unreviewed",
            "Times that the glass was broken, without a review.",
            registry=self.registry,
        )
        self.shards = Counter("keyanon_shards", "Sealed shards put into the inbox.", registry=self.registry)


def log_line(event: str, **values: Any) -> None:
    """Write one structured line."""
    LOGGER.info("%s", json.dumps({"time": timestamp(utc_now()), "event": event, **values}))


class Observed:
    """The outermost layer: counts and logs every call, and answers for what no other layer expected."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes: dict[str, Any] = scope.setdefault(NOTES, {})
        status, begin = 0, time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001  whatever it is: its message may quote what a caller wrote
            notes["defect"] = _where(error)
            if status == 0:
                status = 500
                headers = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 500, "headers": headers})
                await send({"type": "http.response.body", "body": _UNEXPECTED})
        finally:
            seconds = time.monotonic() - begin
            endpoint = notes.get("endpoint", "none")
            self._metrics.calls.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(seconds)
            log_line("call", status=status, milliseconds=round(seconds * 1000, 1), **{"endpoint": endpoint, **notes})


def _where(error: BaseException) -> str:
    """Return the type of an error and where it was raised: no message, no value."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" at {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in last)
    return type(error).__name__ + place
