"""The rules as values: names, policy, and the life of a request. No database is touched here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from keystore.decisions import lifecycle
from keystore.decisions.identity import name_commitment, normalise_name
from keystore.decisions.legal_bases import LEGAL_BASES, written
from keystore.decisions.lifecycle import Approval, Grant, RequestLife, State
from keystore.decisions.policy import Policy
from keystore.decisions.views import RequestedImage
from keystore.errors import ApprovalError, GrantError, PolicyError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LIFE = RequestLife("r", "alice", "d1", 2, LATER, State.PENDING)
BOTH = (Approval("bob", "d1"), Approval("carol", "d1"))
APPROVED = replace(LIFE, stored=State.APPROVED, approvals=BOTH, grant=Grant("g", LATER - timedelta(minutes=30)))


@pytest.mark.parametrize("name", ["alice", "Alice", " ALICE  ", "\u2003alice\u00a0", "\uff21lice", "ali\u0063e"])
def test_one_person_has_one_name(name: str) -> None:
    assert normalise_name(name) == "alice"


def test_words_of_a_name_are_kept_apart_by_one_space() -> None:
    assert normalise_name("  Ada   LOVELACE ") == "ada lovelace"
    assert normalise_name("STRASSE") == normalise_name("Straße")
    assert normalise_name("\u0041\u030a") == normalise_name("\u00c5")
    assert normalise_name("O'Brien") == "o'brien"
    assert normalise_name("J. R. Tolkien-Müller") == "j. r. tolkien-müller"
    assert normalise_name("İbrahim") == "ibrahim"
    assert normalise_name("svc_backup@host.example") == "svc_backup@host.example"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "...",
        "ali\u200bce",
        "alice\n",
        "ali\tce",
        "alice\x00",
        "\u202ealice",
        "ali\ufe0fce",
        "ali\u034fce",
        "\u0430lice",
        "x" * 300,
        "\ue000a",
        "\ud800a",
        "Дарья",
        "alice.",
        "-alice",
        "ali..ce",
        "ali. .ce",
        "alice @",
        "al/ice",
        "al+ice",
        "q\u0301",
        "a\u00d7b",
    ],
)
def test_a_name_that_hides_something_is_refused(name: str) -> None:
    with pytest.raises(ApprovalError) as refused:
        normalise_name(name)
    assert refused.value.code == "name"


def test_a_refused_name_says_which_character_it_is_that_nobody_sees() -> None:
    with pytest.raises(ApprovalError, match=r"U\+0430"):
        normalise_name("\u0430lice")


def test_a_commitment_depends_on_salt_and_name() -> None:
    assert len({name_commitment(salt, name) for salt in (b"1" * 32, b"2" * 32) for name in ("alice", "bob")}) == 4


@pytest.mark.parametrize(
    "values",
    [
        {"approvals": 0},
        {"approvals": -1},
        {"approvals": 1},
        {"approvals": True},
        {"approvals": 2.0},
        {"max_images": 0},
        {"grant_lifetime_seconds": 0},
        {"min_purpose_characters": 0},
        {"min_legal_basis_characters": 1},
        {"unknown": 1},
        {"max_lifetime_seconds": 10**9},
    ],
)
def test_a_policy_that_protects_nothing_can_not_be_written(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Policy(**values)


GOOD = {
    "images": 1,
    "case": "C-17",
    "purpose": "identify a missing person",
    "legal_basis": "consent: GDPR Art. 6",
    "lifetime": timedelta(hours=2),
}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"images": 0}, "images"),
        ({"images": 101}, "images"),
        ({"purpose": "."}, "purpose"),
        ({"purpose": "." * 50}, "purpose"),
        ({"purpose": "aaaaaaaaaaaaaaaa"}, "purpose"),
        ({"purpose": " t e s t "}, "purpose"),
        ({"purpose": "x y" * 2000}, "purpose"),
        ({"legal_basis": "."}, "legal_basis"),
        ({"legal_basis": ""}, "legal_basis"),
        ({"legal_basis": "Court order 17/2026"}, "legal_basis"),
        ({"legal_basis": "consents"}, "legal_basis"),
        ({"legal_basis": "consent 17"}, "legal_basis"),
        ({"legal_basis": "Consent: 17"}, "legal_basis"),
        ({"legal_basis": ": court-order"}, "legal_basis"),
        ({"case": " "}, "case"),
        ({"lifetime": timedelta(0)}, "lifetime"),
        ({"lifetime": timedelta(seconds=-1)}, "lifetime"),
        ({"lifetime": timedelta(days=7, seconds=1)}, "lifetime"),
    ],
)
def test_a_request_that_says_too_little_or_asks_too_much_is_refused(changes: dict[str, object], code: str) -> None:
    Policy().check_request(**GOOD)
    with pytest.raises(PolicyError) as refused:
        Policy().check_request(**(GOOD | changes))
    assert refused.value.code == code


def test_each_legal_basis_of_the_list_may_be_named_alone_or_with_a_law_and_is_told_to_who_named_another() -> None:
    for code, said in LEGAL_BASES.items():
        assert said.endswith(".") and written(code, " ") == code and written(code, "17/26") == f"{code}: 17/26"
        Policy().check_request(**(GOOD | {"legal_basis": code}))
        Policy(legal_bases=(code,)).check_request(**(GOOD | {"legal_basis": written(code, "Art. 6: 1")}))
        with pytest.raises(PolicyError, match=code):
            Policy().check_request(**(GOOD | {"legal_basis": "the law of " + code}))


def test_a_policy_narrows_and_extends_the_list_of_legal_bases_and_its_digest_says_so() -> None:
    own = Policy(legal_bases=("consent", "police-act"))
    for allowed in ("consent", "police-act: section 12"):
        own.check_request(**(GOOD | {"legal_basis": allowed}))
    with pytest.raises(PolicyError, match=r"one of consent, police-act$"):
        own.check_request(**(GOOD | {"legal_basis": "court-order: 17"}))
    assert list(own.legal_bases_known().items()) == [("consent", LEGAL_BASES["consent"]), ("police-act", "")]
    assert own.content()["legal_bases"] == ["consent", "police-act"] and own.digest() != Policy().digest()
    for wrong in (("b-law", "a-law"), ("a-law", "a-law"), ("A law",), ("a:law",)):
        with pytest.raises(ValidationError):
            Policy(legal_bases=wrong)


def test_a_bound_of_the_policy_is_allowed_and_what_lies_beyond_it_is_not() -> None:
    longest = "a reason of many words "[:20] * 200
    assert len(longest) == 4000
    Policy().check_request(**(GOOD | {"purpose": longest, "lifetime": timedelta(days=7), "images": 100}))
    Policy().check_request(**(GOOD | {"purpose": "abcc cccc", "legal_basis": "contract", "case": "1"}))
    with pytest.raises(PolicyError) as refused:
        Policy().check_request(**(GOOD | {"purpose": longest + "s"}))
    assert refused.value.code == "purpose"
    assert len(normalise_name("x" * 200)) == 200
    with pytest.raises(ApprovalError):
        normalise_name("x" * 201)


def code_of(error: type[Exception], call: object, *arguments: object) -> str:
    with pytest.raises(error) as refused:
        call(*arguments)
    return refused.value.code


def test_the_requester_can_not_approve() -> None:
    assert code_of(ApprovalError, lifecycle.check_approve, LIFE, "alice", "d1", NOW) == "self-approval"


def test_the_same_person_can_not_approve_twice() -> None:
    once = replace(LIFE, approvals=BOTH[:1])
    assert code_of(ApprovalError, lifecycle.check_approve, once, "bob", "d1", NOW) == "twice"
    lifecycle.check_approve(once, "carol", "d1", NOW)


@pytest.mark.parametrize("shown", ["d2", "", "d", "d11", "D1", "\u0434"])
def test_what_is_approved_is_what_was_shown(shown: str) -> None:
    lifecycle.check_approve(LIFE, "bob", "d1", NOW)
    assert code_of(ApprovalError, lifecycle.check_approve, LIFE, "bob", shown, NOW) == "changed"


def test_approvals_of_another_content_or_by_the_requester_do_not_count() -> None:
    assert lifecycle.is_approved(replace(LIFE, approvals=BOTH))
    assert not lifecycle.is_approved(replace(LIFE, approvals=(BOTH[0], Approval("carol", "d0"))))
    assert not lifecycle.is_approved(replace(LIFE, approvals=(BOTH[0], Approval("alice", "d1"))))
    assert not lifecycle.is_approved(replace(LIFE, approvals=(BOTH[0], BOTH[0])))


def test_zero_required_approvals_do_not_fail_open() -> None:
    assert not lifecycle.is_approved(replace(LIFE, approvals_required=0))
    assert not lifecycle.is_approved(replace(LIFE, approvals_required=-1))
    for required in (-1, 0, 1):
        assert not lifecycle.is_approved(replace(LIFE, approvals_required=required, approvals=BOTH[:1]))
        assert lifecycle.is_approved(replace(LIFE, approvals_required=required, approvals=BOTH))


@pytest.mark.parametrize("state", [State.APPROVED, State.RELEASED, State.DENIED])
def test_only_a_pending_request_is_approved(state: State) -> None:
    assert (
        code_of(ApprovalError, lifecycle.check_approve, replace(LIFE, stored=state), "bob", "d1", NOW)
        == f"state-{state}"
    )


@pytest.mark.parametrize("state", [State.RELEASED, State.DENIED])
def test_an_end_is_final(state: State) -> None:
    ended = replace(APPROVED, stored=state)
    assert code_of(ApprovalError, lifecycle.check_deny, ended, NOW) == f"state-{state}"
    assert code_of(ApprovalError, lifecycle.check_change, ended, "alice", NOW) == f"state-{state}"


def test_a_request_ends_at_its_expiry_not_after_it() -> None:
    assert LIFE.state(LATER - timedelta(microseconds=1)) is State.PENDING
    assert LIFE.state(LATER) is State.EXPIRED
    assert code_of(ApprovalError, lifecycle.check_approve, LIFE, "bob", "d1", LATER) == "state-expired"
    assert code_of(ApprovalError, lifecycle.check_deny, LIFE, LATER) == "state-expired"


def test_a_grant_ends_before_its_request() -> None:
    assert lifecycle.check_release(APPROVED, "alice", NOW).grant_id == "g"
    assert code_of(GrantError, lifecycle.check_release, APPROVED, "alice", NOW + timedelta(minutes=30)) == "expired"
    assert lifecycle.grant_expiry(LIFE, NOW, timedelta(days=1)) == LATER
    assert lifecycle.grant_expiry(LIFE, NOW, timedelta(minutes=1)) == NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("life", "person", "code"),
    [
        (APPROVED, "bob", "not-requester"),
        (LIFE, "alice", "not-approved"),
        (replace(APPROVED, stored=State.RELEASED), "alice", "used"),
        (replace(APPROVED, stored=State.DENIED), "alice", "denied"),
        (replace(APPROVED, approvals=BOTH[:1]), "alice", "not-approved"),
        (replace(APPROVED, grant=None), "alice", "not-approved"),
        (replace(APPROVED, digest="d2"), "alice", "not-approved"),
        (replace(APPROVED, stored=State.PENDING), "alice", "not-approved"),
    ],
)
def test_a_release_without_every_condition_is_refused(life: RequestLife, person: str, code: str) -> None:
    assert code_of(GrantError, lifecycle.check_release, life, person, NOW) == code


def test_an_error_in_what_is_shown_quotes_none_of_it() -> None:
    with pytest.raises(ValidationError) as refused:
        RequestedImage(record_id="r", dataset="photos", image_id=["canary.png"])
    assert "canary" not in str(refused.value)


def test_only_the_requester_changes_a_request() -> None:
    lifecycle.check_change(APPROVED, "alice", NOW)
    assert code_of(ApprovalError, lifecycle.check_change, LIFE, "bob", NOW) == "not-requester"
