"""Approvals that a passkey signed: over this content, at this origin, by a person the device knew; and the log alone shows it."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import canonical_json, timestamp
from keystore.decisions import passkeys
from keystore.decisions.lifecycle import State
from keystore.decisions.passkeys import Assertion, Passkey
from keystore.decisions.policy import Policy
from keystore.decisions.signatures import OwnSignature, parse_public_line
from keystore.embedded import Keystore
from keystore.errors import ApprovalError
from keystore.verification.replay_decisions import LoggedDecisions, apply_decision
from keystore.verification.verify import verify_audit
from tests.keystore.passkeys import ATTESTED, ORIGIN, PRESENT, RP_ID, VERIFIED, Device

OTHERS = ("oscar", "olga")
ALGORITHMS = ("ES256", "EdDSA")


@pytest.fixture
def devices(keystore: Keystore) -> dict[str, Device]:
    """Bob's and Carol's, one of each algorithm, enrolled; they signed the policy that asks for them."""
    made = {"bob": Device("ES256"), "carol": Device("EdDSA")}
    for name, device in made.items():
        assert keystore.enrol_approver(name, "dpo", device.line, *OTHERS) is None
    agree(keystore, keystore.set_policy(Policy(own_keys=True), *OTHERS), made)
    return made


def agree(keystore: Keystore, change: str | None, devices: dict[str, Device]) -> None:
    shown = keystore.show(str(change))
    for name, device in devices.items():
        keystore.approve(shown.request_id, name, shown.digest, device.approval(shown, timestamp(keystore._clock())))
    assert keystore.show(shown.request_id).state is State.APPLIED


def refused(keystore: Keystore, request_id: str, name: str, own: OwnSignature, seconds: int | None = None) -> str:
    with pytest.raises(ApprovalError) as error:
        keystore.approve(request_id, name, keystore.show(request_id).digest, own, seconds)
    return error.value.code


def leaves(keystore: Keystore) -> list[dict[str, Any]]:
    return [json.loads(leaf) for leaf in keystore.audit_entries()]


def problems(entries: list[dict[str, Any]]) -> list[str]:
    state = LoggedDecisions()
    for leaf in entries:
        if leaf["type"] in ("created", "policy", "enrol-approver", "request", "approve", "grant"):
            apply_decision(state, leaf)
    return state.problems


def test_two_passkeys_release_and_the_log_alone_shows_what_they_signed(keystore, make, devices, clock) -> None:
    shown = make.request(keystore)
    for name, device in devices.items():
        own = device.approval(shown, timestamp(clock()), 3600, count=7)  # some count, and it need not grow
        keystore.approve(shown.request_id, name, shown.digest, own, 3600)
    assert [one.grant_seconds for one in keystore.show(shown.request_id).approvals] == [3600, 3600]
    assert keystore.show(shown.request_id).grant.expires_at == clock() + timedelta(hours=1)
    make.take(keystore, shown.request_id)
    report = verify_audit(keystore.path)
    assert report.ok, report.problems
    told = leaves(keystore)
    assert problems(told) == []
    # As a stranger would, with the log's entries and another implementation of the signature.
    enrolled = {leaf["key"]: leaf for leaf in told if leaf["type"] == "enrol-approver"}
    for leaf in (leaf for leaf in told if leaf["type"] == "approve"):
        key = cbor2.loads(base64.b64decode(enrolled[leaf["key"]]["public_key"]))
        authenticator, client = (
            base64.b64decode(leaf["assertion"][part]) for part in ("authenticator_data", "client_data")
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(client)
        signed, signature = authenticator + digest.finalize(), base64.b64decode(leaf["signature"])
        if key[3] == -7:
            numbers = ec.EllipticCurvePublicNumbers(*(int.from_bytes(key[i], "big") for i in (-2, -3)), ec.SECP256R1())
            numbers.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        else:
            Ed25519PublicKey.from_public_bytes(key[-2]).verify(signature, signed)
        words = leaf.keys() & {"approved_at", "digest", "grant_seconds", "key", "request"}
        message = b"keyanon approval v2\n" + canonical_json(
            {**{word: leaf[word] for word in words}, "keystore": told[0]["keystore"]}
        )
        asked = json.loads(client)["challenge"]
        assert base64.urlsafe_b64decode(asked + "=") == passkeys.challenge_of(message)
        assert enrolled[leaf["key"]]["passkey"] == devices_of(devices, leaf["key"]).passkey.content()


def devices_of(devices: dict[str, Device], key: str) -> Device:
    return next(one for one in devices.values() if one.key_id == key)


WRONG: dict[str, dict[str, Any]] = {
    "not verified": {"flags": PRESENT},
    "nobody there": {"flags": VERIFIED},
    "no flag": {"flags": 0},
    "another origin": {"origin": "https://evil.example"},
    "another port": {"origin": "https://keys.example.org"},
    "another site": {"rp_id": "evil.example"},
    "a site above": {"rp_id": "example.org"},
    "in a frame of another site": {"crossOrigin": True},
    "made, not asserted": {"type": "webauthn.create"},
    "another challenge": {"challenge": bytes(32)},
    "no challenge": {"challenge": b""},
    "a longer challenge": {"challenge": bytes(33)},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_assertion_that_is_wrong_is_refused_and_found_in_a_log(wrong: str, keystore, make, devices, clock) -> None:
    shown, at = make.request(keystore), timestamp(clock())
    for name, device in devices.items():
        own = device.approval(shown, at, **WRONG[wrong])
        assert refused(keystore, shown.request_id, name, own) == "signature"
        keystore.approve(shown.request_id, name, shown.digest, device.approval(shown, at))
        told = leaves(keystore)
        assert problems(told) == []
        edited = copy.deepcopy(told)
        for leaf in edited:
            if leaf["type"] == "approve" and (leaf["request"], leaf["key"]) == (shown.request_id, device.key_id):
                leaf["assertion"] = own.assertion.content()
                leaf["signature"] = base64.b64encode(own.signature).decode()
        assert any("not signed by its approver" in one for one in problems(edited))


def test_an_assertion_is_of_one_passkey_one_content_one_time_and_one_choice(keystore, make, devices, clock) -> None:
    shown, other, at = make.request(keystore), make.request(keystore), timestamp(clock())
    bob, carol = devices["bob"], devices["carol"]
    mine = bob.approval(shown, at, 3600)

    def code(own: OwnSignature, seconds: int | None = 3600, of=shown, name: str = "bob") -> str:
        return refused(keystore, of.request_id, name, own, seconds)

    assert code(mine, of=other) == "signature", "of another request"
    assert code(mine, 7200) == code(mine, None) == "signature", "with another choice"
    assert code(replace(mine, approved_at=timestamp(clock() + timedelta(seconds=1)))) == "signature"
    assert code(mine, name="carol") == "wrong-key"
    assert code(replace(carol.approval(shown, at, 3600), key_id=bob.key_id)) == "signature", "of another passkey"
    assert code(Device().approval(shown, at, 3600)) == "wrong-key", "of a passkey that nobody enrolled"
    assert code(bob.approval(shown, timestamp(clock() - timedelta(minutes=11)), 3600), name="bob") == "signed-when"
    assert code(replace(mine, assertion=None)) == "signature"
    assert code(replace(mine, signature=mine.signature[:-1])) == code(replace(mine, signature=b"")) == "signature"
    for part in ("authenticator_data", "client_data"):
        cut = replace(mine.assertion, **{part: getattr(mine.assertion, part)[:-1]})
        assert code(replace(mine, assertion=cut)) == "signature"
        assert code(replace(mine, assertion=replace(mine.assertion, **{part: b""}))) == "signature"
    changed = keystore.change(shown.request_id, "Alice", purpose="something else entirely")
    with pytest.raises(ApprovalError) as error:
        keystore.approve(shown.request_id, "bob", changed.digest, mine, 3600)
    assert error.value.code == "signature", "of what it was before"
    keystore.approve(shown.request_id, "bob", changed.digest, bob.approval(changed, at))
    assert code(bob.approval(changed, at), None) == "twice"
    assert keystore.show(other.request_id).approvals == [] and verify_audit(keystore.path).ok


def test_a_key_file_signs_by_no_assertion_and_a_passkey_by_nothing_else(keystore, make, devices, clock) -> None:
    key = ApproverKey.generate()
    agree(keystore, keystore.enrol_approver("dora", "dpo", key.public_line, *OTHERS), devices)
    shown = make.request(keystore)
    plain = key.sign(shown, keystore.audit_vkey, clock())
    assertion = devices["bob"].approval(shown, timestamp(clock())).assertion
    assert refused(keystore, shown.request_id, "dora", replace(plain, assertion=assertion)) == "signature"
    keystore.approve(shown.request_id, "dora", shown.digest, plain)
    assert verify_audit(keystore.path).ok


EDITS = {
    "the origin": """UPDATE approver_keys SET passkey = replace(CAST(passkey AS TEXT), 'keys.', 'evil.')""",
    "no passkey any more": "UPDATE approver_keys SET passkey = NULL",
    "the assertion": "UPDATE approvals SET assertion = NULL",
    "the choice": "UPDATE approvals SET grant_seconds = grant_seconds + 1",
    "no choice": "UPDATE approvals SET grant_seconds = NULL",
    "no JSON": "UPDATE approvals SET assertion = x'00'",
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_what_was_signed_is_found_and_stops_releases(edit: str, keystore, make, devices, clock) -> None:
    from sqlalchemy import text

    shown = make.request(keystore)
    for name, device in devices.items():
        own = device.approval(shown, timestamp(clock()), 3600)
        keystore.approve(shown.request_id, name, shown.digest, own, 3600)
    with keystore._database.write() as connection:
        connection.execute(text(EDITS[edit]))
    assert not verify_audit(keystore.path).ok
    with pytest.raises(Exception, match=r"does not verify|edited|altered"):
        make.take(keystore, shown.request_id)


def test_a_choice_that_the_grant_does_not_keep_is_found_in_the_log(keystore, make, devices, clock) -> None:
    shown = make.request(keystore)
    for seconds, (name, device) in zip((7200, 600), devices.items(), strict=True):
        keystore.approve(
            shown.request_id, name, shown.digest, device.approval(shown, timestamp(clock()), seconds), seconds
        )
    assert keystore.show(shown.request_id).grant.expires_at == clock() + timedelta(seconds=600), "the shortest counts"
    told = leaves(keystore)
    grant = next(leaf for leaf in told if leaf["type"] == "grant")
    grant["expires_at"] = timestamp(clock() + timedelta(seconds=601))
    assert any("longer than an approver chose" in one for one in problems(told))
    clock.forward(seconds=600)
    assert keystore.show(shown.request_id).state is State.EXPIRED


@pytest.mark.parametrize("seconds", [-1, 0, 59, 24 * 3600 + 1])
def test_a_choice_is_within_the_policy_whoever_signs(seconds: int, keystore, make) -> None:
    shown = make.request(keystore)
    with pytest.raises(ApprovalError) as error:
        keystore.approve(shown.request_id, "bob", shown.digest, None, seconds)
    assert error.value.code == "grant-time"
    keystore.approve(shown.request_id, "bob", shown.digest, None, 60)
    make.approve(keystore, shown.request_id, "carol")
    assert keystore.show(shown.request_id).grant.expires_at <= keystore._clock() + timedelta(seconds=60)
    assert verify_audit(keystore.path).ok


def cose(**changes: Any) -> bytes:
    point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    key: dict[int, Any] = {1: 2, 3: -7, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")}
    return cbor2.dumps({**key, **{int(name[1:].replace("m", "-")): value for name, value in changes.items()}})


OTHER_KINDS = {
    "nothing": b"",
    "an uncompressed point": b"\x04" + bytes(64),
    "an Ed25519 key": bytes(32),
    "more after it": cose() + b"\0",
    "RS256 of a point": cose(_3=-257),
    "P-384": cose(_m1=2),
    "OKP of a point": cose(_1=1),
    "a list": cbor2.dumps([1, 2, 3, 4]),
    "Ed448": cbor2.dumps({1: 1, 3: -8, -1: 7, -2: bytes(57)}),
    "RSA": cbor2.dumps({1: 3, 3: -257, -1: bytes(256), -2: b"\1\0\1"}),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_key_of_another_kind_is_none(kind: str) -> None:
    assert not passkeys.is_usable(OTHER_KINDS[kind])
    assert passkeys.is_usable(cose()) and all(passkeys.is_usable(one.public_key) for one in DEVICES)


MADE_WRONG: dict[str, dict[str, Any]] = {
    "not verified": {"flags": PRESENT | ATTESTED},
    "nobody there": {"flags": VERIFIED | ATTESTED},
    "another origin": {"origin": "https://evil.example"},
    "another site": {"rp_id": "evil.example"},
    "asserted, not made": {"type": "webauthn.get"},
    "another challenge": {"challenge": "AAAA"},
    "another credential": {"credential_id": bytes(32)},
}


@pytest.mark.parametrize("wrong", MADE_WRONG)
def test_a_passkey_is_taken_only_as_this_page_had_it_made(wrong: str) -> None:
    for device in DEVICES:
        of = (device.passkey.credential, b"asked", RP_ID, ORIGIN)
        assert passkeys.created(*device.made(b"asked"), *of) == device.public_key
        with pytest.raises(ApprovalError, match="can not be used here"):
            passkeys.created(*device.made(b"asked", **MADE_WRONG[wrong]), *of)


def test_a_line_is_signed_by_the_passkey_it_is_of_at_its_own_origin(keystore) -> None:
    device, other = Device(), Device()
    assert parse_public_line(device.line).passkey == device.passkey
    one, two = device.line.split(), other.line.split()
    bad = [" ".join([*one[:3], two[3]]), " ".join(one[:3]), " ".join([one[0], "ed25519", *one[2:]]), device.line[:-8]]
    said = json.loads(base64.b64decode(one[2]))
    for change in (
        {"origin": "https://evil.example"},
        {"rp_id": "evil.example"},
        {"credential": "AAAA"},
        {"more": "x"},
    ):
        bad.append(" ".join([*one[:2], base64.b64encode(canonical_json({**said, **change})).decode(), one[3]]))
    spaced = base64.b64encode(json.dumps(said).encode()).decode()
    bad.append(" ".join([*one[:2], spaced, one[3]]))
    bad.append(" ".join([*one[:2], base64.b64encode(b"[" * 5000).decode(), one[3]]))
    for line in bad:
        with pytest.raises(ApprovalError) as error:
            keystore.enrol_approver("erin", "dpo", line, *OTHERS)
        assert error.value.code == "public-key"
    assert keystore.approvers() == []


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_bytes_that_are_no_assertion_are_no_signature(authenticator: bytes, client: bytes, signature: bytes) -> None:
    passkey = Passkey("AAAA", ORIGIN, RP_ID)
    for device in DEVICES:
        assert not passkeys.assertion_holds(
            device.public_key, passkey, Assertion(authenticator, client), signature, b"m"
        )


DEVICES = tuple(Device(one) for one in ALGORITHMS)
