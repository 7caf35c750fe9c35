"""Image keys, what is derived from them, and the key stream that drives the keyed transforms.

    image key (32 random bytes, one per image)
      -> face key = HKDF-SHA256(image key; face index, attempt, transform name)
           -> subkeys by label: "transform", "known-noise", "commitment", "lossless"
      -> key of `source_hmac`
    pseudonym secret (32 random bytes, one per subject) -> carrier keys by number (`keyanon_core.pseudonyms`)

Every stream is ChaCha20 (RFC 8439) under a subkey of its own, from counter 0 and a zero nonce: a subkey is used for one
stream only. Integers are drawn by rejection, so nothing is biased, and bytes are read little-endian, so nothing
depends on the platform. Secrets never appear in a repr or in an error.
"""

import hmac
import secrets
import struct
from typing import Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from keyanon_core.errors import WrongKeyError

IMAGE_KEY_BYTES: Final = 32
FACE_KEY_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32

_CHACHA_NONCE: Final = bytes(16)
_WORD_VALUES: Final = 1 << 64
_NORMAL_GRID: Final = 2.0**24
"""Normal deviates are rounded to multiples of 2**-24, so that the last bit of a platform's log or cos does not show."""


def new_image_key() -> bytes:
    """A fresh image key from the operating system's generator."""
    return secrets.token_bytes(IMAGE_KEY_BYTES)


def _checked(key: bytes, length: int, what: str) -> bytes:
    if not isinstance(key, bytes | bytearray) or len(key) != length:
        held = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else type(key).__name__
        raise WrongKeyError(f"{what} must be {length} bytes, got {held}; take it unchanged from the key record")
    return bytes(key)


def _info(*parts: bytes) -> bytes:
    """Parts with their lengths before them: no two different lists of parts give the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _hkdf(key: bytes, info: bytes, length: int, salt: bytes | None = None) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


def derived(secret: bytes, label: str, *parts: bytes) -> bytes:
    """32 bytes derived from a secret of as many, for the purpose that `label` names and what `parts` say (HKDF-SHA256)."""
    return _hkdf(_checked(secret, 32, "a secret"), _info(b"keyanon v1", label.encode(), *parts), 32)


def face_key(
    image_key: bytes, face_index: int, attempt: int, transform: str, carrier_key: bytes | None = None
) -> bytes:
    """The 32-byte key of one face (RFC 5869 HKDF-SHA256; no salt, since the input key is uniformly random already, but the key of
    the face's carrier where it has one: a commitment to the face key commits to its carrier).

    `attempt` counts the re-keyings by the anonymity gate. Raises WrongKeyError for a key of another length and
    ValueError for an index or attempt outside [0, 2**32).
    """
    if not (0 <= face_index < 1 << 32 and 0 <= attempt < 1 << 32):
        raise ValueError(f"face index {face_index} and attempt {attempt} must lie in [0, 2**32)")
    info = _info(b"keyanon v1 face", struct.pack(">II", face_index, attempt), transform.encode())
    salt = None if carrier_key is None else _checked(carrier_key, 32, "a carrier's key")
    return _hkdf(_checked(image_key, IMAGE_KEY_BYTES, "an image key"), info, FACE_KEY_BYTES, salt)


def subkey(face_key: bytes, label: str, length: int = 32) -> bytes:
    """`length` bytes derived from a face key for one purpose, named by `label` (HKDF-SHA256)."""
    return _hkdf(_checked(face_key, FACE_KEY_BYTES, "a face key"), _info(b"keyanon v1 subkey", label.encode()), length)


def commitment(face_key: bytes, image_id: str) -> bytes:
    """32 bytes that commit to a face key for one image, and reveal nothing of it (HMAC-SHA256 under its own subkey)."""
    return committed(commitment_key(face_key), image_id)


def commitment_key(face_key: bytes) -> bytes:
    """The subkey that a face key's commitments are made under, whatever the image."""
    return subkey(face_key, "commitment")


def committed(commitment_key: bytes, image_id: str) -> bytes:
    """The `commitment` for one image, of a `commitment_key`."""
    return hmac.digest(commitment_key, _info(b"keyanon v1 commitment", image_id.encode()), "sha256")


def source_hmac(image_key: bytes, encoded: bytes) -> str:
    """HMAC-SHA256 of a source file under a key of its own, in hexadecimal: whoever holds the image key, and nobody else, can
    say whether a file is the one that was anonymized. Raises WrongKeyError for a key of another length.
    """
    key = _hkdf(_checked(image_key, IMAGE_KEY_BYTES, "an image key"), _info(b"keyanon v1 source"), 32)
    return hmac.digest(key, encoded, "sha256").hex()


def verify_commitment(face_key: bytes, image_id: str, expected: bytes) -> None:
    """Raises WrongKeyError unless `expected` is the commitment of this key for this image (constant-time)."""
    if not hmac.compare_digest(commitment(face_key, image_id), bytes(expected)):
        raise WrongKeyError(
            f"the key given is not the one that anonymized image {image_id!r}: its commitment differs. "
            "Nothing was computed; ask for the key record of this image and this run"
        )


class KeyStream:
    """Random numbers from a 32-byte key, the same on every platform; each call continues where the last one ended."""

    def __init__(self, key: bytes) -> None:
        algorithm = algorithms.ChaCha20(_checked(key, 32, "a key stream's key"), _CHACHA_NONCE)
        self._encryptor = Cipher(algorithm, mode=None).encryptor()

    def __repr__(self) -> str:
        return "KeyStream(<secret>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a KeyStream holds a secret and is never pickled; derive it again from its key")

    def bytes(self, n: int) -> bytes:
        """The next `n` bytes of the ChaCha20 key stream."""
        return self._encryptor.update(bytes(n))

    def _words(self, n: int) -> NDArray[np.uint64]:
        return np.frombuffer(self.bytes(8 * n), dtype="<u8").astype(np.uint64)

    def signs(self, n: int) -> NDArray[np.float64]:
        """(n,) float64 of -1 and +1, each with probability 1/2; bit 0 of byte 0 first, a set bit is -1."""
        bits = np.unpackbits(np.frombuffer(self.bytes(-(-n // 8)), np.uint8), count=n, bitorder="little")
        return 1.0 - 2.0 * bits.astype(np.float64)

    def integers(self, bound: int, n: int) -> NDArray[np.uint64]:
        """(n,) uint64 uniform in [0, bound), 1 <= bound <= 2**63; words past the last multiple of bound are redrawn."""
        if not 1 <= bound <= 1 << 63:
            raise ValueError(f"bound must lie in [1, 2**63], got {bound}")
        top = np.uint64(_WORD_VALUES - _WORD_VALUES % bound - 1)
        kept: list[NDArray[np.uint64]] = []
        while (missing := n - sum(map(len, kept))) > 0:
            words = self._words(missing)
            kept.append(words[words <= top])
        return (np.concatenate(kept) if kept else np.empty(0, np.uint64)) % np.uint64(bound)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """(n,) int64, a uniformly random order of 0..n-1.

        The order of n distinct random words; a draw with two equal words is thrown away whole, so every order stays
        equally likely.
        """
        while True:
            words = self._words(n)
            order = np.argsort(words)  # distinct words have one order, whatever the sort
            ranked = words[order]
            if not bool(np.any(ranked[1:] == ranked[:-1])):
                return order.astype(np.int64)

    def normal(self, n: int) -> NDArray[np.float64]:
        """(n,) float64 standard normal deviates (Box and Muller 1958), rounded to multiples of 2**-24."""
        pairs = -(-n // 2)
        # 53 random bits each; the radius uses (0, 1], whose logarithm is finite.
        uniform = (self._words(2 * pairs) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(1.0 - uniform[:pairs]))
        angle = 2.0 * np.pi * uniform[pairs:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
        rounded: NDArray[np.float64] = np.round(both * _NORMAL_GRID) / _NORMAL_GRID
        return rounded
