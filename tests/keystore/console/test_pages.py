"""The table of pages, walked by every role and tenant and by nobody; and forms that no page of the console sent."""

from __future__ import annotations

import base64
import io
import itertools
import re
import zipfile
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from keystore.console.gate import COOKIE, checked_origin
from keystore.console.pages import PAGES, ROLES
from keystore.console.sessions import IDLE_SECONDS, LIFE_SECONDS, MAX_OF_A_TOKEN, Sessions
from keystore.decisions.api_token import Role
from keystore.decisions.legal_bases import LEGAL_BASES
from keystore.decisions.policy import Policy
from keystore.errors import ApprovalError, StorageError
from keystore.reporting.report import OfficerReport
from keystore.served import ServedKeystore
from keystore.service.calls import MAX_LISTED
from keystore.service.endpoints import ENDPOINTS, Reach
from keystore.service.office import VERIFICATIONS_PER_HOUR
from keystore.verification.verify import verify_audit
from tests.keystore.passkeys import Device

TENANTS = {
    "own": ("alice", "photos"),
    "another person": ("mallory", "photos"),
    "another data set": ("alice", "elsewhere"),
}
EVERYBODYS = {"sign_in_page", "sign_in", "style", "script", "pictures_script", "provider", "provider_answer"}
ASKS_FOR_MORE = {"make_passkey", "prove_passkey"}  # than the walk through the table sends
GOES_ON = {"home", "sign_out", "file_request", "approve", "deny", "withdraw"}  # to another page, when it is done
WORDS = {"case": "C-1", "purpose": "identify a missing person", "legal_basis": "court-order", "hours": "1"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202egnp.a\u0000\u200b"


def wanted(name: str, role: Role, tenant: str) -> int:
    reach = PAGES[name].endpoint.roles.get(role)
    if reach is None:
        return 404
    done = 303 if name in GOES_ON else 422 if name in ASKS_FOR_MORE else 200
    if "{" in PAGES[name].path and reach is Reach.OWN_CHANGES:
        return 404  # alice's is no change
    if "{" in PAGES[name].path and reach is not Reach.ALL:
        return 404 if tenant == "another data set" or (reach is Reach.OWN and tenant != "own") else done
    if name in ("break_glass", "file_change"):
        return 409  # the service was not told to, and names decide; see test_governing
    return 409 if name == "file_request" and tenant == "another data set" else done  # no such image is in that data set


def call(person: Any, name: str, beside: ServedKeystore, make) -> httpx2.Response:
    """A call that does what the page is for, on something of alice's in `photos`."""
    path = PAGES[name].path.removeprefix("/console")
    fields: dict[str, str] = {}
    if "{request_id}" in path:
        request = make.request(beside, "a.png", requester="alice")
        path = path.format(request_id=request.request_id)
        fields = {"digest": request.digest}
    elif name in ("file_request", "break_glass"):
        fields = {**WORDS, "images": "a.png", "dataset": ""}
    elif name == "file_change":
        fields = {"kind": "policy", "max_images": "7"}
    return person.get(path) if PAGES[name].method == "GET" else person.post(path, **fields)


def test_a_page_is_for_the_roles_of_its_endpoint() -> None:
    for name, page in PAGES.items():
        if page.of is None:
            assert name in EVERYBODYS | {"home", "sign_out"}
        else:
            assert page.endpoint.roles == ENDPOINTS[page.of].roles
            assert set(page.endpoint.roles) <= set(ROLES)
            assert page.method == "POST" or ENDPOINTS[page.of].method == "GET" or name.endswith("_page")


@pytest.mark.parametrize("name", [name for name in PAGES if name not in EVERYBODYS])
def test_the_table_holds_for_every_role_and_tenant(name: str, served, beside: ServedKeystore, make) -> None:
    nothing = None
    for role, tenant in itertools.product(ROLES, TENANTS):
        person, dataset = TENANTS[tenant]
        if role in (Role.APPROVER, Role.AUDITOR, Role.OPERATOR):
            person = f"some {role.value}"
        visitor = served.person(role.value, person, dataset, fresh=name == "sign_out")
        nothing = nothing or visitor.get("/there/is/nothing").content
        answer = call(visitor, name, beside, make)
        status = wanted(name, role, tenant)
        assert answer.status_code == status, (name, role, tenant, answer.text)
        if status == 404:
            assert answer.content == nothing, "what may not be seen looks like what is not there"
        if name == "list_requests" and tenant == "another data set" and status == 200:
            assert "C-17" not in answer.text
    refused = call(served.stranger, name, beside, make)
    assert refused.status_code == 401 and "Sign in" in refused.text


def test_the_pages_are_not_in_the_document_of_the_interface_and_a_session_opens_no_endpoint_of_it(served) -> None:
    assert not [path for path in served.call("GET", "/openapi.json").json()["paths"] if "console" in path]
    signed = served.person("auditor", "eve")
    assert signed.get("/log").status_code == 200
    assert signed.http.get("/v1/log").status_code == 401


@pytest.mark.parametrize("role", [role for role in Role if role not in ROLES])
def test_a_token_without_pages_signs_nobody_in(role: Role, served) -> None:
    answer = served.stranger.post("/sign-in", token=served.token(role.value, "job", "photos"))
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_a_session_ends_with_its_token_and_by_signing_out_and_its_cookie_is_not_for_scripts(
    served, beside: ServedKeystore
) -> None:
    visitor = served.person("auditor", "ed", fresh=True)
    said = visitor.signed.headers["set-cookie"]
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/", "Max-Age="):
        assert word.lower() in said.lower(), said
    assert said.startswith("__Host-") and "domain" not in said.lower()
    token = served.token("auditor", "ed")
    assert token not in said and token.split("_")[1] not in said
    kept = visitor.http.cookies[COOKIE]
    assert visitor.post("/sign-out").status_code == 303
    again = httpx2.Client(base_url=served.origin, verify=served.ssl, cookies={COOKIE: kept}, trust_env=False)
    assert again.get("/console/log").status_code == 401, "not the browser alone forgot it"
    other = served.person("auditor", "ed", fresh=True)
    assert other.get("/log").status_code == 200
    beside.revoke_token(token.split("_")[1], "oscar")
    assert other.get("/log").status_code == 401


def test_sessions_end_in_time_and_a_token_has_few() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.begin("t")
    for _ in range(int(LIFE_SECONDS / (IDLE_SECONDS - 1))):
        now[0] += IDLE_SECONDS - 1
        assert sessions.find(first)
    now[0] = float(LIFE_SECONDS)
    assert sessions.find(first) is None, "however busy"
    idle = sessions.begin("t")
    now[0] += IDLE_SECONDS
    assert sessions.find(idle) is None and sessions.find("") is None
    many = []
    for _ in range(MAX_OF_A_TOKEN + 2):
        now[0] += 1
        many.append(sessions.begin("t"))
    foreign = sessions.begin("another")
    assert [sessions.find(one) is not None for one in many] == [False, False] + [True] * MAX_OF_A_TOKEN
    assert sessions.find(foreign)
    assert many[-1] not in repr(sessions.find(many[-1]))


ATTACKS = {
    "another origin": ({"Origin": "https://evil.example"}, None),
    "another port": ({"Origin": "https://localhost:1"}, None),
    "no origin": ({}, None),
    "a null origin": ({"Origin": "null"}, None),
    "no token": (None, ""),
    "another's token": (None, "x" * 43),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_form_that_no_page_sent_does_nothing(attack: str, served, beside: ServedKeystore, make) -> None:
    request = make.request(beside, "a.png", requester="alice")
    visitor = served.person("approver", "bob", "photos", fresh=True)
    headers, csrf = ATTACKS[attack]
    visitor.csrf = visitor.csrf if csrf is None else csrf
    before = len(beside.audit_entries())
    for path in ("approval", "denial"):
        answer = visitor.post(f"/requests/{request.request_id}/{path}", headers, digest=request.digest)
        assert answer.status_code == 403, answer.text
    assert visitor.post("/sign-out", headers, x="1").status_code == 403
    assert len(beside.audit_entries()) == before and beside.show(request.request_id).state == "pending"
    assert visitor.get("/requests").status_code == 200


@pytest.mark.parametrize(
    "body", ["csrf=a&csrf=b", "%ff=1", "=&=&", "a&b", "&".join(f"a{i}=1" for i in range(100)), "{}"]
)
def test_a_body_that_is_no_form_is_refused(body: str, served) -> None:
    visitor = served.person("requester", "alice", "photos")
    headers = {"Origin": served.origin, "Content-Type": "application/x-www-form-urlencoded"}
    answer = visitor.http.post("/console/filing", content=body.encode(), headers=headers)
    assert answer.status_code in (403, 422) and "defect" not in served.log.read_text()
    assert (
        visitor.http.post("/console/filing", json={"csrf": visitor.csrf}, headers={"Origin": served.origin}).status_code
        == 422
    )


def test_a_form_offers_the_legal_bases_of_the_policy_and_takes_no_other(served, beside: ServedKeystore) -> None:
    visitor = served.person("requester", "lena", "photos")
    form = visitor.get("/filing").text
    assert all(f'<option value="{code}">{code}: {said}' in form for code, said in LEGAL_BASES.items())
    fields = {**WORDS, "images": "a.png", "dataset": "", "law": "17/2026"}
    filed = visitor.post("/filing", **fields).headers["location"].rpartition("/")[2]
    assert beside.show(filed).legal_basis == "court-order: 17/2026"
    refused = visitor.post("/filing", **fields | {"legal_basis": "the law"})
    assert refused.status_code == 409 and "<code>legal_basis</code>" in refused.text and "own-data" in refused.text
    assert (
        " selected" not in refused.text
        and '<option value="court-order" selected>'
        in visitor.post("/filing", **fields | {"images": "nothere.png"}).text
    )


def test_what_others_wrote_is_shown_and_never_obeyed(served, beside: ServedKeystore, make) -> None:
    request = make.request(
        beside, "a.png", requester="alice", case=HOSTILE, purpose=HOSTILE, legal_basis=f"court-order: {HOSTILE}"
    )
    visitor = served.person("approver", "bob", "photos")
    for path in ("/requests", f"/requests/{request.request_id}", f"/requests/{request.request_id}/approval"):
        text = visitor.get(path).text
        assert "<script" not in text and "<img" not in text and "\u202e" not in text and "\u200b" not in text
        assert "&lt;script&gt;" in text and "{{7*7}}" in text and "\\u202e" in text
    written = served.person("requester", "alice", "photos").post(
        "/filing", **WORDS | {"hours": HOSTILE, "images": HOSTILE}
    )
    assert written.status_code == 422 and "<img" not in written.text


@pytest.mark.slow
def test_a_pending_request_is_shown_behind_200_newer_ones_that_are_over(served, beside: ServedKeystore, make) -> None:
    made = make.request(beside, "a.png", requester="piet", case="an older case").request_id
    for _ in range(MAX_LISTED):
        beside.deny(make.request(beside, "a.png", requester="piet").request_id, "bob")
    piet = served.person("requester", "piet", "photos")
    assert made not in piet.get("/requests").text
    pending = piet.get("/requests?state=pending").text
    assert made in pending and "pending (1)" in pending and f"denied ({MAX_LISTED}+)" in pending
    assert "the newest" not in pending and f"the newest {MAX_LISTED}" in piet.get("/requests?state=denied").text


def test_a_refusal_has_the_code_that_the_interface_gives(served, beside: ServedKeystore, make) -> None:
    request = make.request(beside, "a.png", requester="alice")
    path = f"/requests/{request.request_id}/approval"
    visitor = served.person("approver", "alice", "photos")
    for digest, status, code in (
        (request.digest, 409, "self-approval"),
        ("0" * 64, 409, "self-approval"),
        ("x", 422, "invalid"),
    ):
        answer = visitor.post(path, digest=digest)
        told = served.call("POST", f"/v1{path}", served.token("approver", "alice", "photos"), json={"digest": digest})
        assert (answer.status_code, told.status_code) == (status, status)
        assert told.json()["code"] == code and f"<code>{code}</code>" in answer.text
    stranger = served.person("approver", "bob", "photos")
    assert "<code>changed</code>" in stranger.post(path, digest="0" * 64).text


def test_a_change_of_who_decides_is_shown_and_signed_by_passkeys_whatever_the_data_set(
    served, beside: ServedKeystore
) -> None:
    devices = {name: Device(origin=served.origin, rp_id="localhost") for name in ("ewa", "fred")}
    for name, device in devices.items():
        assert beside.enrol_approver(name, "dpo", device.line, "oscar", "olga") is None
    request_id = beside.set_policy(Policy(max_images=7), "oscar")
    path, other = f"/requests/{request_id}", served.person("requester", "mallory", "photos")
    assert other.get(path).status_code == 404, "and for nobody else but who filed it"
    token_alone = served.person("approver", "bob", "photos")
    refused = token_alone.post(f"{path}/approval", digest=beside.show(str(request_id)).digest)
    assert "<code>not-enrolled</code>" in refused.text
    for name, device in devices.items():
        visitor = served.person("approver", name, "elsewhere")
        assert "Change of who decides" in visitor.get("/requests").text
        page = visitor.get(f"{path}/approval").text
        assert "policy: max images" in page and "100 -&gt; 7" in page and "grant_seconds" not in page
        said = {one: re.search(rf'name="{one}" value="([^"]+)"', page)[1] for one in ("digest", "key", "approved_at")}
        challenge = re.search(r'data-challenge="([^"]+)"', page)[1]
        assertion, signature = device.asserted(b"", challenge=base64.urlsafe_b64decode(challenge + "="))
        signed = {**assertion.content(), "signature": base64.b64encode(signature).decode()}
        assert visitor.post(f"{path}/approval", **said, **signed).status_code == 303
    assert "applied" in visitor.get(path).text and beside.policy().max_images == 7
    assert verify_audit(served.path).ok


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "keys.example.org",
        "http://keys.example.org",
        "https://keys.example.org/",
        "https://keys.example.org/console",
        "https://Keys.example.org",
        "https://keys.example.org:443",
        "https://a@keys.example.org",
        "https://keys.example.org:port",
        "https://",
        "ftp://localhost",
    ],
)
def test_an_origin_is_written_as_browsers_write_it(origin: str) -> None:
    with pytest.raises(StorageError):
        checked_origin(origin)
    assert checked_origin("https://keys.example.org:8443") and checked_origin("http://localhost:8443")


def test_an_auditor_verifies_and_is_told_what_that_is_worth(served, beside: ServedKeystore) -> None:
    visitor = served.person("auditor", "eve")
    page = visitor.get("/log").text
    assert beside.checkpoint().split("\n")[0] in page and "Nothing wrong was found" not in page
    verified = visitor.post("/log/verification").text
    assert "Nothing wrong was found" in verified and "the keystore said this of itself" in verified
    assert "no checkpoint kept elsewhere" in verified


def test_an_auditor_gets_the_officers_report_as_a_page_and_as_files(served, beside: ServedKeystore, make) -> None:
    request = make.request(beside, "a.png", requester="alice", case=HOSTILE)
    beside.deny(request.request_id, "bob")
    with pytest.raises(ApprovalError):
        beside.approve(request.request_id, "carol", request.digest)
    note = beside.checkpoint()
    visitor = served.person("auditor", "eve", fresh=True)
    assert "Make it as files" in visitor.get("/report").text
    alone = visitor.post("/report").text
    assert "that it is intact is not shown" in alone and "said this of itself" in alone
    page = visitor.post("/report", checkpoint=note.replace("\n", "\r\n")).text
    assert "the log is intact" in page and "Refusals (" in page and "<td><bdi>approve</bdi></td>" in page
    assert "alice" not in page and "&lt;script" not in page, "commitments and digests, no names and no words"
    answer = visitor.post("/report", checkpoint=note, **{"as": "files"})
    assert answer.headers["content-disposition"].startswith("attachment;")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
        assert OfficerReport.model_validate_json(files.read("report.json")).intact
        assert {"report.html", "refusals.csv", "disclosures.csv"} <= set(files.namelist())
    refused = visitor.post("/report", checkpoint="no checkpoint")
    assert refused.status_code == 409 and "<code>unverified</code>" in refused.text
    answers = [visitor.post("/log/verification").status_code for _ in range(VERIFICATIONS_PER_HOUR)]
    assert answers[0] == 200 and answers[-1] == 429, "they are counted together"


def test_what_was_done_in_the_console_is_in_a_log_that_verifies_and_no_line_names_anybody(
    served, beside: ServedKeystore
) -> None:
    beside.issue_token("canaryperson", Role.REQUESTER, timedelta(days=1), "oscar")
    visitor = served.person("requester", "canaryperson", "photos")
    canary = {"case": "canary", "purpose": "find the canary", "legal_basis": "court-order: canary law"}
    assert visitor.post("/filing", **WORDS | canary, images="a.png", dataset="").status_code == 303
    assert visitor.post("/filing", **WORDS | canary, images="canary.png", dataset="").status_code == 409
    report = verify_audit(served.path)
    assert report.ok, report.problems
    told = served.log.read_text()
    assert "canary" not in told and "a.png" not in told and "defect" not in told
    line = next(line for line in reversed(served.lines()) if line.get("endpoint") == "console.file_request")
    assert set(line) == {"time", "event", "status", "milliseconds", "endpoint", "token", "role"}
