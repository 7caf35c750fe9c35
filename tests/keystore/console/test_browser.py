"""The console in a real, headless Chromium, by the keyboard alone; and other sites that try to use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keystore.decisions.lifecycle import State
from keystore.decisions.signatures import key_id_of, parse_public_line
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit
from tests.keystore.console.driving import Tab, elsewhere

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202eevil"


@pytest.fixture
def tab(browser: Any, served) -> Iterator[Tab]:
    made = Tab(browser, served.origin)
    yield made
    made.close()


def test_a_request_is_filed_approved_and_refused_by_the_keyboard_alone(tab: Tab, browser, served, beside) -> None:
    tab.sign_in(served.token("requester", "alice", "photos"))
    tab.check()
    tab.push("File a request")
    tab.check()
    written = {
        "Images": "a.png nothere.png",
        "Case": "C-99",
        "Purpose": "identify the driver",
        "Legal basis": "court",
        "Law, order or contract": "17/2026",
    }
    for name, text in {**written, "Stands for": "2"}.items():
        tab.write(name, text)
    tab.push("File the request")
    assert "unknown-record" in tab.text() and tab.page.input_value("#purpose") == "identify the driver"
    assert tab.page.evaluate("document.activeElement.getAttribute('role')") == "alert", (
        "a reader begins with what is wrong"
    )
    assert tab.page.input_value("#legal_basis") == "court-order" and tab.page.input_value("#law") == "17/2026"
    tab.check()
    tab.reach("Images")
    tab.press("Control+A")
    tab.page.keyboard.type("a.png b.png")
    tab.push("File the request")
    assert "The request is filed" in tab.text() and "identify the driver" in tab.text()
    assert "court-order: 17/2026" in tab.text()
    request_id = tab.page.url.rpartition("/")[2]
    tab.push("Sign out")
    tab.open("/requests")
    assert tab.page.is_visible("#token")
    for name in ("bob", "carol"):
        tab.sign_in(served.token("approver", name, "photos"))
        tab.push("pending (")
        tab.push("C-99")
        tab.check()
        tab.push("Approve…")
        tab.check()
        tab.push("Approve what is shown")
        assert "Your approval is on record" in tab.text()
        tab.push("Sign out")
    shown = beside.show(request_id)
    assert shown.state is State.APPROVED and [one.approver for one in shown.approvals] == ["bob", "carol"]
    tab.sign_in(served.token("approver", "dora", "photos"))
    tab.push("approved (")
    tab.push("C-99")
    tab.reach("Refuse…")
    tab.press("Enter")
    tab.push("Refuse this request")
    assert "That is final" in tab.text() and beside.show(request_id).denied_by == "dora"
    tab.check()
    assert tab.complaints == []


def test_an_auditor_verifies_by_the_keyboard(tab: Tab, served) -> None:
    tab.sign_in(served.token("auditor", "eve"))
    tab.push("Verify the log now")
    assert "Nothing wrong was found" in tab.text()
    tab.check()
    tab.push("Report")
    tab.push("Make the report")
    assert "Overdue" in tab.text() and "said this of itself" in tab.text()
    tab.check()
    assert tab.complaints == []


def test_what_a_requester_wrote_runs_nothing(tab: Tab, served, beside: ServedKeystore, make) -> None:
    request = make.request(
        beside, "a.png", requester="alice", case=HOSTILE, purpose=HOSTILE, legal_basis=f"court-order: {HOSTILE}"
    )
    tab.sign_in(served.token("approver", "bob", "photos"))
    for path in ("/requests", f"/requests/{request.request_id}", f"/requests/{request.request_id}/approval"):
        tab.open(path)
        assert "<img src=x" in tab.text() and tab.page.title() != "owned"
    assert tab.complaints == []


def test_no_script_is_needed(browser: Any, served, beside: ServedKeystore, make) -> None:
    request = make.request(beside, "a.png", requester="alice")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.origin + "/console/sign-in")
    page.fill("#token", served.token("approver", "bob", "photos"))
    page.click("text=Sign in >> nth=-1")
    page.goto(f"{served.origin}/console/requests/{request.request_id}/approval")
    page.click("text=Approve what is shown")
    assert "Your approval is on record" in page.inner_text("main")
    context.close()
    assert [one.approver for one in beside.show(request.request_id).approvals] == ["bob"]


@pytest.mark.parametrize("way", ["a form", "a script", "a frame"])
def test_another_origin_of_the_same_site_gets_nothing_done(
    way: str, tab: Tab, served, beside, make, tls, tmp_path
) -> None:
    request = make.request(beside, "a.png", requester="alice")
    path = f"{served.origin}/console/requests/{request.request_id}"
    body = f"digest={request.digest}&csrf=x"
    (tmp_path / "evil.html").write_text(
        {
            "a form": f'<form method="post" action="{path}/denial"><input name="csrf" value="x"></form>'
            "<script>document.forms[0].submit()</script>",
            "a script": f"<script>fetch('{path}/approval', {{method: 'POST', mode: 'no-cors', credentials: 'include', body: "
            f"new URLSearchParams('{body}')}}).finally(() => document.title = 'tried')</script>",
            "a frame": f'<title>tried</title><iframe src="{path}"></iframe>',
        }[way]
    )
    tab.sign_in(served.token("approver", "bob", "photos"))
    before = len(beside.audit_entries())
    with elsewhere(tmp_path, tls) as origin:
        tab.page.goto(origin + "/evil.html")
        if way == "a form":
            tab.page.wait_for_selector("text=a page of this console only")
        else:
            tab.page.wait_for_function("document.title === 'tried'")
            tab.page.wait_for_load_state("networkidle")
        if way == "a frame":
            assert not any("identify a missing" in frame.content() for frame in tab.page.frames)
    assert len(beside.audit_entries()) == before and beside.show(request.request_id).state is State.PENDING
    sent = [line for line in served.lines() if line.get("status") == 403 and line["endpoint"].startswith("console.")]
    assert way == "a frame" or sent, "and it came as far as the gate"


def _authenticator(tab: Tab, *, verifies: bool = True) -> tuple[Any, str]:
    """A device in the browser that makes passkeys, and says yes at once."""
    spoken = tab.context.new_cdp_session(tab.page)
    spoken.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    options |= {"isUserVerified": verifies, "automaticPresenceSimulation": True}
    return spoken, spoken.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]


def test_an_approver_makes_a_passkey_and_approves_with_it_and_with_nothing_else(
    tab: Tab, served, beside: ServedKeystore, make
) -> None:
    spoken, device = _authenticator(tab)
    tab.sign_in(served.token("approver", "petra", "photos"))
    tab.push("Your passkey")
    tab.check()
    tab.push("Make a passkey")
    tab.check()
    tab.push("Sign with it")
    line = tab.page.inner_text("#line")
    assert beside.enrol_approver("petra", "dpo", line, "oscar", "olga") is None
    key = key_id_of(parse_public_line(line).public_key)
    assert key in tab.text()
    tab.check()
    request = make.request(beside, "a.png", requester="alice")
    path = f"/requests/{request.request_id}/approval"
    tab.open(path)
    tab.check()
    tab.reach("The keys may be taken out within")
    tab.page.keyboard.type("1 h")
    tab.push("Sign what is shown")
    assert "Your approval is on record" in tab.text() and "for 1 h at most" in tab.text()
    (approval,) = beside.show(request.request_id).approvals
    assert (approval.approver, approval.key, approval.grant_seconds) == ("petra", key, 3600)
    assert tab.complaints == []
    other = make.request(beside, "a.png", requester="alice")
    by_token = served.person("approver", "petra", "photos")
    answer = by_token.post(f"/requests/{other.request_id}/approval", digest=other.digest)
    assert "<code>own-key</code>" in answer.text
    # A device that does not know its person signs nothing here.
    spoken.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    tab.open(f"/requests/{other.request_id}/approval")
    tab.reach("Sign what is shown")
    tab.press("Enter")
    tab.page.wait_for_selector("text=your browser gave no passkey")
    assert beside.show(other.request_id).approvals == []
    assert verify_audit(served.path).ok


def test_what_a_passkey_signed_for_one_request_is_refused_for_another(tab: Tab, served, beside, make) -> None:
    _authenticator(tab)
    tab.sign_in(served.token("approver", "paul", "photos"))
    tab.push("Your passkey")
    tab.push("Make a passkey")
    tab.push("Sign with it")
    beside.enrol_approver("paul", "dpo", tab.page.inner_text("#line"), "oscar", "olga")
    one, other = make.request(beside, "a.png", requester="alice"), make.request(beside, "a.png", requester="alice")
    sent: list[str] = []
    tab.page.route("**/approval", lambda route: _held(route, sent))
    tab.open(f"/requests/{one.request_id}/approval")
    tab.push("Sign what is shown")
    assert tab.page.title() == "held"
    body = sent[0]
    cookie = {"Cookie": f"__Host-keyanon={tab.context.cookies()[0]['value']}"}
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": served.origin, **cookie}

    def hand_in(request_id: str, body: str) -> str:
        path = f"/console/requests/{request_id}/approval"
        return served.stranger.http.post(path, content=body, headers=form).text

    assert "<code>changed</code>" in hand_in(other.request_id, body)
    assert "<code>signature</code>" in hand_in(other.request_id, body.replace(one.digest, other.digest))
    assert "<code>signature</code>" in hand_in(one.request_id, body.replace("grant_seconds=", "grant_seconds=3600"))
    assert beside.show(one.request_id).approvals == [] == beside.show(other.request_id).approvals
    hand_in(one.request_id, body)
    assert [approval.approver for approval in beside.show(one.request_id).approvals] == ["paul"]


def _held(route: Any, sent: list[str]) -> None:
    if route.request.method == "GET":
        route.continue_()
        return
    sent.append(route.request.post_data)
    route.fulfill(body="<title>held</title>", content_type="text/html")
