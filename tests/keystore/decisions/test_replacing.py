"""An approver's key replaced in one change: by its holder and others while they have it, by others alone where it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import canonical_json
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import Replacement
from keystore.embedded import Keystore
from keystore.errors import Refusal
from keystore.verification.replay import replay
from keystore.verification.verify import verify_audit
from tests.keystore.passkeys import Device
from tests.keystore.postgres import ON_BOTH

OTHERS = ("oscar", "olga")
Keys = dict[str, ApproverKey]
Leaf = dict[str, Any]


@pytest.fixture
def keys(keystore: Keystore) -> Keys:
    """Of two enrolled approvers, as many as the policy asks for."""
    made = {"bob": ApproverKey.generate(), "carol": ApproverKey.generate()}
    for name, role in (("bob", "dpo"), ("carol", "legal")):
        assert keystore.enrol_approver(name, role, made[name].public_line, *OTHERS) is None
    return made


def replacement(keystore: Keystore, old: ApproverKey, new: ApproverKey, *people: str) -> str:
    return str(keystore.propose(Replacement(key=old.key_id, public_line=new.public_line), *(people or OTHERS)))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return error.value.code


def on_list(keystore: Keystore) -> dict[str, tuple[str, str]]:
    return {one.person: (one.key, one.role) for one in keystore.approvers() if one.removed_at is None}


def third(keystore: Keystore, make, keys: Keys) -> ApproverKey:
    """Another enrolled approver, dora."""
    made = ApproverKey.generate()
    make.agree(keystore, keystore.enrol_approver("dora", "legal", made.public_line, *OTHERS), **keys)
    return made


@ON_BOTH
def test_of_exactly_as_many_keys_as_are_asked_for_one_is_replaced_by_its_holder_and_the_others(
    keystore, make, keys: Keys
) -> None:
    new, asked = ApproverKey.generate(), make.request(keystore).request_id
    make.sign(keystore, asked, bob=keys["bob"])
    request_id = replacement(keystore, keys["bob"], new)
    told = keystore.show(request_id)
    assert (told.change["replaced"], told.change["key"]) == (keys["bob"].key_id, new.key_id)
    assert make.sign(keystore, request_id, carol=keys["carol"]).state is State.PENDING
    make.agree(keystore, request_id, bob=keys["bob"])
    assert on_list(keystore) == {"bob": (new.key_id, "dpo"), "carol": (keys["carol"].key_id, "legal")}
    assert keystore.show(asked).state is State.DENIED, "what the old key approved, and is open, is made again"
    other = str(keystore.set_policy(Policy(max_images=7), *OTHERS))
    assert refused(lambda: make.sign(keystore, other, bob=keys["bob"])) == "wrong-key"
    make.agree(keystore, other, bob=new, carol=keys["carol"])
    assert verify_audit(keystore.path).problems == []


def test_a_lost_key_is_replaced_by_others_and_not_by_too_few(keystore, make, keys: Keys) -> None:
    new = ApproverKey.generate()
    alone = replacement(keystore, keys["bob"], new)
    assert make.sign(keystore, alone, carol=keys["carol"]).state is State.PENDING
    assert refused(lambda: make.sign(keystore, alone, bob=new)) == "wrong-key", "a key does not vote itself in"
    assert on_list(keystore)["bob"][0] == keys["bob"].key_id
    dora = third(keystore, make, keys)
    make.agree(keystore, replacement(keystore, keys["bob"], ApproverKey.generate()), carol=keys["carol"], dora=dora)
    assert refused(lambda: make.sign(keystore, alone, dora=dora)) == "unknown-key", "it is not on the list any more"
    assert verify_audit(keystore.path).problems == []


def test_who_files_it_does_not_count_even_for_their_own_key(keystore, make, keys: Keys) -> None:
    new = ApproverKey.generate()
    assert refused(lambda: replacement(keystore, keys["bob"], new, "bob")) == "approvers"
    third(keystore, make, keys)
    request_id = replacement(keystore, keys["bob"], new, "bob")
    assert refused(lambda: make.sign(keystore, request_id, bob=keys["bob"])) == "self-approval"


def test_only_a_new_key_takes_the_place_of_one_that_is_on_the_list(keystore, make, keys: Keys) -> None:
    assert refused(lambda: replacement(keystore, keys["bob"], keys["carol"])) == "known-key"
    assert refused(lambda: replacement(keystore, keys["bob"], keys["bob"])) == "known-key"
    assert refused(lambda: replacement(keystore, ApproverKey.generate(), ApproverKey.generate())) == "unknown-key"
    assert (
        refused(lambda: keystore.propose(Replacement(key=keys["bob"].key_id, public_line="no"), "olga")) == "public-key"
    )
    new = ApproverKey.generate()
    one, two = (replacement(keystore, keys["bob"], new) for _ in range(2))
    make.sign(keystore, two, carol=keys["carol"])
    make.agree(keystore, one, **keys)
    assert refused(lambda: make.sign(keystore, two, bob=new)) == "unknown-key"
    assert verify_audit(keystore.path).problems == []


def test_names_replace_a_key_as_long_as_they_decide(keystore) -> None:
    old, new = ApproverKey.generate(), ApproverKey.generate()
    keystore.enrol_approver("bob", "dpo", old.public_line, *OTHERS)
    proposal = Replacement(key=old.key_id, public_line=new.public_line)
    assert refused(lambda: keystore.propose(proposal, "oscar", "bob")) == "approver-alone"
    assert keystore.propose(proposal, *OTHERS) is None
    assert on_list(keystore) == {"bob": (new.key_id, "dpo")}
    report = verify_audit(keystore.path)
    assert report.problems == [] and any("names alone" in one for one in report.limits)


def test_a_passkey_takes_the_place_of_a_key_file(keystore, make, keys: Keys) -> None:
    device = Device()
    request_id = keystore.propose(Replacement(key=keys["bob"].key_id, public_line=device.line), *OTHERS)
    make.agree(keystore, request_id, **keys)
    (now,) = [one for one in keystore.approvers() if one.removed_at is None and one.person == "bob"]
    assert now.passkey is not None and now.role == "dpo" and verify_audit(keystore.path).problems == []


@pytest.fixture
def told(keystore, make, keys: Keys) -> list[Leaf]:
    """The entries of a life in which bob's key was replaced."""
    make.agree(keystore, replacement(keystore, keys["bob"], ApproverKey.generate()), **keys)
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def last(told: list[Leaf], kind: str) -> Leaf:
    return [leaf for leaf in told if leaf["type"] == kind][-1]


FORGERIES: dict[str, tuple[Callable[[list[Leaf]], Any], str]] = {
    "without signatures": (lambda told: last(told, "replace-approver").pop("request"), "by names alone"),
    "one signature too few": (lambda told: told.remove(last(told, "approve")), "not enough approvers"),
    "another key": (lambda told: last(told, "replace-approver").update(key="0" * 64), "another change than was signed"),
    "in another role": (lambda told: last(told, "replace-approver").update(role="legal"), "of another role"),
    "another's key": (
        lambda told: last(told, "replace-approver").update(
            replaced=[leaf for leaf in told if leaf["type"] == "enrol-approver"][-1]["key"]
        ),
        "was not enrolled",
    ),
    "a second time": (lambda told: told.append(dict(told[-1])), "a second time"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_log_alone_shows_a_forgery(told: list[Leaf], forgery: str) -> None:
    forge, says = FORGERIES[forgery]
    assert problems(told) == []
    forge(told)
    assert says in " ".join(problems(told))


def test_the_log_alone_shows_that_keys_were_not_lost(told: list[Leaf]) -> None:
    """Said by as many people as it takes, in an entry that is signed; but enough keys were left to sign a removal."""
    lost = {**told[-1], "type": "lost-keys", "by": sorted(last(told, "enrol-approver")["by"]), "keys": []}
    assert "2 keys were left, enough to sign" in " ".join(problems([*told, lost]))
    keys = [last(told, "replace-approver")["key"]]
    assert problems([*told, {**lost, "keys": keys}]) == []


def problems(told: list[Leaf]) -> list[str]:
    return replay([canonical_json(leaf | {"seq": seq}) for seq, leaf in enumerate(told)]).problems
