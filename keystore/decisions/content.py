"""What a request asks for: its images and words, or a change (changes.py), and the digest of all of it, which approvers sign.

The digest is over a salt too, so that it can be in the log for good without giving the words away. A change is in the log in
clear, so its request has no salt, and who has the log computes the digest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from keystore.crypto.canonical import canonical_json, sha256_hex, timestamp
from keystore.decisions.views import RequestView
from keystore.errors import RecordNotFound
from keystore.storage import schema
from keystore.storage.bulk import rows_with
from keystore.vault.catalogue import named, parts_of
from keystore.vault.records import ImageRow


@dataclass(frozen=True)
class Words:
    """What a requester writes."""

    case: str = field(repr=False)
    purpose: str = field(repr=False)
    legal_basis: str = field(repr=False)


def request_digest(keystore_id: str, row: dict[str, object], images: Sequence[ImageRow]) -> str:
    """Return the digest that approvers sign: SHA-256 of the canonical content of a request, from its row and images."""
    names = (
        "request_id",
        "revision",
        "requester",
        "case_reference",
        "purpose",
        "legal_basis",
        "created_at",
        "expires_at",
        "salt",
    )
    content = {name: row[name] for name in (*names, "policy_digest", "approvals_required")}
    if row.get("change") is not None:
        content["change"] = change_of(row["change"])
    chosen = [{"record_id": record, "dataset": dataset, "image_id": image} for record, dataset, image in sorted(images)]
    return sha256_hex(
        canonical_json({**content, "images": chosen, "keystore": keystore_id, "type": "keyanon request v1"})
    )


def change_of(document: Any) -> dict[str, Any] | None:
    """Return the change of a request's row, None where it asks for keys. Raises ValueError: it is none."""
    change: dict[str, Any] | None = None if document is None else json.loads(document)
    return change


def images_of(connection: Connection, request_id: str) -> list[ImageRow]:
    """Return the images of a request, sorted by record id."""
    return images_of_each(connection, [request_id])[request_id]


def images_of_each(connection: Connection, requests: Sequence[str]) -> dict[str, list[ImageRow]]:
    """Return the images of some requests, by their ids, each sorted by record id."""
    table, found = schema.request_images, {one: list[ImageRow]() for one in requests}
    for row in rows_with(connection, select(table).order_by(table.c.record_id), table.c.request_id, requests):
        found[row.request_id].append((row.record_id, row.dataset, row.image_id))
    return found


def find_images(
    connection: Connection, wanted: Sequence[str], dataset: str | None, run_id: str | None
) -> list[ImageRow]:
    """Return the records that image ids (or record ids) name; the id of an image whose parts have records names all of these.
    Raises RecordNotFound when one is unknown or names several."""
    found: dict[str, ImageRow] = {}
    whole = named(connection, wanted, dataset, run_id)
    divided = parts_of(connection, [one for one in wanted if one not in whole], dataset, run_id)
    for one in wanted:
        rows, parts = whole.get(one, []), divided.get(one, [])
        if not rows and not parts:
            raise RecordNotFound(
                "unknown-record",
                f"no key record is stored for image {one!r}; check the id and whether its run was ingested (an image whose key "
                "was discarded has no record and can not be restored)",
            )
        if len(rows) > 1 or not _are_of_one_image(parts):
            several = [*rows, *parts]
            choices = ", ".join(
                f"{row.record_id} (data set {row.dataset!r}, run {row.run_id!r})" for row in several[:5]
            )
            raise RecordNotFound(
                "ambiguous-record",
                f"image {one!r} has {len(several)} key records; name one by its record id: {choices}",
            )
        found |= {row.record_id: (row.record_id, row.dataset, row.image_id) for row in (*rows, *parts)}
    return list(found.values())


def _are_of_one_image(parts: Sequence[Row[Any]]) -> bool:
    """Whether records are of the parts of one image, in one run, and no two of the same part."""
    return len({(row.dataset, row.run_id) for row in parts}) < 2 and len({row.image_id for row in parts}) == len(parts)


def shown_digest(view: RequestView) -> str:
    """Return the digest of a request as it is shown: whoever signs this one signs what they saw, whatever digest came with it."""
    row: dict[str, object] = {
        "request_id": view.request_id,
        "revision": view.revision,
        "requester": view.requester_id,
        "case_reference": view.case,
        "purpose": view.purpose,
        "legal_basis": view.legal_basis,
        "created_at": timestamp(view.created_at),
        "expires_at": timestamp(view.expires_at),
        "salt": view.salt,
        "policy_digest": view.policy_digest,
        "approvals_required": view.approvals_required,
        "change": None if view.change is None else canonical_json(view.change),
    }
    return request_digest(view.keystore, row, [(one.record_id, one.dataset, one.image_id) for one in view.images])
