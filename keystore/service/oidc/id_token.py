"""Is this ID token the provider's word on one person, for this client, for this sign-in, now? (OpenID Connect Core, 3.1.3.7)

What is not plainly so is refused: a header that brings a key or an address of its own, an algorithm that is not on the list or
not that of its key, a name that stands twice in a JSON object, a number that is none.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from keystore.decisions.bindings import Identity
from keystore.errors import BindingError
from keystore.service.guard import CallError

MAX_TOKEN_CHARACTERS = 16 * 1024
MAX_SKEW_SECONDS = 60  # between the provider's clock and ours
MAX_AGE_SECONDS = 600  # of the token: it was made for this sign-in
LATEST = 2**40  # seconds since 1970: no time that is meant lies beyond it
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_HEADER = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})  # the last two name a certificate, and are not looked at
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_FORMS: Mapping[str, tuple[type[RSAKey | ECKey | OKPKey], str | None]] = {
    "RS256": (RSAKey, None),
    "PS256": (RSAKey, None),
    "ES256": (ECKey, "P-256"),
    "EdDSA": (OKPKey, "Ed25519"),
    "Ed25519": (OKPKey, "Ed25519"),
}
# Of "EdDSA", which RFC 9864 renames; providers go on writing it, and here it means Ed25519 only.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)


class SignInError(CallError):
    """Nobody was signed in. The code says why, and so does the detail, which quotes nothing that was sent."""

    def __init__(self, code: str, detail: str, status: int = 403) -> None:
        super().__init__(status, code, detail)


class UnknownKeyError(SignInError):
    """The provider published no such key when it was asked last."""

    def __init__(self) -> None:
        super().__init__("key", "the ID token is signed with a key that the provider does not publish")


@dataclass(frozen=True)
class Expected:
    """What an ID token must say. nonce: of this sign-in."""

    issuer: str
    client_id: str
    nonce: str = field(repr=False)
    algorithms: Sequence[str]
    amr: Sequence[str] = ()
    acr: Sequence[str] = ()
    max_age_seconds: int | None = None


def strict_json(data: bytes) -> Any:
    """Parse JSON in which no name stands twice and every number is one. Raises ValueError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    def no_number(text: str) -> Any:
        raise ValueError("no number")

    try:
        return json.loads(data.decode(), object_pairs_hook=once, parse_constant=no_number)
    except RecursionError:
        raise ValueError("too deep") from None


def public_keys(document: Any) -> list[Mapping[str, Any]]:
    """Return the entries of a JWKS (RFC 7517) that an ID token could be signed with. Raises SignInError: it is none."""
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise SignInError("provider", "what the provider publishes as its keys are none", 503)
    return [one for one in keys if isinstance(one, dict) and one.get("use", "sig") == "sig" and one.get("kty") != "oct"]


def verify_id_token(text: str, keys: Sequence[Mapping[str, Any]], expected: Expected, now: datetime) -> Identity:
    """Return whom the provider vouches for. Raises SignInError, UnknownKeyError."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise SignInError("size", "the ID token is longer than any should be")
    if not _COMPACT.fullmatch(text):
        raise SignInError("form", "the ID token is no signed JWT in compact form")
    header = _part(text, 0)
    if set(header) - _HEADER or str(header.get("typ", "JWT")).upper() != "JWT":
        raise SignInError("header", "the ID token's header holds what no ID token needs, such as a key of its own")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in expected.algorithms or algorithm not in _FORMS:
        raise SignInError("algorithm", "the ID token is signed with an algorithm that is not allowed here")
    key = _key(algorithm, header.get("kid"), keys)
    try:
        jws.deserialize_compact(text, key, algorithms=[algorithm])
    except (JoseError, ValueError, TypeError):
        raise SignInError("signature", "the ID token's signature is not of the provider's key") from None
    claims = _part(text, 1)
    _check(claims, expected, now.timestamp())
    identity = Identity(expected.issuer, claims["sub"])
    try:
        identity.check()
    except BindingError:
        raise SignInError("subject", "the ID token's subject is none") from None
    return identity


def _part(text: str, index: int) -> dict[str, Any]:
    part = text.split(".")[index]
    try:
        parsed = strict_json(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        parsed = None
    if not isinstance(parsed, dict):
        raise SignInError("form", "a part of the ID token is no JSON object, or says something twice")
    return parsed


def _key(algorithm: str, kid: Any, keys: Sequence[Mapping[str, Any]]) -> Key:
    """The one published key that is meant. Without a name there must be one only that fits the algorithm."""
    kind, curve = _FORMS[algorithm]
    if kid is not None and not isinstance(kid, str):
        raise SignInError("header", "the ID token names its key by something else than text")
    fitting = [
        one
        for one in keys
        if one.get("kty") == kind.key_type
        and one.get("crv") == curve
        and one.get("alg", algorithm) == algorithm
        and (kid is None or one.get("kid") == kid)
    ]
    if len(fitting) != 1:
        raise UnknownKeyError
    try:
        key = kind.import_key(
            {name: fitting[0][name] for name in ("kty", "crv", "n", "e", "x", "y") if name in fitting[0]}
        )
        public = key.public_key
    except (JoseError, ValueError, TypeError, AttributeError):
        raise SignInError("key", "the provider's key can not be used", 503) from None
    if isinstance(public, RSAPublicKey) and not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        raise SignInError("key", f"the provider's RSA key has not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits", 503)
    return key


def _check(claims: Mapping[str, Any], expected: Expected, now: float) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    party = claims.get("azp", expected.client_id if len(audiences) == 1 else None)
    if claims.get("iss") != expected.issuer:
        raise SignInError("issuer", "the ID token is of another issuer")
    if expected.client_id not in audiences or party != expected.client_id:
        raise SignInError("audience", "the ID token was made for another client")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or nonce != expected.nonce:
        raise SignInError("nonce", "the ID token was made for another sign-in")
    if _time(claims, "exp") <= now - MAX_SKEW_SECONDS:
        raise SignInError("expired", "the ID token has expired")
    if not now - MAX_AGE_SECONDS <= _time(claims, "iat") <= now + MAX_SKEW_SECONDS:
        raise SignInError("issued", "the ID token was not made now; set the clock right if it was")
    if "nbf" in claims and _time(claims, "nbf") > now + MAX_SKEW_SECONDS:
        raise SignInError("early", "the ID token is not good yet")
    if not isinstance(claims.get("sub"), str):
        raise SignInError("subject", "the ID token's subject is none")
    if expected.max_age_seconds is not None:
        since = now - _time(claims, "auth_time")
        if not -MAX_SKEW_SECONDS <= since <= expected.max_age_seconds + MAX_SKEW_SECONDS:
            raise SignInError(
                "auth-time", "the person showed the provider too long ago who they are; sign in there again"
            )
    methods = claims.get("amr")
    if expected.amr and not (isinstance(methods, list) and all(one in methods for one in expected.amr)):
        raise SignInError("amr", "the provider does not say that the person was known by what is asked here")
    if expected.acr and claims.get("acr") not in expected.acr:
        raise SignInError("acr", "the provider does not say that the person was known as surely as is asked here")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise SignInError("time", f"the ID token does not say when ({name})")
    return value
