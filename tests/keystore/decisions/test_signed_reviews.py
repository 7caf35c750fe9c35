"""What approvers sign besides changes of who decides: a review of broken glass; and who of them is erased."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import canonical_json
from keystore.decisions.api_token import Role
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import Replacement
from keystore.emergency import EmergencyKeystore
from keystore.errors import AuditError, Refusal
from keystore.reporting.report import officer_report
from keystore.verification.replay import replay
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH

OTHERS = ("oscar", "olga")
WORDS = ("C-9", "a child is missing, every minute counts", "public-task: police act 12")
Keys = dict[str, ApproverKey]
Leaf = dict[str, Any]


@pytest.fixture
def governed(keystore, clock) -> Any:
    """The keystore of these tests, of which Eva and Bob may break the glass."""
    with EmergencyKeystore.open(keystore.path, clock=clock) as opened:
        assert opened.set_break_glass(["eva", "bob"], *OTHERS) is None
        yield opened


@pytest.fixture
def keys(governed: EmergencyKeystore, make) -> Keys:
    """Of three enrolled approvers."""
    enrolled: Keys = make.enrol_three(governed, *OTHERS)
    return enrolled


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return error.value.code


def leaves(keystore: EmergencyKeystore) -> list[Leaf]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


@ON_BOTH
def test_a_break_of_the_glass_is_reviewed_by_signatures_of_others(governed, make, keys: Keys, clock) -> None:
    broken = governed.break_glass("bob", ["a.png"], *WORDS)
    request_id = governed.review(broken.request_id, *OTHERS)
    assert request_id is not None, "names settle nothing any more"
    told = governed.show(request_id)
    assert told.change["broken"] == broken.request_id and "bob" in told.change_people.values()
    assert refused(lambda: make.sign(governed, request_id, bob=keys["bob"])) == "own-benefit", (
        "who broke it reviews nothing"
    )
    assert make.sign(governed, request_id, carol=keys["carol"]).state is State.PENDING
    assert refused(lambda: governed.break_glass("eva", ["b.png"], *WORDS)) == "break-glass-unreviewed"
    make.agree(governed, request_id, dora=keys["dora"])
    assert refused(lambda: governed.review(broken.request_id, *OTHERS)) == "reviewed"
    assert refused(lambda: governed.review(request_id, *OTHERS)) == "not-broken"
    entry = last(leaves(governed), "review")
    assert (entry["type"], entry["broken"], entry["request"]) == ("review", broken.request_id, request_id)
    assert [one for one in officer_report(governed.path, clock.now).overdue if "glass" in one.what] == []
    assert governed.break_glass("eva", ["b.png"], *WORDS).state is State.APPROVED
    assert verify_audit(governed.path).problems == []


def test_the_last_signature_settles_it_once(governed, make, keys: Keys) -> None:
    broken = governed.break_glass("eva", ["a.png"], *WORDS)
    one, two = (str(governed.review(broken.request_id, *OTHERS)) for _ in range(2))
    make.sign(governed, two, carol=keys["carol"])
    make.agree(governed, one, carol=keys["carol"], dora=keys["dora"])
    assert refused(lambda: make.sign(governed, two, dora=keys["dora"])) == "reviewed"
    assert verify_audit(governed.path).problems == []


def test_as_long_as_names_decide_they_review(governed) -> None:
    broken = governed.break_glass("eva", ["a.png"], *WORDS)
    assert refused(lambda: governed.review(broken.request_id, "eva", "oscar")) == "too-few"
    assert governed.review(broken.request_id, *OTHERS) is None
    assert governed.break_glass("eva", ["b.png"], *WORDS).state is State.APPROVED
    assert verify_audit(governed.path).problems == []


def test_an_approver_is_erased_after_a_signed_removal_only(governed, make, keys: Keys) -> None:
    signing = {name: keys[name] for name in ("bob", "carol")}
    assert refused(lambda: governed.erase_person("dora", "oscar")) == "enrolled-key"
    assert [one.person for one in governed.approvers() if one.removed_at is None].count("dora") == 1
    make.agree(governed, governed.remove_approver(keys["dora"].key_id, *OTHERS), **signing)
    governed.erase_person("dora", "oscar")
    governed.erase_person("olga", "oscar")
    assert verify_audit(governed.path).problems == []


def test_every_audit_says_what_goes_by_names_still(governed, keystore, make, keys: Keys) -> None:
    def said() -> str:
        return " ".join(verify_audit(governed.path).limits)

    assert "have no key of their own" in said() and "token(s)" not in said()
    keystore.issue_token("carol", Role.APPROVER, timedelta(days=1), "oscar")
    assert "1 token(s) were issued and 0 identity(ies) bound" in said()
    asked = governed.set_policy(Policy(own_keys=True), *OTHERS)
    make.agree(governed, asked, bob=keys["bob"], carol=keys["carol"])
    assert "have no key of their own" not in said() and "1 token(s)" in said()


# What the log alone shows


@pytest.fixture
def told(governed, make, keys: Keys) -> list[Leaf]:
    """The entries of a life in which bob broke the glass, and carol and dora signed a review."""
    broken = governed.break_glass("bob", ["a.png"], *WORDS)
    make.agree(governed, governed.review(broken.request_id, *OTHERS), carol=keys["carol"], dora=keys["dora"])
    return leaves(governed)


def last(told: list[Leaf], kind: str) -> Leaf:
    return [leaf for leaf in told if leaf["type"] == kind][-1]


def _by_names(told: list[Leaf]) -> None:
    review = last(told, "review")
    review["request"] = review.pop("broken")
    del review["digest"], review["who"]


def _erase_bob(told: list[Leaf]) -> None:
    person = last(told, "review")["who"]
    told.append({"type": "erase-person", "person": person, "by": told[-1]["by"][0], "time": told[-1]["time"]})


def _by_names_after_less_is_signed(told: list[Leaf]) -> None:
    _by_names(told)
    told.insert(-1, {"type": "signed-changes", "also": ["erase-person"], "time": told[-1]["time"]})


FORGERIES: dict[str, tuple[Callable[[list[Leaf]], Any], str]] = {
    "by names": (_by_names, "by names alone"),
    "by names, after less is signed": (_by_names_after_less_is_signed, "by names alone"),
    "one signature too few": (lambda told: told.remove(last(told, "approve")), "not enough approvers"),
    "of somebody else": (lambda told: last(told, "review").update(who="0" * 64), "something else than broke the glass"),
    "a second time": (lambda told: told.append(dict(told[-1])), "a second time"),
    "an approver is erased": (_erase_bob, "no approver signed it"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_log_alone_shows_a_forgery(told: list[Leaf], forgery: str) -> None:
    forge, says = FORGERIES[forgery]
    assert problems(told) == []
    forge(told)
    assert says in " ".join(problems(told))


def test_a_log_of_before_reviews_were_signed_verifies(told: list[Leaf]) -> None:
    """An older version's entry from which on approvers sign says nothing of reviews and erasures."""
    _erase_bob(told)
    _by_names(told)
    for leaf in told:
        leaf.pop("also", None)
    assert problems(told) == []


def test_a_keystore_of_before_is_asked_for_them_from_its_next_change_on(governed, make, monkeypatch) -> None:
    keys = {name: ApproverKey.generate() for name in ("bob", "carol")}
    with monkeypatch.context() as older:
        older.setattr("keystore.decisions.changes.SIGNED_TOO", ())
        for name, key in keys.items():
            assert governed.enrol_approver(name, "dpo", key.public_line, *OTHERS) is None
    assert last(leaves(governed), "signed-changes")["also"] == []
    told = "and not what entries erase-person, review say"
    assert told in " ".join(verify_audit(governed.path).limits)
    proposal = Replacement(key=keys["bob"].key_id, public_line=ApproverKey.generate().public_line)
    make.agree(governed, governed.propose(proposal, *OTHERS), **keys)
    entries = [leaf for leaf in leaves(governed) if leaf["type"] == "signed-changes"]
    assert [one["also"] for one in entries] == [[], ["erase-person", "review"]]
    state = replay(governed.audit_entries())
    assert (state.problems, state.signed_from) == ([], entries[0]["seq"])
    audited = verify_audit(governed.path)
    assert audited.problems == [] and told not in " ".join(audited.limits)


def test_a_row_does_not_settle_it(governed, make, keys: Keys) -> None:
    broken = governed.break_glass("eva", ["a.png"], *WORDS)
    request_id = str(governed.review(broken.request_id, *OTHERS))
    make.sign(governed, request_id, carol=keys["carol"])
    with governed._database.write() as connection:
        connection.exec_driver_sql(f"UPDATE requests SET state = 'applied' WHERE request_id = '{request_id}'")
    with pytest.raises(AuditError):
        governed.break_glass("eva", ["b.png"], *WORDS)


def problems(told: list[Leaf]) -> list[str]:
    return replay([canonical_json(leaf | {"seq": seq}) for seq, leaf in enumerate(told)]).problems
