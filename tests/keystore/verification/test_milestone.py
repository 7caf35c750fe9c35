"""A release reads the log from the last milestone on and believes none but a signed one; an audit reads all of it."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from keystore import ledger
from keystore.audit.merkle import Frontier, leaf_hash
from keystore.decisions.api_token import Role
from keystore.decisions.lifecycle import State
from keystore.decisions.tokens import token_id_of
from keystore.embedded import Keystore
from keystore.errors import ApprovalError, AuditError, TamperedError, TokenError
from keystore.recipient import Recipient
from keystore.served import ServedKeystore
from keystore.storage import schema
from keystore.verification import decisions, verify
from keystore.verification.milestone import (
    LABEL,
    OLD_LABELS,
    Milestone,
    believed_milestone,
    last_milestone,
    store_milestone,
)
from keystore.verification.replay_decisions import LoggedDecisions, LoggedRequest
from keystore.verification.verify import log_problems, verify_audit


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A milestone at every release, and at the end of no other transaction but where a test has them kept."""
    monkeypatch.setattr(verify, "EVERY", 1)
    monkeypatch.setattr(ledger, "keep_milestone", lambda *_: 0)


@pytest.fixture
def released(keystore: ServedKeystore, make) -> ServedKeystore:
    """A keystore with a release behind it, whose milestone lies before the release's own entry; and a denial after that."""
    make.take(keystore, make.approved(keystore, "a.png"))
    keystore.deny(make.request(keystore, "b.png").request_id, "Dora")
    return keystore


def edit(keystore: Keystore, *statements: str) -> None:
    """Edit the database as its operator could."""
    connection = sqlite3.connect(keystore.path / "keystore.db")
    for table in ("log", "checkpoints", "releases"):
        for action in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_{action}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def milestone_of(keystore: Keystore) -> Milestone | None:
    with keystore._database.read() as connection:
        return last_milestone(connection, keystore.audit_vkey)


def entries_read(keystore: Keystore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the entries that a verification for a release reads."""
    seen: list[int] = []
    apply = verify.apply_decision
    monkeypatch.setattr(verify, "apply_decision", lambda state, leaf: (seen.append(leaf["seq"]), apply(state, leaf)))
    with keystore._database.read() as connection:
        assert log_problems(connection, keystore.audit_vkey) == []
    return seen


def test_only_what_was_written_since_is_read(released: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(released.audit_entries())
    milestone = milestone_of(released)
    assert milestone is not None and 0 < milestone.frontier.size < size
    assert entries_read(released, monkeypatch) == list(range(milestone.frontier.size, size))


def test_the_service_sets_one_at_the_end_of_the_transaction_that_is_due(
    keystore: Keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was asked and refused since the last release: none has more than so many entries to verify."""
    monkeypatch.setattr(verify, "EVERY", 7)
    monkeypatch.setattr(ledger, "keep_milestone", verify.keep_milestone)
    request_id = make.approved(keystore, "a.png")
    for _ in range(20):
        with pytest.raises(ApprovalError):
            make.approve(keystore, request_id, "Alice")
    milestone, size = milestone_of(keystore), len(keystore.audit_entries())
    assert milestone is not None and size - 7 < milestone.frontier.size <= size
    assert len(entries_read(keystore, monkeypatch)) < 7
    with Keystore.open(keystore.path) as another:  # which has not counted along
        assert make.take(another, request_id)
    assert verify_audit(keystore.path).problems == []


def test_none_is_set_in_a_transaction_that_finds_the_tables_altered_and_what_it_does_is_done(
    keystore: Keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "keep_milestone", verify.keep_milestone)
    request_id = make.request(keystore).request_id
    before = milestone_of(keystore)
    edit(keystore, "UPDATE requests SET purpose = 'harmless'")
    keystore.deny(request_id, "Dora")
    assert milestone_of(keystore) == before and keystore.show(request_id).state == "denied"


def test_it_says_what_the_log_said_there(released: Keystore) -> None:
    milestone = milestone_of(released)
    assert milestone is not None
    leaves = released.audit_entries()[: milestone.frontier.size]
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf_hash(leaf))
    assert milestone.frontier == frontier
    assert [request.state for request in milestone.decisions.requests.values()] == ["approved"]
    assert verify_audit(released.path).problems == []


def test_an_opening_sets_one_behind_a_long_ingest_and_only_then(
    keystore: Keystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(keystore, "DELETE FROM milestone")
    monkeypatch.setattr(verify, "EVERY", len(keystore.audit_entries()) + 1)
    Keystore.open(keystore.path).close()
    assert milestone_of(keystore) is None
    make.request(keystore)
    Keystore.open(keystore.path).close()
    milestone = milestone_of(keystore)
    assert milestone is not None and milestone.frontier.size == len(keystore.audit_entries())


def test_an_opening_sets_none_where_the_tables_are_not_as_the_log_says_and_opens(keystore: Keystore, make) -> None:
    make.request(keystore)
    edit(keystore, "UPDATE requests SET purpose = 'harmless'", "DELETE FROM milestone")
    Keystore.open(keystore.path).close()
    assert milestone_of(keystore) is None


def test_few_entries_are_not_worth_another(released: Keystore, make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = milestone_of(released)
    monkeypatch.setattr(verify, "EVERY", 1000)
    make.take(released, make.approved(released, "c.png"))
    assert milestone_of(released) == before


def test_what_was_altered_before_it_is_left_to_the_audit_and_what_rests_on_it_is_not_moved(
    released: Keystore, make
) -> None:
    request_id = make.approved(released, "c.png")
    edit(released, "UPDATE log SET leaf = x'00' WHERE seq = 3")
    assert make.take(released, request_id)
    with Keystore.open(released.path):
        pass
    assert not verify_audit(released.path).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET leaf = x'00' WHERE seq = (SELECT max(seq) FROM log)",
        "DELETE FROM log WHERE seq = (SELECT max(seq) FROM log) - 1",
        "UPDATE requests SET purpose = 'harmless' WHERE state = 'released'",  # decided before the milestone
        "UPDATE requests SET state = 'approved' WHERE state = 'released'",
        "UPDATE requests SET state = 'pending', denied_by = NULL WHERE state = 'denied'",
        "DELETE FROM approvals",
        "DELETE FROM releases",
        "UPDATE people SET public_key = zeroblob(32) WHERE name = 'bob'",
        "INSERT INTO policies SELECT version + 1, document, digest, set_at FROM policies",
    ],
)
def test_what_was_altered_since_or_in_the_tables_releases_nothing(released: Keystore, make, statement: str) -> None:
    request_id = make.approved(released, "c.png")
    edit(released, statement)
    with pytest.raises(AuditError):
        make.take(released, request_id)


def over_for_long(keystore: ServedKeystore, make, clock) -> tuple[str, str]:
    """Let a request that was released and one that was denied be over for hours; their ids."""
    ended = {one.state: one.request_id for one in keystore.requests()}
    clock.forward(hours=3)
    make.take(keystore, make.approved(keystore, "c.png"))
    return ended[State.RELEASED], ended[State.DENIED]


def test_what_was_over_for_an_hour_is_left_to_the_audit(
    released: ServedKeystore, make, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = over_for_long(released, make, clock)
    request_id = make.approved(released, "c.png")
    milestone = milestone_of(released)
    assert milestone is not None and not milestone.decisions.requests.keys() & set(old)
    assert len(milestone.decisions.requests) == 1 and not milestone.decisions.releases
    read: list[str] = []
    digest = decisions.request_digest
    monkeypatch.setattr(
        decisions,
        "request_digest",
        lambda of, row, images: (read.append(row["request_id"]), digest(of, row, images))[1],
    )
    assert make.take(released, request_id) and read and not set(read) & set(old)
    assert verify_audit(released.path).problems == [] and set(old) < set(read)
    edit(released, f"UPDATE requests SET purpose = 'harmless' WHERE request_id = '{old[0]}'")
    assert make.take(released, make.approved(released, "c.png"))
    assert any("altered" in problem for problem in verify_audit(released.path).problems)


FAR = "2099-01-01T00:00:00.000000Z"
BACK = (
    "UPDATE requests SET state = 'approved', expires_at = '{until}' WHERE state = 'released' AND request_id = '{old}'"
)


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM releases", BACK],
        ["UPDATE grants SET expires_at = '{until}'", BACK],
        ["UPDATE requests SET state = 'pending', expires_at = '{until}' WHERE state = 'denied'"],
        ["UPDATE tokens SET revoked_at = NULL, expires_at = '{until}' WHERE revoked_at IS NOT NULL"],
        ["UPDATE tokens SET expires_at = '{until}' WHERE revoked_at IS NULL"],
        ["UPDATE tokens SET revoked_at = NULL WHERE revoked_at IS NOT NULL"],
    ],
)
def test_what_was_over_does_not_come_back_by_its_row(
    released: ServedKeystore, make, clock, statements: list[str]
) -> None:
    """Neither it nor anything else is released then."""
    long = released.issue_token("eve", Role.AUDITOR, timedelta(days=10), "oscar")
    released.revoke_token(token_id_of(long), "oscar")
    token = released.issue_token("eve", Role.AUDITOR, timedelta(hours=1), "oscar")
    old, _ = over_for_long(released, make, clock)
    other = make.approved(released, "c.png")
    milestone = milestone_of(released)
    assert milestone is not None and not milestone.decisions.tokens
    edit(released, *(one.format(until=FAR, old=old) for one in statements))
    assert released.authenticate(token) is None and released.authenticate(long) is None
    for request_id in (other, old):
        with pytest.raises(AuditError):
            make.take(released, request_id)


def test_what_was_over_and_is_no_more_when_the_clock_goes_back_is_read_from_the_begin(
    released: ServedKeystore, make, clock
) -> None:
    token = released.issue_token("eve", Role.AUDITOR, timedelta(hours=2), "oscar")
    key, request_id = Recipient.generate().public_key, make.approved(released, "a.png")
    sealed = released.release(request_id, key, "Alice", keep_reply=timedelta(hours=1))
    over_for_long(released, make, clock)
    milestone = milestone_of(released)
    assert milestone is not None and not milestone.decisions.tokens and released.authenticate(token) is None
    clock.forward(hours=-2.5)
    released.confirm_clock("Olga")
    assert released.authenticate(token) is not None
    assert released.release(request_id, key, "Alice", keep_reply=timedelta(hours=1)) == sealed
    make.take(released, make.approved(released, "c.png"))
    milestone = milestone_of(released)
    assert milestone is not None and len(milestone.decisions.tokens) == 1
    released.revoke_token(released.tokens()[0].token_id, "Olga")
    make.take(released, make.approved(released, "c.png"))
    assert verify_audit(released.path).problems == []


def test_a_broken_glass_is_remembered_with_who_broke_it_until_it_is_reviewed(
    released: ServedKeystore, make, clock
) -> None:
    released.set_break_glass(["Gina"], "Bob", "Carol")
    broken = released.break_glass(
        "Gina", ["b.png"], "C-9", "a child is missing", "public-task: police act 12"
    ).request_id
    over_for_long(released, make, clock)
    milestone = milestone_of(released)
    assert milestone is not None and broken in milestone.decisions.requests
    assert released.count_unreviewed() == 1
    assert released.review(broken, "Bob", "Carol") is None
    over_for_long(released, make, clock)
    milestone = milestone_of(released)
    assert milestone is not None and broken not in milestone.decisions.requests
    assert released.count_unreviewed() == 0 and verify_audit(released.path).problems == []


def test_an_entry_about_what_was_over_is_held_against_the_whole_log(released: ServedKeystore, make, clock) -> None:
    """Else one that the verifier forgot, and whose row somebody with the index key wrote anew, would stop releases for good."""
    ident = token_id_of(released.issue_token("eve", Role.AUDITOR, timedelta(hours=1), "oscar"))
    over_for_long(released, make, clock)
    with pytest.raises(TokenError, match="expired"):
        released.revoke_token(ident, "oscar")
    with released._database.write() as connection:
        row = dict(connection.execute(schema.tokens.select()).one()._mapping) | {"expires_at": FAR}
        connection.execute(schema.tokens.update().values(expires_at=FAR, tag=released._tokens._tag(row)))
    released.revoke_token(ident, "oscar")
    assert make.take(released, make.approved(released, "c.png"))
    assert verify_audit(released.path).problems == []


def test_what_the_log_does_not_speak_of_is_not_released(
    released: ServedKeystore, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = make.approved(released, "c.png")
    for blind in (LoggedDecisions(), LoggedDecisions(requests={request_id: LoggedRequest("", "", 1, "", 2, "", 1)})):
        monkeypatch.setattr("keystore.governed.logged_decisions", lambda *_, blind=blind: ([], blind))
        with pytest.raises(TamperedError, match="says nothing of request"):
            make.take(released, request_id)


FORGED = {
    "another document": "UPDATE milestone SET document = CAST(replace(CAST(document AS TEXT), 'approved', 'released') AS BLOB)",
    "another signature": "UPDATE milestone SET signature = zeroblob(64)",
    "a short signature": "UPDATE milestone SET signature = x''",
    "text": "UPDATE milestone SET document = 'text'",
    "nothing": "UPDATE milestone SET document = x''",
}


@pytest.mark.parametrize("statement", FORGED.values(), ids=FORGED.keys())
def test_one_that_is_not_signed_is_not_believed(
    released: Keystore, make, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    edit(released, statement)
    with released._database.read() as connection:
        assert believed_milestone(connection, released.audit_vkey) == Milestone()
    assert entries_read(released, monkeypatch) == list(range(len(released.audit_entries())))
    report = verify_audit(released.path)
    assert not report.ok
    with Keystore.open(released.path) as again:  # which reads the log from its begin
        make.take(again, make.approved(again, "c.png"))
        assert verify_audit(released.path).problems == []


@pytest.mark.parametrize("label", OLD_LABELS)
def test_an_older_versions_is_passed_over_until_there_is_another(
    released: Keystore, make, monkeypatch: pytest.MonkeyPatch, label: bytes
) -> None:
    """It does not say what requests are held against, or until when."""
    with released._database.write() as connection:
        document = connection.execute(select(schema.milestone.c.document)).scalar_one()
        signature = released._keys.signer.sign_message(label + document)
        connection.execute(schema.milestone.update().values(signature=signature))
    assert milestone_of(released) is None
    assert entries_read(released, monkeypatch) == list(range(len(released.audit_entries())))
    assert verify_audit(released.path).problems == []
    make.take(released, make.approved(released, "c.png"))
    assert milestone_of(released) is not None and verify_audit(released.path).problems == []


def test_a_keystore_without_one_opens_and_releases(released: Keystore, make) -> None:
    edit(released, "DELETE FROM milestone")
    assert make.take(released, make.approved(released, "c.png"))
    assert verify_audit(released.path).problems == []


def test_a_signed_one_that_is_not_what_the_log_says_is_found(released: Keystore) -> None:
    milestone = milestone_of(released)
    assert milestone is not None
    milestone.decisions.enrolled["mallory"] = "key"
    with released._database.write() as connection:
        store_milestone(connection, milestone, released._keys.signer)
    assert any("milestone" in problem for problem in verify_audit(released.path).problems)


@pytest.mark.parametrize("size", [1, 10**6])
def test_one_of_another_tree_opens_nothing(released: Keystore, size: int) -> None:
    milestone = milestone_of(released)
    assert milestone is not None
    other = Milestone(Frontier(size, (b"x" * 32,) * size.bit_count()), milestone.last_time, milestone.decisions)
    with released._database.write() as connection:
        store_milestone(connection, other, released._keys.signer)
    with pytest.raises(AuditError, match="not the one its last checkpoint was signed for"):
        Keystore.open(released.path)
    assert any("milestone" in problem for problem in verify_audit(released.path).problems)


def test_one_of_another_keystore_is_not_believed(released: Keystore, tmp_path: Path) -> None:
    with Keystore.create(tmp_path / "other") as other, other._database.write() as connection:
        store_milestone(connection, Milestone(), other._keys.signer)
        document, signature = connection.execute(
            schema.milestone.select().with_only_columns(schema.milestone.c.document, schema.milestone.c.signature)
        ).one()
    with released._database.write() as connection:
        connection.execute(schema.milestone.update().values(document=document, signature=signature))
    with released._database.read() as connection:
        assert believed_milestone(connection, released.audit_vkey).frontier.size == 0
    assert any("not believed" in problem for problem in verify_audit(released.path).problems)


def test_a_checkpoint_of_this_size_can_not_stand_for_one(released: Keystore) -> None:
    """What the audit key signs beside milestones never begins like one."""
    assert not released.checkpoint().encode().startswith(LABEL)


def test_it_comes_back_as_it_was() -> None:
    request = LoggedRequest("alice", "d1", 2, "t50", 2, "p1", 3, "denied", "dora")
    request.approvals = {("d1", "bob"): "by bob", ("d0", "carol"): "by carol"}
    request.grants = {"d0": ("g", "t40")}
    decisions = LoggedDecisions(
        created={"vkey": "k", "seq": 0},
        own_keys="o",
        policies=["p1", "p2"],
        policy={"approvals": 2},
        ends_open_from=1,
        mentioned={"alice", "bob"},
        erased_people={"eve"},
        enrolled={"bob": "key"},
        requests={"r": request, "s": LoggedRequest("alice", "d3", 1, "t60", 2, "p2", 1)},
        releases={"g": "recipient"},
        tokens={"k": {"digest": "d", "needed_until": "t70"}},
        weaknesses=["one person"],
    )
    milestone = Milestone(Frontier().append(b"a" * 32).append(b"b" * 32).append(b"c" * 32), "t9", decisions)
    assert Milestone.from_bytes(milestone.to_bytes()) == milestone
