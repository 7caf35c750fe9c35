"""The client, and 64 of them: a request from its filing to its keys, over real TLS, and one grant that one of them wins."""

from __future__ import annotations

import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from keystore.approver_key import ApproverKey
from keystore.auditor import Auditor
from keystore.crypto.canonical import utc_now
from keystore.decisions.api_token import Role
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.errors import ApprovalError, GrantError, KeystoreError, PolicyError, RequestNotFound, StorageError
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.service.client import ServiceClient, ServiceUnavailable, _of
from keystore.service.messages import RequestList
from keystore.service.published_key import fetch_ingest_key
from keystore.service.token_file import TokenFile
from keystore.verification.verify import verify_audit
from tests.keystore.serving import Served

USERS = 64
WORDS = ("C-17", "identify a missing person", "court-order: 12/26", timedelta(hours=2))
pytestmark = pytest.mark.usefixtures("trusted")


def test_a_request_goes_from_its_filing_to_its_keys(served) -> None:
    alice, job = served.client("requester", "alice"), served.client("recovery", "alice")
    view = alice.request("alice", ["a.png", "b.png"], *WORDS)
    assert (view.state, view.count, view.requester) == ("pending", 2, "alice")
    with pytest.raises(GrantError, match="2 more"):
        job.release(view.request_id, Recipient.generate().public_key, "alice")
    assert job.granted_shards(view.request_id) == set(), "where nothing is granted yet"
    for name in ("bob", "carol"):
        approver = served.client("approver", name)
        shown = approver.show(view.request_id)
        assert shown.purpose == WORDS[1]
        approved = approver.approve(view.request_id, name, shown.digest)
    assert approved.state == "approved"
    with ServedKeystore.open(served.path) as beside:
        assert job.granted_shards(view.request_id) == beside.shards_of(one.record_id for one in view.images) != set()
    recipient = Recipient.generate()
    sealed = job.release(view.request_id, recipient.public_key, "alice")
    expected = Expected.of(job.show(view.request_id), job.audit_vkey)
    assert {one.image_id for one in recipient.open(sealed, expected)} == {"a.png", "b.png"}
    assert job.release(view.request_id, recipient.public_key, "alice") == sealed, "a lost reply"
    assert job.granted_shards(view.request_id) == set(), "where the grant is used"
    with pytest.raises(GrantError, match="works once"):
        job.release(view.request_id, Recipient.generate().public_key, "alice")
    assert next(one.request_id for one in alice.requests()) == view.request_id


def test_who_may_see_a_request_is_told_its_shards_whatever_became_of_it_and_a_recovery_those_that_are_granted(
    served,
) -> None:
    alice, approver = served.client("requester", "alice"), served.client("approver", "bob", "photos")
    view = alice.request("alice", ["a.png", "b.png"], *WORDS)
    with ServedKeystore.open(served.path) as beside:
        shards = beside.shards_of(one.record_id for one in view.images)
        assert shards == beside.request_shards(view.request_id) != set()
        assert beside.granted_shards(view.request_id) == set()
    for state in ("pending", "denied"):
        assert approver.show(view.request_id).state == state
        assert alice.request_shards(view.request_id) == approver.request_shards(view.request_id) == shards
        assert served.client("recovery", "alice").request_shards(view.request_id) == set()
        if state == "pending":
            approver.deny(view.request_id, "bob")
    others = [("requester", "mallory"), ("recovery", "mallory"), ("approver", "bob", "elsewhere"), ("auditor", "eve")]
    for other in others:
        with pytest.raises(RequestNotFound):
            served.client(*other).request_shards(view.request_id)


def test_a_service_that_is_too_old_to_tell_of_shards_is_none_that_hides_a_request(
    served, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = served.client("requester", "alice").request("alice", ["a.png"], *WORDS)

    def older(request_id: str, verb: str = "") -> str:
        return _of(request_id, "not-there" if verb == "shards" else verb)

    monkeypatch.setattr("keystore.service.client._of", older)
    assert served.client("recovery", "alice").granted_shards(view.request_id) == set()
    for role, name in (("requester", "alice"), ("approver", "bob")):
        assert served.client(role, name).request_shards(view.request_id) == set()
    for role in ("recovery", "requester"):
        with pytest.raises(RequestNotFound):
            served.client(role, "mallory").request_shards(view.request_id)


def test_requests_of_a_state_are_listed_behind_newer_ones_of_others(served, monkeypatch: pytest.MonkeyPatch) -> None:
    lena = served.client("requester", "lena")
    views = [lena.request("lena", ["a.png"], *WORDS) for _ in range(3)]
    for one in views[1:]:
        lena.deny(one.request_id, "lena")
    asked = served.call(
        "GET", "/v1/requests", served.token("requester", "lena"), params={"state": "pending", "limit": 1}
    )
    assert [one["request_id"] for one in asked.json()["requests"]] == [views[0].request_id]
    assert [one.request_id for one in lena.requests(state=State.PENDING)] == [views[0].request_id]
    for wrong in ("", "open"):
        answer = served.call("GET", "/v1/requests", served.token("requester", "lena"), params={"state": wrong})
        assert answer.status_code == 422
    of_an_older_service = RequestList(requests=list(lena.requests()))
    monkeypatch.setattr(lena._connection, "ask", lambda *_: of_an_older_service)
    assert {one.request_id for one in lena.requests(state=State.DENIED)} == {one.request_id for one in views[1:]}


def test_the_rules_are_told_as_the_embedded_keystore_tells_them(served) -> None:
    alice = served.client("requester", "alice")
    with pytest.raises(PolicyError, match="says too little"):
        alice.request("alice", ["a.png"], "C", "xxxxxxxxx", "law of 1", timedelta(hours=1))
    with pytest.raises(PolicyError, match="legitimate-interests"):
        alice.request("alice", ["a.png"], "C", "identify a missing person", "law of 1", timedelta(hours=1))
    view = alice.request("alice", ["a.png"], *WORDS)
    with pytest.raises(ApprovalError, match="made it"):
        served.client("approver", "alice").approve(view.request_id, "alice", view.digest)
    with pytest.raises(ApprovalError, match="not what was shown"):
        served.client("approver", "bob").approve(view.request_id, "bob", "0" * 64)
    with pytest.raises(RequestNotFound):
        served.client("requester", "mallory").show(view.request_id)
    with pytest.raises(RequestNotFound):
        served.client("approver", "eric", "elsewhere").show(view.request_id)
    assert alice.deny(view.request_id, "alice").denied_by == "alice"


def test_a_token_is_sent_nowhere_but_where_nobody_listens(served, tls, monkeypatch) -> None:
    known_by = TokenFile("kat1_" + "0" * 16 + "_" + "0" * 64, served.client("auditor", "eve").audit_vkey)
    for url in ("http://keystore.example", "ftp://127.0.0.1", "keystore.example", "http://192.0.2.1:80"):
        with pytest.raises(StorageError, match="https"):
            ServiceClient(url, known_by)
    with ServiceClient(served.url, known_by) as stranger, pytest.raises(ApprovalError, match="valid token"):
        stranger.me()
    monkeypatch.delenv("SSL_CERT_FILE")
    with ServiceClient(served.url, known_by) as untrusting, pytest.raises(ServiceUnavailable, match="SSL_CERT_FILE"):
        untrusting.me()
    with pytest.raises(StorageError, match=r"not trusted here .*SSL_CERT_FILE") as distrust:
        fetch_ingest_key(f"{served.url}/v1/ingest-key")
    assert not isinstance(distrust.value, ServiceUnavailable), "it is no passing fault"


def test_the_ingest_key_is_fetched_over_tls_without_a_token(served) -> None:
    assert fetch_ingest_key(f"{served.url}/v1/ingest-key") == Auditor(served.path).ingest_key().text().encode()
    with pytest.raises(StorageError, match="answers 404 and has no ingest key"):
        fetch_ingest_key(f"{served.url}/v1/ingest-keys")


def test_a_release_of_another_keystore_is_not_taken(served, make, tmp_path) -> None:
    with ServedKeystore.open(served.path) as keystore:
        request_id = make.approved_by(keystore, "c.png", "bob", "carol")
    with ServedKeystore.create(tmp_path / "other") as other:
        foreign = other.audit_vkey
    job = ServiceClient(served.url, TokenFile(served.token("recovery", "alice"), foreign))
    recipient = Recipient.generate()
    sealed = job.release(request_id, recipient.public_key, "alice")
    with pytest.raises(KeystoreError, match="not signed by this keystore"):
        recipient.open(sealed, Expected.of(job.show(request_id), job.audit_vkey))


@pytest.mark.slow
def test_of_64_uses_of_one_grant_one_wins(served, make) -> None:
    with ServedKeystore.open(served.path) as keystore:
        request_id = make.approved_by(keystore, "a.png", "bob", "carol")
        tokens = [keystore.issue_token("alice", Role.RECOVERY, timedelta(days=1), "oscar") for _ in range(USERS)]
        vkey = keystore.audit_vkey
    together = threading.Barrier(USERS)

    def use(token: str) -> bytes | None:
        with ServiceClient(served.url, TokenFile(token, vkey)) as client:
            key = Recipient.generate().public_key
            client.me()
            together.wait(120)
            try:
                return client.release(request_id, key, "alice")
            except GrantError:
                return None

    with ThreadPoolExecutor(USERS) as pool:
        got = [sealed for sealed in pool.map(use, tokens) if sealed is not None]
    assert len(got) == 1
    report = verify_audit(served.path)
    assert report.ok, report.problems
    with ServedKeystore.open(served.path) as keystore:
        of_it = [leaf for leaf in keystore.audit_entries() if request_id.encode() in leaf]
    assert sum(b'"type":"release"' in leaf for leaf in of_it) == 1
    assert sum(b'"type":"refused"' in leaf for leaf in of_it) == USERS - 1


@pytest.mark.slow
def test_a_service_that_is_gone_is_said_to_be(served) -> None:
    client = served.client("requester", "alice")
    served.stop(signal.SIGKILL)
    try:
        with pytest.raises(ServiceUnavailable, match="can not be reached"):
            client.requests()
    finally:
        served.start()
    assert served.client("requester", "alice").requests() is not None


def test_a_token_alone_approves_nothing_where_own_keys_are_asked_for(template: Path, tls: Path, tmp_path: Path) -> None:
    path = tmp_path / "ks"
    shutil.copytree(template, path)
    keys = {"bob": ApproverKey.generate(), "carol": ApproverKey.generate()}
    with ServedKeystore.open(path) as keystore:
        for name, key in keys.items():
            keystore.enrol_approver(name, "dpo", key.public_line, "oscar", "olga")
        change = keystore.set_policy(Policy(own_keys=True), "oscar")
    served = Served(path, tls)
    try:
        for name, key in keys.items():  # who sign the change of the policy by the same calls
            approver = served.client("approver", name)
            shown = approver.show(str(change))
            approver.approve(str(change), name, shown.digest, key.sign(shown, approver.audit_vkey, utc_now()))
        assert approver.show(str(change)).state == "applied"
    finally:
        served.stop()
    served = Served(path, tls)
    try:
        assert next(line for line in served.lines() if line["event"] == "policy")["own_keys"] is True
        alice, bob, dora = (
            served.client("requester", "alice"),
            *(served.client("approver", one) for one in ("bob", "dora")),
        )
        view = alice.request("alice", ["a.png"], *WORDS)
        assert view.own_keys
        with pytest.raises(ApprovalError, match="approves with it"):
            bob.approve(view.request_id, "bob", view.digest)
        with pytest.raises(ApprovalError, match="no enrolled key"):
            dora.approve(view.request_id, "dora", view.digest)
        mine = keys["bob"].sign(bob.show(view.request_id), bob.audit_vkey, utc_now())
        with pytest.raises(ApprovalError, match="no enrolled key"):
            dora.approve(view.request_id, "dora", view.digest, mine)
        with pytest.raises(ApprovalError, match="not the key"):
            served.client("approver", "carol").approve(view.request_id, "carol", view.digest, mine)
        for name, key in keys.items():
            approver = served.client("approver", name)
            view = approver.approve(
                view.request_id,
                name,
                view.digest,
                key.sign(approver.show(view.request_id), approver.audit_vkey, utc_now()),
            )
        assert view.state == "approved"
        assert served.client("recovery", "alice").release(view.request_id, Recipient.generate().public_key, "alice")
    finally:
        served.stop()
    assert verify_audit(path).ok
    assert all(key._key.private_bytes_raw() not in served.log.read_bytes() for key in keys.values())
