"""An identity of a provider stands for one person, for good; what stands for whom is on record, and named nowhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keystore.decisions.api_token import Role
from keystore.decisions.bindings import Identity
from keystore.errors import ApprovalError, AuditError, BindingError
from keystore.served import ServedKeystore
from keystore.storage import schema
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision
from keystore.verification.verify import verify_audit

ISSUER = "https://login.example/realms/office"
DORA = Identity(ISSUER, "248289761001")


def bind(
    keystore: ServedKeystore, who: Identity = DORA, person: str = "Dora", role: Role = Role.REQUESTER, **more: Any
) -> str:
    return keystore.bind_identity(who, person, role, "oscar", **more)


def sign_in(keystore: ServedKeystore, who: Identity = DORA) -> str:
    (binding,) = keystore.bindings_of(who)
    return keystore.issue_to(binding, timedelta(hours=8))


def test_who_signs_in_is_the_person_on_file_and_the_pair_is_nowhere(keystore: ServedKeystore) -> None:
    bind(keystore, dataset="photos")
    caller = keystore.authenticate(sign_in(keystore))
    assert caller is not None
    assert (caller.person, caller.role, caller.dataset) == ("dora", Role.REQUESTER, "photos")
    stored = b"".join(path.read_bytes() for path in keystore.path.rglob("*") if path.is_file())
    assert DORA.subject.encode() not in stored and ISSUER.encode() not in stored
    assert verify_audit(keystore.path).ok


def test_no_other_identity_is_bound(keystore: ServedKeystore) -> None:
    bind(keystore)
    for other in (
        Identity(ISSUER + "/", DORA.subject),
        Identity(ISSUER.upper(), DORA.subject),
        Identity("https://evil.example", DORA.subject),
        Identity(ISSUER, DORA.subject + "0"),
        Identity(ISSUER, ""),
    ):
        assert keystore.bindings_of(other) == []


def test_one_identity_is_one_person_whatever_becomes_of_both(keystore: ServedKeystore) -> None:
    binding = bind(keystore)
    with pytest.raises(BindingError, match="another person"):
        bind(keystore, person="Mallory")
    keystore.unbind_identity(binding, "oscar")
    with pytest.raises(BindingError, match="another person"):
        bind(keystore, person="Mallory")
    bind(keystore)  # the same person again, and in a second role
    bind(keystore, role=Role.APPROVER)
    assert {one.role for one in keystore.bindings_of(DORA)} == {Role.REQUESTER, Role.APPROVER}
    with pytest.raises(BindingError, match="nothing to do"):
        bind(keystore)
    keystore.erase_person("Dora", "oscar")
    with pytest.raises(BindingError, match="another person"):
        bind(keystore, person="Dora the second")
    with pytest.raises(ApprovalError, match="erased"):
        bind(keystore)
    assert {one.person for one in keystore.bindings()} == {"(erased)"} and len(keystore.bindings()) == 3
    assert verify_audit(keystore.path).ok


def test_two_identities_of_a_person_are_one_person_to_the_rules(keystore: ServedKeystore, make) -> None:
    elsewhere = Identity("https://elsewhere.example", "d")
    bind(keystore)
    bind(keystore, elsewhere, "DORA", Role.APPROVER)
    request_id = make.request(keystore, "a.png", requester="dora").request_id
    caller = keystore.authenticate(sign_in(keystore, elsewhere))
    assert caller is not None
    with pytest.raises(ApprovalError, match="made it"):
        make.approve(keystore, request_id, caller.person)


def test_tokens_end_with_their_binding_and_their_person(keystore: ServedKeystore, clock) -> None:
    first, second = bind(keystore), bind(keystore, role=Role.APPROVER)
    by_first, by_second = (keystore.issue_to(one, timedelta(hours=8)) for one in keystore.bindings()[::-1])
    issued = keystore.issue_token("dora", Role.AUDITOR, timedelta(days=1), "oscar")
    stale = keystore.bindings_of(DORA)
    ended = first if keystore.authenticate(by_first).role is Role.REQUESTER else second  # type: ignore[union-attr]
    keystore.unbind_identity(ended, "oscar")
    assert keystore.authenticate(by_first) is None
    assert keystore.authenticate(by_second) is not None and keystore.authenticate(issued) is not None
    with pytest.raises(BindingError, match="ended before"):
        keystore.unbind_identity(ended, "oscar")
    with pytest.raises(BindingError, match="no such"):
        keystore.unbind_identity("0" * 16, "oscar")
    with pytest.raises(BindingError, match="not bound"):
        keystore.issue_to(next(one for one in stale if one.binding_id == ended), timedelta(hours=8))
    clock.forward(hours=8)
    assert keystore.authenticate(by_second) is None
    after = keystore.bindings_of(DORA)
    keystore.erase_person("dora", "oscar")
    assert keystore.bindings_of(DORA) == []
    with pytest.raises(BindingError, match="erased"):
        keystore.issue_to(after[0], timedelta(hours=8))
    assert keystore.authenticate(issued) is None
    assert verify_audit(keystore.path).ok


@pytest.mark.parametrize(
    "change",
    [{"role": "approver"}, {"dataset": None}, {"identity": "0" * 64}, {"unbound_at": None}, None],
    ids=["role", "dataset", "identity", "brought back", "dropped"],
)
def test_an_edited_row_lets_nobody_in_is_found_and_stops_releases(keystore: ServedKeystore, make, change) -> None:
    binding, request_id = bind(keystore, dataset="photos"), make.approved(keystore, "a.png")
    if change == {"unbound_at": None}:
        keystore.unbind_identity(binding, "oscar")
    assert verify_audit(keystore.path).ok
    with keystore._database.write() as connection:
        table = schema.bindings
        connection.execute(table.delete() if change is None else table.update().values(**change))
    assert keystore.bindings_of(DORA) == []
    assert any("bindings" in problem for problem in verify_audit(keystore.path).problems)
    with pytest.raises(AuditError, match="bindings"):
        make.take(keystore, request_id)


@pytest.mark.parametrize(
    ("who", "role", "code"),
    [
        (Identity("login.example", "s"), Role.AUDITOR, "issuer"),
        (Identity("https://", "s"), Role.AUDITOR, "issuer"),
        (Identity("https://[", "s"), Role.AUDITOR, "issuer"),
        (Identity("https://a@login.example", "s"), Role.AUDITOR, "issuer"),
        (Identity("https://login.example/?a=b", "s"), Role.AUDITOR, "issuer"),
        (Identity("https://login.example/" + "x" * 2000, "s"), Role.AUDITOR, "issuer"),
        (Identity(ISSUER, ""), Role.AUDITOR, "subject"),
        (Identity(ISSUER, " s"), Role.AUDITOR, "subject"),
        (Identity(ISSUER, "s\n"), Role.AUDITOR, "subject"),
        (Identity(ISSUER, "s" * 256), Role.AUDITOR, "subject"),
        (Identity(ISSUER, "\u0455"), Role.AUDITOR, "subject"),
        (DORA, Role.INGEST, "role"),
    ],
)
def test_what_no_provider_says_is_not_bound(keystore: ServedKeystore, who: Identity, role: Role, code: str) -> None:
    with pytest.raises(BindingError) as refused:
        bind(keystore, who, role=role)
    assert refused.value.code == code
    assert keystore.bindings() == []


def test_a_subject_may_be_as_long_as_the_standard_says(keystore: ServedKeystore) -> None:
    long = Identity(ISSUER, "s" * 255)
    bind(keystore, long)
    assert len(keystore.bindings_of(long)) == 1
    for dataset in ("", "x" * 1001):
        with pytest.raises(BindingError, match="characters"):
            bind(keystore, dataset=dataset)
    bind(keystore, dataset="x" * 1000)


HELD = {"binding": "b", "digest": "d", "identity": "i", "person": "p", "role": "auditor"}


@pytest.mark.parametrize(
    "leaf",
    [
        {"type": "bind-identity", **HELD, "identity": "other"},
        {"type": "bind-identity", **HELD, "binding": "c", "person": "q"},
        {"type": "unbind-identity", "binding": "c", "digest": "e"},
        {"type": "unbind-identity", "binding": "ended", "digest": "e"},
        {"type": "token", "token": "t", "digest": "d", "person": "p", "role": "auditor", "binding": "c"},
        {"type": "token", "token": "t", "digest": "d", "person": "p", "role": "auditor", "binding": "ended"},
        {"type": "token", "token": "t", "digest": "d", "person": "q", "role": "auditor", "binding": "b"},
        {"type": "token", "token": "t", "digest": "d", "person": "p", "role": "operator", "binding": "b"},
    ],
)
def test_an_entry_that_the_rules_do_not_allow_is_a_problem(leaf: dict[str, str]) -> None:
    logged, until = LoggedDecisions(), {"expires_at": "2026-11-29T10:00:00.000000Z"}
    for binding in ("b", "ended"):
        apply_decision(logged, {"seq": 1, "type": "bind-identity", **HELD, "binding": binding})
    apply_decision(logged, {"seq": 2, "type": "unbind-identity", "binding": "ended", "digest": "e"})
    held = {"token": "s", "digest": "d", "person": "p", "role": "auditor", "binding": "b"}
    apply_decision(logged, {"seq": 3, "type": "token", **held, **until})
    assert logged.problems == []
    apply_decision(logged, {"seq": 9, **leaf, **until})
    (problem,) = logged.problems
    assert "entry 9" in problem


def test_a_milestone_remembers_what_identities_stand_for(keystore: ServedKeystore, make, monkeypatch) -> None:
    from keystore.verification import verify

    monkeypatch.setattr(verify, "EVERY", 1)
    binding = bind(keystore)
    make.take(keystore, make.approved(keystore, "a.png"))  # sets one
    keystore.unbind_identity(binding, "oscar")
    make.take(keystore, make.approved(keystore, "b.png"))
    assert verify_audit(keystore.path).ok
