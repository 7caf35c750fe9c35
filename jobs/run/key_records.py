"""Between the two houses: the algorithm's `PictureKey` and the keystore's `KeyRecord`, in both directions."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from jobs.run.track_names import track_of
from keyanon_core.errors import KeyanonError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.pictures.key import FaceGeometry, PictureKey
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.vault.parts import part_id, whole_id

SIDECAR_DIGEST = "sidecar_sha256"  # in the record's details
PART = "part"  # likewise, where the picture has several records: whom this one's faces are of


def to_key_record(
    key: PictureKey,
    *,
    run_id: str,
    dataset: str,
    subject: str | None = None,
    environment: Mapping[str, str] | None = None,
    created_at: datetime | None = None,
) -> KeyRecord:
    """The record that is sealed for one picture, or for one track in a piece of a clip. environment: device, dtype and library
    versions the picture was made with. Raises ValueError where the key's part is no track."""
    details: dict[str, JsonValue] = {SIDECAR_DIGEST: key.sidecar_sha256}
    return KeyRecord(
        record_id=key.record_id,
        run_id=run_id,
        dataset=dataset,
        image_id=key.image_id if key.part is None else part_id(key.image_id, track_of(key.part)),
        subject=subject,
        source_sha256=key.source_sha256,
        output_sha256=key.output_sha256,
        image_key=key.image_key,
        faces=[_to_face_record(face) for face in key.faces],
        method=key.method,
        transform=key.transform,
        steps=key.steps,
        inversion=key.inversion,
        grid=key.grid,
        payload_share=None if key.payload_share == 1 else key.payload_share,
        fidelity=key.fidelity,
        prior_digest=key.prior_digest,
        environment=dict(environment or {}),
        created_at=created_at or datetime.now(UTC),
        details=details if key.part is None else {**details, PART: key.part},
    )


def to_picture_key(record: KeyRecord) -> PictureKey:
    """Inverse of `to_key_record`.

    Raises:
        KeyanonError: the record lacks a digest or a mask is malformed, so that it was not written by a run of this
        project.
    """
    sidecar_sha256, part = record.details.get(SIDECAR_DIGEST), record.details.get(PART)
    image_id = record.image_id if part is None else whole_id(record.image_id)
    if record.output_sha256 is None or not isinstance(sidecar_sha256, str):
        raise KeyanonError(
            f"key record {record.record_id} lacks the digests of its output; a run of keyanon writes them"
        )
    if image_id is None or not isinstance(part, str | None):
        raise KeyanonError(f"key record {record.record_id} is of a part of an image that its id does not say")
    return PictureKey(
        image_key=record.image_key.get_secret_value(),
        record_id=record.record_id,
        image_id=image_id,
        faces=tuple(_to_geometry(face) for face in record.faces),
        method=record.method,
        transform=record.transform,
        steps=record.steps,
        fidelity=record.fidelity,
        prior_digest=record.prior_digest,
        source_sha256=record.source_sha256,
        output_sha256=record.output_sha256,
        sidecar_sha256=sidecar_sha256,
        part=part,
        **_said(record),
    )


def _said(record: KeyRecord) -> dict[str, Any]:
    """How the faces were made, as far as the record says; PictureKey knows how those of older versions were."""
    said = {name: getattr(record, name) for name in ("inversion", "grid", "payload_share")}
    return {name: value for name, value in said.items() if value is not None}


def _to_face_record(face: FaceGeometry) -> FaceRecord:
    return FaceRecord(
        index=face.index,
        attempt=face.attempt,
        box=face.box,
        affine=face.affine,
        scale=face.scale,
        mask=face.mask.to_bytes(),
        mask_shape=face.mask.bits.shape,
        carrier_key=face.carrier_key,
    )


def _to_geometry(face: FaceRecord) -> FaceGeometry:
    carrier_key = None if face.carrier_key is None else face.carrier_key.get_secret_value()
    mask = PictureMask.from_bytes(face.mask)
    return FaceGeometry(face.index, face.attempt, face.box, face.affine, face.scale, mask, carrier_key)
