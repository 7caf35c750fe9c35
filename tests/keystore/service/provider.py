"""A small identity provider on loopback: discovery, keys that can change, authorization and token endpoint, over real HTTP.

What it says can be bent by a test: the document, the keys, an ID token's header and claims, the key that it is signed with.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

CLIENT, SECRET = "keyanon-service", "s3cret of the client+%"
SUBJECT = "248289761001"


def make_key(algorithm: str, kid: str) -> Key:
    named = {"kid": kid, "use": "sig", "alg": algorithm}
    if algorithm in ("RS256", "PS256"):
        return RSAKey.generate_key(2048, named)
    return ECKey.generate_key("P-256", named) if algorithm == "ES256" else OKPKey.generate_key("Ed25519", named)


class IdProvider:
    """Signs in whoever comes, as `subject`. calls: paths that were asked, in order."""

    def __init__(self, issuer: str, algorithm: str = "ES256") -> None:
        self.issuer, self.algorithm, self.subject = issuer, algorithm, SUBJECT
        self.key = make_key(algorithm, "first")
        self.published: list[Key] = [self.key]
        self.document: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.answer: dict[str, str] = {}  # to the browser, besides code and state
        self.bend: Callable[[str], str] = lambda token: token
        self.replaced: dict[str, Callable[[], Response]] = {}  # path -> what is answered there instead
        self.calls: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self.app = FastAPI()
        self.app.middleware("http")(self._seen)
        self.app.get("/.well-known/openid-configuration")(self.discovery)
        self.app.get("/keys")(self.keys)
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)

    async def _seen(self, request: Request, call_next: Any) -> Response:
        self.calls.append(request.url.path)
        if request.url.path in self.replaced:
            return self.replaced[request.url.path]()
        answer: Response = await call_next(request)
        return answer

    def rotate(self) -> None:
        """Sign with another key from now on, and publish that alone."""
        self.key = make_key(self.algorithm, f"key-{len(self.calls)}")
        self.published = [self.key]

    def discovery(self) -> dict[str, Any]:
        at = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "authorization_response_iss_parameter_supported": True,
        }
        return {name: value for name, value in {**at, **self.document}.items() if value is not None}

    def keys(self) -> dict[str, Any]:
        return {"keys": [one.as_dict(private=False) for one in self.published]}

    def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) == (CLIENT, "code", "S256")
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        said = {"code": code, "state": asked["state"], "iss": self.issuer} | self.answer
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(said)}", 302)

    async def token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self._codes.pop(form.get("code", ""), None)
        verified = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        given = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode().split(":")
        client = tuple(unquote_plus(part) for part in given)
        if (
            asked is None
            or client != (CLIENT, SECRET)
            or verified.rstrip(b"=").decode() != asked["code_challenge"]
            or form.get("redirect_uri") != asked["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(
            {"access_token": "unused", "token_type": "Bearer", "id_token": self.id_token(asked["nonce"])}
        )

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        said = {"iss": self.issuer, "sub": self.subject, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce}
        claims = {name: value for name, value in {**said, **self.claims}.items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        return self.bend(jwt.encode(header, claims, self.key, algorithms=[self.algorithm]))


@contextmanager
def running(algorithm: str = "ES256") -> Iterator[IdProvider]:
    """A provider that answers on a free port of this machine."""
    listening = socket.create_server(("127.0.0.1", 0))
    provider = IdProvider(f"http://127.0.0.1:{listening.getsockname()[1]}", algorithm)
    server = uvicorn.Server(uvicorn.Config(provider.app, log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(30)
