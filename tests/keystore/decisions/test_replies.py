"""A release whose answer was lost can be fetched again by the same key, for a while, on record; nothing else works twice."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from keystore.errors import GrantError
from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit

KEEP = timedelta(minutes=10)


def release(keystore: ServedKeystore, request_id: str, recipient: Recipient, by: str = "Alice") -> bytes:
    return keystore.release(request_id, recipient.public_key, by, keep_reply=KEEP)


def kinds(keystore: ServedKeystore) -> list[str]:
    return [json.loads(leaf)["type"] for leaf in keystore.audit_entries()]


def test_the_same_key_gets_the_same_bytes_again_and_each_time_is_on_record(keystore: ServedKeystore, make) -> None:
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    sealed = release(keystore, request_id, recipient)
    for _ in range(5):  # as docs/keystore.md says
        assert release(keystore, request_id, recipient) == sealed
    with pytest.raises(GrantError, match="works once"):
        release(keystore, request_id, recipient)
    assert kinds(keystore).count("release") == 1 and kinds(keystore).count("release-again") == 5
    assert recipient.open(sealed, Expected.of(keystore.show(request_id), keystore.audit_vkey))
    assert verify_audit(keystore.path).ok


def test_nobody_else_and_no_other_key_gets_them(keystore: ServedKeystore, make) -> None:
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    release(keystore, request_id, recipient)
    for another, by in ((Recipient.generate(), "Alice"), (recipient, "Bob"), (recipient, "Mallory")):
        with pytest.raises(GrantError):
            release(keystore, request_id, another, by)
    other = make.approved(keystore, "b.png")
    sealed = release(keystore, other, recipient)
    assert sealed != release(keystore, request_id, recipient), "each request has its own reply"
    with pytest.raises(GrantError):
        keystore.release(request_id, recipient.public_key, "Alice")


def test_time_ends_it(keystore: ServedKeystore, make, clock) -> None:
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    release(keystore, request_id, recipient)
    assert keystore.drop_stale_replies() == 0
    clock.forward(minutes=10)
    with pytest.raises(GrantError):
        release(keystore, request_id, recipient)
    assert keystore.drop_stale_replies() == 1
    assert keystore.drop_stale_replies() == 0


def test_an_erasure_ends_it(keystore: ServedKeystore, make) -> None:
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    sealed = release(keystore, request_id, recipient)
    keystore.erase("photos", "dpo", image_id="b.png")
    with pytest.raises(GrantError):
        release(keystore, request_id, recipient)
    assert sealed[-100:] not in b"".join(path.read_bytes() for path in keystore.path.glob("keystore.db*"))


def test_a_reply_that_is_not_asked_to_be_kept_is_not(keystore: ServedKeystore, make) -> None:
    request_id, recipient = make.approved(keystore, "a.png"), Recipient.generate()
    keystore.release(request_id, recipient.public_key, "Alice")
    with pytest.raises(GrantError):
        release(keystore, request_id, recipient)
