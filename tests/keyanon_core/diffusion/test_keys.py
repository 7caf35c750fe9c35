"""Keys: the same on every platform (literal vectors and an independent path), unbiased, and never shown."""

import hashlib
import hmac
import pickle
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from keyanon_core.errors import WrongKeyError
from keyanon_core.keys import KeyStream, commitment, face_key, new_image_key, subkey, verify_commitment
from keyanon_core.pseudonyms import MAX_CARRIERS, carrier_key

IMAGE_KEY = bytes(range(32))
SECRET = bytes(range(32, 64))  # of a pseudonym
FACE_KEY_HEX = "95a5311ec91f1655426f1878de329e87f5a2544884af2b74496480b1a5a0395b"
SUBKEY_HEX = "b9db5880112ee3c6abc18e49b1b285dd5c32b1cd9ff7673a5f24f162d136471adf6e46694660c0812273bdfb2110c3b3"
COMMITMENT_HEX = "c0389e18a08106faeab7f2bbedd091ffc79427bf1cb2ab652a21fc2cbef5fe52"
STREAM_HEX = "39fd2b7dd9c5196a8dbd0377b8dc4a498a35d86fbcde6accb2cc7d4cd8ea2492"


def hkdf_by_hand(key: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    """RFC 5869 with hmac alone."""
    pseudorandom = hmac.new(salt, key, hashlib.sha256).digest()
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(pseudorandom, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(p)) + p for p in parts)


def test_face_key_is_the_committed_vector_and_hkdf_by_hand() -> None:
    info = prefixed(b"keyanon v1 face", struct.pack(">II", 2, 1), b"rotation")
    derived = face_key(IMAGE_KEY, 2, 1, "rotation")
    assert derived.hex() == FACE_KEY_HEX
    assert derived == hkdf_by_hand(IMAGE_KEY, info, 32)


def test_a_face_on_a_carrier_has_a_key_that_commits_to_the_carrier() -> None:
    info = prefixed(b"keyanon v1 face", struct.pack(">II", 2, 1), b"rotation")
    carrier = carrier_key(SECRET, 3)
    assert carrier == hkdf_by_hand(SECRET, prefixed(b"keyanon v1", b"carrier", struct.pack(">I", 3)), 32)
    on_carrier = face_key(IMAGE_KEY, 2, 1, "rotation", carrier)
    assert on_carrier == hkdf_by_hand(IMAGE_KEY, info, 32, salt=carrier)
    with pytest.raises(WrongKeyError, match="its commitment differs"):
        verify_commitment(
            face_key(IMAGE_KEY, 2, 1, "rotation", carrier_key(SECRET, 4)), "a", commitment(on_carrier, "a")
        )


@pytest.mark.parametrize("number", [-1, MAX_CARRIERS])
def test_carriers_are_numbered_from_0_to_31(number: int) -> None:
    assert len({carrier_key(SECRET, one) for one in range(MAX_CARRIERS)}) == MAX_CARRIERS == 32
    with pytest.raises(ValueError, match="must lie in"):
        carrier_key(SECRET, number)


def test_subkey_and_commitment_are_the_committed_vectors() -> None:
    key = face_key(IMAGE_KEY, 2, 1, "rotation")
    assert subkey(key, "lossless", 48).hex() == SUBKEY_HEX
    assert subkey(key, "lossless", 48) == hkdf_by_hand(key, prefixed(b"keyanon v1 subkey", b"lossless"), 48)
    mac_key = hkdf_by_hand(key, prefixed(b"keyanon v1 subkey", b"commitment"), 32)
    expected = hmac.new(mac_key, prefixed(b"keyanon v1 commitment", "ä.png".encode()), hashlib.sha256).digest()
    assert commitment(key, "ä.png") == expected
    assert commitment(key, "ä.png").hex() == COMMITMENT_HEX


def test_stream_is_chacha20_from_counter_zero() -> None:
    stream = KeyStream(IMAGE_KEY)
    first = stream.bytes(5) + stream.bytes(27)
    assert first.hex() == STREAM_HEX
    raw = Cipher(algorithms.ChaCha20(IMAGE_KEY, bytes(16)), mode=None).encryptor().update(bytes(32))
    assert first == raw


def test_draws_are_the_committed_vectors() -> None:
    assert KeyStream(IMAGE_KEY).signs(10).astype(int).tolist() == [-1, 1, 1, -1, -1, -1, 1, 1, -1, 1]
    assert KeyStream(IMAGE_KEY).integers(1000, 6).tolist() == [593, 893, 858, 610, 707, 711]
    assert KeyStream(IMAGE_KEY).permutation(10).tolist() == [7, 9, 6, 1, 5, 0, 3, 4, 2, 8]
    expected = [-15665035.0, -6751241.0, -23445689.0, -7476972.0, -12012429.0]
    assert (KeyStream(IMAGE_KEY).normal(5) * 2**24).tolist() == expected


def test_signs_and_permutation_follow_from_the_stream_by_plain_python() -> None:
    raw = KeyStream(IMAGE_KEY).bytes(80)
    bits = [(raw[i // 8] >> (i % 8)) & 1 for i in range(50)]
    assert KeyStream(IMAGE_KEY).signs(50).tolist() == [1 - 2 * b for b in bits]
    words = struct.unpack("<10Q", raw)
    assert KeyStream(IMAGE_KEY).permutation(10).tolist() == sorted(range(10), key=words.__getitem__)


def test_every_input_of_a_face_key_matters() -> None:
    keys = {
        face_key(image, index, attempt, transform)
        for image in (IMAGE_KEY, bytes([IMAGE_KEY[0] ^ 1]) + IMAGE_KEY[1:])
        for index in (0, 1)
        for attempt in (0, 1)
        for transform in ("sign", "rotation")
    }
    assert len(keys) == 16
    key = keys.pop()
    labels = ("transform", "known-noise", "commitment", "lossless")
    assert len({subkey(key, label) for label in labels}) == len(labels)


def test_two_new_image_keys_differ() -> None:
    assert len(new_image_key()) == 32
    assert new_image_key() != new_image_key()


def test_integers_are_unbiased_where_a_plain_remainder_would_not_be() -> None:
    # A bound just above 2**62 * 1.5: the plain remainder of a 64-bit word would fall into the lower half too often.
    bound = 3 * 2**61
    draws = KeyStream(IMAGE_KEY).integers(bound, 20_000)
    assert int(draws.max()) < bound
    assert abs(float((draws < bound // 3).mean()) - 1 / 3) < 0.02
    assert KeyStream(IMAGE_KEY).integers(1, 3).tolist() == [0, 0, 0]
    assert KeyStream(IMAGE_KEY).integers(7, 0).tolist() == []
    with pytest.raises(ValueError, match="bound"):
        KeyStream(IMAGE_KEY).integers(0, 1)


def test_every_permutation_of_four_is_as_likely() -> None:
    stream, count = KeyStream(IMAGE_KEY), 24 * 400
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(count):
        order = tuple(stream.permutation(4).tolist())
        seen[order] = seen.get(order, 0) + 1
    chi_square = sum((n - 400) ** 2 / 400 for n in seen.values())
    assert len(seen) == 24
    assert chi_square < 58  # 23 degrees of freedom: exceeded once in 10,000 keys


def test_a_draw_with_equal_words_is_drawn_again() -> None:
    class Colliding(KeyStream):
        calls = 0

        def _words(self, n: int) -> np.ndarray:  # type: ignore[type-arg]
            self.calls += 1
            return np.array([5, 5, 1], np.uint64) if self.calls == 1 else np.array([9, 3, 6], np.uint64)

    stream = Colliding(IMAGE_KEY)
    assert stream.permutation(3).tolist() == [1, 2, 0]
    assert stream.calls == 2


def test_normal_deviates_have_the_moments_of_a_normal() -> None:
    values = KeyStream(IMAGE_KEY).normal(100_001)
    assert len(values) == 100_001
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((values**4).mean() - 3) < 0.15


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33), "a" * 32, None])
def test_keys_of_another_length_or_type_are_refused_without_showing_them(bad: object) -> None:
    for use in (lambda k: face_key(k, 0, 0, "sign"), lambda k: subkey(k, "transform"), KeyStream):
        with pytest.raises(WrongKeyError, match="32 bytes"):
            use(bad)  # type: ignore[arg-type]


def test_wrong_key_or_wrong_image_is_told_by_the_commitment() -> None:
    key, other = face_key(IMAGE_KEY, 0, 0, "rotation"), face_key(IMAGE_KEY, 0, 1, "rotation")
    held = commitment(key, "a.png")
    verify_commitment(key, "a.png", held)
    for wrong_key, image in ((other, "a.png"), (key, "b.png")):
        with pytest.raises(WrongKeyError, match=image) as caught:
            verify_commitment(wrong_key, image, held)
        assert wrong_key.hex() not in str(caught.value)
    with pytest.raises(WrongKeyError):
        verify_commitment(key, "a.png", held[:-1])


def test_a_stream_shows_no_key_and_is_never_pickled() -> None:
    stream = KeyStream(IMAGE_KEY)
    assert IMAGE_KEY.hex() not in repr(stream) and repr(IMAGE_KEY) not in repr(stream)
    assert IMAGE_KEY not in repr(vars(stream)).encode()
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(stream)
