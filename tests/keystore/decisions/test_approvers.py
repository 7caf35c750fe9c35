"""Approvers with keys of their own: only what they signed counts, wherever the keystore's other keys are."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import canonical_json
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.signatures import OwnSignature
from keystore.embedded import Keystore
from keystore.errors import ApprovalError, AuditError, GrantError, PolicyError, Refusal, StorageError, TamperedError
from keystore.verification.milestone import Milestone
from keystore.verification.replay import replay
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision
from keystore.verification.verify import verify_audit

OTHERS = ("oscar", "olga")  # who enrol
OWN = Policy(own_keys=True, roles=("dpo", "legal"))
TEAMS = {"bob": "dpo", "carol": "legal", "dora": "dpo"}
Keys = dict[str, ApproverKey]


def enrol(keystore: Keystore, name: str, role: str = "dpo", *by: str) -> ApproverKey:
    key = ApproverKey.generate()
    assert keystore.enrol_approver(name, role, key.public_line, *(by or OTHERS)) is None
    assert key.key_id in {one.key for one in keystore.approvers()}
    return key


@pytest.fixture
def keys(keystore: Keystore, make) -> Keys:
    """Of three enrolled approvers, and a policy that asks for them and for both teams; signed, once there were two."""
    made = {name: enrol(keystore, name, TEAMS[name]) for name in ("bob", "carol")}
    key = ApproverKey.generate()
    make.agree(keystore, keystore.enrol_approver("dora", "dpo", key.public_line, *OTHERS), **made)
    make.agree(keystore, keystore.set_policy(OWN, *OTHERS), **made)
    return made | {"dora": key}


def without(keys: Keys, name: str) -> Keys:
    return {one: key for one, key in keys.items() if one != name}


def sign(keystore: Keystore, request_id: str, name: str, key: ApproverKey, **changes: Any) -> None:
    shown = keystore.show(request_id)
    own = key.sign(shown, keystore.audit_vkey, keystore._clock())
    keystore.approve(request_id, name, shown.digest, OwnSignature(**vars(own) | changes))


def leaves(keystore: Keystore) -> list[dict[str, Any]]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def test_two_teams_release_with_their_own_keys_and_the_log_shows_it_alone(keystore, make, keys: Keys) -> None:
    request_id = make.request(keystore).request_id
    sign(keystore, request_id, "bob", keys["bob"])
    with pytest.raises(GrantError, match=r"1 more approval\(s\) needed, among them of legal"):
        make.take(keystore, request_id)
    sign(keystore, request_id, "carol", keys["carol"])
    (record,) = make.take(keystore, request_id)
    assert record.image_id == "a.png"
    assert {(one.approver, one.role, one.key) for one in keystore.show(request_id).approvals} == {
        ("bob", "dpo", keys["bob"].key_id),
        ("carol", "legal", keys["carol"].key_id),
    }
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
    assert replay(keystore.audit_entries()).problems == []


def test_two_of_one_team_are_not_enough_and_a_third_of_the_other_is(keystore, make, keys: Keys) -> None:
    request_id = make.request(keystore).request_id
    for name in ("bob", "dora"):
        sign(keystore, request_id, name, keys[name])
    assert keystore.show(request_id).state is State.PENDING
    with pytest.raises(GrantError, match="among them of legal"):
        make.take(keystore, request_id)
    sign(keystore, request_id, "carol", keys["carol"])
    make.take(keystore, request_id)
    assert verify_audit(keystore.path).ok


def test_an_approvers_signature_is_of_nobody_else_and_nothing_else(keystore, make, keys: Keys, clock) -> None:
    request_id, other = make.request(keystore).request_id, make.request(keystore).request_id
    shown, now = keystore.show(request_id), clock()
    mine = keys["bob"].sign(shown, keystore.audit_vkey, now)

    def refused(own: OwnSignature | None, name: str = "bob") -> str:
        with pytest.raises(ApprovalError) as error:
            keystore.approve(request_id, name, shown.digest, own)
        assert leaves(keystore)[-1]["code"] == error.value.code
        return error.value.code

    late = keys["bob"].sign(shown, keystore.audit_vkey, now - timedelta(minutes=11))
    assert refused(None) == "own-key", "nor can the keystore sign for them"
    assert refused(None, "erin") == "not-enrolled"
    assert refused(ApproverKey.generate().sign(shown, keystore.audit_vkey, now), "erin") == "not-enrolled"
    assert refused(keys["carol"].sign(shown, keystore.audit_vkey, now)) == "wrong-key"
    assert refused(late) == "signed-when"
    assert refused(keys["bob"].sign(shown, keystore.audit_vkey, now + timedelta(minutes=11))) == "signed-when"
    assert refused(OwnSignature(mine.key_id, "yesterday", mine.signature)) == "signed-when"
    assert refused(OwnSignature(mine.key_id, late.approved_at, mine.signature)) == "signed-when"
    assert refused(keys["bob"].sign(keystore.show(other), keystore.audit_vkey, now)) == "signature", (
        "the other request has the same words"
    )
    assert (
        refused(
            OwnSignature(mine.key_id, mine.approved_at, keys["carol"].sign(shown, keystore.audit_vkey, now).signature)
        )
        == "signature"
    )
    for wrong in (b"", bytes(64), mine.signature[:-1], mine.signature + b"\0"):
        assert refused(OwnSignature(mine.key_id, mine.approved_at, wrong)) == "signature"
    keystore.approve(request_id, "bob", shown.digest, mine)
    assert refused(mine) == "twice"
    assert verify_audit(keystore.path).ok


def test_who_is_enrolled_approves_with_the_key_alone_whatever_the_policy(keystore, make) -> None:
    key = enrol(keystore, "bob")
    request_id = make.request(keystore).request_id
    with pytest.raises(ApprovalError) as refused:
        make.approve(keystore, request_id, "Bob")
    assert refused.value.code == "own-key"
    sign(keystore, request_id, "BOB", key)
    make.approve(keystore, request_id, "Carol")
    make.take(keystore, request_id)
    assert verify_audit(keystore.path).ok


def test_the_requesters_own_key_is_worth_nothing_for_their_request(keystore, make, keys: Keys) -> None:
    key = ApproverKey.generate()
    make.agree(keystore, keystore.enrol_approver("alice", "legal", key.public_line, *OTHERS), **without(keys, "dora"))
    request_id = make.request(keystore, requester="alice").request_id
    with pytest.raises(ApprovalError) as refused:
        sign(keystore, request_id, "alice", key)
    assert refused.value.code == "self-approval"


def test_a_changed_request_needs_new_signatures(keystore, make, keys: Keys) -> None:
    request_id = make.request(keystore).request_id
    old = keystore.show(request_id)
    sign(keystore, request_id, "bob", keys["bob"])
    changed = keystore.change(request_id, "Alice", purpose="something else entirely")
    own = keys["bob"].sign(old, keystore.audit_vkey, keystore._clock())
    for digest, code in ((old.digest, "changed"), (changed.digest, "signature")):
        with pytest.raises(ApprovalError) as refused:
            keystore.approve(request_id, "bob", digest, own)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("by", "code"),
    [
        ((), "approver-alone"),
        (("oscar",), "approver-alone"),
        (("oscar", "Oscar "), "approver-alone"),
        (("oscar", "erin"), "approver-alone"),  # whose key it is does not count
    ],
)
def test_nobody_enrols_or_removes_alone(keystore, by: tuple[str, ...], code: str) -> None:
    key = ApproverKey.generate()
    with pytest.raises(ApprovalError) as refused:
        keystore.enrol_approver("erin", "dpo", key.public_line, *by)
    assert refused.value.code == code and keystore.approvers() == []
    enrol(keystore, "erin")
    with pytest.raises(ApprovalError) as refused:
        keystore.remove_approver(keystore.approvers()[0].key, *by)
    assert refused.value.code == code and keystore.approvers()[0].removed_at is None


def test_three_enrol_where_three_approve(keystore) -> None:
    assert keystore.set_policy(Policy(approvals=3), *OTHERS) is None
    with pytest.raises(ApprovalError, match="3 other people"):
        enrol(keystore, "erin")
    enrol(keystore, "erin", "dpo", *OTHERS, "otto")
    assert verify_audit(keystore.path).ok


def test_a_person_has_one_key_and_a_key_is_enrolled_once(keystore) -> None:
    key = enrol(keystore, "erin")
    for name, code in (("erin", "enrolled"), ("frank", "known-key")):
        with pytest.raises(ApprovalError) as refused:
            keystore.enrol_approver(name, "dpo", key.public_line, *OTHERS)
        assert refused.value.code == code
    keystore.remove_approver(key.key_id, *OTHERS)
    with pytest.raises(ApprovalError) as refused:
        keystore.enrol_approver("erin", "dpo", key.public_line, *OTHERS)
    assert refused.value.code == "known-key", "a key that was lost does not come back"
    with pytest.raises(ApprovalError, match="no key of this id"):
        keystore.remove_approver(key.key_id, *OTHERS)


@pytest.mark.parametrize("damage", ["no words", "cut", "another's signature", "another kind", "more", "junk"])
def test_a_line_is_enrolled_whole_or_not_at_all(keystore, damage: str) -> None:
    one, other = ApproverKey.generate().public_line.split(), ApproverKey.generate().public_line.split()
    line = {
        "no words": "",
        "cut": " ".join(one)[:-5],
        "another's signature": " ".join([*one[:3], other[3]]),
        "another kind": " ".join([one[0], "rsa", *one[2:]]),
        "more": " ".join([*one, other[3]]),
        "junk": " ".join([*one[:3], f"!{one[3]}"]),
    }[damage]
    with pytest.raises(ApprovalError) as refused:
        keystore.enrol_approver("erin", "dpo", line, *OTHERS)
    assert refused.value.code == "public-key" and keystore.approvers() == []


@pytest.mark.parametrize("role", ["", "DPO", "dpo ", "-dpo", "d" * 33, "d\npo", "дпо"])
def test_a_role_is_a_plain_word(keystore, role: str) -> None:
    with pytest.raises(PolicyError):
        keystore.enrol_approver("erin", role, ApproverKey.generate().public_line, *OTHERS)
    with pytest.raises(ValidationError):
        Policy(own_keys=True, roles=(role,))


@pytest.mark.parametrize("roles", [("legal", "dpo"), ("dpo", "dpo"), ("a", "b", "c")])
def test_a_policy_that_nobody_could_meet_or_read_is_none(roles: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Policy(own_keys=True, roles=roles)
    with pytest.raises(ValidationError):
        Policy(roles=("dpo",))


def test_own_keys_are_asked_for_only_when_there_are_enough(keystore, make) -> None:
    made = {}
    for name, role in (("bob", "dpo"), ("dora", "dpo")):
        with pytest.raises(PolicyError, match="nothing could be approved"):
            keystore.set_policy(Policy(own_keys=True), *OTHERS)
        made[name] = enrol(keystore, name, role)
    make.agree(keystore, keystore.set_policy(Policy(own_keys=True), *OTHERS), **made)
    with pytest.raises(PolicyError, match="legal of none"):
        keystore.set_policy(OWN, *OTHERS)


def test_the_default_policy_is_the_document_it_always_was() -> None:
    assert json.loads(Policy().document()).keys() == Policy.model_fields.keys() - {
        "own_keys",
        "roles",
        "break_glass",
        "legal_bases",
    }
    assert json.loads(OWN.document())["roles"] == ["dpo", "legal"]


@pytest.mark.parametrize("granted", [False, True])
def test_a_key_that_is_removed_ends_what_it_approved_and_is_open_and_nothing_else(
    keystore, make, keys: Keys, granted: bool
) -> None:
    released, open_, foreign, old = (make.request(keystore).request_id for _ in range(4))
    for name in ("bob", "carol"):
        sign(keystore, released, name, keys[name])
    make.take(keystore, released)
    sign(keystore, open_, "bob", keys["bob"])
    if granted:
        sign(keystore, open_, "carol", keys["carol"])
    sign(keystore, foreign, "carol", keys["carol"])
    sign(keystore, old, "bob", keys["bob"])
    keystore.change(old, "Alice", purpose="something else entirely")
    make.agree(keystore, keystore.remove_approver(keys["bob"].key_id, *OTHERS), **without(keys, "bob"))
    states = [keystore.show(one).state for one in (released, open_, foreign, old)]
    assert states == [State.RELEASED, State.DENIED, State.PENDING, State.PENDING]
    with pytest.raises(GrantError, match="denied"):
        make.take(keystore, open_)
    approved = {one.key for one in keystore.show(released).approvals}
    assert approved == {keys["bob"].key_id, keys["carol"].key_id}, "what it approved stays on record"
    with pytest.raises(ApprovalError) as refused:
        sign(keystore, foreign, "bob", keys["bob"])
    assert refused.value.code == "not-enrolled"
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


def test_a_lost_key_is_replaced_by_others(keystore, make, keys: Keys) -> None:
    new, other = ApproverKey.generate(), ApproverKey.generate()
    make.agree(keystore, keystore.enrol_approver("lena", "legal", other.public_line, *OTHERS), **without(keys, "dora"))
    signing = {"bob": keys["bob"], "lena": other}
    make.agree(keystore, keystore.remove_approver(keys["carol"].key_id, *OTHERS), **signing)
    make.agree(keystore, keystore.enrol_approver("carol", "legal", new.public_line, *OTHERS), **signing)
    request_id = make.request(keystore).request_id
    with pytest.raises(ApprovalError) as refused:
        sign(keystore, request_id, "carol", keys["carol"])
    assert refused.value.code == "wrong-key"
    sign(keystore, request_id, "carol", new)
    sign(keystore, request_id, "bob", keys["bob"])
    make.take(keystore, request_id)
    assert verify_audit(keystore.path).ok


def test_an_erased_approver_is_off_the_list_and_nameless_and_the_log_still_shows_it_all(
    keystore, make, keys: Keys
) -> None:
    released, open_ = make.request(keystore).request_id, make.request(keystore).request_id
    for name in ("bob", "carol"):
        sign(keystore, released, name, keys[name])
    make.take(keystore, released)
    sign(keystore, open_, "bob", keys["bob"])
    make.agree(keystore, keystore.remove_approver(keys["bob"].key_id, *OTHERS), **without(keys, "bob"))
    keystore.erase_person("bob", "oscar")
    assert keystore.show(open_).state is State.DENIED
    assert {one.approver for one in keystore.show(released).approvals} == {"(erased)", "carol"}
    erased = next(one for one in keystore.approvers() if one.key == keys["bob"].key_id)
    assert erased.person == "(erased)" and erased.removed_at is not None
    for attempt in (
        lambda: keystore.enrol_approver("bob", "dpo", ApproverKey.generate().public_line, *OTHERS),
        lambda: sign(keystore, open_, "bob", keys["bob"]),
    ):
        with pytest.raises(ApprovalError) as refused:
            attempt()
        assert refused.value.code == "erased-person"
    report = verify_audit(keystore.path)
    assert report.ok, report.problems


EDITS = {
    "the public key": "UPDATE approver_keys SET public_key = zeroblob(32) WHERE role = 'legal'",
    "the role": "UPDATE approver_keys SET role = 'dpo' WHERE role = 'legal'",
    "whose it is": "UPDATE approver_keys SET person = (SELECT person FROM people WHERE name = 'dora') WHERE role = 'legal'",
    "enrolled by hand": "INSERT INTO approver_keys SELECT 'ff', person, public_key, role, enrolled_at, NULL, NULL "
    "FROM approver_keys LIMIT 1",
    "dropped": "DELETE FROM approver_keys WHERE role = 'legal'",
    "removed by hand": "UPDATE approver_keys SET removed_at = enrolled_at WHERE role = 'legal'",
    "the signature": "UPDATE approvals SET signature = zeroblob(64)",
    "the time of a signature": "UPDATE approvals SET approved_at = '2020-01-01T00:00:00.000000Z'",
    "by the kept key": "UPDATE approvals SET key_id = NULL",
    "by another key": "UPDATE approvals SET key_id = (SELECT key_id FROM approver_keys WHERE role = 'legal')",
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_tables_is_found_and_stops_releases(keystore, make, keys: Keys, edit: str) -> None:
    request_id = make.request(keystore).request_id
    for name in ("bob", "carol"):
        sign(keystore, request_id, name, keys[name])
    with keystore._database.write() as connection:
        connection.execute(text(EDITS[edit]))
    with pytest.raises((AuditError, TamperedError, Refusal)):
        make.take(keystore, request_id)
    assert not verify_audit(keystore.path).ok


def test_a_removed_key_that_is_put_back_by_hand_is_found(keystore, make, keys: Keys) -> None:
    make.agree(keystore, keystore.remove_approver(keys["bob"].key_id, *OTHERS), **without(keys, "bob"))
    with keystore._database.write() as connection:
        connection.execute(text("UPDATE approver_keys SET removed_at = NULL"))
    request_id = make.request(keystore).request_id
    for name in ("bob", "carol"):
        sign(keystore, request_id, name, keys[name])
    with pytest.raises(AuditError, match="nothing is released"):
        make.take(keystore, request_id)


@pytest.fixture
def told(keystore, make, keys: Keys) -> list[dict[str, Any]]:
    """The entries of a lawful life: enrolments, a release, a removal, an erasure."""
    request_id = make.request(keystore).request_id
    for name in ("bob", "carol"):
        sign(keystore, request_id, name, keys[name])
    make.take(keystore, request_id)
    make.agree(keystore, keystore.remove_approver(keys["bob"].key_id, *OTHERS), **without(keys, "bob"))
    keystore.erase_person("bob", "oscar")
    return leaves(keystore)


def first(told: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(leaf for leaf in told if leaf["type"] == kind)


def _approvals(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = first(told, "release")["request"]
    return [leaf for leaf in told if leaf["type"] == "approve" and leaf["request"] == asked]


def _swap_signatures(told: list[dict[str, Any]]) -> None:
    one, other = _approvals(told)
    one["signature"], other["signature"] = other["signature"], one["signature"]


def _same_team(told: list[dict[str, Any]]) -> None:
    for leaf in told:
        if leaf["type"] == "enrol-approver":
            leaf["role"] = "dpo"


def _removed_before(told: list[dict[str, Any]]) -> None:
    of = first(told, "remove-approver")["request"]
    removal = [leaf for leaf in told if leaf.get("request") == of]
    told[:] = [leaf for leaf in told if leaf not in removal]
    at = told.index(_approvals(told)[0])
    told[at:at] = removal


FORGERIES = {
    "one person enrols": (lambda told: first(told, "enrol-approver")["by"].pop(), "fewer people"),
    "whom they enrol counts": (
        lambda told: first(told, "enrol-approver").update(by=[first(told, "enrol-approver")["person"], "x"]),
        "fewer people",
    ),
    "one person removes": (lambda told: first(told, "remove-approver")["by"].pop(), "fewer people"),
    "another key under its id": (
        lambda told: first(told, "enrol-approver").update(public_key=base64.b64encode(bytes(32)).decode()),
        "another's name",
    ),
    "no enrolment": (lambda told: told.remove(first(told, "enrol-approver")), "not enrolled"),
    "enrolled twice": (lambda told: told.insert(4, dict(first(told, "enrol-approver"))), "second time"),
    "removed before it signed": (_removed_before, "not enrolled for its approver then"),
    "signatures of one another": (_swap_signatures, "not signed by its approver"),
    "signed at another time": (
        lambda told: first(told, "approve").update(approved_at="2020-01-01T00:00:00.000000Z"),
        "another time",
    ),
    "no time": (lambda told: first(told, "approve").update(approved_at="x"), "another time"),
    "by the kept key": (lambda told: first(told, "approve").pop("key"), "own"),
    "one team": (_same_team, "each role"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_log_alone_shows_a_forgery(told: list[dict[str, Any]], forgery: str) -> None:
    forge, says = FORGERIES[forgery]
    forge(told)
    renumbered = [canonical_json(leaf | {"seq": seq}) for seq, leaf in enumerate(told)]
    assert says in " ".join(replay(renumbered).problems)


def test_a_milestone_remembers_the_approvers(told: list[dict[str, Any]]) -> None:
    state = LoggedDecisions()
    for leaf in told:
        apply_decision(state, leaf)
    assert state.approver_keys and any(request.keys for request in state.requests.values())
    again = Milestone.from_bytes(Milestone(decisions=state).to_bytes()).decisions
    assert again == LoggedDecisions(**vars(state) | {"problems": [], "by_names": []})


# The key on the approver's machine


def test_a_key_is_read_back_with_its_passphrase_only(tmp_path: Path) -> None:
    plain, locked = tmp_path / "plain.key", tmp_path / "locked.key"
    key = ApproverKey.generate()
    key.write(plain)
    key.write(locked, "correct horse")
    assert plain.stat().st_mode & 0o777 == locked.stat().st_mode & 0o777 == 0o600
    assert ApproverKey.read(plain, lambda: pytest.fail("no passphrase is asked")).key_id == key.key_id
    assert ApproverKey.read(locked, lambda: "correct horse").key_id == key.key_id
    with pytest.raises(ApprovalError, match="does not open"):
        ApproverKey.read(locked, lambda: "wrong horse")
    secret = key._key.private_bytes_raw()
    for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
        assert form not in locked.read_bytes()
        assert form.decode("latin-1") not in repr(key)


def test_a_key_is_written_over_nothing_and_not_half(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("kept")
    with pytest.raises(StorageError, match="new file"):
        ApproverKey.generate().write(path)
    assert path.read_text() == "kept"
    with pytest.raises(ApprovalError, match="longer"):
        ApproverKey.generate().write(tmp_path / "short", "secret")
    with pytest.raises(StorageError):
        ApproverKey.generate().write(tmp_path / "no folder" / "key")
    assert [one.name for one in tmp_path.iterdir()] == ["key"], "nor is a secret left under another name"


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 90, b"a\nb\nc\n", b"keyanon-approver-key-1\nscrypt 1 8 1 AAAA\nAAAA\n"]
)
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="no approver key"):
        ApproverKey.read(path, lambda: "passphrase")
    path.chmod(0o640)
    with pytest.raises(StorageError, match="open to others"):
        ApproverKey.read(path, lambda: "passphrase")


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "identify a missing cat"},
        {"legal_basis": "court-order: 13/26"},
        {"case": "C-18"},
        {"images": []},
        {"approvals_required": 3},
        {"request_id": "another"},
        {"keystore": "another"},
        {"expires_at": None},
    ],
)
def test_nothing_is_signed_that_is_not_what_is_shown(keystore, make, changes: dict[str, Any]) -> None:
    shown = make.request(keystore)
    if "expires_at" in changes:
        changes = {"expires_at": shown.expires_at + timedelta(seconds=1)}
    with pytest.raises(TamperedError, match="Nothing was signed"):
        ApproverKey.generate().sign(shown.model_copy(update=changes), keystore.audit_vkey, keystore._clock())
