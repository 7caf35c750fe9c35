"""Searches bytes for keys in every form a program could have written them in."""

import base64
from collections.abc import Iterable


def written_forms(key: bytes) -> list[bytes]:
    """A key raw, in hex, as Python shows it, and in base64 at each of the three alignments."""
    forms = [key, key.hex().encode(), key.hex().upper().encode(), repr(key)[2:-1].encode()]
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.append(
                encode(bytes(shift) + key)[4 if shift else 0 : 40]
            )  # the characters that the key alone decides
    return forms


def holds_key(content: bytes, keys: Iterable[bytes]) -> bool:
    return any(form in content for key in keys for form in written_forms(key))
