"""The committing envelope."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keystore.crypto import envelope

KEY, OTHER = b"k" * 32, b"o" * 32


def test_an_envelope_opens_under_its_key_and_context_only() -> None:
    sealed = envelope.seal(KEY, b"hello", b"context")
    assert envelope.open_envelope(KEY, sealed, b"context") == b"hello"
    for key, context in ((OTHER, b"context"), (KEY, b"other context"), (KEY, b"")):
        with pytest.raises(envelope.EnvelopeError, match="another key or context"):
            envelope.open_envelope(key, sealed, context)


def test_every_altered_byte_is_noticed() -> None:
    sealed = envelope.seal(KEY, b"hello", b"context")
    assert len(sealed) == 5 + envelope.OVERHEAD_BYTES
    for place in range(len(sealed)):
        with pytest.raises(envelope.EnvelopeError):
            envelope.open_envelope(KEY, sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :], b"context")
        with pytest.raises(envelope.EnvelopeError, match="cut short" if place < envelope.OVERHEAD_BYTES else "altered"):
            envelope.open_envelope(KEY, sealed[:place], b"context")


def test_the_commitment_is_what_refuses_a_second_key() -> None:
    # An attacker who knows both keys can make any GCM ciphertext valid under the second one; the commitment must still refuse it.
    salt = os.urandom(32)
    first_commitment = envelope.seal(KEY, b"", b"c")[32:64]
    second_key, _ = envelope._derive(OTHER, salt, b"c")
    forged = salt + first_commitment + AESGCM(second_key).encrypt(bytes(12), b"a second meaning", b"c")
    with pytest.raises(envelope.EnvelopeError, match="another key or context"):
        envelope.open_envelope(OTHER, forged, b"c")


def test_two_envelopes_of_one_thing_share_nothing() -> None:
    one, two = (envelope.seal(KEY, b"same", b"same") for _ in range(2))
    assert one[:32] != two[:32]
    assert one[64:] != two[64:]
