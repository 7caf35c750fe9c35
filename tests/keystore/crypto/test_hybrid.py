"""X-Wing keys as bytes, and what opens with them."""

import pytest

from keystore.crypto.hybrid import PRIVATE_KEY_BYTES, PUBLIC_KEY_BYTES, HybridPrivateKey, encrypt, key_id
from keystore.errors import InvalidRecordError

INFO, SECRET = b"a context", b"a secret"


def test_a_key_that_was_bytes_opens_what_was_sealed_to_it_and_nothing_else_does() -> None:
    made = HybridPrivateKey.generate()
    again = HybridPrivateKey.from_secret_bytes(made.secret_bytes())
    assert again.public_bytes == made.public_bytes and len(made.public_bytes) == PUBLIC_KEY_BYTES
    sealed = encrypt(SECRET, made.public_bytes, INFO)
    assert again.open(sealed, INFO) == SECRET
    assert again.open(sealed, b"another context") is None
    assert HybridPrivateKey.generate().open(sealed, INFO) is None
    for at in (0, 1119, 1120, len(sealed) - 1):  # ML-KEM's part, X25519's, the tag
        assert again.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], INFO) is None
    for cut in (0, 1, 1120, len(sealed) - 1):
        assert again.open(sealed[:cut], INFO) is None


@pytest.mark.parametrize("length", [0, 1, PRIVATE_KEY_BYTES - 1, PRIVATE_KEY_BYTES + 1])
def test_a_private_key_has_its_length(length: int) -> None:
    with pytest.raises(InvalidRecordError, match=str(PRIVATE_KEY_BYTES)):
        HybridPrivateKey.from_secret_bytes(bytes(length))


@pytest.mark.parametrize("length", [0, 32, PUBLIC_KEY_BYTES - 1, PUBLIC_KEY_BYTES + 1])
def test_a_public_key_has_its_length(length: int) -> None:
    with pytest.raises(InvalidRecordError, match=str(PUBLIC_KEY_BYTES)):
        encrypt(SECRET, bytes(length), INFO)


def test_a_key_shows_its_public_id_alone() -> None:
    made = HybridPrivateKey.generate()
    assert repr(made) == f"HybridPrivateKey(public key {key_id(made.public_bytes)})"
