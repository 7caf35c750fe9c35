"""The receipt of an erasure verifies without the keystore, and nothing else passes for it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keystore.crypto.canonical import canonical_json
from keystore.embedded import Keystore
from keystore.errors import AuditError, ErasureError, TamperedError
from keystore.reporting.receipt import verify_receipt
from keystore.served import ServedKeystore
from tests.keystore.postgres import ON_BOTH

SUBJECT = "Jane Doe"


@pytest.fixture
def erased(keystore: ServedKeystore, make) -> ServedKeystore:
    make.deposit(keystore, [make.record("s.png", subject=SUBJECT), make.record("t.png", subject=SUBJECT)], "part-9")
    keystore.ingest(make.RUN)
    assert keystore.erase("photos", "Dora", subject=SUBJECT) == 2
    make.request(keystore, "b.png")  # the log goes on
    return keystore


@ON_BOTH
def test_it_says_what_went_and_that_the_log_says_so(erased: ServedKeystore) -> None:
    receipt = verify_receipt(erased.erasure_receipt("photos", subject=SUBJECT), erased.audit_vkey)
    assert (receipt.keystore, receipt.dataset, receipt.subject, receipt.image) == (erased.id, "photos", SUBJECT, None)
    (one,) = receipt.erasures
    assert one.counts() == (2, 1)
    assert base64.b64decode(one.leaf) == erased.audit_entries()[one.entry]


def test_two_erasures_are_on_one_receipt_and_it_can_be_made_by_another_opening(erased: ServedKeystore) -> None:
    erased.erase("photos", "Dora", subject=SUBJECT)
    with Keystore.open(erased.path) as again:
        receipt = verify_receipt(again.erasure_receipt("photos", subject=SUBJECT), again.audit_vkey)
    assert [one.counts() for one in receipt.erasures] == [(2, 1), (0, 0)]


def test_an_image_without_a_subject_has_one_too(keystore: ServedKeystore) -> None:
    keystore.erase("photos", "Dora", image_id="a.png")
    receipt = verify_receipt(keystore.erasure_receipt("photos", image_id="a.png"), keystore.audit_vkey)
    assert (receipt.subject, receipt.image) == (None, "a.png")


def test_there_is_none_for_what_was_not_erased(erased: ServedKeystore) -> None:
    for whom in ({"subject": "John Doe"}, {"image_id": "b.png"}, {}, {"subject": SUBJECT, "image_id": "y"}):
        with pytest.raises(ErasureError):
            erased.erasure_receipt("photos", **whom)
    with pytest.raises(ErasureError):
        erased.erasure_receipt("other", subject=SUBJECT)


def test_no_part_of_it_can_be_another(erased: ServedKeystore) -> None:
    given, vkey = erased.erasure_receipt("photos", subject=SUBJECT), erased.audit_vkey
    said = json.loads(given)
    for name in said["receipt"]:
        for other in ("x", [], 7):
            with pytest.raises(TamperedError):
                verify_receipt(canonical_json({**said, "receipt": {**said["receipt"], name: other}}), vkey)
    for data in (b"", b"{}", b"[]", b"null", given[:-1], b"[" * 100_000, canonical_json({**said, "signature": ""})):
        with pytest.raises(TamperedError):
            verify_receipt(data, vkey)


def test_even_the_keystore_can_not_sign_what_its_log_does_not_say(erased: ServedKeystore) -> None:
    body = json.loads(erased.erasure_receipt("photos", subject=SUBJECT))["receipt"]
    (one,) = body["erasures"]
    other = base64.b64encode(erased.audit_entries()[one["entry"] - 1]).decode()
    forgeries = {
        "another entry": {"erasures": [one | {"entry": one["entry"] - 1}]},
        "another time": {"erasures": [one | {"erased_at": "2020-01-01T00:00:00.000000Z"}]},
        "another leaf": {"erasures": [one | {"leaf": other}]},
        "no proof": {"erasures": [one | {"proof": []}]},
        "no erasure": {"erasures": []},
        "another owner": {"owner": "0" * 64},
        "another data set": {"dataset": "other"},
        "another keystore": {"keystore": "0" * 32},
    }
    for change, forged in {"none": {}, **forgeries}.items():
        said = {**body, **forged}
        signature = erased._keys.signer.sign_message(b"keyanon erasure receipt v1\n" + canonical_json(said))
        data = canonical_json({"receipt": said, "signature": base64.b64encode(signature).decode()})
        if change == "none":
            verify_receipt(data, erased.audit_vkey)
            continue
        with pytest.raises(TamperedError):
            verify_receipt(data, erased.audit_vkey)


def test_it_is_of_one_keystore_only(erased: ServedKeystore, tmp_path: Path) -> None:
    receipt = erased.erasure_receipt("photos", subject=SUBJECT)
    with Keystore.create(tmp_path / "other") as other, pytest.raises(TamperedError):
        verify_receipt(receipt, other.audit_vkey)
    with pytest.raises(AuditError):
        verify_receipt(receipt, "no key")
