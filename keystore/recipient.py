"""The recovery job's side of a release: the one place outside of the vault where granted records are in clear."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature

from keystore.audit.checkpoint import parse_verifier_key
from keystore.audit.signers import origin_of
from keystore.crypto import hybrid
from keystore.decisions.release import HEADER_LENGTH, RELEASE_INFO, RELEASE_MAGIC, SIGNATURE_BYTES, signed_message
from keystore.decisions.views import RequestView
from keystore.errors import GrantError, InvalidRecordError, TamperedError
from keystore.intake.records import KeyRecord


@dataclass(frozen=True)
class Expected:
    """What a job knows of its release before it asks: whose signature it bears, and what it is for.

    `vkey` is the keystore's verifier key (`audit.pub`): where the job does not run beside its keystore, a copy that it was given.
    """

    vkey: str
    request_id: str
    digest: str
    grant_id: str
    record_ids: frozenset[str]

    @classmethod
    def of(cls, request: RequestView, vkey: str) -> Expected:
        """Return what the release of a request must be. Raises GrantError when it has no grant."""
        if request.grant is None:
            raise GrantError("not-approved", f"request {request.request_id} has no grant that could be used")
        return cls(
            vkey,
            request.request_id,
            request.digest,
            request.grant.grant_id,
            frozenset(image.record_id for image in request.images),
        )


class Recipient:
    """An X-Wing key pair that lives in memory for one release and is never stored."""

    def __init__(self, key: hybrid.RecipientKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Recipient:
        """Return a recipient with a fresh key pair."""
        return cls(hybrid.HybridPrivateKey.generate())

    @property
    def public_key(self) -> bytes:
        """The 1,216 bytes to hand to `Keystore.release`."""
        return self._key.public_bytes

    def open(self, sealed: bytes, expected: Expected) -> list[KeyRecord]:
        """Return the records of a release that the keystore signed, for this recipient, for exactly what was granted.

        Raises TamperedError: unsigned or altered, for someone else, or for another request, grant, content or set of records.
        """
        header, ciphertext = self._check_signature(sealed, expected.vkey)
        said = (header["request"], header["grant"], header["digest"])
        if said != (expected.request_id, expected.grant_id, expected.digest):
            raise TamperedError(
                f"the release is for another request, grant or content than those of {expected.request_id}; ask for it again"
            )
        plaintext = self._key.open(ciphertext, RELEASE_INFO + _head(sealed))
        if plaintext is None or header["recipient"] != hybrid.key_id(self.public_key):
            raise TamperedError("the release is for another recipient; make a new request")
        try:
            document = json.loads(plaintext)
            records = [
                KeyRecord.from_canonical_bytes(base64.b64decode(one, validate=True)) for one in document["records"]
            ]
        except (ValueError, KeyError, TypeError, InvalidRecordError):
            raise TamperedError("the release holds no key records; its keystore is damaged") from None
        ids = [record.record_id for record in records]
        if document.get("header") != header or len(set(ids)) != len(ids) or frozenset(ids) != expected.record_ids:
            raise TamperedError(f"the release does not hold the records of request {expected.request_id} and no others")
        return records

    def _check_signature(self, sealed: bytes, vkey: str) -> tuple[dict[str, str], bytes]:
        refused = TamperedError(
            "the release is not signed by this keystore, or was altered on its way; make a new request"
        )
        name, key = parse_verifier_key(vkey)
        try:
            key.verify(sealed[-SIGNATURE_BYTES:], signed_message(sealed[:-SIGNATURE_BYTES]))
            head = _head(sealed)
            header = json.loads(head)
            if (
                origin_of(header["keystore"]) != name
                or not {"request", "grant", "digest", "recipient"} <= header.keys()
            ):
                raise refused
        except (InvalidSignature, ValueError, KeyError, TypeError):
            raise refused from None
        return header, sealed[len(RELEASE_MAGIC) + HEADER_LENGTH.size + len(head) : -SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Recipient({hybrid.key_id(self.public_key)[:16]})"


def _head(sealed: bytes) -> bytes:
    start = len(RELEASE_MAGIC) + HEADER_LENGTH.size
    if len(sealed) < start + SIGNATURE_BYTES or not sealed.startswith(RELEASE_MAGIC):
        raise ValueError("these bytes are no release")
    (length,) = HEADER_LENGTH.unpack_from(sealed, len(RELEASE_MAGIC))
    return sealed[start : start + length]
