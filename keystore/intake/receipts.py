"""Receipts: what ingest says became of a shard, in the inbox beside it, for whoever left it there and can not ask the keystore.

    receipt file = CJ({receipt, vkey, certificate, signature}), the last two in base64
    signature    = of the ingest's key over "keyanon receipt v1\\n" || CJ(receipt);  certificate = of the audit key over `vkey`

A receipt is written after the records are committed and before the shard is removed. It names record ids and no picture.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from pydantic import BaseModel, ConfigDict

from keystore.audit.checkpoint import parse_verifier_key
from keystore.audit.signers import INGEST_SUFFIX, IngestSigner, certificate_message
from keystore.crypto.canonical import canonical_json
from keystore.errors import AuditError, StorageError, TamperedError
from keystore.intake.report import RejectedRecord
from keystore.storage import durable

RECEIPT_SUFFIX = ".receipt"
MAX_RECEIPT_BYTES = 256 * 1024 * 1024  # some four million record ids
_LABEL = b"keyanon receipt v1\n"


class Receipt(BaseModel):
    """What became of the records of one shard: each is in one of the three lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    shard: str
    shard_sha256: str
    stored: list[str]  # ids, those that were stored before too
    erased: list[str]  # ids of records whose subject or image was erased: they have no key, by right
    rejected: list[RejectedRecord]


def write_receipt(directory: Path, receipt: Receipt, signer: IngestSigner) -> None:
    """Publish the receipt of a shard, over an older one of the same shard. Raises StorageError."""
    body = receipt.model_dump(mode="json")
    document = {
        "certificate": base64.b64encode(signer.certificate).decode(),
        "receipt": body,
        "signature": base64.b64encode(signer.sign_message(_LABEL + canonical_json(body))).decode(),
        "vkey": signer.vkey,
    }
    path = directory / (receipt.shard + RECEIPT_SUFFIX)
    try:
        durable.replace(path, canonical_json(document))
    except OSError as error:
        raise StorageError(f"receipt {path} can not be written ({error.strerror}); free space or mend it") from error


def parse_receipt(data: bytes, file: str, audit_vkey: str) -> Receipt:
    """Return a receipt that the keystore of this audit key signed, from the content of `file`. Raises TamperedError."""
    refused = TamperedError(f"receipt {file} is not one that the keystore signed; find out who put it there")
    try:
        document = json.loads(data)
        vkey, body = document["vkey"], document["receipt"]
        origin, audit_key = parse_verifier_key(audit_vkey)
        name, key = parse_verifier_key(vkey)
        if name != origin + INGEST_SUFFIX:
            raise refused
        audit_key.verify(base64.b64decode(document["certificate"], validate=True), certificate_message(vkey))
        key.verify(base64.b64decode(document["signature"], validate=True), _LABEL + canonical_json(body))
        receipt = Receipt.model_validate(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidSignature, AuditError) as error:
        raise refused from error
    if receipt.shard + RECEIPT_SUFFIX != file.rpartition("/")[2]:
        raise refused
    return receipt
