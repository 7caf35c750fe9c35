"""An ID token is believed when it is plainly the provider's word for this sign-in, and in no other case."""

from __future__ import annotations

import base64
import functools
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from keystore.service.oidc.id_token import (
    Expected,
    SignInError,
    UnknownKeyError,
    public_keys,
    strict_json,
    verify_id_token,
)
from keystore.service.oidc.settings import ALGORITHMS

from .provider import make_key

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
TIME = int(NOW.timestamp())
ISSUER, CLIENT, NONCE = "https://login.example", "keyanon", "nonce-of-this-sign-in"
EXPECTED = Expected(ISSUER, CLIENT, NONCE, ALGORITHMS)
GOOD = {"iss": ISSUER, "sub": "dora", "aud": CLIENT, "iat": TIME, "exp": TIME + 300, "nonce": NONCE}
key_of = functools.cache(make_key)
KEY = key_of("ES256", "k")
PUBLISHED = [KEY.as_dict(private=False)]


def signed(payload: bytes | dict[str, Any], header: dict[str, Any] | None = None, key: Any = KEY) -> str:
    """A signed token; its header may hold what the library would not write."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    said = {"alg": "ES256", "kid": "k"} if header is None else header
    return signed_raw(data, json.dumps(said).encode(), key, said.get("alg"))


def signed_raw(payload: bytes, header: bytes, key: Any = KEY, algorithm: Any = "ES256") -> str:
    signing = f"{b64(header)}.{b64(payload)}"
    model = jws.JWSRegistry.algorithms.get(algorithm) if isinstance(algorithm, str) else None
    signature = b"x" if model is None or algorithm == "none" else model.sign(signing.encode(), key)
    return f"{signing}.{b64(signature)}"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refused(text: str, keys: Any = PUBLISHED, expected: Expected = EXPECTED) -> str:
    with pytest.raises(SignInError) as error:
        verify_id_token(text, keys, expected, NOW)
    assert "dora" not in error.value.detail and CLIENT not in error.value.detail
    return error.value.code


@pytest.mark.filterwarnings("ignore:EdDSA")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_each_allowed_algorithm_is_believed(algorithm: str) -> None:
    key = key_of(algorithm, "k")
    text = signed(GOOD, {"alg": algorithm, "kid": "k", "typ": "JWT", "x5t": "of a certificate"}, key)
    identity = verify_id_token(text, public_keys({"keys": [key.as_dict(private=False)]}), EXPECTED, NOW)
    assert (identity.issuer, identity.subject) == (ISSUER, "dora")
    without = signed(GOOD, {"alg": algorithm}, key)
    assert verify_id_token(without, [key.as_dict(private=False)], EXPECTED, NOW).subject == "dora"
    only = replace(EXPECTED, algorithms=[one for one in ALGORITHMS if one != algorithm])
    assert refused(text, [key.as_dict(private=False)], only) == "algorithm"


CLAIMS: list[tuple[str, dict[str, Any], str]] = [
    ("another issuer", {"iss": "https://evil.example"}, "issuer"),
    ("an issuer with a slash", {"iss": ISSUER + "/"}, "issuer"),
    ("an issuer in a list", {"iss": [ISSUER]}, "issuer"),
    ("no issuer", {"iss": None}, "issuer"),
    ("another client", {"aud": "other"}, "audience"),
    ("no client", {"aud": None}, "audience"),
    ("clients without a party", {"aud": [CLIENT, "other"]}, "audience"),
    ("clients for another party", {"aud": [CLIENT, "other"], "azp": "other"}, "audience"),
    ("another party", {"azp": "other"}, "audience"),
    ("a client within a text", {"aud": f"{CLIENT},other"}, "audience"),
    ("a client in an object", {"aud": {CLIENT: 1}}, "audience"),
    ("another nonce", {"nonce": "nonce-of-another"}, "nonce"),
    ("no nonce", {"nonce": None}, "nonce"),
    ("a nonce in a list", {"nonce": [NONCE]}, "nonce"),
    ("a nonce of half a character", {"nonce": "\ud800"}, "nonce"),
    ("expired", {"exp": TIME - 60}, "expired"),
    ("no expiry", {"exp": None}, "time"),
    ("an expiry in words", {"exp": str(TIME + 300)}, "time"),
    ("an expiry that is true", {"exp": True}, "time"),
    ("an expiry without end", {"exp": 10**400}, "time"),
    ("issued long ago", {"iat": TIME - 601}, "issued"),
    ("issued later", {"iat": TIME + 61}, "issued"),
    ("no time of issue", {"iat": None}, "time"),
    ("not yet", {"nbf": TIME + 61}, "early"),
    ("not yet, in words", {"nbf": "now"}, "time"),
    ("no subject", {"sub": None}, "subject"),
    ("an empty subject", {"sub": ""}, "subject"),
    ("a number as subject", {"sub": 7}, "subject"),
    ("a subject too long", {"sub": "s" * 256}, "subject"),
    ("a subject of two lines", {"sub": "dora\nroot"}, "subject"),
]


@pytest.mark.parametrize(("what", "change", "code"), CLAIMS, ids=[one[0] for one in CLAIMS])
def test_a_claim_that_is_not_what_it_must_be_is_refused(what: str, change: dict[str, Any], code: str) -> None:
    assert refused(signed({name: value for name, value in {**GOOD, **change}.items() if value is not None})) == code


def test_what_is_just_within_the_bounds_is_believed() -> None:
    for change in (
        {"exp": TIME - 59},
        {"iat": TIME - 600, "exp": TIME + 1},
        {"iat": TIME + 60},
        {"nbf": TIME + 60},
        {"aud": [CLIENT]},
        {"aud": [CLIENT, "other"], "azp": CLIENT},
        {"azp": CLIENT, "exp": TIME + 0.5},
        {"sub": "s" * 255},
    ):
        assert verify_id_token(signed({**GOOD, **change}), PUBLISHED, EXPECTED, NOW).issuer == ISSUER


OTHER = key_of("ES256", "other")
RSA = key_of("RS256", "k")
FORGED: list[tuple[str, Callable[[], str], str]] = [
    ("unsigned", lambda: signed(GOOD, {"alg": "none", "kid": "k"}).rpartition(".")[0] + ".", "form"),
    ("algorithm none", lambda: signed(GOOD, {"alg": "none", "kid": "k"}), "algorithm"),
    ("algorithm None", lambda: signed(GOOD, {"alg": "None", "kid": "k"}), "algorithm"),
    ("no algorithm", lambda: signed(GOOD, {"kid": "k"}), "algorithm"),
    ("an algorithm in a list", lambda: signed(GOOD, {"alg": ["ES256"], "kid": "k"}), "algorithm"),
    ("a shared secret: the public key", lambda: with_shared_secret(RSA.as_pem(private=False)), "algorithm"),
    ("an algorithm of another kind of key", lambda: signed(GOOD, {"alg": "RS256", "kid": "k"}, RSA), "key"),
    ("RS384", lambda: signed(GOOD, {"alg": "RS384", "kid": "k"}, RSA), "algorithm"),
    ("another key of this name", lambda: signed(GOOD, key=OTHER), "signature"),
    ("an unknown key", lambda: signed(GOOD, {"alg": "ES256", "kid": "other"}, OTHER), "key"),
    ("a key's name that is none", lambda: signed(GOOD, {"alg": "ES256", "kid": {"a": 1}}), "header"),
    ("a path as name", lambda: signed(GOOD, {"alg": "ES256", "kid": "../../dev/null"}), "key"),
    (
        "a key in the header",
        lambda: signed(GOOD, {"alg": "ES256", "jwk": OTHER.as_dict(private=False)}, OTHER),
        "header",
    ),
    ("an address of keys", lambda: signed(GOOD, {"alg": "ES256", "jku": "https://evil.example"}, OTHER), "header"),
    (
        "an address of a certificate",
        lambda: signed(GOOD, {"alg": "ES256", "x5u": "https://e.example"}, OTHER),
        "header",
    ),
    ("a certificate", lambda: signed(GOOD, {"alg": "ES256", "kid": "k", "x5c": ["AA=="]}, OTHER), "header"),
    ("something critical", lambda: signed(GOOD, {"alg": "ES256", "kid": "k", "crit": ["b64"], "b64": False}), "header"),
    ("a token of another kind", lambda: signed(GOOD, {"alg": "ES256", "kid": "k", "typ": "logout+jwt"}), "header"),
    ("compressed", lambda: signed(GOOD, {"alg": "ES256", "kid": "k", "zip": "DEF"}), "header"),
    ("an altered claim", lambda: altered(1), "signature"),
    ("an altered signature", lambda: altered(2), "signature"),
    ("no signature", lambda: signed(GOOD).rpartition(".")[0] + ".", "form"),
    ("a part too many", lambda: signed(GOOD) + ".AAAA", "form"),
    ("encrypted", lambda: ".".join(["AAAA"] * 5), "form"),
    ("nothing", lambda: "", "form"),
    ("a line break", lambda: signed(GOOD) + "\n", "form"),
    ("padded", lambda: signed(GOOD) + "==", "form"),
    ("too long", lambda: signed({**GOOD, "more": "x" * 20_000}), "size"),
    ("deep", lambda: signed(b"[" * 9_000), "form"),
    ("a list", lambda: signed(b"[]"), "form"),
    ("no JSON", lambda: signed(b"\xff"), "form"),
    ("a claim twice", lambda: signed(json.dumps(GOOD)[:-1].encode() + b',"sub":"root"}'), "form"),
    ("no number", lambda: signed(json.dumps({**GOOD, "exp": float("inf")}).encode()), "form"),
    ("an algorithm twice", lambda: signed_raw(b"{}", b'{"alg":"none","alg":"ES256","kid":"k"}'), "form"),
    ("a header in a list", lambda: signed_raw(b"{}", b"[]"), "form"),
]


def with_shared_secret(secret: bytes) -> str:
    header = json.dumps({"alg": "HS256", "kid": "k"}).encode()
    signing = f"{b64(header)}.{b64(json.dumps(GOOD).encode())}"
    return f"{signing}.{b64(hmac.digest(secret, signing.encode(), 'sha256'))}"


def altered(part: int) -> str:
    parts = signed(GOOD).split(".")
    parts[part] = parts[part][:-8] + ("A" * 8 if part == 2 else b64(json.dumps({**GOOD, "sub": "root"}).encode()))
    if part == 1:
        parts[1] = b64(json.dumps({**GOOD, "sub": "root"}).encode())
    return ".".join(parts)


@pytest.mark.parametrize(("what", "forge", "code"), FORGED, ids=[one[0] for one in FORGED])
def test_a_forged_or_malformed_token_is_refused(what: str, forge: Callable[[], str], code: str) -> None:
    assert refused(forge()) == code


def test_a_key_is_taken_only_for_what_it_was_published_for() -> None:
    text, public = signed(GOOD), PUBLISHED[0]
    for other in ({**public, "use": "enc"}, {**public, "kty": "oct", "k": "AAAA"}, "k", None):
        assert public_keys({"keys": [other]}) == []
    for other in ({**public, "alg": "PS256"}, {**public, "crv": "P-384"}, {**public, "kid": "x"}):
        with pytest.raises(UnknownKeyError):
            verify_id_token(text, public_keys({"keys": [other]}), EXPECTED, NOW)
    with pytest.raises(UnknownKeyError):
        verify_id_token(text, [public, OTHER.as_dict(private=False) | {"kid": "k"}], EXPECTED, NOW)
    for broken in (
        {**public, "x": "AAAA"},
        {**public, "x": None},
        {name: public[name] for name in ("kty", "crv", "kid")},
    ):
        assert refused(text, [broken]) == "key"
    for document in ({}, [], {"keys": {}}, None):
        with pytest.raises(SignInError, match="provider"):
            public_keys(document)


def test_a_short_rsa_key_is_not_believed() -> None:
    with pytest.warns(match="2048"):
        short = RSAKey.generate_key(1024, {"kid": "k"})
        assert refused(signed(GOOD, {"alg": "RS256", "kid": "k"}, short), [short.as_dict(private=False)]) == "key"


@pytest.mark.parametrize(
    ("asked", "said", "code"),
    [
        ({"amr": ("mfa",)}, {}, "amr"),
        ({"amr": ("mfa",)}, {"amr": ["pwd"]}, "amr"),
        ({"amr": ("mfa",)}, {"amr": "mfa"}, "amr"),
        ({"amr": ("mfa", "hwk")}, {"amr": ["mfa"]}, "amr"),
        ({"acr": ("gold",)}, {}, "acr"),
        ({"acr": ("gold",)}, {"acr": "silver"}, "acr"),
        ({"acr": ("gold",)}, {"acr": ["gold"]}, "acr"),
        ({"max_age_seconds": 300}, {}, "time"),
        ({"max_age_seconds": 300}, {"auth_time": TIME - 361}, "auth-time"),
        ({"max_age_seconds": 300}, {"auth_time": TIME + 61}, "auth-time"),
    ],
)
def test_how_surely_a_person_was_known_must_be_said(asked: dict[str, Any], said: dict[str, Any], code: str) -> None:
    assert refused(signed({**GOOD, **said}), expected=replace(EXPECTED, **asked)) == code
    enough = {"amr": ["pwd", "hwk", "mfa"], "acr": "gold", "auth_time": TIME - 360}
    assert verify_id_token(signed({**GOOD, **enough}), PUBLISHED, replace(EXPECTED, **asked), NOW).subject == "dora"


def test_json_that_two_readers_could_read_differently_is_none() -> None:
    for data in (b'{"a":1,"a":2}', b'{"b":{"a":1,"a":1}}', b"NaN", b"-Infinity", b"[" * 100_000, b"\xff", b""):
        with pytest.raises(ValueError):
            strict_json(data)
    assert strict_json(b'{"a":[1,{"a":2}]}') == {"a": [1, {"a": 2}]}


def test_an_ec_key_of_another_curve_does_not_pass_for_its_name() -> None:
    other = ECKey.generate_key("P-384", {"kid": "k"})
    assert refused(signed(GOOD), [other.as_dict(private=False)]) == "key"
