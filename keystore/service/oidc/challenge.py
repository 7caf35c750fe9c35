"""Proof of possession between the two halves of a sign-in (RFC 7636), for who asks and who is asked."""

from __future__ import annotations

import base64
import hashlib


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a verifier (section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
