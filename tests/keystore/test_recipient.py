"""A job takes the release that its keystore signed for it, for exactly what was granted, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystore.decisions.release import seal_release
from keystore.errors import GrantError, TamperedError
from keystore.recipient import Expected, Recipient


@pytest.fixture
def released(keystore, make) -> tuple[Recipient, bytes, Expected]:
    request_id = make.approved(keystore, "a.png", "b.png")
    recipient = Recipient.generate()
    sealed = keystore.release(request_id, recipient.public_key, "Alice")
    return recipient, sealed, Expected.of(keystore.show(request_id), keystore.audit_vkey)


def header_of(keystore, expected: Expected) -> dict[str, str]:
    return {
        "digest": expected.digest,
        "grant": expected.grant_id,
        "keystore": keystore.id,
        "request": expected.request_id,
    }


def test_a_release_opens_for_its_recipient(released) -> None:
    recipient, sealed, expected = released
    assert {one.image_id for one in recipient.open(sealed, expected)} == {"a.png", "b.png"}
    with pytest.raises(TamperedError, match="another recipient"):
        Recipient.generate().open(sealed, expected)


def test_every_altered_part_is_refused(released) -> None:
    recipient, sealed, expected = released
    for place in (0, 9, 13, 40, 300, len(sealed) - 70, len(sealed) - 64, len(sealed) - 1):
        with pytest.raises(TamperedError):
            recipient.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], expected)
    for cut in (b"", sealed[:8], sealed[:70], sealed[:-1], sealed + b"x", sealed[:12] + sealed[-64:]):
        with pytest.raises(TamperedError):
            recipient.open(cut, expected)


def test_a_release_forged_from_the_public_key_alone_is_refused(keystore, make, released) -> None:
    recipient, _, expected = released
    records = [make.record(name).canonical_bytes() for name in ("a.png", "b.png")]
    forged = seal_release(
        records, header_of(keystore, expected), recipient.public_key, Ed25519PrivateKey.generate().sign
    )
    with pytest.raises(TamperedError, match="not signed by this keystore"):
        recipient.open(forged, expected)


def test_a_signed_checkpoint_is_no_signature_of_a_release(keystore, released) -> None:
    recipient, sealed, expected = released
    raw = keystore._keys.signer._key.sign(sealed[:-64])  # without the label
    with pytest.raises(TamperedError, match="not signed"):
        recipient.open(sealed[:-64] + raw, expected)


@pytest.mark.parametrize("field", ["request_id", "grant_id", "digest"])
def test_a_release_for_something_else_is_refused(released, field: str) -> None:
    recipient, sealed, expected = released
    with pytest.raises(TamperedError, match="another request, grant or content"):
        recipient.open(sealed, replace(expected, **{field: "another"}))


def test_another_keystores_signature_is_refused(released) -> None:
    recipient, sealed, expected = released
    name, _, rest = expected.vkey.partition("+")
    assert rest
    with pytest.raises(TamperedError, match="not signed"):
        recipient.open(sealed, replace(expected, vkey=_other_vkey(name)))


def _other_vkey(name: str) -> str:
    from keystore.audit.checkpoint import verifier_key

    return verifier_key(name, Ed25519PrivateKey.generate().public_key())


def test_a_keystore_of_another_id_with_the_same_key_is_refused(keystore, make, released) -> None:
    recipient, _, expected = released
    signer = keystore._keys.signer
    header = header_of(keystore, expected) | {"keystore": "another"}
    with pytest.raises(TamperedError, match="not signed by this keystore"):
        recipient.open(seal_release([], header, recipient.public_key, signer.sign_message), expected)


@pytest.mark.parametrize(
    "images", [("a.png",), ("a.png", "b.png", "c.png"), ("a.png", "c.png"), ("a.png", "b.png", "b.png"), ()]
)
def test_a_signed_release_of_other_records_is_refused(keystore, released, images: tuple[str, ...]) -> None:
    recipient, sealed, expected = released
    held = {one.image_id: one.record_id for one in keystore.find_records()}
    with keystore._database.read() as connection:
        records = keystore._vault.open_images(connection, [(held[name], "photos", name) for name in images])
    other = seal_release(
        records, header_of(keystore, expected), recipient.public_key, keystore._keys.signer.sign_message
    )
    with pytest.raises(TamperedError, match="does not hold the records"):
        recipient.open(other, expected)
    assert len(recipient.open(sealed, expected)) == 2


def test_a_signed_release_that_holds_no_records_is_refused(keystore, released) -> None:
    recipient, _, expected = released
    sign = keystore._keys.signer.sign_message
    with pytest.raises(TamperedError, match="no key records"):
        recipient.open(seal_release([b"junk"], header_of(keystore, expected), recipient.public_key, sign), expected)


def test_without_a_grant_nothing_is_expected(keystore, make) -> None:
    with pytest.raises(GrantError):
        Expected.of(make.request(keystore), keystore.audit_vkey)
