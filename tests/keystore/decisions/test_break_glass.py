"""Break-glass: off by default, for named people and one data set, on record, and once until others have reviewed it."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest

from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.emergency import EmergencyKeystore
from keystore.errors import ApprovalError, AuditError, GrantError, PolicyError, StorageError
from keystore.reporting.report import officer_report
from keystore.served import ServedKeystore
from keystore.verification.replay import replay
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH

WORDS = ("C-9", "a child is missing, every minute counts", "public-task: police act 12")


@pytest.fixture
def emergency(keystore: ServedKeystore, clock) -> EmergencyKeystore:
    """The keystore, of which Eva may break the glass."""
    with EmergencyKeystore.open(keystore.path, clock=clock) as opened:
        opened.set_break_glass(["Eva"], "Bob", "Carol")
        yield opened


def leaves(keystore: ServedKeystore | EmergencyKeystore) -> list[dict[str, object]]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def test_the_alert_is_given_whatever_fails_once_it_is_on_record(emergency, monkeypatch, caplog) -> None:
    def full() -> None:
        raise StorageError("the disk of the witness is full")

    with monkeypatch.context() as broken, pytest.raises(StorageError):
        broken.setattr(emergency._ledger, "remember", full)
        emergency.break_glass("Eva", ["a.png"], *WORDS)
    (granted,) = emergency.requests("Eva")
    assert granted.state is State.APPROVED
    assert [granted.request_id in one.getMessage() for one in caplog.records if one.levelno == logging.CRITICAL] == [
        True
    ]


@ON_BOTH
def test_who_is_named_gets_keys_once_alone_and_others_review_it(emergency, make, caplog, clock) -> None:
    with caplog.at_level(logging.CRITICAL):
        view = emergency.break_glass("Eva", ["a.png"], *WORDS)
    assert view.state is State.APPROVED and view.expires_at - view.created_at == timedelta(hours=1)
    (alert,) = [one for one in caplog.records if one.levelno == logging.CRITICAL]
    assert (
        view.request_id in alert.getMessage() and "Eva" not in alert.getMessage() and WORDS[1] not in alert.getMessage()
    )
    assert len(make.take(emergency, view.request_id, "Eva")) == 1
    with pytest.raises(GrantError, match="was used"):
        make.take(emergency, view.request_id, "Eva")
    report = verify_audit(emergency.path)
    assert report.problems == [] and any(view.request_id in limit for limit in report.limits)
    for by in (("Bob",), ("Bob", "Bob"), ("Eva", "Bob")):
        with pytest.raises(ApprovalError, match="it takes 2 people"):
            emergency.review(view.request_id, *by)
    told = officer_report(emergency.path, clock.now, words=True)
    assert [one.what for one in told.overdue] == ["the glass was broken, without a review"]
    with pytest.raises(ApprovalError, match="nobody reviewed"):
        emergency.break_glass("Eva", ["b.png"], *WORDS)
    emergency.review(view.request_id, "Bob", "Carol")
    with pytest.raises(ApprovalError, match="reviewed already"):
        emergency.review(view.request_id, "Bob", "Carol")
    (one,) = officer_report(emergency.path, clock.now, words=True).disclosures
    assert one.break_glass and one.approved_by == [] and sorted(one.reviewed_by) == ["bob", "carol"]
    assert emergency.break_glass("Eva", ["b.png"], *WORDS).state is State.APPROVED
    assert verify_audit(emergency.path).problems == []


def test_it_is_off_and_for_named_people_and_one_data_set_only(keystore, make, clock) -> None:
    make.deposit(keystore, [make.record("x.png", dataset="others", run_id="run-2")], "part-5", "run-2")
    keystore.ingest("run-2")
    with EmergencyKeystore.open(keystore.path, clock=clock) as opened:
        with pytest.raises(ApprovalError, match="names nobody"):
            opened.break_glass("Eva", ["a.png"], *WORDS)
        with pytest.raises(ApprovalError, match="2 people together"):
            opened.set_break_glass(["Eva"], "Bob")
        opened.set_break_glass(["Eva", "eva ", "Finn"], "Bob", "Carol")
        with pytest.raises(ApprovalError, match="does not name this person"):
            opened.break_glass("Alice", ["a.png"], *WORDS)
        with pytest.raises(PolicyError, match="one data set"):
            opened.break_glass("Eva", ["a.png", "x.png"], *WORDS)
        with pytest.raises(PolicyError):
            opened.break_glass("Eva", ["a.png"], "C-1", "x", "y")
        with pytest.raises(ApprovalError, match="did not break"):
            opened.review(make.request(opened, "a.png").request_id, "Bob", "Carol")
        opened.set_break_glass([], "Bob", "Carol")
        with pytest.raises(ApprovalError, match="names nobody"):
            opened.break_glass("Eva", ["a.png"], *WORDS)
        said = [(one["action"], one["code"]) for one in leaves(opened) if one["type"] == "refused"]
        assert said.count(("break-glass", "break-glass-off")) == 2 and ("break-glass", "break-glass-set") in said
    assert verify_audit(keystore.path).problems == []


def test_a_grant_lasts_an_hour_and_a_change_of_it_needs_approvals(emergency, make, clock) -> None:
    view = emergency.break_glass("Eva", ["a.png"], *WORDS)
    emergency.change(view.request_id, "Eva", purpose="another purpose, as long as that")
    with pytest.raises(GrantError, match="not approved"):
        make.take(emergency, view.request_id, "Eva")
    emergency.review(view.request_id, "Bob", "Carol")
    again = emergency.break_glass("Eva", ["a.png"], *WORDS)
    with pytest.raises(GrantError, match="for the person who made the request"):
        make.take(emergency, again.request_id, "Bob")
    clock.forward(minutes=61)
    with pytest.raises(GrantError, match="expired"):
        make.take(emergency, again.request_id, "Eva")
    assert verify_audit(emergency.path).problems == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO grants SELECT 'g', request_id, digest, created_at, expires_at FROM requests WHERE state = 'pending'",
        "UPDATE requests SET state = 'approved' WHERE state = 'pending'",
    ],
)
def test_a_row_alone_breaks_no_glass(emergency, make, statement: str) -> None:
    request_id = make.request(emergency, "a.png", requester="Eva").request_id
    with emergency._database.write() as connection:
        assert connection.exec_driver_sql(statement).rowcount
    with pytest.raises((AuditError, GrantError)):
        make.take(emergency, request_id, "Eva")


def test_the_verifier_finds_breaks_and_reviews_against_the_rules(emergency) -> None:
    first = emergency.break_glass("Eva", ["a.png"], *WORDS)
    emergency.review(first.request_id, "Bob", "Carol")
    emergency.break_glass("Eva", ["b.png"], *WORDS)
    said = leaves(emergency)
    number = {
        kind: next(one["seq"] for one in said if one["type"] == kind) for kind in ("break-glass", "request", "review")
    }
    far = {"expires_at": "2099-01-01T00:00:00.000000Z"}
    policy = next(one["seq"] for one in said if one["type"] == "policy" and one["version"] == 2)
    off = Policy().content()

    def problems(changes: dict[int, dict[str, object] | None]) -> list[str]:
        kept = [one | (changes.get(seq) or {}) for seq, one in enumerate(said) if changes.get(seq, {}) is not None]
        return replay([canonical_json(one | {"seq": seq}) for seq, one in enumerate(kept)]).problems

    assert problems({}) == []
    another = {"policy": off, "digest": sha256_hex(canonical_json(off))}
    for change, expected in (
        ({policy: another}, "may not break the glass"),
        ({number["break-glass"]: {"by": said[number["review"]]["by"][0]}}, "may not break the glass"),
        ({number["break-glass"]: {"records": 7}}, "something else than was just asked"),
        ({number["break-glass"]: far}, "outlives its request"),
        ({number["request"]: far, number["break-glass"]: far}, "longer than an hour"),
        ({number["review"]: None}, "was not reviewed"),
        ({number["review"]: {"by": said[number["review"]]["by"][:1]}}, "fewer people"),
    ):
        assert any(expected in one for one in problems(change)), (expected, problems(change))


def test_a_scrape_sees_it_until_it_is_reviewed(emergency, keystore) -> None:
    assert keystore.count_unreviewed() == 0
    view = emergency.break_glass("Eva", ["a.png"], *WORDS)
    assert keystore.count_unreviewed() == 1
    emergency.review(view.request_id, "Bob", "Carol")
    assert keystore.count_unreviewed() == 0
