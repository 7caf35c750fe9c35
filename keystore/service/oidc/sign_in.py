"""A sign-in, from the address that a person opens to the token that their command or their console gets.

    command -> browser -> GET /v1/sign-in -> the provider -> GET /v1/sign-in/callback -> http://127.0.0.1:PORT/ of the command
    command -> POST /v1/sign-in/token

Two authorization codes with PKCE, one after the other: the service is the provider's client (RFC 9700), and the command is the
service's (RFC 8252). Each state, nonce and code is 256 random bits, good once and for minutes; they are in memory, and the state
is bound to the browser by a cookie. The token itself never passes through the browser.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar
from urllib.parse import urlencode

from starlette.responses import Response

from keystore.crypto.canonical import utc_now
from keystore.decisions.api_token import Role
from keystore.decisions.bindings import BindingView
from keystore.served import ServedKeystore
from keystore.service.limits import Rates
from keystore.service.observing import log_line
from keystore.service.oidc.challenge import challenge_of
from keystore.service.oidc.id_token import SignInError
from keystore.service.oidc.provider import Provider
from keystore.service.oidc.settings import OidcSettings

SIGN_IN_SECONDS = 600.0  # from the begin to the provider's answer
CODE_SECONDS = 60.0  # in which the command presents its code
MAX_BEGUN = 1000  # in memory at once; the oldest is forgotten
BEGINS_PER_MINUTE = 30  # from one address
TOKENS_PER_HOUR = 30  # of one binding: each is an entry of the log
SECRET_BYTES = 32
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class _Command:
    port: int
    challenge: str
    state: str


@dataclass(frozen=True)
class _Begun:
    callback: str
    command: _Command | None  # that waits; none: the callback's own page does
    role: Role | None
    dataset: str | None
    browser: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class _Done:
    challenge: str
    binding: BindingView


class _Once(Generic[Kept]):
    """Values by a random name, each taken once, for some seconds, so many at most."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Kept]] = OrderedDict()

    def keep(self, value: Kept) -> str:
        name = secrets.token_urlsafe(SECRET_BYTES)
        with self._lock:
            self._kept[name] = (self._clock() + self._seconds, value)
            while len(self._kept) > MAX_BEGUN:
                self._kept.popitem(last=False)
        return name

    def take(self, name: str) -> Kept | None:
        with self._lock:
            until, value = self._kept.pop(name, (0.0, None))
            return value if self._clock() < until else None


class SignIns:
    """The sign-ins of one service."""

    def __init__(
        self, keystore: ServedKeystore, settings: OidcSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises StorageError: the client's secret can not be read."""
        self._keystore, self._settings = keystore, settings
        self._secure = settings.address.startswith("https:")
        self._provider = Provider(settings, clock)
        self._rates = Rates(clock)
        self._begun: _Once[_Begun] = _Once(SIGN_IN_SECONDS, clock)
        self._done: _Once[_Done] = _Once(CODE_SECONDS, clock)

    @property
    def cookie(self) -> str:
        """The cookie's name; with this prefix a browser takes it from no other host, and no other way than https."""
        return "__Host-keyanon-sign-in" if self._secure else "keyanon-sign-in"

    def remember(self, response: Response, browser: str) -> None:
        """Let a browser keep what binds a sign-in to it. Lax: the provider's site sends it back to us."""
        kept = int(SIGN_IN_SECONDS)
        response.set_cookie(self.cookie, browser, kept, secure=self._secure, httponly=True, samesite="lax")

    def begin(
        self, peer: str, port: int, challenge: str, state: str, role: Role | None = None, dataset: str | None = None
    ) -> tuple[str, str]:
        """Begin a sign-in for a command. Return the provider's address to go to, and the cookie that binds it to this browser.

        peer: who asks; port: of their machine's loopback, where the command listens; challenge: RFC 7636, S256, of its verifier;
        state: what it knows its answer by; role, dataset: which binding is meant, where there are several. Raises SignInError.
        """
        return self._begin(peer, self._settings.callback, _Command(port, challenge, state), role, dataset)

    def begin_page(self, peer: str, callback: str, role: Role | None = None) -> tuple[str, str]:
        """Begin a sign-in that ends on a page at `callback`. Return and raise as `begin`."""
        return self._begin(peer, callback, None, role, None)

    def _begin(
        self, peer: str, callback: str, command: _Command | None, role: Role | None, dataset: str | None
    ) -> tuple[str, str]:
        self._hold(("begin", peer), BEGINS_PER_MINUTE, 60)
        begun = _Begun(callback, command, role, dataset, *(secrets.token_urlsafe(SECRET_BYTES) for _ in range(3)))
        address = self._provider.authorization(
            callback, self._begun.keep(begun), begun.nonce, challenge_of(begun.verifier)
        )
        return address, begun.browser

    def answer(self, state: str, browser: str | None, code: str | None, error: str | None, issuer: str | None) -> str:
        """Take the provider's answer, and return where the browser goes now: to the command, with a code or a refusal.

        Raises SignInError where nobody can be told: no such sign-in was begun in this browser.
        """
        begun = self._taken(state, browser)
        if begun.command is None:
            raise _no_such_sign_in()
        try:
            binding = self._known(begun, code, error, issuer)
            told = {"code": self._done.keep(_Done(begun.command.challenge, binding))}
        except SignInError as refused:
            told = {"error": refused.code, "error_description": refused.detail}
        return f"http://127.0.0.1:{begun.command.port}/?{urlencode({**told, 'state': begun.command.state})}"

    def arrive(
        self, state: str, browser: str | None, code: str | None, error: str | None, issuer: str | None
    ) -> BindingView:
        """Take the provider's answer on the page of a sign-in; return by which binding the person came. Raises SignInError."""
        begun = self._taken(state, browser)
        if begun.command is not None:
            raise _no_such_sign_in()
        binding = self._known(begun, code, error, issuer)
        self._hold(("token", binding.binding_id), TOKENS_PER_HOUR, 3600)
        return binding

    def _taken(self, state: str, browser: str | None) -> _Begun:
        begun = self._begun.take(state)
        if begun is None or browser is None or not hmac.compare_digest(browser.encode(), begun.browser.encode()):
            raise _no_such_sign_in()
        return begun

    def redeem(self, code: str, verifier: str) -> BindingView:
        """Return by which binding the person signed in, whose command presents this code. Raises SignInError."""
        done = self._done.take(code)
        if done is None or not hmac.compare_digest(challenge_of(verifier), done.challenge):
            raise SignInError("code", "there is no such code, or not for this command; sign in again", 404)
        self._hold(("token", done.binding.binding_id), TOKENS_PER_HOUR, 3600)
        return done.binding

    def issue(self, binding: BindingView) -> str:
        """Make the token of who signed in. Raises BindingError: the binding ended meanwhile; KeystoreError."""
        return self._keystore.issue_to(binding, timedelta(hours=self._settings.token_hours))

    def _known(self, begun: _Begun, code: str | None, error: str | None, issuer: str | None) -> BindingView:
        try:
            binding = self._bound(begun, code, error, issuer)
        except SignInError as refused:
            log_line("sign-in", refused=refused.code)
            raise
        log_line("sign-in", binding=binding.binding_id)
        return binding

    def _bound(self, begun: _Begun, code: str | None, error: str | None, issuer: str | None) -> BindingView:
        self._provider.check_issuer(issuer)
        if error is not None or code is None:
            raise SignInError("refused", "the identity provider did not sign anybody in")
        identity = self._provider.identity(begun.callback, code, begun.verifier, begun.nonce, utc_now())
        bound = self._keystore.bindings_of(identity)
        if not bound:
            raise SignInError("unknown", "this identity stands for nobody here; an operator can bind it to a person")
        meant = [one for one in bound if begun.role in (None, one.role) and begun.dataset in (None, one.dataset)]
        if len(meant) != 1:
            raise SignInError(
                "which",
                "there is none of this role and data set for this identity, or more than one; say which with both",
            )
        return meant[0]

    def _hold(self, key: tuple[str, str], most: int, seconds: float) -> None:
        wait = self._rates.take(key, most, seconds)
        if wait > 0:
            raise SignInError("too-many", f"too many sign-ins; wait {int(wait) + 1} seconds", 429)


def _no_such_sign_in() -> SignInError:
    return SignInError("state", "no such sign-in was begun in this browser, or it took too long; begin again", 404)
