"""Tokens are on record: who can write into the database, and no more, neither makes one nor brings one back unseen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keystore.decisions.api_token import Role
from keystore.decisions.tokens import MAX_DATASET_CHARACTERS
from keystore.errors import AuditError, TokenError
from keystore.served import ServedKeystore
from keystore.storage import schema
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision
from keystore.verification.verify import verify_audit


def issue(keystore: ServedKeystore, person: str = "eve", role: Role = Role.AUDITOR, dataset: str | None = None) -> str:
    return keystore.issue_token(person, role, timedelta(days=1), "oscar", dataset=dataset)


def edit(keystore: ServedKeystore, **values: Any) -> None:
    with keystore._database.write() as connection:
        connection.execute(schema.tokens.update().values(**values))


def test_a_token_says_who_calls_and_its_secret_is_nowhere(keystore: ServedKeystore) -> None:
    token = issue(keystore, "Dora", Role.REQUESTER, "photos")
    caller = keystore.authenticate(token)
    assert caller is not None
    assert (caller.person, caller.role, caller.dataset) == ("dora", Role.REQUESTER, "photos")
    assert caller.may_touch("photos") and not caller.may_touch("elsewhere")
    _, ident, known = token.split("_")
    for wrong in (f"kat1_{ident}_{'0' * 64}", f"kat1_{'0' * 16}_{known}", token[:-1], token + "0", token.upper(), ""):
        assert keystore.authenticate(wrong) is None
    secret = token.split("_")[2]
    stored = b"".join(path.read_bytes() for path in keystore.path.rglob("*") if path.is_file())
    assert secret.encode() not in stored and bytes.fromhex(secret) not in stored
    assert b"photos" not in b"".join(leaf for leaf in keystore.audit_entries() if b'"token"' in leaf)


def test_a_token_ends_with_its_time_and_its_revocation(keystore: ServedKeystore, clock) -> None:
    first, second = issue(keystore), issue(keystore)
    keystore.revoke_token(first.split("_")[1], "oscar")
    assert keystore.authenticate(first) is None and keystore.authenticate(second) is not None
    with pytest.raises(TokenError, match="before"):
        keystore.revoke_token(first.split("_")[1], "oscar")
    clock.forward(days=1)
    assert keystore.authenticate(second) is None
    assert [one.revoked_at is not None for one in keystore.tokens()].count(True) == 1
    assert verify_audit(keystore.path).ok


@pytest.mark.parametrize(
    "values",
    [
        {"role": "approver"},
        {"dataset": None},
        {"expires_at": "2099-01-01T00:00:00.000000Z"},
        {"secret_sha256": "0" * 64},
    ],
)
def test_an_edited_row_is_no_token_is_found_and_stops_releases(keystore: ServedKeystore, make, values) -> None:
    token, request_id = issue(keystore, dataset="photos"), make.approved(keystore, "a.png")
    edit(keystore, **values)
    assert keystore.authenticate(token) is None
    assert any("tokens" in problem for problem in verify_audit(keystore.path).problems)
    with pytest.raises(AuditError, match="tokens"):
        make.take(keystore, request_id)


def test_a_revoked_token_whose_old_row_is_put_back_is_found(keystore: ServedKeystore) -> None:
    token = issue(keystore)
    with keystore._database.read() as connection:
        before = dict(connection.execute(schema.tokens.select()).one()._mapping)
    keystore.revoke_token(token.split("_")[1], "oscar")
    edit(keystore, **before)
    assert any("tokens" in problem for problem in verify_audit(keystore.path).problems)
    with keystore._database.write() as connection:
        connection.execute(schema.tokens.delete())
    assert any("tokens" in problem for problem in verify_audit(keystore.path).problems)


def test_a_data_sets_name_is_bounded(keystore: ServedKeystore) -> None:
    for name in ("", "x" * (MAX_DATASET_CHARACTERS + 1)):
        with pytest.raises(TokenError, match="characters"):
            issue(keystore, dataset=name)
    assert keystore.authenticate(issue(keystore, dataset="x" * MAX_DATASET_CHARACTERS)) is not None


@pytest.mark.parametrize(
    "leaf",
    [
        {"type": "token", "token": "known", "digest": "d"},
        {"type": "revoke-token", "token": "unknown", "digest": "d"},
        {"type": "release-again", "grant": "used", "recipient": "another"},
        {"type": "release-again", "grant": "unused", "recipient": "recipient"},
    ],
)
def test_an_entry_that_the_rules_do_not_allow_is_a_problem(leaf: dict[str, str]) -> None:
    logged = LoggedDecisions(tokens={"known": {"digest": "d"}}, releases={"used": "recipient"})
    now = {"seq": 9, "time": "2026-11-28T10:00:00.000000Z"}
    apply_decision(logged, {**now, **leaf})
    (problem,) = logged.problems
    assert "entry 9" in problem
    for allowed in (
        {"type": "revoke-token", "token": "known", "digest": "e"},
        {"type": "release-again", "grant": "used", "recipient": "recipient"},
    ):
        apply_decision(logged, {**now, **allowed})
    assert len(logged.problems) == 1


def test_a_token_and_a_name_are_one_person_to_the_rules(keystore: ServedKeystore, make) -> None:
    issue(keystore, "Alice", Role.APPROVER)
    assert len({row.person for row in keystore.tokens()}) == 1
    request_id = make.request(keystore, "a.png", requester="alice").request_id
    caller = keystore.authenticate(issue(keystore, "ALICE", Role.APPROVER))
    assert caller is not None
    with pytest.raises(Exception, match="made it"):
        make.approve(keystore, request_id, caller.person)
