"""The table of who may call what, walked: every endpoint by every role and tenant, and by nobody."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from keystore.approver_key import ApproverKey
from keystore.auditor import Auditor
from keystore.decisions.api_token import Role
from keystore.decisions.policy import Policy
from keystore.intake.sealing import seal_record
from keystore.intake.shards import shard_bytes
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.service.endpoints import ENDPOINTS, Reach
from keystore.verification.verify import verify_audit

TENANTS = {
    "own": ("alice", "photos"),
    "another person": ("mallory", "photos"),
    "another data set": ("alice", "elsewhere"),
}
PUBLIC = {"health", "ready", "ingest_key"}
SIGN_IN = {
    "sign_in",
    "sign_in_callback",
    "sign_in_token",
}  # nothing is here, as the service has no provider; see test_sign_in
WANTED = {  # what a call that may be made is answered
    "put_shard": 204,
    "remove_shard": 204,
    "remove_receipts": 204,
    "revoke_token": 204,
    "break_glass": 409,  # this service was not told to; see test_breaking_glass
}
_numbers = itertools.count()


def call_of(name: str, served, beside: ServedKeystore, make, dataset: str) -> tuple[str, dict[str, Any]]:
    """A path and the rest of a call that does what the endpoint is for, on something of alice's in `photos`."""
    number = next(_numbers)
    request_id = run = shard = token_id = "x"
    body: dict[str, Any] = {}
    if "{request_id}" in ENDPOINTS[name].path:
        if name == "release":
            request_id = make.request(beside, "a.png", requester="alice").request_id
            for one in ("bob", "carol"):
                make.approve(beside, request_id, one)
            body = {"json": {"recipient": base64.b64encode(Recipient.generate().public_key).decode()}}
        else:
            request_id = make.request(beside, "a.png", requester="alice").request_id
            if name == "approve":
                body = {"json": {"digest": beside.show(request_id).digest}}
            elif name == "compare_pictures":
                body = {"json": {"digests": {beside.show(request_id).images[0].record_id: "0" * 64}}}
    elif "{run_id}" in ENDPOINTS[name].path:
        run, shard = f"run-of-photos-{number}", "part-0"
        beside.announce_run(run, "photos")
        if name == "put_shard":
            record = make.record("d.png", run_id=run, dataset=dataset)
            body = {"content": shard_bytes([seal_record(record, beside.ingest_public_key)])}
        elif name in ("receipts", "remove_receipts"):
            body = {"json": {"shards": ["part-0", "part-1"]}}
            (beside.path / "inbox" / run).mkdir(parents=True, exist_ok=True)
            (beside.path / "inbox" / run / "part-0.receipt").write_bytes(b"{}")
    elif name == "revoke_token":
        beside.issue_token("somebody", Role.AUDITOR, timedelta(days=1), "oscar")
        token_id = beside.tokens()[0].token_id
    elif name == "report":
        body = {"json": {}}
    elif name == "pseudonyms":
        recipient = base64.b64encode(Recipient.generate().public_key).decode()
        body = {"json": {"subjects": ["sam"], "recipient": recipient}}
    elif name == "settle_pseudonym":
        beside.pseudonyms.secrets(dataset, ["sam"])
        body = {"json": {"subject": "sam", "number": 3}}
    elif name == "file_change":
        if len(beside.approvers()) < 2:
            for one in ("ewa", "fred"):
                beside.enrol_approver(one, "dpo", ApproverKey.generate().public_line, "oscar", "olga")
        body = {"json": {"change": {"kind": "policy", "max_images": 7}}}
    elif name == "list_requests":
        make.request(beside, "a.png", requester="alice")
    elif name == "sign_in":
        body = {"params": {"port": 2000, "challenge": "c" * 43, "state": "s" * 43}}
    elif name == "sign_in_callback":
        body = {"params": {"state": "s", "code": "c"}}
    elif name == "sign_in_token":
        body = {"json": {"code": "c", "verifier": "v" * 43}}
    elif name in ("file_request", "break_glass"):
        words = {"case": "C-1", "purpose": "identify a missing person", "legal_basis": "court-order"}
        lifetime = {"lifetime_seconds": 3600} if name == "file_request" else {}
        body = {"json": {**words, "images": ["a.png"], **lifetime}}
    path = ENDPOINTS[name].path.format(
        request_id=request_id, run_id=run, shard=shard, token_id=token_id, index=0, old_size=1
    )
    return path, body


def wanted(name: str, role: Role, tenant: str) -> int:
    """What the table says a call is answered."""
    reach = ENDPOINTS[name].roles.get(role)
    if reach is None:
        return 404
    if name == "list_requests":
        return 200  # a list holds what may be seen
    if (reach is Reach.OWN and tenant != "own") or (reach is Reach.OWN_CHANGES):
        return 404  # alice's is no change
    if reach is Reach.DATASET and tenant == "another data set":
        return 409 if name in ("file_request", "break_glass") else 404  # no such image is in that data set
    return WANTED.get(name, 200)


def test_every_function_is_in_the_table_and_none_is_open_to_all_but_the_probes_and_the_public_key(served) -> None:
    document = served.call("GET", "/openapi.json").json()
    told = {
        (method.upper(), path, said["operationId"])
        for path, ways in document["paths"].items()
        for method, said in ways.items()
    }
    assert told == {(one.method, one.path, name) for name, one in ENDPOINTS.items()}
    assert {name for name, one in ENDPOINTS.items() if not one.roles} == PUBLIC | SIGN_IN


@pytest.mark.parametrize("name", list(ENDPOINTS))
def test_the_table_holds_for_every_role_and_tenant(name: str, served, beside: ServedKeystore, make) -> None:
    nothing = served.call("GET", "/v1/there/is/nothing").content
    method = ENDPOINTS[name].method
    for role, tenant in itertools.product(Role, TENANTS):
        person, dataset = TENANTS[tenant]
        if role in (Role.APPROVER, Role.OPERATOR, Role.AUDITOR):
            person = f"some {role.value}"  # no requester: what these reach does not hang on who they are
        token = served.token(role.value, person, dataset)
        path, body = call_of(name, served, beside, make, dataset)
        answer = served.call(method, path, token, **body)
        if name in PUBLIC:
            assert answer.status_code == 200
            continue
        status = wanted(name, role, tenant)
        assert answer.status_code == status, (name, role, tenant, answer.text)
        if status == 404:
            assert answer.content == nothing, "what may not be seen looks like what is not there"
        if name == "list_requests" and status == 200:
            listed = answer.json()["requests"]
            assert all(image["dataset"] == dataset for one in listed for image in one["images"])
            if ENDPOINTS[name].roles[role] is Reach.OWN:
                assert {one["requester"] for one in listed} <= {person}
            assert listed or tenant != "own" or role is Role.OPERATOR, "and what may be seen, is listed"
    if name not in PUBLIC | SIGN_IN:
        path, body = call_of(name, served, beside, make, "photos")
        refused = served.call(method, path, **body)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"


def test_a_change_of_who_decides_is_for_every_approver_and_for_who_filed_it(served, beside: ServedKeystore) -> None:
    if len(beside.approvers()) < 2:
        for name in ("ewa", "fred"):
            beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, "oscar", "olga")
    request_id = str(beside.set_policy(Policy(max_images=7), "alice"))
    body, of = {"json": {"digest": beside.show(request_id).digest}}, f"/v1/requests/{request_id}"
    for role, tenant in itertools.product(Role, TENANTS):
        person, dataset = TENANTS[tenant]
        filers = (Role.REQUESTER, Role.RECOVERY, Role.OPERATOR)
        person = person if role in filers else f"some {role.value}"
        token = served.token(role.value, person, dataset)
        sees = role is Role.APPROVER or (role in filers and tenant != "another person")
        answer = served.call("GET", of, token)
        assert answer.status_code == (200 if sees else 404), (role, tenant)
        if sees:
            assert answer.json()["change"]["policy"]["max_images"] == 7
            listed = served.call("GET", "/v1/requests", token).json()["requests"]
            assert request_id in [one["request_id"] for one in listed]
        answer = served.call("POST", f"{of}/approval", token, **body)
        assert answer.status_code == (409 if role is Role.APPROVER else 404), (role, tenant)
        if role is Role.APPROVER:
            assert answer.json()["code"] == "not-enrolled", "a token alone signs nothing"
    assert served.call("GET", of).status_code == 401 == served.call("POST", f"{of}/approval", **body).status_code
    assert beside.policy().max_images == 100


def test_a_release_opens_with_its_key_and_is_of_what_was_granted(served, beside: ServedKeystore, make) -> None:
    request_id = make.approved_by(beside, "b.png", "bob", "carol")
    recipient = Recipient.generate()
    body = {"recipient": base64.b64encode(recipient.public_key).decode()}
    answer = served.call("POST", f"/v1/requests/{request_id}/release", served.token("recovery", "Alice"), json=body)
    records = recipient.open(answer.content, Expected.of(beside.show(request_id), beside.audit_vkey))
    assert [one.image_id for one in records] == ["b.png"]
    assert answer.headers["content-type"] == "application/octet-stream"


def test_the_ingest_key_is_the_present_one_of_which_database_and_file_say_the_same(
    served, beside: ServedKeystore
) -> None:
    def answer() -> httpx2.Response:
        return served.call("GET", "/v1/ingest-key")

    first = Auditor(beside.path).ingest_key()
    assert (answer().status_code, answer().text) == (200, first.text())
    assert hashlib.sha256(answer().content).hexdigest() == first.fingerprint
    beside.renew_ingest_key("oscar")
    renewed = Auditor(beside.path).ingest_key()
    assert answer().text == renewed.text() != first.text()
    file = beside.path / "ingest.pub"
    said = file.read_text()
    file.write_text(said.replace(said[:4], "AAAA"))
    assert (answer().status_code, answer().json()["code"]) == (503, "unavailable")
    file.write_text(said)
    assert answer().text == renewed.text()


def test_what_was_called_is_in_a_log_that_verifies(served) -> None:
    report = verify_audit(served.path)
    assert report.ok, report.problems


@pytest.mark.parametrize("change", ["expired", "revoked", "foreign", "altered", "cut", "twice", "basic", "erased"])
def test_a_token_that_is_not_good_is_answered_alike(change: str, served, beside: ServedKeystore, tmp_path) -> None:
    good = served.token("auditor", "eve")
    reference = served.call("GET", "/v1/log")
    header: Any = f"Bearer {good}"
    if change == "expired":
        header = "Bearer " + beside.issue_token("eve", Role.AUDITOR, timedelta(microseconds=1), "oscar")
    elif change == "revoked":
        header = "Bearer " + beside.issue_token("eve", Role.AUDITOR, timedelta(days=1), "oscar")
        assert served.call("GET", "/v1/log", headers={"Authorization": header}).status_code == 200
        beside.revoke_token(header.split("_")[1], "oscar")
    elif change == "foreign":
        with ServedKeystore.create(tmp_path / "other") as other:
            header = "Bearer " + other.issue_token("eve", Role.AUDITOR, timedelta(days=1), "oscar")
    elif change == "altered":
        header = header[:-1] + ("0" if header[-1] != "0" else "1")
    elif change == "cut":
        header = header[:-1]
    elif change == "basic":
        header = "Basic " + base64.b64encode(good.encode()).decode()
    elif change == "erased":
        header = "Bearer " + beside.issue_token("gone soon", Role.AUDITOR, timedelta(days=1), "oscar")
        beside.erase_person("gone soon", "oscar")
    headers = [("Authorization", header)] * (2 if change == "twice" else 1)
    answer = served.http.request("GET", "/v1/log", headers=headers)
    assert (answer.status_code, answer.content) == (401, reference.content)
    assert reference.status_code == 401


def test_a_token_that_was_written_into_the_database_is_none(served, beside: ServedKeystore) -> None:
    from keystore.storage import schema

    token = beside.issue_token("eve", Role.AUDITOR, timedelta(days=1), "oscar")
    rows: Callable[..., Any] = schema.tokens.update().where(schema.tokens.c.token_id == token.split("_")[1]).values
    assert served.call("GET", "/v1/log", token).status_code == 200
    with beside._database.write() as connection:
        connection.execute(rows(role="approver"))
    assert served.call("GET", "/v1/requests", token).status_code == 401
    assert not verify_audit(served.path).ok
    with beside._database.write() as connection:
        connection.execute(rows(role="auditor"))
    assert verify_audit(served.path).ok
