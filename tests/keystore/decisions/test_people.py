"""One person is one person: under another spelling, under a look-alike, and after their name was erased."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from keystore.decisions.identity import EMBEDDED_ISSUER, normalise_name, person_tag, skeleton
from keystore.decisions.lifecycle import State
from keystore.errors import ApprovalError
from keystore.verification.verify import verify_audit

KEY = b"k" * 32


def test_an_erased_approver_does_not_approve_twice(keystore, make) -> None:
    request_id = make.request(keystore).request_id
    make.approve(keystore, request_id, "Bob")
    keystore.erase_person("Bob", "Olga")
    for name in ("Bob", " BOB ", "b0b"):
        with pytest.raises(ApprovalError) as refused:
            make.approve(keystore, request_id, name)
        assert refused.value.code == "erased-person"
    assert keystore.show(request_id).state is State.PENDING
    make.approve(keystore, request_id, "Carol")
    assert keystore.show(request_id).state is State.APPROVED, "the approval itself still counts, once"


def test_an_erased_requester_does_not_approve_their_own_request(keystore, make) -> None:
    request_id = make.request(keystore, requester="Alice").request_id
    keystore.erase_person("alice", "Olga")
    with pytest.raises(ApprovalError) as refused:
        make.approve(keystore, request_id, "Alice")
    assert refused.value.code == "erased-person"
    assert keystore.show(request_id).requester == "(erased)"


def test_erasing_a_person_is_on_record_without_their_name_and_takes_their_signing_key(keystore, make) -> None:
    request_id = make.request(keystore).request_id
    make.approve(keystore, request_id, "Bob")
    keystore.erase_person("Bob", "Olga")
    entry = json.loads(keystore.audit_entries()[-1])
    with keystore._database.read() as connection:
        row = connection.execute(text("SELECT * FROM people WHERE person = :person"), {"person": entry["person"]}).one()
    assert (entry["type"], row.name, row.salt, row.wrapped) == ("erase-person", None, None, None)
    assert row.public_key is not None, "their approval can still be verified"
    assert verify_audit(keystore.path).ok
    with pytest.raises(ApprovalError) as refused:
        keystore.erase_person("Nobody", "Olga")
    assert refused.value.code == "unknown-person"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE people SET name = NULL, salt = NULL WHERE name = 'bob'",
        "UPDATE people SET name = 'bob', salt = zeroblob(32) WHERE name IS NULL",
    ],
    ids=["erased unlogged", "put back"],
)
def test_a_name_erased_or_put_back_behind_the_log_is_found(keystore, make, statement: str) -> None:
    make.approve(keystore, make.request(keystore).request_id, "Bob")
    if "IS NULL" in statement:
        keystore.erase_person("Bob", "Olga")
    with keystore._database.write() as connection:
        connection.execute(text(statement))
    assert any("without an entry" in problem for problem in verify_audit(keystore.path).problems)


LOOK_ALIKES = [
    "alice.",
    ".alice",
    "a1ice",
    "aIice",
    "al.ice",
    "ali-ce",
    "al ice",
    "alicé",
    "\u2800alice",
    "alice\u2800",
    "а\u04cf\u0456се",  # whole-word Cyrillic
    "\u13aa\u13de\u13a5\u13df\u13ac",  # Cherokee
    "\ua4ee\ua4e1\ua4f2\ua4da\ua4f0",  # Lisu
    "\u0561\u056c\u056b\u0581\u0565",  # Armenian
    "\u0251lice",  # Latin alpha, outside of the allow-list
    "al\u0269ce",
]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_no_look_alike_of_the_requester_approves(keystore, make, name: str) -> None:
    request_id = make.request(keystore, requester="Alice").request_id
    with pytest.raises(ApprovalError) as refused:
        make.approve(keystore, request_id, name)
    assert refused.value.code == "name"
    assert keystore.show(request_id).approvals == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("marn", "mam"),
        ("ivvo", "iwo"),
        ("o'brien", "obrien"),
        ("müller", "muller"),
        ("ada lovelace", "ada.lovelace"),
        ("user10", "userlo"),
        ("łukasz", "lukasz"),
        ("strasse", "straße"),
    ],
)
def test_names_that_a_reader_may_confuse_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(normalise_name(one)) == skeleton(normalise_name(other))


def test_the_index_depends_on_key_issuer_and_subject() -> None:
    tags = {
        person_tag(key, issuer, name)
        for key in (KEY, b"o" * 32)
        for issuer in (EMBEDDED_ISSUER, "https://idp.example")
        for name in ("alice", "bob")
    }
    assert len(tags) == 8


def test_the_index_key_is_not_the_one_that_files_subjects(keystore) -> None:
    assert keystore._people._key != keystore._keys.index_key
