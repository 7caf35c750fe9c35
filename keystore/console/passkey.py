"""Passkeys in the console: one is made and shown to work, its line is handed out, and what it signs becomes an approval.

What counts is decided in keystore.decisions: a line by signatures.parse_public_line, an approval by RequestDesk.approve. Here a
browser is asked the right question.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from keystore.console.gate import Form, Visit
from keystore.crypto.canonical import timestamp, utc_now
from keystore.decisions import passkeys
from keystore.decisions.changes import check_name_of_key
from keystore.decisions.passkeys import MAX_CREDENTIAL_CHARACTERS, MAX_PART_BYTES, Assertion, Passkey
from keystore.decisions.signatures import key_id_of, own_approval_message, parse_public_line, passkey_line
from keystore.decisions.views import ApproverView
from keystore.service.guard import CallError
from keystore.service.messages import SeenRequest

USER_ID_BYTES = 32  # of a new passkey; says nothing of whose it is
_NEW_LABEL = b"keyanon new passkey v1\n"


@dataclass(frozen=True)
class Asked:
    """What a passkey is asked to sign. approved_at: for all; challenges: base64url, by how many seconds the grant may live, by 0
    where nothing is to be chosen."""

    approved_at: str
    challenges: dict[int, str]


def own_key(visit: Visit) -> ApproverView | None:
    """Return the key that the caller approves with now, None where the keystore keeps one for them."""
    keys = visit.office.keystore.approvers()
    return next((one for one in keys if one.person == visit.caller.person and one.removed_at is None), None)


def challenges(request: SeenRequest, key: ApproverView, times: list[int]) -> Asked:
    """Return what this key is to sign to approve a request as it is shown, for each time that may be chosen.

    Raises TamperedError: a change to put a key on the list that has another id than is shown.
    """
    check_name_of_key(request.change)
    approved_at = timestamp(utc_now())
    of = (request.keystore, request.request_id, request.digest, key.key, approved_at)
    # The longest time is the policy's: who takes that one chose none.
    messages = {one: own_approval_message(*of, one) for one in times[:-1]}
    messages[times[-1] if times else 0] = own_approval_message(*of)
    return Asked(approved_at, {one: _base64url(passkeys.challenge_of(said)) for one, said in messages.items()})


def signed_of(form: Form) -> dict[str, object]:
    """Return what a form says was signed, as a message of the HTTP interface has it."""
    assertion = {name: form.get(name, "") for name in ("authenticator_data", "client_data")}
    return {**{name: form.get(name, "") for name in ("key", "approved_at", "signature")}, "assertion": assertion}


def passkey_page(visit: Visit) -> Response:
    """Show the caller's key, and where there is none how to make a passkey."""
    user = _base64url(secrets.token_bytes(USER_ID_BYTES))
    challenge = _base64url(_new_challenge(visit))
    return _show(visit, "make", challenge=challenge, user=user)


def make_passkey(visit: Visit) -> Response:
    """Take a passkey that the browser made, and ask it to sign what it is."""
    client_data, attestation = (_bytes(visit.form, name) for name in ("client_data", "attestation"))
    passkey = _passkey(visit)
    challenge = _new_challenge(visit)
    public_key = passkeys.created(
        attestation, client_data, passkey.credential, challenge, passkey.rp_id, passkey.origin
    )
    said = passkeys.enrolment_message(passkeys.statement(public_key, passkey))
    return _show(
        visit,
        "prove",
        challenge=_base64url(passkeys.challenge_of(said)),
        credential=passkey.credential,
        public_key=base64.b64encode(public_key).decode(),
    )


def prove_passkey(visit: Visit) -> Response:
    """Show the line of a passkey that signed what it is."""
    public_key, signature = (_bytes(visit.form, name) for name in ("public_key", "signature"))
    assertion = Assertion(*(_bytes(visit.form, name) for name in ("authenticator_data", "client_data")))
    line = passkey_line(public_key, _passkey(visit), assertion, signature)
    key = parse_public_line(line)
    return _show(visit, "line", line=line, key_id=key_id_of(key.public_key))


def _show(visit: Visit, step: str, **values: Any) -> Response:
    return visit.show("passkey.html", step=step, key=own_key(visit), rp_id=_rp_id(visit), **values)


def _passkey(visit: Visit) -> Passkey:
    credential = visit.form.get("credential", "")
    if not 0 < len(credential) <= MAX_CREDENTIAL_CHARACTERS:
        raise CallError(422, "invalid", "not as this form says: credential")
    return Passkey(credential, visit.gate.origin, _rp_id(visit))


def _rp_id(visit: Visit) -> str:
    return urlsplit(visit.gate.origin).hostname or ""


def _new_challenge(visit: Visit) -> bytes:
    return hashlib.sha256(_NEW_LABEL + visit.session.csrf.encode()).digest()


def _bytes(form: Form, name: str) -> bytes:
    try:
        found = base64.b64decode(form.get(name, ""), validate=True)
    except ValueError:
        found = b""
    if not 0 < len(found) <= MAX_PART_BYTES:
        raise CallError(422, "invalid", f"not as this form says: {name}")
    return found


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
