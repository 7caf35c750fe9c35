"""Changes of who decides: by names while there are too few keys to sign with, then by approvers' signatures only."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.console.passkey import challenges
from keystore.crypto.canonical import canonical_json, timestamp
from keystore.decisions import changes
from keystore.decisions.content import shown_digest
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.signatures import OwnSignature, parse_public_line
from keystore.emergency import EmergencyKeystore
from keystore.errors import AuditError, GrantError, PolicyError, Refusal, TamperedError
from keystore.service.messages import SeenRequest
from keystore.verification.milestone import Milestone
from keystore.verification.replay import replay
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision
from keystore.verification.verify import verify_audit
from tests.keystore.passkeys import Device
from tests.keystore.postgres import ON_BOTH

OTHERS = ("oscar", "olga")
Keys = dict[str, ApproverKey]
Leaf = dict[str, Any]


@pytest.fixture
def governed(keystore, clock) -> Any:
    """The keystore of these tests, open for emergencies too."""
    with EmergencyKeystore.open(keystore.path, clock=clock) as opened:
        yield opened


@pytest.fixture
def keys(governed: EmergencyKeystore, make) -> Keys:
    """Of three enrolled approvers, the third of whom the first two signed for."""
    enrolled: Keys = make.enrol_three(governed, *OTHERS)
    return enrolled


def leaves(keystore: EmergencyKeystore) -> list[Leaf]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def signature(keystore: EmergencyKeystore, request_id: str, key: ApproverKey) -> OwnSignature:
    return key.sign(keystore.show(request_id), keystore.audit_vkey, keystore._clock())


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return error.value.code


CHANGES: dict[str, Callable[[EmergencyKeystore, Keys], str | None]] = {
    "policy": lambda keystore, keys: keystore.set_policy(Policy(approvals=3), *OTHERS),
    "enrol-approver": lambda keystore, keys: keystore.enrol_approver(
        "erin", "legal", ApproverKey.generate().public_line, *OTHERS
    ),
    "remove-approver": lambda keystore, keys: keystore.remove_approver(keys["dora"].key_id, *OTHERS),
    "break-glass": lambda keystore, keys: keystore.set_break_glass(["eva"], *OTHERS),
}


@ON_BOTH
def test_a_change_counts_when_enough_approvers_signed_what_it_shows(governed, make, keys: Keys) -> None:
    for kind, propose in CHANGES.items():
        before = (governed.policy(), [one.key for one in governed.approvers() if one.removed_at is None])
        request_id = propose(governed, keys)
        assert request_id is not None
        view = make.sign(governed, request_id, bob=keys["bob"])
        now = (governed.policy(), [one.key for one in governed.approvers() if one.removed_at is None])
        assert view.state is State.PENDING and view.own_keys and now == before
        if kind == "break-glass" or kind == "remove-approver":
            make.agree(governed, request_id, carol=keys["carol"])
        elif kind == "enrol-approver":
            assert make.sign(governed, request_id, carol=keys["carol"]).state is State.PENDING, (
                "three are asked for now"
            )
            make.agree(governed, request_id, dora=keys["dora"])
            back = governed.set_policy(Policy(), *OTHERS)
            make.agree(governed, back, **keys)
        else:
            make.agree(governed, request_id, carol=keys["carol"])
        entry = next(leaf for leaf in reversed(leaves(governed)) if leaf.get("request") == request_id)
        assert entry["type"] == kind.replace("break-glass", "policy") and len(entry["by"]) >= 2
    assert len(governed.policy().break_glass) == 1
    assert sorted(one.person for one in governed.approvers() if one.removed_at is None) == ["bob", "carol", "erin"]
    report = verify_audit(governed.path)
    assert report.problems == []
    (said,) = [limit for limit in report.limits if "names alone" in limit]
    point = next(leaf["seq"] for leaf in leaves(governed) if leaf["type"] == "signed-changes")
    assert f"since entry {point}" in said and replay(governed.audit_entries()).by_names == [point - 2, point - 1]


@pytest.mark.parametrize("kind", CHANGES)
def test_names_alone_change_nothing_once_there_are_keys(governed, keys: Keys, kind: str) -> None:
    policy, listed = governed.policy(), governed.approvers()
    request_id = CHANGES[kind](governed, keys)
    assert (governed.policy(), governed.approvers()) == (policy, listed)
    for name in ("oscar", "olga", "mallory"):
        shown = governed.show(request_id).digest
        code = refused(lambda name=name, shown=shown: governed.approve(request_id, name, shown))
        assert code == ("self-approval" if name == "oscar" else "not-enrolled")
    assert refused(lambda: governed.approve(request_id, "bob", governed.show(request_id).digest)) == "own-key"
    assert refused(lambda: governed.release(request_id, b"", "oscar")) == "not-approved"
    assert refused(lambda: governed.change(request_id, "oscar", purpose="another")) == "is-change"
    assert verify_audit(governed.path).problems == []


def test_a_signature_is_of_one_change_one_key_and_one_person(governed, make, keys: Keys, clock) -> None:
    one, other = (governed.set_policy(Policy(approvals=3), *OTHERS) for _ in range(2))
    asked = make.request(governed).request_id
    digest = governed.show(other).digest

    def code(own: OwnSignature | None, name: str = "bob") -> str:
        return refused(lambda: governed.approve(other, name, digest, own))

    mine = signature(governed, other, keys["bob"])
    assert code(signature(governed, one, keys["bob"])) == "signature", "the other change is the same, but another"
    assert code(signature(governed, asked, keys["bob"])) == "signature"
    assert refused(lambda: governed.approve(other, "bob", governed.show(one).digest, mine)) == "changed"
    assert code(signature(governed, other, keys["carol"])) == "wrong-key"
    assert code(mine, "erin") == "not-enrolled"
    late = OwnSignature(mine.key_id, timestamp(clock.now.replace(year=2020)), mine.signature)
    assert code(late) == "signed-when"
    assert refused(lambda: governed.approve(other, "bob", digest, mine, 3600)) == "grant-time"
    governed.approve(other, "bob", digest, mine)
    assert code(mine) == "twice", "nor is one person two"
    make.agree(governed, other, carol=keys["carol"])
    assert code(signature(governed, other, keys["dora"]), "dora") == "state-applied", "it is made once"
    with pytest.raises(GrantError, match="gives no keys"):
        governed.release(other, b"", "oscar")
    assert refused(lambda: governed.approve(one, "bob", governed.show(one).digest)) == "state-denied"
    assert verify_audit(governed.path).problems == []


def test_a_persons_first_key_and_second_are_one_signature(governed, make, keys: Keys) -> None:
    """One who signs, has the key replaced and signs again: what the first signed is gone with it."""
    request_id = governed.set_policy(Policy(max_images=7), *OTHERS)
    make.sign(governed, request_id, dora=keys["dora"])
    signing = {name: keys[name] for name in ("bob", "carol")}
    make.agree(governed, governed.remove_approver(keys["dora"].key_id, *OTHERS), **signing)
    assert governed.show(request_id).state is State.DENIED, "a removed key signed nothing that is still open"
    second = ApproverKey.generate()
    make.agree(governed, governed.enrol_approver("dora", "legal", second.public_line, *OTHERS), **signing)
    again = governed.set_policy(Policy(max_images=7), *OTHERS)
    assert refused(lambda: make.sign(governed, again, dora=keys["dora"])) == "wrong-key"
    make.sign(governed, again, dora=second)
    assert refused(lambda: make.sign(governed, again, dora=second)) == "twice"
    assert governed.policy().max_images == 100
    assert verify_audit(governed.path).problems == []


def test_who_files_a_change_and_whom_it_benefits_do_not_count(governed, make, keys: Keys) -> None:
    own = governed.set_policy(Policy(max_images=7), "bob")
    assert refused(lambda: make.sign(governed, own, bob=keys["bob"])) == "self-approval"
    glass = governed.set_break_glass(["bob", "eva"], *OTHERS)
    assert refused(lambda: make.sign(governed, glass, bob=keys["bob"])) == "own-benefit"
    removal = governed.remove_approver(keys["dora"].key_id, *OTHERS)
    assert refused(lambda: make.sign(governed, removal, dora=keys["dora"])) == "own-benefit"
    assert refused(lambda: governed.remove_approver(keys["dora"].key_id, "bob")) == "approvers", "too few would be left"
    make.agree(governed, glass, carol=keys["carol"], dora=keys["dora"])
    off = governed.set_break_glass(["bob"], *OTHERS)
    make.agree(governed, off, bob=keys["bob"], carol=keys["carol"])
    assert verify_audit(governed.path).problems == []


def test_roles_that_the_policy_asks_for_sign_too(governed, make, keys: Keys) -> None:
    teams = governed.set_policy(Policy(own_keys=True, roles=("dpo", "legal")), *OTHERS)
    make.agree(governed, teams, bob=keys["bob"], carol=keys["carol"])
    request_id = governed.set_policy(Policy(), *OTHERS)
    assert make.sign(governed, request_id, bob=keys["bob"], carol=keys["carol"]).state is State.PENDING
    make.agree(governed, request_id, dora=keys["dora"])
    assert governed.policy() == Policy() and verify_audit(governed.path).problems == []


def test_a_passkey_signs_a_change(governed, make, keys: Keys, clock) -> None:
    device = Device()
    enrolment = governed.enrol_approver("petra", "legal", device.line, *OTHERS)
    make.agree(governed, enrolment, bob=keys["bob"], carol=keys["carol"])
    request_id = governed.set_policy(Policy(max_images=7), *OTHERS)
    other = governed.show(governed.set_policy(Policy(max_images=8), *OTHERS))
    shown = make.sign(governed, request_id, bob=keys["bob"])
    wrong = device.approval(other, timestamp(clock()))
    assert refused(lambda: governed.approve(request_id, "petra", shown.digest, wrong)) == "signature"
    governed.approve(request_id, "petra", shown.digest, device.approval(shown, timestamp(clock())))
    assert governed.policy().max_images == 7 and verify_audit(governed.path).problems == []


def test_what_can_not_be_made_any_more_is_not(governed, make, keys: Keys) -> None:
    line = ApproverKey.generate().public_line
    one, other = (governed.enrol_approver("erin", "dpo", line, *OTHERS) for _ in range(2))
    glass = governed.set_break_glass(["eva"], *OTHERS)
    signing = {name: keys[name] for name in ("bob", "carol")}
    make.sign(governed, other, dora=keys["dora"])
    make.agree(governed, one, **signing)
    assert refused(lambda: make.sign(governed, other, bob=keys["bob"])) == "enrolled"
    assert len(governed.show(other).approvals) == 1, "and the last signature is not kept"
    governed.erase_person("eva", "oscar")
    make.sign(governed, glass, bob=keys["bob"])
    assert refused(lambda: make.sign(governed, glass, carol=keys["carol"])) == "erased-person"
    with pytest.raises(PolicyError, match="nothing could be approved"):
        governed.set_policy(Policy(approvals=5), *OTHERS)
    assert refused(lambda: governed.set_policy(Policy())) == "nobody"
    assert verify_audit(governed.path).problems == []


def test_nothing_is_signed_that_is_not_the_change_that_is_shown(governed, keys: Keys) -> None:
    shown = governed.show(governed.set_policy(Policy(max_images=7), *OTHERS))
    assert shown.change["was"]["max_images"] == 100
    other = {**shown.change, "policy": {**shown.change["policy"], "max_images": 100_000}}
    for change in (other, None, {**shown.change, "was": shown.change["policy"]}):
        with pytest.raises(TamperedError, match="Nothing was signed"):
            keys["bob"].sign(shown.model_copy(update={"change": change}), governed.audit_vkey, governed._clock())


def test_nobody_signs_for_a_key_under_the_id_of_another(governed, keys: Keys, monkeypatch) -> None:
    """The keystore's owner files their own key under an id that its approver would recognise."""
    named, filed = ApproverKey.generate().key_id, changes.of_enrolment
    with monkeypatch.context() as mallory:
        mallory.setattr(changes, "of_enrolment", lambda *of: filed(*of) | {"key": named})
        request_id = governed.enrol_approver("erin", "dpo", ApproverKey.generate().public_line, *OTHERS)
    shown = governed.show(request_id)
    assert shown.digest == shown_digest(shown) and named in str(changes.described(shown.change, {}))
    key = next(one for one in governed.approvers() if one.person == "bob")
    for call in (
        lambda: keys["bob"].sign(shown, governed.audit_vkey, governed._clock()),
        lambda: challenges(SeenRequest(**shown.model_dump(), count=0), key, []),
    ):
        with pytest.raises(TamperedError, match="another id than is shown"):
            call()
    entry = leaves(governed)[-1]
    assert f"entry {entry['seq']} files a change that calls a key by another's name" in " ".join(
        problems(leaves(governed))
    )
    with pytest.raises(AuditError, match="by another's name"):
        governed.approve(request_id, "bob", shown.digest)


@pytest.mark.parametrize("altered", [{"public_key": "no base64"}, {"public_key": None}, {"key": None}])
def test_a_change_without_the_key_that_it_names_is_not_signed(altered: Leaf) -> None:
    change = changes.of_enrolment("erin", "dpo", parse_public_line(ApproverKey.generate().public_line))
    changes.check_name_of_key(change)
    for one in (change | altered, {name: said for name, said in change.items() if name not in altered}):
        with pytest.raises(TamperedError):
            changes.check_name_of_key(one)


def test_lost_keys_lead_back_to_names_and_every_audit_says_so(governed, make, keys: Keys, caplog) -> None:
    ids = {name: key.key_id for name, key in keys.items()}
    assert refused(lambda: governed.lose_keys([ids["dora"]], *OTHERS)) == "keys-left"
    assert refused(lambda: governed.lose_keys([ids["dora"], ids["bob"]], "oscar")) == "lost-alone"
    assert refused(lambda: governed.lose_keys(["f" * 64, ids["dora"], ids["bob"]], *OTHERS)) == "unknown-key"
    open_ = governed.set_policy(Policy(max_images=7), *OTHERS)
    make.sign(governed, open_, bob=keys["bob"])
    with caplog.at_level(logging.CRITICAL):
        governed.lose_keys([ids["dora"], ids["bob"]], *OTHERS)
    (alert,) = [one.getMessage() for one in caplog.records if one.levelno == logging.CRITICAL]
    assert "2 approver key(s)" in alert and "oscar" not in alert
    assert governed.show(open_).state is State.DENIED
    assert [one.person for one in governed.approvers() if one.removed_at is None] == ["carol"]
    entry = leaves(governed)[-1]["seq"]
    assert any(f"entry {entry} says that approvers' keys are lost" in one for one in verify_audit(governed.path).limits)
    assert governed.set_policy(Policy(max_images=7), *OTHERS) is None, "names count again"
    assert governed.enrol_approver("erin", "dpo", ApproverKey.generate().public_line, *OTHERS) is None
    assert governed.set_policy(Policy(), *OTHERS) is not None, "until there are enough keys"
    report = verify_audit(governed.path)
    assert report.problems == [] and any(f"entry {entry} says" in one for one in report.limits), "for good"


def test_approvers_are_not_erased_until_too_few_can_sign(governed, make, keys: Keys) -> None:
    make.agree(governed, governed.remove_approver(keys["dora"].key_id, *OTHERS), bob=keys["bob"], carol=keys["carol"])
    governed.erase_person("dora", "oscar")
    assert refused(lambda: governed.erase_person("bob", "oscar")) == "enrolled-key"
    assert refused(lambda: governed.lose_keys([], *OTHERS)) == "keys-left"
    assert governed.set_policy(Policy(max_images=7), *OTHERS) is not None
    assert verify_audit(governed.path).problems == []


def test_nothing_changes_in_a_keystore_that_is_not_what_its_log_says(governed, keys: Keys) -> None:
    request_id = governed.set_policy(Policy(max_images=7), *OTHERS)
    own = signature(governed, request_id, keys["bob"])
    with governed._database.write() as connection:
        connection.exec_driver_sql("UPDATE approver_keys SET role = 'other'")
    for call in (
        lambda: governed.set_policy(Policy(), *OTHERS),
        lambda: governed.approve(request_id, "bob", governed.show(request_id).digest, own),
        lambda: governed.lose_keys([], *OTHERS),
    ):
        with pytest.raises(AuditError, match="does not verify"):
            call()


# What the log alone shows


@pytest.fixture
def told(governed, make, keys: Keys) -> list[Leaf]:
    """The entries of a lawful life: enrolments by names, then each kind of change, signed."""
    signing = {name: keys[name] for name in ("bob", "carol")}
    make.agree(governed, governed.set_policy(Policy(max_images=7), *OTHERS), **signing)
    make.agree(governed, governed.remove_approver(keys["dora"].key_id, *OTHERS), **signing)
    return leaves(governed)


def of_kind(told: list[Leaf], kind: str, number: int = -1) -> Leaf:
    return [leaf for leaf in told if leaf["type"] == kind][number]


def _unsigned(told: list[Leaf], kind: str) -> None:
    of_kind(told, kind).pop("request")


def _as_an_older_version_did(told: list[Leaf]) -> None:
    told[:] = [leaf for leaf in told if leaf["type"] not in ("signed-changes", "approve", "request")]
    for leaf in told:
        leaf.pop("request", None)


def _in_nobodys_name(told: list[Leaf]) -> None:
    policy = of_kind(told, "policy")
    policy.pop("request")
    policy["by"] = None


FORGERIES: dict[str, tuple[Callable[[list[Leaf]], Any], str]] = {
    "a policy without signatures": (lambda told: _unsigned(told, "policy"), "by names alone"),
    "an enrolment without signatures": (lambda told: _unsigned(told, "enrol-approver"), "by names alone"),
    "a removal without signatures": (lambda told: _unsigned(told, "remove-approver"), "by names alone"),
    "a policy of nobody": (_in_nobodys_name, "by names alone"),
    "one signature too few": (lambda told: told.remove(of_kind(told, "approve")), "not enough approvers"),
    "the same change twice": (
        lambda told: told.insert(told.index(of_kind(told, "policy")) + 1, dict(of_kind(told, "policy"))),
        "a second time",
    ),
    "another policy": (
        lambda told: of_kind(told, "policy").update(policy=Policy().content(), digest=Policy().digest()),
        "another change than was signed",
    ),
    "another key": (lambda told: of_kind(told, "enrol-approver").update(role="dpo"), "another change than was signed"),
    "another content under its digest": (
        lambda told: of_kind(told, "request")["change"].update(person="0" * 64),
        "another change than its digest",
    ),
    "a policy that ends nothing": (lambda told: of_kind(told, "policy").pop("ends_open"), "ends no open request"),
    "under a policy that came back": (
        lambda told: told.insert(told.index(of_kind(told, "remove-approver")), dict(of_kind(told, "policy", 0))),
        "after the policy that it was filed under was changed",
    ),
    "in other names": (lambda told: of_kind(told, "policy").update(by=["a", "b"]), "not enough approvers"),
    "after it expired": (lambda told: of_kind(told, "policy").update(time="2099-01-01T00:00:00.000000Z"), "not enough"),
    "keys lost by one": (
        lambda told: told.append({**told[-1], "type": "lost-keys", "by": ["a"], "keys": []}),
        "fewer people",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_log_alone_shows_a_forgery(told: list[Leaf], forgery: str) -> None:
    forge, says = FORGERIES[forgery]
    assert problems(told) == []
    forge(told)
    assert says in " ".join(problems(told))


def problems(told: list[Leaf]) -> list[str]:
    return replay([canonical_json(leaf | {"seq": seq}) for seq, leaf in enumerate(told)]).problems


def test_a_log_of_before_signatures_verifies_and_says_which_entries_had_none(told: list[Leaf]) -> None:
    _as_an_older_version_did(told)
    state = replay([canonical_json(leaf | {"seq": seq}) for seq, leaf in enumerate(told)])
    kinds = ("policy", "enrol-approver", "remove-approver")
    changed = [seq for seq, leaf in enumerate(told) if leaf["type"] in kinds and leaf["by"] is not None]
    assert state.problems == [] and len(changed) == 5 and state.by_names == changed


def test_a_keystore_whose_keys_an_older_version_enrolled_is_asked_for_signatures(governed, make) -> None:
    keys = {name: ApproverKey.generate() for name in ("bob", "dora")}
    with governed._ledger.transaction("enrol-approver", None, None) as (
        connection,
        log,
    ):  # which wrote nothing after these
        by = [governed._people.find_or_add(connection, one) for one in OTHERS]
        for name, key in keys.items():
            of = (governed._people.find_or_add(connection, name), "dpo", parse_public_line(key.public_line))
            changes.make(connection, log, changes.of_enrolment(*of), by)
    request_id = governed.set_policy(Policy(max_images=7), *OTHERS)
    assert [leaf["type"] for leaf in leaves(governed)[-2:]] == ["signed-changes", "request"]
    make.agree(governed, request_id, bob=keys["bob"], dora=keys["dora"])
    assert verify_audit(governed.path).problems == []


def test_a_milestone_remembers_what_was_filed_and_from_where_on(told: list[Leaf]) -> None:
    state = LoggedDecisions()
    for leaf in told:
        apply_decision(state, leaf)
    assert state.signed_from and any(request.change for request in state.requests.values())
    again = Milestone.from_bytes(Milestone(decisions=state).to_bytes()).decisions
    assert again == LoggedDecisions(**vars(state) | {"problems": [], "by_names": []})
