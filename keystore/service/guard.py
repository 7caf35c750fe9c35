"""The guard: before anything of a call is read, whose it is, whether that role may make it, how often, and how much it sends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from keystore.decisions.tokens import Caller
from keystore.served import ServedKeystore
from keystore.service.endpoints import ENDPOINTS, SMALL_BODY_BYTES, Endpoint
from keystore.service.limits import Rates
from keystore.service.observing import NOTES

SCHEME = "bearer "
MINUTE, HOUR = 60, 3600
REFUSALS_PER_HOUR = 30  # of one token: each is an entry of the log
RUNS_PER_HOUR = 60  # of one token: each is an entry of the log


class CallError(Exception):
    """A call that is answered with a status and a code, and nothing of it done."""

    def __init__(self, status: int, code: str, detail: str, retry_after: float = 0) -> None:
        super().__init__(code)
        self.status, self.code, self.detail, self.retry_after = status, code, detail, retry_after


def nothing_here() -> CallError:
    """Return the one answer for what is not there, and for what the caller may not see."""
    return CallError(404, "not-found", "there is nothing here for this token")


class Guard:
    """Who calls, and how often they may."""

    def __init__(self, keystore: ServedKeystore) -> None:
        self._keystore = keystore
        self._rates = Rates()

    def admit(self, headers: Headers, name: str, endpoint: Endpoint) -> Caller:
        """Return who calls an endpoint that needs a token. Raises CallError."""
        given = headers.getlist("authorization")
        token = given[0] if len(given) == 1 else ""
        caller = None
        if token[: len(SCHEME)].lower() == SCHEME:
            caller = self._keystore.authenticate(token[len(SCHEME) :])
        if caller is None:
            raise CallError(401, "token", "a valid token is needed: it is missing, wrong, expired or revoked")
        self.let_in(caller, name, endpoint)
        return caller

    def let_in(self, caller: Caller, name: str, endpoint: Endpoint) -> None:
        """Count one call of a caller who is known. Raises CallError: it is not for that role, or there were too many."""
        if caller.role not in endpoint.roles:
            raise nothing_here()
        self.hold(caller, name, endpoint.per_minute, MINUTE)

    def hold(self, caller: Caller, what: str, most: int, seconds: float) -> None:
        """Count one try. Raises CallError: there were too many."""
        _too_many(self._rates.take((caller.token_id, what), most, seconds))

    def check_refusals(self, caller: Caller) -> None:
        """Raise CallError while a token was refused so often that the log would be flooded."""
        _too_many(self._rates.wait((caller.token_id, "refusals"), REFUSALS_PER_HOUR, HOUR))

    def count_refusal(self, caller: Caller) -> None:
        """Count one refusal that was logged."""
        self._rates.take((caller.token_id, "refusals"), REFUSALS_PER_HOUR, HOUR)


def _too_many(seconds: float) -> None:
    if seconds > 0:
        raise CallError(429, "too-many", "too many of these from this token; wait, then go on", seconds)


class GuardedRoute(APIRoute):
    """A route of the table: no byte of its body is read, and none of its parameters, before the guard let the caller in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See fastapi.routing.APIRoute."""
        handler = super().get_route_handler()
        name, endpoint = self.name, ENDPOINTS[self.name]

        async def guarded(request: Request) -> Response:
            notes = request.scope.setdefault(NOTES, {})
            notes["endpoint"] = name
            if endpoint.roles:
                guard: Guard = request.app.state.guard
                caller = await run_in_threadpool(guard.admit, request.headers, name, endpoint)
                notes |= {"token": caller.token_id, "role": caller.role.value}
                request.state.caller = caller
            large = request.app.state.large_bodies if endpoint.body_bytes > SMALL_BODY_BYTES else nullcontext()
            async with large:
                request._body = await read_body(request, endpoint)  # what `request.body()` returns from now on
                return await handler(request)

        return guarded


async def read_body(request: Request, endpoint: Endpoint) -> bytes:
    """Return the body. Raises CallError: it is larger than the endpoint takes, or too slow to come."""
    too_large = CallError(413, "too-large", f"a body has {endpoint.body_bytes} bytes here at most")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > endpoint.body_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(endpoint.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > endpoint.body_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise CallError(408, "too-slow", f"a body comes within {endpoint.body_seconds} seconds") from None
    return b"".join(parts)


def retry_after(error: CallError) -> dict[str, str]:
    """Return the headers that go with a refusal."""
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
