"""Release: the keys of one granted request, sealed to the recovery job's ephemeral key and signed (keystore.recipient opens
them).

Format: `KARLSE02 || u32 header length || header || HPKE ciphertext || Ed25519 signature`. The header is canonical JSON (keystore,
request, grant, digest of the request, recipient) and is bound through HPKE's `info`; the plaintext is canonical JSON with the
records and the header again. HPKE in base mode does not say who sealed, so the keystore signs all that comes before the signature
with the key that its log is known by.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence

from keystore.crypto import hybrid
from keystore.crypto.canonical import canonical_json

RELEASE_MAGIC = b"KARLSE02"
RELEASE_INFO = b"keyanon release v2\n"
SIGNATURE_BYTES = 64
HEADER_LENGTH = struct.Struct(">I")
_SIGNATURE_LABEL = b"keyanon release signature v1\n"


def signed_message(unsigned: bytes) -> bytes:
    """Return what the signature of a release is over; the label keeps it apart from a checkpoint's."""
    return _SIGNATURE_LABEL + unsigned


def seal_release(
    records: Sequence[bytes], header: dict[str, str], recipient_public_key: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    """Seal records to a recipient, bound to `header` (keystore, request, grant, digest), and sign them.

    Raises InvalidRecordError for a bad key.
    """
    header = header | {"recipient": hybrid.key_id(recipient_public_key)}
    head = canonical_json(header)
    body = canonical_json({"header": header, "records": [base64.b64encode(one).decode() for one in records]})
    ciphertext = hybrid.encrypt(body, recipient_public_key, RELEASE_INFO + head)
    unsigned = RELEASE_MAGIC + HEADER_LENGTH.pack(len(head)) + head + ciphertext
    return unsigned + sign(signed_message(unsigned))
