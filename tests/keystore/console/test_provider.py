"""Signing in to the console through an identity provider: in a real browser, and what else is tried by HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keystore.console.gate import COOKIE
from keystore.decisions.api_token import Role
from keystore.decisions.bindings import Identity
from keystore.served import ServedKeystore
from tests.keystore.console.conftest import ServedConsole
from tests.keystore.console.driving import Tab
from tests.keystore.service.provider import CLIENT, SECRET, SUBJECT, IdProvider, running


class ServedWithProvider(ServedConsole):
    """The same command, with `--oidc` too."""

    def __init__(self, path: Path, tls: Path, provider: IdProvider) -> None:
        self.provider = provider
        super().__init__(path, tls)

    def arguments(self, port: int) -> list[str]:
        settings, secret = self.path.parent / "oidc.yaml", self.path.parent / "secret"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)
        said = {
            "issuer": self.provider.issuer,
            "client_id": CLIENT,
            "address": self.origin,
            "client_secret_file": secret,
        }
        settings.write_text("".join(f"{name}: {value}\n" for name, value in said.items()))
        return [*super().arguments(port), "--oidc", str(settings)]


@pytest.fixture(scope="module")
def served(template: Path, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedWithProvider]:
    """As in conftest, and Dora signs in through a provider, as approver or operator."""
    path = tmp_path_factory.mktemp("console") / "ks"
    shutil.copytree(template, path)
    with running() as provider:
        with ServedKeystore.open(path) as keystore:
            for role in (Role.APPROVER, Role.OPERATOR):
                keystore.bind_identity(Identity(provider.issuer, SUBJECT), "Dora", role, "oscar")
        server = ServedWithProvider(path, tls, provider)
        yield server
        server.stop()


def visitor(served: ServedWithProvider) -> httpx2.Client:
    return httpx2.Client(base_url=served.origin, verify=served.ssl, timeout=60, trust_env=False)


def back_from_provider(browser: httpx2.Client, role: str = "approver") -> str:
    """Where the provider sends a browser that began at the console."""
    begun = browser.get("/console/sign-in/provider", params={"role": role})
    assert begun.status_code == 303 and begun.headers["x-frame-options"] == "DENY"
    return str(browser.get(begun.headers["location"]).headers["location"])


def test_a_person_signs_in_in_a_browser(browser: Any, served: ServedWithProvider, beside: ServedKeystore) -> None:
    tab = Tab(browser, served.origin)
    try:
        tab.open("/sign-in")
        tab.check()
        tab.page.click("summary")
        tab.page.click("text=Sign in as approver")
        tab.page.wait_for_url("**/console/requests")
        assert "Signed in as dora, approver" in tab.page.inner_text("header")
        tab.check()
        assert tab.complaints == []
    finally:
        tab.close()
    (token,) = beside.tokens()
    assert (token.person, token.role) == ("dora", Role.APPROVER)
    beside.unbind_identity(next(one.binding_id for one in beside.bindings() if one.role is Role.APPROVER), "oscar")
    assert beside.holder(token.token_id) is None
    beside.bind_identity(Identity(served.provider.issuer, SUBJECT), "Dora", Role.APPROVER, "oscar")


def test_who_has_several_roles_is_offered_each_that_there_are_pages_for(served: ServedWithProvider) -> None:
    with visitor(served) as mine:
        said = mine.get("/console/sign-in").text
    assert [one for one in Role if f'role={one.value}"' not in said] == [Role.INGEST, Role.PSEUDONYMS]


def test_an_answer_begins_a_session_once_and_where_it_was_asked_for(served: ServedWithProvider) -> None:
    with visitor(served) as mine, visitor(served) as other:
        back = back_from_provider(mine)
        assert "callback" in back and other.get(back).status_code == 404
        assert mine.get(back).status_code == 404, "who tried elsewhere has ended it"
        answer = mine.get(back_from_provider(mine))
        assert answer.status_code == 200 and COOKIE in answer.headers["set-cookie"]
        assert "samesite=strict" in answer.headers["set-cookie"].lower()
        assert mine.get("/console/requests").status_code == 200
        command = mine.get("/v1/sign-in", params={"port": 2000, "challenge": "c" * 43, "state": "s" * 43})
        at_service = mine.get(command.headers["location"]).headers["location"]
        state = at_service.partition("?")[2]
        assert mine.get(f"/console/sign-in/callback?{state}").status_code == 404, "a command's is not the console's"
        of_console = back_from_provider(mine).partition("?")[2]
        assert mine.get(f"/v1/sign-in/callback?{of_console}").status_code == 404


def test_who_is_not_meant_gets_no_session(served: ServedWithProvider) -> None:
    with visitor(served) as mine:
        answer = mine.get(back_from_provider(mine, "requester"))
        assert answer.status_code == 403 and "none of this role" in answer.text
        assert COOKIE not in answer.headers.get("set-cookie", "")
        served.provider.subject = "somebody"
        try:
            answer = mine.get(back_from_provider(mine))
            assert answer.status_code == 403 and "nobody here" in answer.text
        finally:
            served.provider.subject = SUBJECT
        assert mine.get("/console/sign-in/provider?role=king").status_code == 422
        assert mine.get("/console/requests").status_code == 401
        assert "identity provider" in mine.get("/console/requests").text


def test_a_console_without_a_provider_offers_none(template: Path, tls: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "ks")
    server = ServedConsole(tmp_path / "ks", tls)
    try:
        with httpx2.Client(base_url=server.origin, verify=server.ssl, timeout=60, trust_env=False) as mine:
            nothing = mine.get("/console/there/is/nothing")
            for path in ("provider", "callback?state=s"):
                answer = mine.get(f"/console/sign-in/{path}")
                assert (answer.status_code, answer.content) == (404, nothing.content)
            assert "identity provider" not in mine.get("/console/sign-in").text
    finally:
        server.stop()
