"""Release: the keys of one granted request, sealed to the recovery job's ephemeral key (keystore.recipient opens them).

Format: `KARLSE01 || u32 header length || header || HPKE ciphertext`. The header is canonical JSON (keystore, request, grant,
digest of the request) and is bound through HPKE's `info`; the plaintext is canonical JSON with the records and the header again.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

from keystore.crypto import hybrid
from keystore.crypto.canonical import canonical_json

RELEASE_MAGIC = b"KARLSE01"
RELEASE_INFO = b"keyanon release v1\n"
HEADER_LENGTH = struct.Struct(">I")


def seal_release(records: Sequence[bytes], header: dict[str, str], recipient_public_key: bytes) -> bytes:
    """Seal records to a recipient, bound to `header` (keystore, request, grant, digest). Raises InvalidRecordError
    for a bad key."""
    head = canonical_json(header)
    body = canonical_json({"header": header, "records": [base64.b64encode(one).decode() for one in records]})
    return (
        RELEASE_MAGIC
        + HEADER_LENGTH.pack(len(head))
        + head
        + hybrid.encrypt(body, recipient_public_key, RELEASE_INFO + head)
    )
