"""A receipt of an erasure, for whom it was about: the keystore's word, and its log's entry with the proof that it is there.

    receipt   = CJ({receipt: body, signature})       signature = of the audit key over "keyanon erasure receipt v1\\n" || CJ(body)
    body      = CJ({keystore, dataset, subject or image, owner, made_at, erasures: [{entry, erased_at, leaf, proof}], checkpoint})

Verified offline by `audit.pub` alone. That the entry is about this owner follows from the log; that the owner is this subject is
the keystore's word, for its keyed index is secret. A receipt names the subject, and is kept nowhere in the keystore: it can be
made again as long as the index key lives, by who knows whom to ask for.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, select

from keystore.audit.checkpoint import open_checkpoint, parse_verifier_key
from keystore.audit.log import latest_note
from keystore.audit.merkle import ProofError, leaf_hash, verify_inclusion
from keystore.audit.signers import LogSigner, origin_of
from keystore.audit.tree import prove_inclusion
from keystore.crypto.canonical import canonical_json, timestamp
from keystore.errors import AuditError, ErasureError, TamperedError
from keystore.storage import schema
from keystore.vault.erasure import erasure_digest
from keystore.vault.keyring import owner_tag

MAX_RECEIPT_BYTES = 16 * 1024 * 1024
_LABEL = b"keyanon erasure receipt v1\n"


class ErasedEntry(BaseModel):
    """One entry of the log that erased. leaf and proof (an inclusion proof in the receipt's checkpoint): base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry: int
    erased_at: str
    leaf: str
    proof: list[str]

    def counts(self) -> tuple[int, int]:
        """How many records and keys went, as the leaf says. Raises ValueError, LookupError, TypeError."""
        leaf = json.loads(base64.b64decode(self.leaf, validate=True))
        return int(leaf["records"]), int(leaf["keys"])


class ErasureReceipt(BaseModel):
    """What a receipt says. owner: the keyed hash of whom it is about; checkpoint: signed by the audit key."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keystore: str
    dataset: str
    subject: str | None
    image: str | None
    owner: str
    made_at: str
    erasures: list[ErasedEntry]
    checkpoint: str


def make_receipt(
    connection: Connection,
    signer: LogSigner,
    keystore_id: str,
    index_key: bytes,
    dataset: str,
    subject: str | None,
    image: str | None,
    now: datetime,
) -> bytes:
    """Return the receipt of all erasures of a subject, or of an image that has none. Raises ErasureError: there was none."""
    if (subject is None) == (image is None):
        raise ErasureError("whom", "say whose receipt it is: a subject's, or an image's that has none")
    owner = owner_tag(index_key, dataset, subject, image or "")
    table = schema.erasures
    lines = connection.execute(
        select(table).where(table.c.dataset == dataset, table.c.owner == owner).order_by(table.c.entry)
    ).all()
    if not lines:
        raise ErasureError(
            "never-erased", "nothing of this name was erased from this data set; check both, or erase it first"
        )
    note = signer.countersign(latest_note(connection))
    checkpoint = open_checkpoint(note, signer.vkey)
    erasures = []
    for line in lines:
        leaf = connection.execute(select(schema.log.c.leaf).where(schema.log.c.seq == line.entry)).scalar_one()
        proof = prove_inclusion(connection, checkpoint, line.entry)
        erasures.append(
            ErasedEntry(
                entry=line.entry, erased_at=line.erased_at, leaf=_text(leaf), proof=[_text(one) for one in proof]
            )
        )
    receipt = ErasureReceipt(
        keystore=keystore_id,
        dataset=dataset,
        subject=subject,
        image=image,
        owner=owner,
        made_at=timestamp(now),
        erasures=erasures,
        checkpoint=note,
    )
    body = receipt.model_dump(mode="json")
    signature = signer.sign_message(_LABEL + canonical_json(body))
    return canonical_json({"receipt": body, "signature": _text(signature)})


def verify_receipt(data: bytes, vkey: str) -> ErasureReceipt:
    """Return a receipt that the keystore of this audit key gave, and whose entries are in its log.

    `vkey` must come from where the keystore's account can not write, as for every verification.
    Raises TamperedError; AuditError: `vkey` is no verifier key.
    """
    if len(data) > MAX_RECEIPT_BYTES:
        raise TamperedError(f"a receipt of more than {MAX_RECEIPT_BYTES} bytes is none of this project's")
    origin, key = parse_verifier_key(vkey)
    try:
        document = json.loads(data)
        key.verify(_bytes(document["signature"]), _LABEL + canonical_json(document["receipt"]))
        receipt = ErasureReceipt.model_validate(document["receipt"])
        if origin_of(receipt.keystore) != origin or not receipt.erasures:
            raise ValueError
        checkpoint = open_checkpoint(receipt.checkpoint, vkey)
        for one in receipt.erasures:
            leaf = _bytes(one.leaf)
            said, line = json.loads(leaf), erasure_digest(receipt.dataset, receipt.owner, one.erased_at)
            if (said["type"], said["seq"], said["erasure"]) != ("erase", one.entry, line):
                raise ValueError
            proof = [_bytes(node) for node in one.proof]
            verify_inclusion(leaf_hash(leaf), one.entry, checkpoint.size, proof, checkpoint.root)
            one.counts()
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        InvalidSignature,
        ProofError,
        AuditError,
    ):
        raise TamperedError(
            "this is no receipt of the keystore whose verifier key was given, or it was altered; ask for it again, or for the "
            "right key"
        ) from None
    return receipt


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
