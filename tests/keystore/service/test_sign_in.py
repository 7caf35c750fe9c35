"""Signing in from the command to the token, through a real provider, and what providers, browsers and strangers try instead."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import uvicorn
from fastapi.responses import JSONResponse, RedirectResponse, Response

from keystore.crypto.canonical import utc_now
from keystore.decisions.api_token import Role
from keystore.decisions.bindings import Identity
from keystore.errors import ApprovalError, StorageError
from keystore.served import ServedKeystore
from keystore.service.app import create_app
from keystore.service.observing import Metrics, Observed
from keystore.service.oidc import provider as provider_module
from keystore.service.oidc import sign_in as sign_in_module
from keystore.service.oidc.challenge import challenge_of
from keystore.service.oidc.id_token import SignInError
from keystore.service.oidc.native import sign_in
from keystore.service.oidc.provider import MAX_ANSWER_BYTES, MAX_AT_ONCE, Provider
from keystore.service.oidc.settings import OidcSettings
from keystore.service.oidc.sign_in import BEGINS_PER_MINUTE, TOKENS_PER_HOUR, SignIns
from keystore.verification.verify import verify_audit

from .provider import CLIENT, SECRET, SUBJECT, IdProvider, running

VERIFIER, STATE = "v" * 43, "s" * 43
CALLBACK = "https://keystore.example/v1/sign-in/callback"
NEVER = "http://127.0.0.1:9"  # no test may ask it


@pytest.fixture(scope="module")
def provider_process() -> Iterator[IdProvider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(provider_process: IdProvider) -> Iterator[IdProvider]:
    """The provider, as it is when nothing is wrong with it."""
    for name in ("document", "claims", "answer", "replaced"):
        setattr(provider_process, name, {})
    provider_process.calls, provider_process.subject = [], SUBJECT
    provider_process.bend = lambda token: token
    yield provider_process


@dataclass
class Service:
    """The application on a port of this machine, and its keystore."""

    keystore: ServedKeystore
    url: str
    app: Any
    secret: Path

    def settings(self, provider: IdProvider, **more: Any) -> OidcSettings:
        said = {"issuer": provider.issuer, "client_id": CLIENT, "address": self.url, "client_secret_file": self.secret}
        return OidcSettings.model_validate(said | more)

    def begin(self, browser: httpx2.Client, **more: Any) -> httpx2.Response:
        asked = {"port": 40_000, "challenge": challenge_of(VERIFIER), "state": STATE} | more
        return browser.get(f"{self.url}/v1/sign-in", params=asked)

    def redeem(self, code: str, verifier: str = VERIFIER) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/sign-in/token", json={"code": code, "verifier": verifier}, trust_env=False)


@pytest.fixture(scope="module")
def service_process(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    path = tmp_path_factory.mktemp("signing-in") / "ks"
    shutil.copytree(template, path)
    secret = path.parent / "client-secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET + "\n")
    listening = socket.create_server(("127.0.0.1", 0))
    with ServedKeystore.open(path) as keystore:
        keystore.bind_identity(Identity("http://elsewhere.example", SUBJECT), "Mallory", Role.OPERATOR, "oscar")
        metrics = Metrics()
        app = create_app(keystore, path / "inbox", metrics)
        server = uvicorn.Server(uvicorn.Config(Observed(app, metrics), log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield Service(keystore, f"http://127.0.0.1:{listening.getsockname()[1]}", app, secret)
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def service(service_process: Service, provider: IdProvider) -> Iterator[Service]:
    """The service; Dora is bound, and every sign-in is forgotten."""
    keystore = service_process.keystore
    bound = keystore.bindings_of(Identity(provider.issuer, SUBJECT))
    if [(one.role, one.dataset) for one in bound] != [(Role.REQUESTER, "photos")]:
        for one in bound:
            keystore.unbind_identity(one.binding_id, "oscar")
        keystore.bind_identity(Identity(provider.issuer, SUBJECT), "Dora", Role.REQUESTER, "oscar", dataset="photos")
    use(service_process, service_process.settings(provider))
    yield service_process


def use(service: Service, settings: OidcSettings, **more: Any) -> SignIns:
    sign_ins = SignIns(service.keystore, settings, **more)
    service.app.state.office.sign_ins = sign_ins
    return sign_ins


def browse(address: str) -> None:
    """What a browser does with an address: it follows, keeps cookies, and shows what it gets."""

    def follow() -> None:
        with httpx2.Client(follow_redirects=True, trust_env=False) as browser:
            browser.get(address)

    threading.Thread(target=follow, daemon=True).start()


def arrive(service: Service, provider: IdProvider, browser: httpx2.Client) -> dict[str, str]:
    """Go through a sign-in up to the command's port, and return what would be brought there."""
    at_provider = browser.get(service.begin(browser).headers["location"])
    return said(browser.get(at_provider.headers["location"]))


def said(answer: httpx2.Response) -> dict[str, str]:
    assert answer.status_code == 302, answer.text
    place = urlsplit(answer.headers["location"])
    assert (place.scheme, place.netloc, place.path) == ("http", "127.0.0.1:40000", "/")
    return {name: one for name, (one,) in parse_qs(place.query).items()}


@pytest.fixture
def browser() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False) as client:
        yield client


def test_a_person_signs_in_and_is_the_person_on_file(service: Service, provider: IdProvider, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("keystore.service").propagate = True
    before = len(service.keystore.audit_entries())
    shown: list[str] = []

    def show(address: str) -> None:
        shown.append(address)
        browse(address)

    given = sign_in(service.url, show)
    caller = service.keystore.authenticate(given.token)
    assert caller is not None
    assert (caller.person, caller.role, caller.dataset) == ("dora", Role.REQUESTER, "photos")
    assert given.audit_vkey == service.keystore.audit_vkey
    (token,) = [one for one in service.keystore.tokens() if one.token_id == caller.token_id]
    assert token.expires_at - token.created_at == timedelta(hours=8)
    assert len(service.keystore.audit_entries()) == before + 1
    assert verify_audit(service.keystore.path).ok
    assert len(provider.calls) == 4, "discovery, keys, authorization, token"
    ours = "\n".join(one.getMessage() for one in caplog.records if one.name.startswith("keystore"))
    assert '"sign-in"' in ours
    for secret in (given.token, SECRET, SUBJECT, parse_qs(urlsplit(shown[0]).query)["state"][0], "dora", "eyJ"):
        assert secret not in ours


def test_the_word_is_worth_what_the_settings_and_the_binding_say(service: Service, provider: IdProvider) -> None:
    use(service, service.settings(provider, token_hours=2, amr=["mfa"], acr=["gold"], max_age_minutes=5))
    with pytest.raises(ApprovalError, match=r"does not say when \(auth_time\)"):
        sign_in(service.url, browse)
    provider.claims = {"amr": ["mfa"], "acr": "gold", "auth_time": int(time.time())}
    given = sign_in(service.url, browse)
    (token,) = [one for one in service.keystore.tokens() if one.token_id == given.token.split("_")[1]]
    assert token.expires_at - token.created_at == timedelta(hours=2)
    (binding,) = service.keystore.bindings_of(Identity(provider.issuer, SUBJECT))
    service.keystore.unbind_identity(binding.binding_id, "oscar")
    assert service.keystore.authenticate(given.token) is None
    with pytest.raises(ApprovalError, match="nobody here"):
        sign_in(service.url, browse)


def test_of_several_bindings_one_is_named(service: Service, provider: IdProvider) -> None:
    identity = Identity(provider.issuer, SUBJECT)
    service.keystore.bind_identity(identity, "Dora", Role.APPROVER, "oscar")
    with pytest.raises(ApprovalError, match="more than one"):
        sign_in(service.url, browse)
    with pytest.raises(ApprovalError, match="more than one"):
        sign_in(service.url, browse, role="operator")
    with pytest.raises(ApprovalError, match="more than one"):
        sign_in(service.url, browse, role="requester", dataset="elsewhere")
    for role, more in (("approver", {}), ("requester", {"dataset": "photos"})):
        caller = service.keystore.authenticate(sign_in(service.url, browse, role=role, **more).token)
        assert caller is not None and caller.role == role


BENT: list[tuple[str, dict[str, Any], str]] = [
    ("another subject", {"subject": SUBJECT[:-1]}, "unknown"),
    ("another issuer", {"claims": {"iss": "http://elsewhere.example"}}, "issuer"),
    ("another client", {"claims": {"aud": "another"}}, "audience"),
    ("an old token", {"claims": {"nonce": "of another sign-in"}}, "nonce"),
    ("an expired token", {"claims": {"exp": 1}}, "expired"),
    ("a cut token", {"bend": lambda token: token[:-4]}, "signature"),
    ("an answer of another provider", {"answer": {"iss": "http://elsewhere.example"}}, "mix-up"),
    ("an answer of nobody", {"answer": {"iss": ""}}, "mix-up"),
    ("a code that is none", {"answer": {"code": "guessed"}}, "code"),
    ("a refusal", {"answer": {"error": "access_denied"}}, "refused"),
]


@pytest.mark.parametrize(("what", "bent", "code"), BENT, ids=[one[0] for one in BENT])
def test_an_answer_that_is_not_the_providers_word_signs_nobody_in(
    what: str, bent: dict[str, Any], code: str, service: Service, provider: IdProvider, browser
) -> None:
    vars(provider).update(bent)
    before = service.keystore.audit_entries()
    brought = arrive(service, provider, browser)
    assert (brought["error"], brought["state"]) == (code, STATE) and "code" not in brought
    assert service.keystore.audit_entries() == before, "strangers write nothing into the log"


def test_a_sign_in_is_of_one_browser_and_happens_once(service: Service, provider: IdProvider, browser) -> None:
    begun = service.begin(browser)
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and begun.headers["cache-control"] == "no-store"
    back = browser.get(begun.headers["location"]).headers["location"]
    with httpx2.Client(trust_env=False) as other:
        service.begin(other)
        assert other.get(back).status_code == 404, "it was begun elsewhere"
    assert browser.get(back).status_code == 404, "and whoever tried ended it"
    back = browser.get(service.begin(browser).headers["location"]).headers["location"]
    with httpx2.Client(trust_env=False) as bare:
        assert bare.get(back).status_code == 404
    back = browser.get(service.begin(browser).headers["location"]).headers["location"]
    assert "code" in said(browser.get(back))
    assert browser.get(back).status_code == 404


def test_a_code_is_worth_a_token_once_and_to_its_command_only(service: Service, provider: IdProvider, browser) -> None:
    code = arrive(service, provider, browser)["code"]
    assert service.redeem(code, "w" * 43).status_code == 404
    assert service.redeem(code).status_code == 404, "who guessed wrong has used it up"
    code = arrive(service, provider, browser)["code"]
    assert service.redeem(code).status_code == 200 and service.redeem(code).status_code == 404
    for body in ({}, {"code": code}, {"code": code, "verifier": "short"}, {"code": 1, "verifier": VERIFIER}):
        assert httpx2.post(f"{service.url}/v1/sign-in/token", json=body).status_code == 422
    code = arrive(service, provider, browser)["code"]
    (binding,) = service.keystore.bindings_of(Identity(provider.issuer, SUBJECT))
    service.keystore.unbind_identity(binding.binding_id, "oscar")
    late = service.redeem(code)
    assert (late.status_code, late.json()["code"]) == (409, "unbound")


def test_what_is_begun_and_not_ended_is_forgotten(service: Service, provider: IdProvider, browser, monkeypatch) -> None:
    now = [1000.0]
    use(service, service.settings(provider), clock=lambda: now[0])
    back = browser.get(service.begin(browser).headers["location"]).headers["location"]
    now[0] += sign_in_module.SIGN_IN_SECONDS
    assert browser.get(back).status_code == 404
    code = arrive(service, provider, browser)["code"]
    now[0] += sign_in_module.CODE_SECONDS
    assert service.redeem(code).status_code == 404
    monkeypatch.setattr(sign_in_module, "MAX_BEGUN", 1)
    back = browser.get(service.begin(browser).headers["location"]).headers["location"]
    service.begin(browser)
    assert browser.get(back).status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        {"port": 80},
        {"port": 70_000},
        {"port": "1@evil.example"},
        {"challenge": "short"},
        {"challenge": "=" * 43},
        {"state": "a&b" * 20},
        {"state": ""},
        {"role": "king"},
    ],
    ids=str,
)
def test_a_browser_is_sent_nowhere_but_to_a_port_of_its_machine(asked, service: Service, browser) -> None:
    assert service.begin(browser, **asked).status_code == 422


def test_sign_ins_are_counted(service: Service, provider: IdProvider, browser) -> None:
    for _ in range(BEGINS_PER_MINUTE):
        assert service.begin(browser).status_code == 302
    refused = service.begin(browser)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many")
    sign_ins = use(service, service.settings(provider))
    (binding,) = service.keystore.bindings_of(Identity(provider.issuer, SUBJECT))
    for _ in range(TOKENS_PER_HOUR):
        sign_ins._hold(("token", binding.binding_id), TOKENS_PER_HOUR, 3600)
    assert service.redeem(arrive(service, provider, browser)["code"]).status_code == 429


def test_without_a_provider_there_is_no_way_to_sign_in(service: Service, browser) -> None:
    service.app.state.office.sign_ins = None
    for path in ("/v1/sign-in?port=2000&challenge=" + "c" * 43 + "&state=" + STATE, "/v1/sign-in/callback?state=x"):
        assert browser.get(service.url + path).status_code == 404
    assert service.redeem("x").status_code == 404


def test_keys_that_were_changed_are_asked_for_again_but_not_at_each_strangers_word(
    service: Service, provider: IdProvider
) -> None:
    now = [1000.0]
    asked = Provider(service.settings(provider), lambda: now[0])

    def keys_asked(nonce: str = "n") -> int:
        before = provider.calls.count("/keys")
        address = asked.authorization(CALLBACK, "state", nonce, challenge_of(VERIFIER))
        code = parse_qs(urlsplit(httpx2.get(address).headers["location"]).query)["code"][0]
        try:
            assert asked.identity(CALLBACK, code, VERIFIER, nonce, utc_now()).subject == SUBJECT
        except SignInError as error:
            assert error.code == "key"
        return provider.calls.count("/keys") - before

    assert [keys_asked(), keys_asked()] == [1, 0]
    provider.rotate()
    assert [keys_asked(), keys_asked()] == [1, 0]
    provider.published = []
    provider.key = provider.key.__class__.generate_key("P-256", {"kid": "unpublished"})
    assert [keys_asked(), keys_asked()] == [0, 0], "a key was looked for less than a minute ago"
    now[0] += 60
    assert [keys_asked(), keys_asked()] == [1, 0]
    provider.rotate()
    now[0] += 3600
    assert keys_asked() == 1, "keys that the provider took back are not believed for longer than an hour"


def other(path: str, answer: Callable[[], Response]) -> dict[str, Any]:
    return {"replaced": {path: answer}}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("another name", {"document": {"issuer": "http://127.0.0.1:9"}}, "another name"),
    ("no name", {"document": {"issuer": None}}, "another name"),
    ("keys elsewhere", {"document": {"jwks_uri": "https://169.254.169.254/keys"}}, "another host"),
    ("keys at a database", {"document": {"jwks_uri": "gopher://127.0.0.1:9/"}}, "no https"),
    ("keys in a file", {"document": {"jwks_uri": "file:///etc/passwd"}}, "no plain https"),
    ("keys without https", {"document": {"jwks_uri": "http://login.example/keys"}}, "no https"),
    ("keys of somebody", {"document": {"jwks_uri": "http://a:b@127.0.0.1:9/"}}, "no plain https"),
    ("no keys", {"document": {"jwks_uri": None}}, "missing"),
    ("keys of two lines", {"document": {"jwks_uri": "http://127.0.0.1:9/\r\nX: y"}}, "missing"),
    ("tokens elsewhere", {"document": {"token_endpoint": "https://login.example/token"}}, "another host"),
    ("a sign-in by script", {"document": {"authorization_endpoint": "javascript:alert(1)"}}, "no plain https"),
    ("a redirect of the document", other("/.well-known/openid-configuration", lambda: RedirectResponse(NEVER)), "307"),
    ("a redirect of the keys", other("/keys", lambda: RedirectResponse(NEVER)), "307"),
    ("too much", other("/keys", lambda: Response(b" " * (MAX_ANSWER_BYTES + 1))), "too great"),
    ("a list", other("/.well-known/openid-configuration", lambda: JSONResponse([])), "another name"),
    ("a page", other("/keys", lambda: Response("<html>")), "JSON"),
    ("two of one name", other("/keys", lambda: Response('{"keys":[],"keys":[]}')), "JSON"),
    ("keys that are none", other("/keys", lambda: JSONResponse({"keys": 1})), "none"),
    ("a failure", other("/keys", lambda: Response(status_code=500)), "500"),
]


@pytest.mark.parametrize(("what", "bent", "why"), WRONG, ids=[one[0] for one in WRONG])
def test_a_provider_that_is_not_as_it_should_be_is_not_believed(
    what: str, bent: dict[str, Any], why: str, service: Service, provider: IdProvider, browser
) -> None:
    vars(provider).update(bent)
    answer = service.begin(browser)
    assert (answer.status_code, answer.json()["code"]) == (503, "provider")
    assert why in answer.json()["detail"]
    asked = len(provider.calls)
    assert "a moment ago" in service.begin(browser).json()["detail"] and len(provider.calls) == asked


def test_hosts_that_the_settings_list_are_asked_too(service: Service, provider: IdProvider) -> None:
    port = urlsplit(provider.issuer).port
    provider.document = {"jwks_uri": f"http://localhost:{port}/keys"}
    with pytest.raises(SignInError, match="provider"):
        Provider(service.settings(provider)).authorization(CALLBACK, "s", "n", "c")
    assert Provider(service.settings(provider, hosts=["localhost"])).authorization(CALLBACK, "s", "n", "c")


def test_a_provider_that_does_not_answer_holds_up_nobody_else(service: Service, provider: IdProvider, browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(service, service.settings(provider, issuer=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        places = service.app.state.office.sign_ins._provider._places
        for _ in range(MAX_AT_ONCE):
            places.acquire()
        begin = time.monotonic()
        answer = service.begin(browser)
        assert (answer.status_code, answer.json()["code"]) == (503, "busy") and time.monotonic() - begin < 5
    use(service, service.settings(provider, issuer=NEVER))
    assert "can not be reached" in service.begin(browser).json()["detail"]


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["headers", "body"])
def test_a_provider_that_answers_byte_by_byte_is_cut_off(
    begin: bytes, service: Service, provider: IdProvider, monkeypatch
) -> None:
    monkeypatch.setattr(provider_module, "ANSWER_SECONDS", 0.3)

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(begin)
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as slow:
        threading.Thread(target=drip, args=(slow,), daemon=True).start()
        asked = Provider(service.settings(provider, issuer=f"http://127.0.0.1:{slow.getsockname()[1]}"))
        with pytest.raises(SignInError) as refused:
            asked.authorization(CALLBACK, "s", "n", "c")
    assert "too slow" in refused.value.detail


GOOD = {"issuer": "https://login.example", "client_id": "keyanon", "address": "https://keystore.example:8443"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "issuer|valid"),
        ("[1]", "the file"),
        ("a: [", "no YAML"),
        ("!!python/object/apply:os.system [id]", "no YAML"),
        ({"issuer": "http://login.example"}, "issuer"),
        ({"issuer": "https://login.example?a=b"}, "issuer"),
        ({"issuer": "https://login.example#a"}, "issuer"),
        ({"issuer": "login.example"}, "issuer"),
        ({"address": "http://keystore.example"}, "address"),
        ({"address": "https://a:b@keystore.example"}, "address"),
        ({"token_hours": 9}, "token_hours"),
        ({"token_hours": 0}, "token_hours"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "in the file itself"}, "client_secret"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"prompt": "none"}, "prompt"),
        ({"max_age_minutes": 0}, "max_age"),
    ],
    ids=str,
)
def test_settings_that_can_not_be_right_are_refused_by_name(text: Any, why: str, tmp_path: Path) -> None:
    file = tmp_path / "oidc.yaml"
    file.write_text(text if isinstance(text, str) else "\n".join(f"{k}: {v!r}" for k, v in {**GOOD, **text}.items()))
    with pytest.raises(StorageError, match=why) as refused:
        OidcSettings.read(file)
    assert "in the file itself" not in str(refused.value)


def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    settings = OidcSettings.model_validate({**GOOD, "client_secret_file": file})
    with pytest.raises(StorageError, match="can not be read"):
        settings.client_secret()
    file.touch(mode=0o600)
    with pytest.raises(StorageError, match="empty"):
        settings.client_secret()
    file.write_text(SECRET)
    assert settings.client_secret() == SECRET
    file.chmod(0o640)
    with pytest.raises(StorageError, match="open to others"):
        settings.client_secret()
    with pytest.raises(StorageError, match="can not be read"):
        OidcSettings.read(tmp_path / "nothing.yaml")


def test_the_commands_port_answers_nobody_without_its_state(service: Service, provider: IdProvider) -> None:
    def meddle(address: str) -> None:
        port = parse_qs(urlsplit(address).query)["port"][0]

        def try_all() -> None:
            for query in ("", "?code=c", "?code=c&state=guessed", "?error=e&state=", "?code=c&state=%ff&state=x"):
                assert httpx2.get(f"http://127.0.0.1:{port}/{query}", trust_env=False).status_code == 404
            with socket.create_connection(("127.0.0.1", int(port))) as rude:
                rude.sendall(b"\xff\x00 rubbish\r\n\r\n")
            browse(address)

        threading.Thread(target=try_all, daemon=True).start()

    assert service.keystore.authenticate(sign_in(service.url, meddle).token) is not None


@pytest.mark.parametrize(
    "url", ["http://keystore.example", "keystore.example", "https://a:b@keystore.example", "ftp://x"]
)
def test_a_command_signs_in_over_https_only(url: str) -> None:
    with pytest.raises(StorageError, match="https"):
        sign_in(url, browse)
