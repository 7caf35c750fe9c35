"""From request to release on a real keystore: who may, how often, for how long, and that every refusal is on record."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from keystore.decisions import policy, stored_policy
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import PolicyProposal
from keystore.embedded import Keystore
from keystore.errors import (
    ApprovalError,
    AuditError,
    GrantError,
    InvalidRecordError,
    PolicyError,
    RecordNotFound,
    Refusal,
    RequestNotFound,
    StorageError,
    TamperedError,
)
from keystore.recipient import Recipient
from keystore.verification.replay import replay
from keystore.verification.replay_decisions import LoggedDecisions
from keystore.verification.verify import logged_decisions, verify_audit
from tests.keystore.postgres import ON_BOTH


def last_entry(keystore: Keystore) -> dict[str, object]:
    return json.loads(keystore.audit_entries()[-1])


def sql(keystore: Keystore, statement: str, **values: object) -> None:
    with keystore._database.write() as connection:
        connection.execute(text(statement), values)


@ON_BOTH
def test_two_approvals_by_others_release_exactly_the_requested_records(keystore, make) -> None:
    request_id = make.approved(keystore, "a.png", "c.png")
    assert keystore.show(request_id).state is State.APPROVED
    records = make.take(keystore, request_id)
    assert sorted(one.image_id for one in records) == ["a.png", "c.png"]
    assert {one.image_key.get_secret_value() for one in records} == {
        make.record(name).image_key.get_secret_value() for name in ("a.png", "c.png")
    }
    view = keystore.show(request_id)
    assert view.state is State.RELEASED
    assert view.grant is not None
    assert view.grant.used_at is not None
    assert {one.approver for one in view.approvals} == {"bob", "carol"}


def test_a_view_is_machine_output_without_secrets(keystore, make) -> None:
    request_id = make.approved(keystore)
    make.take(keystore, request_id)
    document = json.loads(keystore.show(request_id).model_dump_json())
    assert document["state"] == "released"
    assert make.record().image_key.get_secret_value().hex() not in json.dumps(document)


def test_one_approval_is_not_enough(keystore, make) -> None:
    request_id = make.request(keystore).request_id
    make.approve(keystore, request_id, "Bob")
    with pytest.raises(GrantError, match="1 more approval"):
        make.take(keystore, request_id)


@pytest.mark.parametrize("name", ["Alice", "alice ", "ＡLICE", "ali\u0063e"])
@ON_BOTH
def test_the_requester_under_any_spelling_can_not_approve(keystore, make, name: str) -> None:
    request_id = make.request(keystore, requester="Alice").request_id
    with pytest.raises(ApprovalError) as refused:
        make.approve(keystore, request_id, name)
    assert refused.value.code == "self-approval"
    assert last_entry(keystore)["type"] == "refused"


def test_one_approver_under_two_spellings_counts_once(keystore, make) -> None:
    request_id = make.request(keystore).request_id
    make.approve(keystore, request_id, "Bob")
    with pytest.raises(ApprovalError) as refused:
        make.approve(keystore, request_id, " BOB ")
    assert refused.value.code == "twice"
    assert keystore.show(request_id).state is State.PENDING


@ON_BOTH
def test_a_grant_works_once(keystore, make) -> None:
    request_id = make.approved(keystore)
    make.take(keystore, request_id)
    for _ in range(3):
        with pytest.raises(GrantError) as refused:
            make.take(keystore, request_id)
        assert refused.value.code == "used"


@pytest.mark.parametrize("person", ["Bob", "Mallory"])
def test_a_grant_is_for_the_requester_only(keystore, make, person: str) -> None:
    request_id = make.approved(keystore)
    with pytest.raises(GrantError) as refused:
        make.take(keystore, request_id, by=person)
    assert refused.value.code == "not-requester"
    make.take(keystore, request_id, by=" ALICE")


@ON_BOTH
def test_a_request_expires_before_approval_and_after_it(keystore, make, clock) -> None:
    early, late = make.request(keystore).request_id, make.approved(keystore)
    clock.forward(hours=2)
    with pytest.raises(ApprovalError, match="expired"):
        make.approve(keystore, early, "Bob")
    with pytest.raises(GrantError, match="expired"):
        make.take(keystore, late)
    assert keystore.show(early).state is keystore.show(late).state is State.EXPIRED


def test_a_grant_expires_before_its_request(keystore, make, clock) -> None:
    request_id = make.request(keystore, expires=timedelta(days=6)).request_id
    make.approve(keystore, request_id, "Bob")
    make.approve(keystore, request_id, "Carol")
    clock.forward(hours=24)
    with pytest.raises(GrantError) as refused:
        make.take(keystore, request_id)
    assert refused.value.code == "expired"


def test_a_denied_request_stays_denied(keystore, make) -> None:
    request_id = make.approved(keystore)
    assert keystore.deny(request_id, "Dora").denied_by == "dora"
    with pytest.raises(GrantError) as refused:
        make.take(keystore, request_id)
    assert refused.value.code == "denied"
    with pytest.raises(ApprovalError):
        make.approve(keystore, request_id, "Erik")


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "something else entirely"},
        {"legal_basis": "court-order: another"},
        {"case": "C-18"},
        {"expires": timedelta(hours=3)},
        {},
    ],
)
@ON_BOTH
def test_any_change_voids_the_approvals_and_the_grant(keystore, make, changes: dict[str, object]) -> None:
    request_id = make.approved(keystore)
    changed = keystore.change(request_id, "alice", **changes)
    assert (changed.revision, changed.state, changed.approvals, changed.grant) == (2, State.PENDING, [], None)
    with pytest.raises(GrantError, match="2 more approval"):
        make.take(keystore, request_id)
    make.approve(keystore, request_id, "Bob")
    make.approve(keystore, request_id, "Carol")
    assert len(make.take(keystore, request_id)) == 1


def test_a_request_that_changed_between_reading_and_approving_is_not_approved(keystore, make) -> None:
    read = make.request(keystore, purpose="identify a missing person")
    keystore.change(read.request_id, "Alice", purpose="settle a private score")
    with pytest.raises(ApprovalError) as refused:
        keystore.approve(read.request_id, "Bob", read.digest)
    assert refused.value.code == "changed"
    entry = last_entry(keystore)
    assert (entry["type"], entry["action"], entry["code"]) == ("refused", "approve", "changed")
    assert entry["request"] == read.request_id
    assert keystore.show(read.request_id).approvals == []
    keystore.approve(read.request_id, "Bob", keystore.show(read.request_id).digest)
    with pytest.raises(ApprovalError):
        keystore.approve(read.request_id, "Carol", read.digest)


@pytest.mark.parametrize("people", [(), ("Olga",), ("Olga", " olga")])
def test_one_person_alone_changes_no_policy(keystore, people: tuple[str, ...]) -> None:
    with pytest.raises(ApprovalError) as refused:
        keystore.set_policy(Policy(approvals=3), *people)
    assert refused.value.code == "policy-alone"
    assert keystore.policy().approvals == 2


def test_a_policy_of_one_approval_left_by_an_older_version_allows_nothing(keystore, make) -> None:
    request_id = make.approved(keystore)
    weak = Policy.model_construct(**Policy().model_dump() | {"approvals": 1})
    with keystore._ledger.transaction("policy", None, None) as (connection, log):
        people = sorted(keystore._people.find_or_add(connection, name) for name in ("Olga", "Pia"))
        stored_policy.write(connection, log, weak, people)
    with pytest.raises(PolicyError, match="fewer than 2"):
        make.request(keystore)
    with pytest.raises((PolicyError, AuditError)):
        make.take(keystore, request_id)
    keystore.set_policy(Policy(), "Olga", "Pia")
    make.request(keystore)


@pytest.mark.parametrize("document", ["", "{", '{"approvals": 2, "another": 1}', '{"approvals": 1, "max_images": 0}'])
def test_a_stored_policy_that_is_none_is_refused(keystore, make, document: str) -> None:
    sql(keystore, "UPDATE policies SET document = :document", document=document.encode())
    with pytest.raises(TamperedError, match="not a valid policy"):
        make.request(keystore)


@ON_BOTH
def test_a_policy_that_is_changed_and_changed_back_revives_nothing(keystore, make, clock) -> None:
    unused = make.request(keystore)
    for name in ("Bob", "Carol"):
        keystore.approve(unused.request_id, name, unused.digest, grant_seconds=60)
    lapsed = make.request(keystore, expires=timedelta(minutes=1)).request_id
    clock.forward(minutes=2)
    approved, pending = make.approved(keystore), make.request(keystore).request_id
    keystore.set_policy(Policy(max_images=99), "Olga", "Pia")
    keystore.set_policy(Policy(), "Olga", "Pia")
    for call in (
        lambda: make.take(keystore, approved),
        lambda: make.approve(keystore, pending, "Bob"),
        lambda: keystore.change(pending, "Alice"),
    ):
        with pytest.raises(Refusal, match="denied"):
            call()
    assert keystore.show(pending).denied_by is None
    assert {keystore.show(one).state for one in (unused.request_id, lapsed)} == {State.EXPIRED}, "as they were"
    assert len(make.take(keystore, make.approved(keystore))) == 1
    assert verify_audit(keystore.path).problems == []


def test_what_an_older_version_left_open_is_held_against_its_policy_and_ends_with_the_next(
    tmp_path, make, clock, monkeypatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(stored_policy, "write", make.write_older_policy)
        keystore = Keystore.create(tmp_path / "old", clock=clock)
        make.deposit(keystore, [make.record("a.png")])
        keystore.ingest(make.RUN)
        revived, approved, pending = make.approved(keystore), make.approved(keystore), make.request(keystore).request_id
        keystore.set_policy(Policy(approvals=3), "Olga", "Pia")
        keystore.set_policy(Policy(), "Olga", "Pia")
        make.take(keystore, revived)
        keystore.set_policy(Policy(max_images=99), "Olga", "Pia")
    for call in (lambda: make.take(keystore, approved), lambda: make.approve(keystore, pending, "Bob")):
        with pytest.raises(Refusal) as refused:
            call()
        assert refused.value.code == "policy-changed"
    assert verify_audit(keystore.path).problems == [], "what older versions let through"
    keystore.set_policy(Policy(), "Olga", "Pia")
    with pytest.raises(GrantError, match="denied"):
        make.take(keystore, approved)
    assert replay(keystore.audit_entries()).ends_open_from == last_entry(keystore)["seq"] - 1, "before that refusal"
    with monkeypatch.context() as older:
        older.setattr(stored_policy, "write", make.write_older_policy)
        keystore.set_policy(Policy(), "Olga", "Pia")
    assert any("ends no open request" in one for one in verify_audit(keystore.path).problems)
    keystore.close()


def test_a_request_that_was_filed_before_there_was_a_list_of_legal_bases_is_released_and_verifies(
    keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(policy, "check_legal_basis", lambda text, allowed: None)
        filed = make.request(keystore, legal_basis="Court order 17/2026")
    for person in ("Bob", "Carol"):
        make.approve(keystore, filed.request_id, person)
    assert keystore.show(filed.request_id).legal_basis == "Court order 17/2026"
    with pytest.raises(PolicyError, match="court-order"):
        keystore.change(filed.request_id, "Alice", purpose="something else entirely")
    assert len(make.take(keystore, filed.request_id)) == 1
    assert verify_audit(keystore.path).problems == []


def test_a_policy_says_which_legal_bases_there_are_and_goes_back_to_the_usual(keystore, make) -> None:
    usual = keystore.policy().digest()
    keystore.propose(PolicyProposal(legal_bases=["police-act", "consent", "consent"]), "Olga", "Pia")
    assert keystore.policy().legal_bases == ("consent", "police-act")
    assert make.request(keystore, legal_basis="police-act: 12").legal_basis == "police-act: 12"
    with pytest.raises(PolicyError, match="one of consent, police-act"):
        make.request(keystore)
    keystore.propose(PolicyProposal(max_images=7), "Olga", "Pia")
    assert keystore.policy().legal_bases == ("consent", "police-act"), "what is not named stays"
    keystore.propose(PolicyProposal(legal_bases=[], max_images=100), "Olga", "Pia")
    assert keystore.policy().digest() == usual
    make.request(keystore)
    assert verify_audit(keystore.path).problems == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"purpose": "."}, PolicyError),
        ({"legal_basis": "."}, PolicyError),
        ({"expires": timedelta(days=30)}, PolicyError),
        ({"requester": "ali\u200bce"}, ApprovalError),
        ({"dataset": "other"}, RecordNotFound),
        ({"run_id": "other"}, RecordNotFound),
    ],
)
@ON_BOTH
def test_a_refused_request_is_on_record_and_leaves_nothing_else(keystore, make, changes, error: type[Refusal]) -> None:
    size = len(keystore.audit_entries())
    with pytest.raises(error) as refused:
        make.request(keystore, **changes)
    entry = last_entry(keystore)
    assert (entry["type"], entry["action"], entry["code"]) == ("refused", "request", refused.value.code)
    assert len(keystore.audit_entries()) == size + 1
    assert keystore.requests() == []


def test_an_unknown_image_is_refused_and_no_part_of_the_request_is_made(keystore, make) -> None:
    with pytest.raises(RecordNotFound, match=r"nobody\.png"):
        make.request(keystore, "a.png", "nobody.png")
    assert keystore.requests() == []


def test_an_image_with_two_records_must_be_named_by_record_id(keystore, make) -> None:
    again = make.record("a.png")
    make.deposit(keystore, [again], "part-9")
    keystore.ingest(make.RUN)
    with pytest.raises(RecordNotFound, match=again.record_id):
        make.request(keystore, "a.png")
    assert [one.record_id for one in make.request(keystore, again.record_id).images] == [again.record_id]


def test_requests_are_listed_newest_first_and_of_a_person_or_a_data_set_alone(keystore, make, clock) -> None:
    make.deposit(keystore, [make.record("x.png", dataset="other", run_id="run-2")], "part-1", "run-2")
    keystore.ingest("run-2")
    made = []
    for images, requester in ((("a.png",), "Alice"), (("x.png",), "Bob"), (("a.png", "x.png"), "Alice")):
        clock.forward(seconds=1)
        made.append(make.request(keystore, *images, requester=requester).request_id)

    def listed(**of: object) -> list[str]:
        return [one.request_id for one in keystore.requests(**of)]

    assert listed() == made[::-1] and listed(limit=1) == made[2:]
    assert listed(requester="ALICE") == [made[2], made[0]] and listed(requester="Nobody") == []
    assert listed(dataset="photos") == made[:1] and listed(dataset="other") == made[1:2], (
        "nor one that names another too"
    )


@ON_BOTH
def test_requests_of_a_state_are_listed_behind_newer_ones_of_others(keystore, make, clock) -> None:
    week = timedelta(days=7)
    made = {State.PENDING: [make.request(keystore, "b.png", expires=week).request_id]}
    over = [
        make.request(keystore, expires=timedelta(hours=1)).request_id,
        make.request(keystore, expires=week).request_id,
    ]
    for approver in ("Bob", "Carol"):
        make.approve(keystore, over[1], approver)
    clock.forward(days=2)  # the grant's day is over too
    made[State.EXPIRED] = over[::-1]
    made[State.APPROVED] = [make.approved(keystore)]
    taken, refused = make.approved(keystore), make.request(keystore, requester="Dora").request_id
    make.take(keystore, taken)
    keystore.deny(refused, "Bob")
    made |= {State.RELEASED: [taken], State.DENIED: [refused]}
    for state in State:
        of_state = [one.request_id for one in keystore.requests(state=state)]
        assert sorted(of_state) == sorted(made.get(state, [])), state
        assert {one.state for one in keystore.requests(state=state)} <= {state}
    assert [one.request_id for one in keystore.requests(limit=1, state=State.PENDING)] == made[State.PENDING]
    assert keystore.requests("Dora", state=State.PENDING) == keystore.requests(dataset="no", state=State.PENDING) == []
    counts = {state: len(made.get(state, [])) for state in State}
    assert keystore.count_requests(None, "photos", 9) == counts
    assert keystore.count_requests("Alice", None, 1) == {state: min(1, count) for state, count in counts.items()} | {
        State.DENIED: 0
    }


def test_the_newest_requests_are_listed_without_reading_all(keystore, make) -> None:
    make.request(keystore)
    asked: list[tuple[str, object]] = []

    def seen(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        asked.append((statement, parameters))

    event.listen(keystore._database._engine, "before_cursor_execute", seen)
    keystore.requests(limit=2)
    keystore.requests("Alice", "photos", limit=2)
    event.remove(keystore._database._engine, "before_cursor_execute", seen)
    listed = [one for one in asked if "ORDER BY requests.created_at DESC" in one[0]]
    assert len(listed) == 2
    with keystore._database.read() as connection:
        for query, parameters in listed:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters)]
            assert "SCAN requests USING INDEX requests_by_time" in plan[0], "in its order, up to the limit"
            assert not any("SCAN request_images" in step or "TEMP B-TREE" in step for step in plan)


@pytest.mark.parametrize("action", ["approve", "deny", "show", "release", "change"])
def test_an_unknown_request_is_refused(keystore, make, action: str) -> None:
    with pytest.raises(RequestNotFound, match="no request"):
        {
            "approve": lambda: keystore.approve("nothing", "Bob", "d"),
            "deny": lambda: keystore.deny("nothing", "Bob"),
            "show": lambda: keystore.show("nothing"),
            "release": lambda: keystore.release("nothing", Recipient.generate().public_key, "Bob"),
            "change": lambda: keystore.change("nothing", "Bob"),
        }[action]()
    assert b"nothing" not in b"".join(keystore.audit_entries()), "a caller's text does not get into the log"
    assert last_entry(keystore).get("request") is None


def test_a_malformed_recipient_key_does_not_use_up_the_grant(keystore, make) -> None:
    request_id = make.approved(keystore)
    with pytest.raises(InvalidRecordError):
        keystore.release(request_id, b"no key", "Alice")
    assert len(make.take(keystore, request_id)) == 1


TAMPERING = {
    "more images": "INSERT INTO request_images SELECT request_id, record_id, dataset, image_id FROM requests, "
    "records WHERE image_id = 'b.png'",
    "another purpose": "UPDATE requests SET purpose = 'something else'",
    "a longer life": "UPDATE requests SET expires_at = '2036-01-01T00:00:00.000000Z'",
    "fewer approvals": "UPDATE requests SET approvals_required = 1",
    "another requester": "UPDATE requests SET requester = (SELECT person FROM people WHERE name = 'bob')",
    "a longer grant": "UPDATE grants SET expires_at = '2036-01-01T00:00:00.000000Z'",
    "another signature": "UPDATE approvals SET signature = zeroblob(64)",
    "another approver key": "UPDATE people SET public_key = zeroblob(32) WHERE name = 'bob'",
    "another policy": "UPDATE policies SET document = replace(document, '2', '1')",
}


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING.keys())
def test_a_database_edited_behind_our_back_releases_nothing(keystore, make, statement: str) -> None:
    request_id = make.approved(keystore)
    sql(keystore, statement)
    with pytest.raises((AuditError, TamperedError, GrantError)):
        make.take(keystore, request_id)


def test_signatures_are_verified_again_at_release(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    # With the audit check out of the way, the release itself must still refuse a signature that does not hold.
    monkeypatch.setattr("keystore.governed.logged_decisions", lambda connection, vkey, signer: ([], LoggedDecisions()))
    request_id = make.approved(keystore)
    sql(
        keystore,
        "UPDATE approvals SET signature = zeroblob(64) WHERE approver = (SELECT person FROM people WHERE name = 'bob')",
    )
    with pytest.raises(TamperedError, match="not signed by its approver"):
        make.take(keystore, request_id)


def test_a_used_grant_stays_used_when_the_state_is_set_back(keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keystore.governed.logged_decisions", lambda *of: ([], logged_decisions(*of)[1]))
    request_id = make.approved(keystore)
    make.take(keystore, request_id)
    sql(keystore, "UPDATE requests SET state = 'approved'")
    with pytest.raises(StorageError, match="UNIQUE"):
        make.take(keystore, request_id)


def test_when_the_log_can_not_be_written_nothing_is_released(keystore, make) -> None:
    request_id = make.approved(keystore)
    sql(keystore, "CREATE TRIGGER full BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    with pytest.raises(StorageError, match="free space"):
        make.take(keystore, request_id)
    sql(keystore, "DROP TRIGGER full")
    assert keystore.show(request_id).state is State.APPROVED
    assert len(make.take(keystore, request_id)) == 1


def test_names_and_words_are_not_in_the_log(keystore, make) -> None:
    make.take(keystore, make.approved(keystore))
    leaves = b"".join(keystore.audit_entries()).lower()
    for word in (b"alice", b"bob", b"carol", b"missing person", b"court-order", b"c-17", b"a.png"):
        # A word by itself: three letters turn up by chance inside random base64.
        assert not re.search(rb"(?<![a-z0-9+/])" + re.escape(word) + rb"(?![a-z0-9+/])", leaves)


def test_every_step_is_one_entry(keystore, make) -> None:
    make.take(keystore, make.approved(keystore))
    kinds = [json.loads(leaf)["type"] for leaf in keystore.audit_entries()]
    assert kinds == [
        "created",
        "policy",
        "run",
        "ingest",
        "run",
        "request",
        "enrol",
        "approve",
        "enrol",
        "approve",
        "grant",
        "release",
    ]
