"""Break-glass over HTTPS: for whom the policy names, of one data set, an alert, and once until approvers have signed a review."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import utc_now
from keystore.decisions.proposals import PolicyProposal, Review
from keystore.errors import KeystoreError, PolicyError, Refusal, RequestNotFound
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH, copy_keystore, remove_keystore
from tests.keystore.serving import Served

pytestmark = pytest.mark.usefixtures("trusted")
WORDS = ("C-9", "a child is missing, every minute counts", "public-task: police act 12")


@pytest.fixture
def office(filled_template: Path, tls: Path, tmp_path: Path, make) -> Iterator[Served]:
    """A keystore of this test's own, with a record of another data set too; Eva may break its glass."""
    path = copy_keystore(filled_template, tmp_path / "ks")
    with ServedKeystore.open(path) as keystore:
        make.deposit(keystore, [make.record("x.png", dataset="others", run_id="run-2")], "part-5", "run-2")
        keystore.ingest("run-2")
        assert keystore.propose(PolicyProposal(break_glass=["Eva"]), "oscar", "olga") is None
    server = Served(path, tls, more=("--break-glass",))
    yield server
    server.stop()
    remove_keystore(path)


def refused(call: Any) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return error.value.code


@ON_BOTH
def test_who_is_named_takes_keys_once_alone_and_approvers_sign_the_review(office: Served) -> None:
    eva, job = office.client("requester", "eva"), office.client("recovery", "eva")
    view = eva.break_glass("eva", ["a.png"], *WORDS, dataset="photos")
    assert view.state == "approved" and view.approvals == []
    alerts = [line for line in office.lines() if line["event"] == "alert"]
    assert [(one["alert"], one["request"]) for one in alerts] == [("break-glass", view.request_id)]
    assert "eva" not in json.dumps(alerts).lower() and "child" not in office.log.read_text()
    recipient = Recipient.generate()
    sealed = job.release(view.request_id, recipient.public_key, "eva")
    expected = Expected.of(job.show(view.request_id), job.audit_vkey)
    assert [one.image_id for one in recipient.open(sealed, expected)] == ["a.png"]
    scraped = office.call("GET", "/v1/metrics", office.token("operator", "olga")).text
    assert "keyanon_break_glass_unreviewed 1.0" in scraped
    assert refused(lambda: eva.break_glass("eva", ["b.png"], *WORDS)) == "break-glass-unreviewed"
    operator = office.client("operator", "olga")
    assert refused(lambda: operator.propose(Review(request=view.request_id))) == "names-decide"
    keys = {name: ApproverKey.generate() for name in ("bob", "carol")}
    with ServedKeystore.open(office.path) as keystore:
        for name, key in keys.items():
            assert keystore.enrol_approver(name, "dpo", key.public_line, "oscar", "olga") is None
    review = operator.propose(Review(request=view.request_id))
    for name, key in keys.items():
        approver = office.client("approver", name)
        shown = approver.show(review)
        assert shown.change is not None and shown.change["broken"] == view.request_id
        done = approver.approve(review, name, shown.digest, key.sign(shown, approver.audit_vkey, utc_now()))
    assert done.state == "applied"
    assert eva.break_glass("eva", ["b.png"], *WORDS).state == "approved"
    report = verify_audit(office.path)
    assert report.problems == []


def test_it_is_for_nobody_else_and_for_one_data_set(office: Served) -> None:
    assert (
        refused(lambda: office.client("requester", "alice").break_glass("alice", ["a.png"], *WORDS))
        == "break-glass-person"
    )
    for role in ("approver", "recovery", "auditor", "operator"):
        with pytest.raises(RequestNotFound):
            office.client(role, "eva").break_glass("eva", ["a.png"], *WORDS)
    eva = office.client("requester", "eva")
    assert refused(lambda: eva.break_glass("eva", ["a.png", "x.png"], *WORDS)) == "break-glass-set"
    with pytest.raises(PolicyError, match="says too little"):
        eva.break_glass("eva", ["a.png"], "C-1", "x", "y")
    of_others = office.client("requester", "eva", "others")
    assert refused(lambda: of_others.break_glass("eva", ["a.png"], *WORDS)) == "unknown-record"
    with pytest.raises(RequestNotFound):
        of_others.break_glass("eva", ["a.png"], *WORDS, dataset="photos")
    assert of_others.break_glass("eva", ["x.png"], *WORDS).state == "approved"
    assert not [line for line in office.lines() if line["event"] == "alert"][1:]
    assert verify_audit(office.path).problems == []


def test_a_service_that_was_not_told_to_lets_nobody(served, beside: ServedKeystore) -> None:
    assert beside.propose(PolicyProposal(break_glass=["Eva"]), "oscar", "olga") is None
    eva = served.client("requester", "eva")
    with pytest.raises(KeystoreError, match="lets nobody break the glass"):
        eva.break_glass("eva", ["a.png"], *WORDS)
    assert beside.requests() == [] and beside.count_unreviewed() == 0
