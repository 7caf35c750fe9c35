"""The application: every endpoint of the table with its guard, and every error as one kind of answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from keystore.errors import KeystoreError
from keystore.served import ServedKeystore
from keystore.service import audit_calls, calls, sign_in_calls
from keystore.service.endpoints import ENDPOINTS, Endpoint
from keystore.service.guard import CallError, Guard, GuardedRoute, nothing_here, retry_after
from keystore.service.messages import Problem
from keystore.service.observing import Metrics
from keystore.service.office import Office
from keystore.service.problems import answer_to, malformed

if TYPE_CHECKING:
    from keystore.service.oidc.sign_in import SignIns

SWEEP_SECONDS = 60.0  # between two looks for replies that may not be fetched any more
MAX_LARGE_BODIES = 8  # in memory at once
_LOGGER = logging.getLogger(__name__)
_NO_CONTENT = frozenset({"put_shard", "remove_shard", "remove_receipts", "revoke_token"})
_CALLS = (calls, audit_calls, sign_in_calls)
_SIGN_IN = frozenset({"sign_in", "sign_in_callback", "sign_in_token"})
_REDIRECTS = frozenset({"sign_in", "sign_in_callback"})
_MEDIA = {
    "ingest_key": "text/plain",
    "metrics": "text/plain",
    "checkpoint": "text/plain",
    "release": "application/octet-stream",
}


def create_app(
    keystore: ServedKeystore,
    inbox_root: Path,
    told: Metrics,
    sign_ins: SignIns | None = None,
    *,
    may_break_glass: bool = False,
) -> FastAPI:
    """Return the application on an open keystore.

    told: what is counted; sign_ins: through a provider, where there is one; may_break_glass: who the policy names may, here too.
    """

    @contextlib.asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(app.state.office))
        yield
        task.cancel()

    app = FastAPI(
        title="keyanon keystore", version="1", docs_url=None, redoc_url=None, lifespan=sweeping, redirect_slashes=False
    )
    app.state.guard = Guard(keystore)
    app.state.large_bodies = asyncio.Semaphore(MAX_LARGE_BODIES)
    app.state.office = Office(keystore, inbox_root, app.state.guard, told, sign_ins, may_break_glass=may_break_glass)
    app.router.route_class = GuardedRoute
    for name, endpoint in ENDPOINTS.items():
        app.router.add_api_route(
            endpoint.path,
            next(getattr(of, name) for of in _CALLS if hasattr(of, name)),
            methods=[endpoint.method],
            name=name,
            operation_id=name,
            dependencies=[Security(HTTPBearer(auto_error=False))] if endpoint.roles else [],
            **_documented(name, endpoint),
        )
    app.add_exception_handler(CallError, _call_error)
    app.add_exception_handler(KeystoreError, _keystore_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _documented(name: str, endpoint: Endpoint) -> dict[str, Any]:
    """What the OpenAPI document says of an endpoint beside what its function says."""
    statuses = {408, 413, 503} | ({401, 404, 422, 429} if endpoint.roles else set())
    statuses |= {409} if endpoint.method != "GET" else set()
    statuses |= {403, 404, 422, 429} if name in _SIGN_IN else set()
    responses: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in sorted(statuses)}
    said: dict[str, Any] = {"responses": responses}
    if name in _NO_CONTENT:
        said |= {"status_code": 204, "response_class": Response}
    elif name in _REDIRECTS:
        responses[302] = {"description": "Where the browser goes next."}
        said |= {"status_code": 302, "response_class": Response}
    elif name in _MEDIA:
        content = {_MEDIA[name]: {"schema": {"type": "string", "format": "binary"}}}
        responses[200] = {"content": content, "description": "As asked for."}
        said["response_class"] = Response
    if name == "put_shard":
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        said["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return said


async def _sweep(office: Office) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await run_in_threadpool(office.keystore.drop_stale_replies)
        except KeystoreError as error:
            _LOGGER.warning("stale replies were not dropped: %s", error)


def _answer(error: CallError | KeystoreError, headers: dict[str, str] | None = None) -> JSONResponse:
    status, problem = answer_to(error)
    return JSONResponse(problem.model_dump(), status, headers)


async def _call_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CallError)
    return _answer(error, retry_after(error))


async def _keystore_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, KeystoreError)
    return _answer(error)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(malformed(error.errors(), "the OpenAPI document"))


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = getattr(error, "headers", None)
    if status == 405:
        return _answer(CallError(405, "method", "this path has no such method"), dict(headers or {}))
    return _answer(nothing_here())
