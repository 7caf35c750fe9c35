"""Whatever a provider, or who pretends to be one, puts into an ID token or its keys: an identity comes out, or SignInError."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from keystore.service.oidc.id_token import SignInError, public_keys, strict_json, verify_id_token
from tests.fuzz.conftest import PROFILE
from tests.fuzz.mutations import mutated, mutated_json
from tests.keystore.service.test_id_token import EXPECTED, GOOD, ISSUER, NOW, PUBLISHED, key_of, signed, signed_raw

HEADER = {"alg": "ES256", "kid": "k", "typ": "JWT"}
searched = settings(settings.get_profile(PROFILE))


def believed(text: str, keys: object = PUBLISHED) -> bool:
    try:
        identity = verify_id_token(text, keys, EXPECTED, NOW)  # type: ignore[arg-type]
    except SignInError as error:
        assert error.status in (403, 503) and str(error).encode()
        return False
    assert identity.issuer == ISSUER and 0 < len(identity.subject) < 256 and identity.subject.isascii()
    return True


@searched
@given(claims=mutated_json(GOOD))
def test_claims_of_any_kind_rightly_signed(claims: str) -> None:
    believed(signed(claims.encode(errors="surrogatepass")))


@searched
@given(header=mutated_json(HEADER))
def test_headers_of_any_kind(header: str) -> None:
    believed(signed_raw(json.dumps(GOOD).encode(), header.encode(errors="surrogatepass")))


@searched
@given(data=st.data())
def test_tokens_with_broken_bytes(data: st.DataObject) -> None:
    text = data.draw(mutated(signed(GOOD).encode()))
    assert not believed(text.decode("latin-1")) or text.decode() == signed(GOOD)[: len(text)]


@searched
@given(data=st.data(), algorithm=st.sampled_from(["ES256", "RS256", "Ed25519"]))
def test_published_keys_of_any_kind(data: st.DataObject, algorithm: str) -> None:
    key = key_of(algorithm, "k")
    text = signed(GOOD, {"alg": algorithm, "kid": "k"}, key)
    try:
        document = strict_json(data.draw(mutated_json(key.as_dict(private=False))).encode(errors="surrogatepass"))
    except ValueError:
        return
    for published in ({"keys": [document]}, {"keys": document}, document):
        try:
            keys = public_keys(published)
        except SignInError:
            continue
        believed(text, keys)


def test_what_the_mutations_start_from_is_believed() -> None:
    assert believed(signed(GOOD)) and believed(signed_raw(json.dumps(GOOD).encode(), json.dumps(HEADER).encode()))
