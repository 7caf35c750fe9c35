"""Asking the identity provider: its discovery document, its keys, and an ID token for a code.

The one address that is believed is the issuer's of the settings. What its document names must be https too, on the issuer's host
or one that the settings list; no redirect is followed; an answer has a bounded size and time. Keys are kept for an hour, and
asked for again when a token names one that is not among them, once a minute at most.
"""

from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx2

from keystore.decisions.bindings import Identity
from keystore.service.bounded import TooLongError, ask
from keystore.service.oidc.id_token import (
    Expected,
    SignInError,
    UnknownKeyError,
    public_keys,
    strict_json,
    verify_id_token,
)
from keystore.service.oidc.settings import OidcSettings, safe_url

ANSWER_SECONDS = 10.0  # for an answer
MAX_ANSWER_BYTES = 256 * 1024
KEPT_SECONDS = 3600.0  # for which what the provider says of itself is believed
AGAIN_SECONDS = 60.0  # between two looks for a key that was not there
FAILED_SECONDS = 10.0  # in which a provider that did not answer is not asked again
MAX_AT_ONCE = 4  # calls that wait for the provider
PLACE_SECONDS = 1.0  # in which another call gets its place, or is told to come again
DISCOVERY = "/.well-known/openid-configuration"
_JSON = {"Accept": "application/json"}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Known:
    """What the provider says of itself. since: when it was asked, by the monotonic clock."""

    authorization: str
    token: str
    says_issuer: bool  # in its answers (RFC 9207)
    secret_in_body: bool
    keys: list[Mapping[str, Any]]
    jwks: str
    since: float


class Provider:
    """The identity provider of one service."""

    def __init__(self, settings: OidcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises StorageError: the client's secret can not be read."""
        self._settings, self._clock = settings, clock
        self._secret = settings.client_secret()
        self._authorities = ssl.create_default_context()  # which SSL_CERT_FILE may tell of one of one's own
        self._hosts = {_host(settings.issuer), *settings.hosts}
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._known: Known | None = None
        self._looked = self._failed = float("-inf")  # for a key; at all

    def authorization(self, callback: str, state: str, nonce: str, challenge: str) -> str:
        """Return the address at which a browser begins a sign-in that ends at `callback`. Raises SignInError."""
        asked = {
            "response_type": "code",
            "scope": "openid",
            "client_id": self._settings.client_id,
            "redirect_uri": callback,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if self._settings.prompt is not None:
            asked["prompt"] = self._settings.prompt
        if self._settings.max_age_minutes is not None:
            asked["max_age"] = str(self._settings.max_age_minutes * 60)
        if self._settings.acr:
            asked["acr_values"] = " ".join(self._settings.acr)
        place = self._waited(self._believed).authorization
        return f"{place}{'&' if urlsplit(place).query else '?'}{urlencode(asked)}"

    def check_issuer(self, said: str | None) -> None:
        """Raise SignInError where an answer says that it is of another provider, or not whose it is though it should."""
        if said is None and not self._waited(self._believed).says_issuer:
            return
        if said != self._settings.issuer:
            raise SignInError("mix-up", "the answer is of another provider than the one that was asked")

    def identity(self, callback: str, code: str, verifier: str, nonce: str, now: datetime) -> Identity:
        """Exchange a code for an ID token, and return whom that vouches for. Raises SignInError."""
        return self._waited(lambda: self._exchange(callback, code, verifier, nonce, now))

    def _exchange(self, callback: str, code: str, verifier: str, nonce: str, now: datetime) -> Identity:
        known = self._believed()
        text = self._id_token(known, callback, code, verifier)
        settings = self._settings
        expected = Expected(
            settings.issuer,
            settings.client_id,
            nonce,
            settings.algorithms,
            settings.amr,
            settings.acr,
            None if settings.max_age_minutes is None else settings.max_age_minutes * 60,
        )
        try:
            return verify_id_token(text, known.keys, expected, now)
        except UnknownKeyError:
            return verify_id_token(text, self._newer_keys(known), expected, now)

    def _waited(self, work: Callable[[], Answer]) -> Answer:
        # One provider that does not answer must not hold all the threads that other callers need.
        if not self._places.acquire(timeout=PLACE_SECONDS):
            raise SignInError("busy", "many are signing in just now; try again in a moment", 503)
        try:
            return work()
        finally:
            self._places.release()

    def _believed(self) -> Known:
        with self._lock:
            now = self._clock()
            if self._known is not None and now < self._known.since + KEPT_SECONDS:
                return self._known
            if now < self._failed + FAILED_SECONDS:
                raise _unavailable("did not answer a moment ago")
            try:
                self._known = self._discovered(now)
            except SignInError:
                self._failed = self._clock()
                raise
            return self._known

    def _newer_keys(self, known: Known) -> list[Mapping[str, Any]]:
        with self._lock:
            now = self._clock()
            if self._known is known and now >= self._looked + AGAIN_SECONDS:
                self._looked = now
                keys = public_keys(self._ask("GET", known.jwks))
                self._known = replace(known, keys=keys)
            return known.keys if self._known is None else self._known.keys

    def _discovered(self, now: float) -> Known:
        document = self._ask("GET", self._settings.issuer.rstrip("/") + DISCOVERY)
        if not isinstance(document, dict) or document.get("issuer") != self._settings.issuer:
            raise _unavailable("calls itself by another name than the settings' issuer")
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        jwks = self._place(document, "jwks_uri")
        return Known(
            self._place(document, "authorization_endpoint", asked_here=False),
            self._place(document, "token_endpoint"),
            document.get("authorization_response_iss_parameter_supported") is True,
            isinstance(methods, list) and "client_secret_basic" not in methods,
            public_keys(self._ask("GET", jwks)),
            jwks,
            now,
        )

    def _place(self, document: Mapping[str, Any], name: str, *, asked_here: bool = True) -> str:
        place = document.get(name)
        try:
            if not isinstance(place, str) or not place.isascii() or not place.isprintable():
                raise ValueError("is missing")
            safe_url(place)
            if urlsplit(place).scheme == "http" and urlsplit(self._settings.issuer).scheme != "http":
                raise ValueError("is no https:// address, which the issuer's is")
        except ValueError as error:
            raise _unavailable(f"publishes a {name} that {error}") from None
        if asked_here and _host(place) not in self._hosts:
            raise _unavailable(
                f"has its {name} on another host than its own; if that is right, list the host in the settings"
            )
        return place

    def _id_token(self, known: Known, callback: str, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        if self._secret is not None and not known.secret_in_body:
            pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(self._secret)}"  # RFC 6749, section 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self._settings.client_id
            if self._secret is not None:
                form["client_secret"] = self._secret
        answer = self._ask("POST", known.token, form, headers)
        text = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise SignInError("no-id-token", "the provider gave no ID token")
        return text

    def _ask(
        self, method: str, url: str, form: dict[str, str] | None = None, headers: Mapping[str, str] = _JSON
    ) -> Any:
        try:
            answer = ask(
                method,
                url,
                self._authorities,
                MAX_ANSWER_BYTES,
                ANSWER_SECONDS,
                form=form,
                headers={**_JSON, **headers},
            )
        except TooLongError:
            raise _unavailable("answers at too great a length") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _unavailable(f"can not be reached, or is too slow ({type(error).__name__})") from None
        if method == "POST" and answer.status in (400, 401, 403):
            raise SignInError("code", "the provider does not take the code, or this client")
        if answer.status != 200:
            raise _unavailable(f"answers {answer.status}, which no redirect or error should be here")
        try:
            return strict_json(answer.content)
        except ValueError:
            raise _unavailable("does not answer in JSON") from None


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _unavailable(why: str) -> SignInError:
    return SignInError(
        "provider", f"the identity provider {why}; its operator, or this service's, has to mend that", 503
    )
