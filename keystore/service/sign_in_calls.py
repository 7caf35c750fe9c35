"""What the endpoints do by which people sign in through an identity provider, for a command on their machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from keystore.decisions.api_token import Role
from keystore.service.arguments import In
from keystore.service.guard import nothing_here
from keystore.service.messages import (
    CHALLENGE_PATTERN,
    MAX_CODE_CHARACTERS,
    MAX_NAME_CHARACTERS,
    STATE_PATTERN,
    Redeeming,
    SignedIn,
)
from keystore.service.office import Office

if TYPE_CHECKING:
    from keystore.service.oidc.sign_in import SignIns


def sign_in(
    request: Request,
    office: In,
    port: Annotated[int, Query(ge=1024, le=65535)],
    challenge: Annotated[str, Query(pattern=CHALLENGE_PATTERN)],
    state: Annotated[str, Query(pattern=STATE_PATTERN)],
    role: Role | None = None,
    dataset: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Send a browser to the identity provider, for a command of its machine that listens on `port` (RFC 8252)."""
    sign_ins = _sign_ins(office)
    peer = "" if request.client is None else request.client.host
    address, browser = sign_ins.begin(peer, port, challenge, state, role, dataset)
    answer = _redirect(address)
    sign_ins.remember(answer, browser)
    return answer


def sign_in_callback(
    request: Request,
    office: In,
    state: Annotated[str, Query(max_length=MAX_CODE_CHARACTERS)],
    code: Annotated[str | None, Query(max_length=MAX_CODE_CHARACTERS)] = None,
    error: Annotated[str | None, Query(max_length=MAX_CODE_CHARACTERS)] = None,
    iss: Annotated[str | None, Query(max_length=MAX_CODE_CHARACTERS)] = None,
) -> Response:
    """Take the provider's answer, and send the browser to the command that waits for it."""
    sign_ins = _sign_ins(office)
    return _redirect(sign_ins.answer(state, request.cookies.get(sign_ins.cookie), code, error, iss))


def sign_in_token(redeeming: Redeeming, office: In) -> SignedIn:
    """Give the command its token: once, for the code that the browser brought it and the verifier that it kept."""
    sign_ins = _sign_ins(office)
    binding = sign_ins.redeem(
        redeeming.code, redeeming.verifier
    )  # strangers do not wait with writers, nor these for them
    with office.one_writer:
        token = sign_ins.issue(binding)
    return SignedIn(token=token, audit_vkey=office.keystore.audit_vkey)


def _sign_ins(office: Office) -> SignIns:
    if office.sign_ins is None:
        raise nothing_here()
    return office.sign_ins


def _redirect(address: str) -> Response:
    return RedirectResponse(address, 302, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
