"""The command's side of a sign-in (RFC 8252): a browser, a port of this machine's loopback, a token for what comes back there."""

from __future__ import annotations

import http.server
import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from pydantic import ValidationError

from keystore.audit.checkpoint import parse_verifier_key
from keystore.errors import ApprovalError, AuditError, StorageError
from keystore.service.connection import TIMEOUT_SECONDS, ServiceUnavailable
from keystore.service.messages import Problem, SignedIn
from keystore.service.oidc.challenge import challenge_of
from keystore.service.oidc.settings import safe_url
from keystore.service.token_file import TokenFile

WAIT_SECONDS = 600.0  # for the person, in the browser
REQUEST_SECONDS = 5.0  # for what connects to the port to say what it wants
MAX_SHOWN = 300  # characters of a refusal
_PAGE = "<!doctype html><meta charset=utf-8><title>keyanon</title><p>{}</p>"


@dataclass(frozen=True)
class _Came:
    code: str | None
    refused: str


def sign_in(url: str, show: Callable[[str], None], role: str | None = None, dataset: str | None = None) -> TokenFile:
    """Let a person sign in to the service at `url`, in a browser. show: brings an address before them.

    Raises StorageError: the service can not be reached, or nobody came back; ApprovalError: nobody was signed in.
    """
    try:
        url = safe_url(url).rstrip("/")
    except ValueError as error:
        raise StorageError(f"{url} {error}: name the service by https://HOST:PORT") from None
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    with _Listening(state) as here:
        asked = {"port": here.server_port, "challenge": challenge_of(verifier), "state": state}
        asked |= {name: value for name, value in (("role", role), ("dataset", dataset)) if value is not None}
        show(f"{url}/v1/sign-in?{urlencode(asked)}")
        came = here.wait()
    if came.code is None:
        raise ApprovalError("sign-in", f"{url}: {came.refused}")
    return _redeemed(url, came.code, verifier)


class _Listening(http.server.HTTPServer):
    """Waits on a free port of this machine for the one request that knows the state; answers all others with nothing."""

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state, self.came = state, None  # type: str, _Came | None

    def wait(self) -> _Came:
        until = time.monotonic() + WAIT_SECONDS
        while self.came is None:
            self.timeout = until - time.monotonic()
            if self.timeout <= 0:
                raise StorageError(f"nobody signed in within {WAIT_SECONDS / 60:.0f} minutes; run the command again")
            self.handle_request()
        return self.came

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a connection that broke: whatever it was, it was not the answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Listening

    def do_GET(self) -> None:
        """Take the browser's answer."""
        said = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items() if len(values) == 1}
        mine = secrets.compare_digest(said.get("state", "").encode(), self.server.state.encode())
        if mine and ("code" in said or "error" in said):
            words = said.get("error_description", "nobody was signed in")[:MAX_SHOWN]
            self.server.came = _Came(said.get("code"), "".join(one for one in words if one.isprintable()))
            words = "Signed in; you can close this page." if "code" in said else "Not signed in; the command says why."
        else:
            words = "Nothing is here."
        body = _PAGE.format(words).encode()
        self.send_response(200 if mine else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the line would hold the code."""


def _redeemed(url: str, code: str, verifier: str) -> TokenFile:
    try:
        with httpx2.Client(
            timeout=TIMEOUT_SECONDS, verify=ssl.create_default_context(), follow_redirects=False, trust_env=False
        ) as http:
            answer = http.post(f"{url}/v1/sign-in/token", json={"code": code, "verifier": verifier})
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ServiceUnavailable(f"the keystore at {url} can not be reached ({type(error).__name__})") from None
    try:
        if answer.status_code == 200:
            given = SignedIn.model_validate_json(answer.content)
            parse_verifier_key(given.audit_vkey)
            return TokenFile(given.token, given.audit_vkey)
        raise ApprovalError("sign-in", f"{url}: {Problem.model_validate_json(answer.content).detail}")
    except (ValidationError, AuditError):
        raise ServiceUnavailable(f"{url} answers {answer.status_code}, and not as a keystore does") from None
