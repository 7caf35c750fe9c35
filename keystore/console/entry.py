"""The way in: the pages that everybody gets, and where the console is joined to the service that it shows."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from keystore.console import governing, passkey, screens
from keystore.console.gate import COOKIE, Form, Gate, checked_origin, sign_in_form
from keystore.console.pages import PAGES, PROVIDER_ANSWER, ROLES, ROOT
from keystore.console.rendering import page
from keystore.console.sessions import LIFE_SECONDS
from keystore.decisions.api_token import Role
from keystore.decisions.tokens import token_id_of
from keystore.service.guard import MINUTE, CallError, nothing_here

if TYPE_CHECKING:
    from keystore.service.oidc.sign_in import SignIns

SIGN_INS_PER_MINUTE = 20  # of one token


def add_console(app: FastAPI, origin: str) -> None:
    """Add the console to the service, out of its OpenAPI document. origin: where browsers reach it. Raises StorageError."""
    gate = Gate(app.state.office, checked_origin(origin))
    everybodys = {
        "sign_in_page": sign_in_page,
        "sign_in": sign_in,
        "provider": provider,
        "provider_answer": provider_answer,
        "style": style,
        "script": script,
        "pictures_script": pictures_script,
    }
    for name in PAGES:
        if name in everybodys:
            app.router.routes.append(gate.open_route(name, everybodys[name]))
        else:
            screen = next(getattr(of, name) for of in (passkey, governing, screens) if hasattr(of, name))
            app.router.routes.append(gate.route(name, screen))
    app.router.routes.append(gate.nothing())


def sign_in_page(gate: Gate, _: Form, __: Request) -> Response:
    """Show the form to sign in by."""
    return sign_in_form(gate)


def sign_in(gate: Gate, form: Form, _: Request) -> Response:
    """Begin a session of whoever has a token."""
    caller = gate.office.keystore.authenticate(form.get("token", "").strip())
    if caller is None:
        raise CallError(401, "token", "a valid token is needed: it is missing, wrong, expired or revoked")
    if caller.role not in ROLES:
        raise CallError(403, "role", "there are no pages for a token of this role")
    gate.office.guard.hold(caller, "console.sign_in", SIGN_INS_PER_MINUTE, MINUTE)
    return _with_session(gate, caller.token_id, RedirectResponse(ROOT, 303))


def provider(gate: Gate, _: Form, request: Request) -> Response:
    """Send the browser to the identity provider."""
    sign_ins = _sign_ins(gate)
    try:
        role = Role(request.query_params["role"]) if "role" in request.query_params else None
    except ValueError:
        raise CallError(422, "invalid", "there is no such role") from None
    peer = "" if request.client is None else request.client.host
    address, browser = sign_ins.begin_page(peer, gate.origin + PROVIDER_ANSWER, role)
    response = RedirectResponse(address, 303)
    sign_ins.remember(response, browser)
    return response


def provider_answer(gate: Gate, _: Form, request: Request) -> Response:
    """Begin a session of whoever the provider vouches for.

    The browser comes from another site, so it would not send the session's cookie to where it is sent on; a page of this site
    goes there by itself.
    """
    sign_ins, said = _sign_ins(gate), request.query_params
    browser = request.cookies.get(sign_ins.cookie)
    binding = sign_ins.arrive(said.get("state", ""), browser, said.get("code"), said.get("error"), said.get("iss"))
    assert binding.role in ROLES, "an ingest token is for no identity"
    with gate.office.one_writer:
        token = sign_ins.issue(binding)
    return _with_session(gate, token_id_of(token), page("arrived.html", root=ROOT, caller=None, notice=""))


def _sign_ins(gate: Gate) -> SignIns:
    if gate.office.sign_ins is None:
        raise nothing_here()
    return gate.office.sign_ins


def _with_session(gate: Gate, token_id: str, response: Response) -> Response:
    text = gate.sessions.begin(token_id)
    response.set_cookie(COOKIE, text, max_age=LIFE_SECONDS, path="/", secure=True, httponly=True, samesite="strict")
    return response


def style(_: Gate, __: Form, ___: Request) -> Response:
    """Return the style sheet."""
    return _file("style.css", "text/css")


def script(_: Gate, __: Form, ___: Request) -> Response:
    """Return the script that asks the browser for a passkey."""
    return _file("passkey.js", "text/javascript")


def pictures_script(_: Gate, __: Form, ___: Request) -> Response:
    """Return the script that shows pictures of the approver's own."""
    return _file("pictures.js", "text/javascript")


def _file(name: str, kind: str) -> Response:
    return Response(files("keystore.console").joinpath("static", name).read_bytes(), media_type=kind)
