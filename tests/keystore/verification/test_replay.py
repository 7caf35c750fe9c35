"""The rules that a log is held against, one by one, on lawful logs with one thing changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.verification.replay import LoggedState, replay

POLICY = {"approvals": 2, "grant_lifetime_seconds": 35, "max_images": 2, "max_lifetime_seconds": 40}
POLICY_DIGEST = sha256_hex(canonical_json(POLICY))
WEAK = POLICY | {"approvals": 1}
Leaf = dict[str, Any]


def request(**changes: Any) -> Leaf:
    values = {
        "approvals_required": 2,
        "digest": "d1",
        "expires_at": "t50",
        "policy": POLICY_DIGEST,
        "records": 1,
        "request": "r",
        "requester": "alice",
        "revision": 1,
        "type": "request",
    }
    return values | changes


def change(**changes: Any) -> Leaf:
    return request(type="change", digest="d2", revision=2) | changes


def approve(person: str, **changes: Any) -> Leaf:
    return {
        "type": "approve",
        "request": "r",
        "digest": "d1",
        "approver": person,
        "signature": f"by {person}",
    } | changes


def grant(**changes: Any) -> Leaf:
    return {"type": "grant", "request": "r", "digest": "d1", "grant": "g", "expires_at": "t40"} | changes


def release(**changes: Any) -> Leaf:
    values = {"type": "release", "request": "r", "digest": "d1", "grant": "g", "by": "alice", "recipient": "k"}
    return values | changes


def deny(**changes: Any) -> Leaf:
    return {"type": "deny", "request": "r", "by": "dora"} | changes


def policy(document: Leaf, *by: str) -> Leaf:
    """As older versions wrote it."""
    return {
        "type": "policy",
        "policy": document,
        "digest": sha256_hex(canonical_json(document)),
        "by": list(by) or None,
    }


def ending(document: Leaf, *by: str) -> Leaf:
    """A policy as this version sets it."""
    return policy(document, *by) | {"ends_open": True}


START = [{"type": "created", "keystore": "k", "own_keys": "o"}, policy(POLICY)]
NEW = [START[0], ending(POLICY)]
AND_BACK = [ending(POLICY | {"max_images": 1}, "olga", "pia"), ending(POLICY, "olga", "pia")]
BOTH = [approve("bob"), approve("carol")]
LAWFUL = [*START, request(), *BOTH, grant(), release()]


def at(second: str) -> str:
    """The time that a test calls t10, t11, ..."""
    return f"2026-11-22T10:00:{second[1:]}.000000Z"


def log_of(leaves: list[Leaf]) -> list[bytes]:
    """Number and date leaves that do not say their own number and time: t10, t11, ..."""
    said = [{"seq": seq, "time": f"t{seq + 10}"} | leaf for seq, leaf in enumerate(leaves)]
    times = ("expires_at", "time")
    return [canonical_json(leaf | {name: at(leaf[name]) for name in times if name in leaf}) for leaf in said]


def told(*leaves: Leaf) -> LoggedState:
    return replay(log_of(list(leaves)))


def test_a_lawful_log_has_no_problem_and_leads_to_its_state() -> None:
    state = told(*LAWFUL)
    assert (state.problems, state.weaknesses) == ([], [])
    logged = state.requests["r"]
    assert (logged.state, logged.records, logged.denied_by) == ("released", 1, None)
    assert logged.approvals == {("d1", "bob"): "by bob", ("d1", "carol"): "by carol"}
    assert logged.grants == {"d1": ("g", at("t40"))}
    assert state.releases == {"g": "k"}
    assert state.policies == [POLICY_DIGEST]
    assert state.mentioned == {"alice", "bob", "carol"}
    assert state.own_keys == "o"


LAWFUL_TOO = {
    "a change starts again": [*START, request(), *BOTH, grant(), change()],
    "a change, approved": [
        *START,
        request(),
        *BOTH,
        grant(),
        change(),
        *(approve(name, digest="d2") for name in ("bob", "carol")),
        grant(digest="d2", grant="g2"),
        release(digest="d2", grant="g2"),
    ],
    "a denial of a pending one": [*START, request(), deny()],
    "a denial of an approved one": [*START, request(), *BOTH, grant(), deny()],
    "a policy and back, as older versions had it": [
        *START,
        request(),
        policy(POLICY | {"approvals": 3}, "olga", "pia"),
        policy(POLICY, "olga", "pia"),
        *BOTH,
        grant(),
        release(),
    ],
    "a request under a policy that came back": [*NEW, *AND_BACK, *LAWFUL[2:]],
    "what is expired stays so": [*NEW, request(expires_at="t13"), *AND_BACK],
    "as much as the policy allows": [*NEW, request(records=2, expires_at="t52"), *BOTH, grant(expires_at="t50")],
    "a policy by two": [*START, policy(POLICY | {"approvals": 3}, "olga", "pia")],
    "records listed, as once": [*START, request(records=["one"])],
    "a release in the last moment": [*START, request(), *BOTH, grant(), release(time="t39")],
    "a grant as long as its request": [*START, request(), *BOTH, grant(expires_at="t50"), release(time="t49")],
    "two at one time": [*START, request(time="t11")],
    "a clock set right": [*START, {"type": "clock", "by": "olga", "back": True, "time": "t05"}, request()],
    "a witness started again": [*START, {"type": "witness", "kept_size": 1, "kept_root": "", "time": "t05"}],
    "what changes nothing": [*START, {"type": "refused", "by": None}, {"type": "reconcile"}],
    "an erasure of oneself": [*START, request(), {"type": "erase-person", "by": "alice", "person": "alice"}],
    "a new ingest key": [*START, {"type": "ingest-key", "by": "olga", "own_keys": "p"}],
}


@pytest.mark.parametrize("leaves", LAWFUL_TOO.values(), ids=LAWFUL_TOO.keys())
def test_what_the_rules_allow_is_no_problem(leaves: list[Leaf]) -> None:
    state = told(*leaves)
    assert (state.problems, state.weaknesses) == ([], [])


OLGA_ERASED = {"type": "erase-person", "by": "pia", "person": "olga"}
BROKEN = {
    "another number": ([*START, request(seq=7)], "says it is entry 7"),
    "time runs back and an entry says that it does not": (
        [*START, {"type": "clock", "by": "olga", "back": False, "time": "t00"}],
        "earlier than the entry before it",
    ),
    "time runs back": ([*START, request(time="t10")], "earlier than the entry before it"),
    "created again": ([*START, START[0]], "creates the keystore a second time"),
    "unknown type": ([*START, {"type": "sudo"}], "unknown type 'sudo'"),
    "no type": ([*START, {"kind": "request"}], "malformed"),
    "policy shown is not the one set": ([START[0], policy(POLICY) | {"digest": "d"}], "another policy than the one"),
    "a policy that is none": ([START[0], policy(POLICY) | {"policy": []}], "malformed"),
    "policy by one": ([*START, policy(POLICY | {"approvals": 3}, "olga")], "by one person alone"),
    "policy by one, twice": ([*START, policy(POLICY | {"approvals": 3}, "olga", "olga")], "by one person alone"),
    "enrolled twice": ([*START, *([{"type": "enrol", "person": "bob", "public_key": "k"}] * 2)], "a second time"),
    "requested twice": ([*START, request(), request()], "makes request r twice"),
    "changed before it was made": ([*START, change()], "changes one that was never made"),
    "changed by someone else": ([*START, request(), change(requester="bob")], "by someone else"),
    "changed after its end": ([*START, request(), deny(), change()], "after it ended"),
    "changed after its release": ([*LAWFUL, change()], "after it ended"),
    "changed at its expiry": ([*START, request(), change(time="t50")], "after it ended"),
    "revision left out": ([*START, request(), change(revision=3)], "not the next revision"),
    "revision repeated": ([*START, request(), change(revision=1)], "not the next revision"),
    "under no policy": ([START[0], request()], "malformed"),
    "under an older policy": (
        [*START, policy(POLICY | {"approvals": 3}, "olga", "pia"), request()],
        "not under the policy of its time",
    ),
    "fewer approvals than the policy": ([*START, request(approvals_required=1)], "not under the policy"),
    "approved by the requester": ([*START, request(), approve("alice")], "by the requester, or by one person twice"),
    "approved twice": ([*START, request(), approve("bob"), approve("bob")], "by one person twice"),
    "approved for other content": ([*START, request(), approve("bob", digest="d2")], "another content"),
    "approved when approved": ([*START, request(), *BOTH, grant(), approve("dora")], "was not pending"),
    "approved at the expiry": ([*START, request(), approve("bob", time="t50")], "after the request ended"),
    "approved when denied": ([*START, request(), deny(), approve("bob")], "after the request ended"),
    "approved under an older policy": (
        [*START, request(), policy(POLICY | {"approvals": 3}, "olga", "pia"), approve("bob")],
        "after the policy that it was made under was changed",
    ),
    "granted under an older policy": (
        [*START, request(), *BOTH, policy(POLICY | {"approvals": 3}, "olga", "pia"), grant()],
        "after the policy that it was made under was changed",
    ),
    "released under an older policy": (
        [*START, request(), *BOTH, grant(), policy(POLICY | {"own_keys": True}, "olga", "pia"), release()],
        "after the policy that it was made under was changed",
    ),
    "approved under a policy that came back": ([*NEW, request(), *AND_BACK, BOTH[0]], "after the request ended"),
    "granted under a policy that came back": ([*NEW, request(), *BOTH, *AND_BACK, grant()], "after the request ended"),
    "released under a policy that came back": (
        [*NEW, *LAWFUL[2:-1], *AND_BACK, release()],
        "after the request ended",
    ),
    "changed under a policy that came back": ([*NEW, request(), *AND_BACK, change()], "after it ended"),
    "a policy that ends nothing, in a new keystore": (
        [*NEW, policy(POLICY, "olga", "pia")],
        "ends no open request, and every change of the policy does since entry 1",
    ),
    "a policy that ends nothing, in an older keystore after one that did": (
        [*START, *AND_BACK[:1], policy(POLICY, "olga", "pia") | {"ends_open": False}],
        "does since entry 2",
    ),
    "released under a policy that came back and ended nothing": (
        [*NEW, *LAWFUL[2:-1], *(policy(one["policy"], *one["by"]) for one in AND_BACK), release()],
        "after the request ended",
    ),
    "approved under a policy of fewer images": (
        [*START, request(records=2), policy(POLICY | {"max_images": 1}, "olga", "pia"), approve("bob")],
        "after the policy that it was made under was changed",
    ),
    "released under a policy of shorter grants": (
        [*LAWFUL[:-1], policy(POLICY | {"grant_lifetime_seconds": 1}, "olga", "pia"), release()],
        "after the policy that it was made under was changed",
    ),
    "more images than the policy": ([*START, request(records=3)], "more images than the policy"),
    "changed to more images than the policy": ([*START, request(), change(records=3)], "more images than the policy"),
    "standing for longer than the policy": ([*START, request(expires_at="t53")], "longer than the policy of its time"),
    "granted for longer than the policy": (
        [*START, request(expires_at="t52"), *BOTH, grant(expires_at="t51")],
        "longer than the policy lets a grant",
    ),
    "standing until no time": ([*START, request() | {"expires_at": "t5 "}], "malformed"),
    "granted on one approval": ([*START, request(), BOTH[0], grant()], "before enough people agreed"),
    "granted on approvals of other content": (
        [*START, request(), *BOTH, change(), grant(digest="d2")],
        "before enough people agreed",
    ),
    "granted twice": ([*START, request(), *BOTH, grant(), grant(grant="h")], "was not pending"),
    "granted for longer than the request": (
        [*START, request(), *BOTH, grant(expires_at="t51")],
        "outlives its request",
    ),
    "released without a grant": ([*START, request(), *BOTH, release()], "malformed or refers to nothing"),
    "released by another grant": ([*LAWFUL[:-1], release(grant="h")], "no grant that allows it"),
    "released by someone else": ([*LAWFUL[:-1], release(by="bob")], "no grant that allows it"),
    "released at the grant's expiry": ([*LAWFUL[:-1], release(time="t40")], "no grant that allows it"),
    "released twice": ([*LAWFUL, release()], "after the request ended"),
    "denied after the release": ([*LAWFUL, deny()], "after the request ended"),
    "unknown request": ([*START, deny()], "malformed or refers to nothing"),
    "released after a witness was lost": (
        [*LAWFUL[:-1], {"type": "witness", "kept_size": 1, "kept_root": ""}, release()],
        "after the request ended",
    ),
    "released after time went back": (
        [*LAWFUL[:-1], {"type": "clock", "by": "olga", "back": True}, release()],
        "after the request ended",
    ),
    "approved by an erased person": ([*START, OLGA_ERASED, request(), approve("olga")], "erased before it"),
    "requested by an erased person": ([*START, OLGA_ERASED, request(requester="olga")], "erased before it"),
    "policy with an erased person": (
        [*START, OLGA_ERASED, policy(POLICY | {"approvals": 3}, "olga", "pia")],
        "erased before it",
    ),
    "records that did not open": (
        [
            *START,
            {
                "type": "inventory",
                "records_account": "",
                "keys_account": "",
                "own_keys": "",
                "unopened": 1,
                "missing": 0,
            },
        ],
        "1 records that did not open",
    ),
    "records that were missing": (
        [
            *START,
            {
                "type": "inventory",
                "records_account": "",
                "keys_account": "",
                "own_keys": "",
                "unopened": 0,
                "missing": 2,
            },
        ],
        "2 that were missing",
    ),
}


@pytest.mark.parametrize(("leaves", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_a_rule_is_a_problem(leaves: list[Leaf], expected: str) -> None:
    assert any(expected in problem for problem in told(*leaves).problems)


def test_a_clock_that_was_confirmed_ahead_ends_nothing() -> None:
    state = told(*LAWFUL[:-1], {"type": "clock", "by": "olga", "back": False}, release())
    assert state.problems == []


def test_what_one_person_alone_could_do_is_a_weakness_and_no_problem() -> None:
    # Older versions allowed it: an auditor is told, and the keystore still works.
    weak = [START[0], policy(WEAK), request(approvals_required=1, policy=sha256_hex(canonical_json(WEAK)))]
    state = told(*weak, approve("bob"), grant(), release())
    assert state.problems == []
    assert [one.split("entry ")[1][:1] for one in state.weaknesses] == ["1", "4"]


def test_a_request_ends_by_whom_the_log_says() -> None:
    assert told(*START, request(), deny()).requests["r"].denied_by == "dora"
    witness = {"type": "witness", "kept_size": 1, "kept_root": ""}
    ended = told(*LAWFUL[:-1], witness).requests["r"]
    assert (ended.state, ended.denied_by) == ("denied", None)
    assert told(*LAWFUL, witness).requests["r"].state == "released"


def test_shards_accounts_runs_erasures_and_keys_are_told() -> None:
    ingest = {"type": "ingest", "run": "u", "shard": "s", "shard_sha256": "h", "ingested": 2}
    state = told(
        *START,
        ingest,
        ingest | {"records_account": "ra", "keys_account": "ka"},
        {"type": "run", "run": "u", "digest": "x"},
        {"type": "erase", "by": "olga", "erasure": "line", "account": "gone"},
        {"type": "retire", "by": "olga", "own_keys": "p"},
    )
    assert state.problems == []
    assert state.shards == {("u", "s", "h"): 4}
    assert state.records == {3: "ra"}
    assert state.runs == {"u": "x"}
    assert {seq: (one.line, one.account) for seq, one in state.erasures.items()} == {5: ("line", "gone")}
    assert state.own_keys == "p"


def epoch(state: str, purpose: str = "records") -> Leaf:
    return {"digest": state, "purpose": purpose, "state": state}


def stored(keys: int, **epochs: Leaf) -> Leaf:
    """An ingest of `keys` keys under epoch e."""
    ingest = {"type": "ingest", "run": "u", "shard": "s", "shard_sha256": "h", "ingested": 1, "records_account": "ra"}
    return ingest | {"epochs": epochs, "shred_keys": {"e": {"keys": keys, "account": "ka"}}}


def erased(keys: int, moved: int, **epochs: Leaf) -> Leaf:
    values = {"type": "erase", "by": "olga", "erasure": "line", "account": "gone", "keys": keys, "records": 1}
    return values | {"epochs": epochs, "shred_keys": {"n": {"keys": moved, "account": "na"}} if moved else {}}


GONE = {"e": epoch("destroyed"), "n": epoch("deactivated")}


def test_an_epoch_is_told_with_the_keys_that_it_holds_until_it_is_destroyed() -> None:
    state = told(*START, stored(3, e=epoch("active")), stored(2))
    assert state.problems == []
    assert {place: (one.keys, one.account) for place, one in state.keys.items()} == {
        (2, "e"): (3, "ka"),
        (3, "e"): (2, "ka"),
    }
    state = told(*START, stored(3, e=epoch("active")), stored(2), erased(1, 4, **GONE))
    assert state.problems == []
    assert list(state.keys) == [(4, "n")]
    assert {name: one.state for name, one in state.epochs.items()} == {"e": "destroyed", "n": "deactivated"}
    assert told(*START, stored(1, e=epoch("active")), erased(1, 0, e=epoch("destroyed"))).problems == []


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([stored(3, e=epoch("active")), erased(1, 1, **GONE)], "did not come through"),
        ([stored(3, e=epoch("active")), erased(1, 3, **GONE)], "did not come through"),
        ([stored(3)], "not there any more"),
        ([stored(1, e=epoch("active")), erased(1, 0, e=epoch("destroyed")), stored(1)], "not there any more"),
        ([stored(1, e=epoch("destroyed"))], "a way that no key goes"),
        (
            [stored(1, e=epoch("active")), stored(1, e=epoch("deactivated")), stored(1, e=epoch("active"))],
            "no key goes",
        ),
        (
            [stored(1, e=epoch("active")), erased(1, 0, e=epoch("destroyed")), stored(1, e=epoch("destroyed"))],
            "no key goes",
        ),
        ([stored(1, e=epoch("active")), stored(1, e=epoch("active", "people"))], "no key goes"),
        ([stored(1, e=epoch("suspended"))], "malformed"),
        ([{"type": "epochs", "own_keys": "k", "unopened": 1}], "1 keys that did not open"),
    ],
)
def test_an_epoch_that_goes_no_lawful_way_is_a_problem(leaves: list[Leaf], expected: str) -> None:
    assert any(expected in problem for problem in told(*START, *leaves).problems)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"7", b"\xff", b"{}", b'{"seq": 0, "time": 3, "type": "deny"}'])
def test_bytes_that_are_no_entry_are_a_problem_and_the_rest_is_read(data: bytes) -> None:
    leaves = log_of(LAWFUL)
    state = replay([*leaves[:2], data, *leaves[3:]])
    assert any("entry 2 is malformed" in problem for problem in state.problems)
    assert json.loads(leaves[1])["digest"] in state.policies
