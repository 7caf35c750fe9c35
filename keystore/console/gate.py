"""The gate: before a page is made, whether it was asked for by a page of this console, by whom, and whether their role may.

A form is taken from a page of this origin only (`Origin`, which a browser always says of a form), with the token of its session
(which no other site can read), in a session whose cookie other sites do not get sent (`SameSite=Strict`).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from keystore.console.pages import PAGES, ROLES, ROOT, Page
from keystore.console.rendering import page, secured
from keystore.console.sessions import Session, Sessions
from keystore.decisions.tokens import Caller
from keystore.errors import KeystoreError, StorageError
from keystore.service.guard import CallError, nothing_here, read_body, retry_after
from keystore.service.loopback import is_loopback
from keystore.service.messages import Problem
from keystore.service.observing import NOTES
from keystore.service.office import Office
from keystore.service.problems import answer_to, malformed

COOKIE = "__Host-keyanon"  # the prefix: a browser takes it over TLS only, for this host only
MAX_FIELDS = 20  # of a form
CSRF_FIELD = "csrf"
Form = Mapping[str, str]


@dataclass(frozen=True)
class Visit:
    """One call of a page by somebody who signed in."""

    gate: Gate
    caller: Caller
    session: Session
    form: Form
    parameters: Mapping[str, str]  # of the path
    query: Mapping[str, str]

    @property
    def office(self) -> Office:
        """What the calls of the service share."""
        return self.gate.office

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page of this session."""
        notice = self.session.take_notice()
        return page(template, status, caller=self.caller, csrf=self.session.csrf, root=ROOT, notice=notice, **values)

    def go(self, path: str, notice: str = "") -> Response:
        """Send the browser on to another page, which says `notice`."""
        self.session.notice = notice
        return RedirectResponse(ROOT + path, 303)


Handler = Callable[[Visit], Response]
OpenHandler = Callable[["Gate", Form, Request], Response]


def checked_origin(origin: str) -> str:
    """Return the origin that browsers reach the console at. Raises StorageError: it is none, or not https elsewhere."""
    at = urlsplit(origin)
    try:
        well = at.hostname is not None and origin == f"{at.scheme}://{at.netloc}" and "@" not in at.netloc
        well = well and origin == origin.lower() and (at.port is None or at.port not in (80, 443))
    except ValueError:
        well = False
    if not well or not (at.scheme == "https" or (at.scheme == "http" and is_loopback(at.hostname or ""))):
        raise StorageError(
            f"{origin} is no origin of a console: give it as a browser's address line begins, such as https://keys.example.org "
            "or https://keys.example.org:8443, in small letters, without a path"
        )
    return origin


class Gate:
    """The way in to every page of one console."""

    def __init__(self, office: Office, origin: str) -> None:
        self.office, self.origin = office, origin
        self.sessions = Sessions()

    def route(self, name: str, handle: Handler) -> Route:
        """Return the route of a page for those who signed in."""
        row = PAGES[name]

        async def visited(request: Request) -> Response:
            return await self._visited(request, row, handle)

        return self._route(name, visited)

    def open_route(self, name: str, handle: OpenHandler) -> Route:
        """Return the route of a page for everybody."""
        row = PAGES[name]

        async def seen(request: Request) -> Response:
            form = _fields(request, await read_body(request, row.endpoint))
            return await run_in_threadpool(handle, self, form, request)

        return self._route(name, seen)

    def _route(self, name: str, make: Callable[[Request], Awaitable[Response]]) -> Route:
        async def answer(request: Request) -> Response:
            request.scope.setdefault(NOTES, {})["endpoint"] = f"console.{name}"
            try:
                if request.method != "GET" and request.headers.get("origin") != self.origin:
                    raise CallError(403, "origin", "a form is taken from a page of this console only; nothing was done")
                return secured(await make(request))
            except (CallError, KeystoreError) as error:
                return secured(await run_in_threadpool(self._error_page, error))

        return Route(PAGES[name].path, answer, methods=[PAGES[name].method], name=f"console.{name}")

    async def _visited(self, request: Request, row: Page, handle: Handler) -> Response:
        session, caller = await run_in_threadpool(self._known, request, row)
        request.scope[NOTES] |= {"token": caller.token_id, "role": caller.role.value}
        form = _fields(request, await read_body(request, row.endpoint))
        if row.method != "GET" and not hmac.compare_digest(form.get(CSRF_FIELD, "").encode(), session.csrf.encode()):
            raise CallError(403, "csrf", "this form is not of your present session; go back, reload it, try again")
        visit = Visit(self, caller, session, form, request.path_params, dict(request.query_params))
        return await run_in_threadpool(_validated, handle, visit)

    def _known(self, request: Request, row: Page) -> tuple[Session, Caller]:
        cookie = request.cookies.get(COOKIE)
        session = None if cookie is None else self.sessions.find(cookie)
        caller = None if session is None else self.office.keystore.holder(session.token_id)
        if session is None or caller is None:
            raise CallError(401, "token", "you are not signed in, or not any more; sign in with your token")
        self.office.guard.let_in(caller, row.of or "console", row.endpoint)
        return session, caller

    def nothing(self) -> Route:
        """Return the route of everything else below the console's root."""

        async def answer(request: Request) -> Response:
            return secured(await run_in_threadpool(self._error_page, nothing_here()))

        return Route(ROOT + "/{rest:path}", answer, methods=["GET", "POST", "PUT", "DELETE", "PATCH"], name="console")

    @property
    def has_provider(self) -> bool:
        """Whether people can sign in through an identity provider."""
        return self.office.sign_ins is not None

    def _error_page(self, error: CallError | KeystoreError) -> Response:
        """Return the page of an error. It is the same whoever asks, and wherever."""
        status, problem = answer_to(error)
        if status == 401:
            return sign_in_form(self, problem, 401)
        response = page("problem.html", status, root=ROOT, problem=problem, caller=None, notice="")
        if isinstance(error, CallError):
            response.headers.update(retry_after(error))
        return response


def sign_in_form(gate: Gate, problem: Problem | None = None, status: int = 200) -> Response:
    """Return the page to sign in on."""
    offered = {"provider": gate.has_provider, "roles": ROLES}
    return page("sign_in.html", status, root=ROOT, problem=problem, caller=None, notice="", **offered)


def _validated(handle: Handler, visit: Visit) -> Response:
    try:
        return handle(visit)
    except ValidationError as error:
        raise malformed(error.errors(), "this form") from None


def _fields(request: Request, body: bytes) -> Form:
    if request.method == "GET":
        return {}
    try:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise ValueError(kind)
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("a field is there twice")
    except ValueError:
        raise CallError(422, "invalid", "this is no form of the console") from None
    return fields
