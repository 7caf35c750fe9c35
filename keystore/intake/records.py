"""The key record: what recovery needs to know about one image. It crosses from the workers to the keystore, and back once.

The record holds a secret (`image_key`), so it can not reach a log, a JSON dump or a pickle by accident: its repr and
`model_dump_json` show asterisks, pickling (which is how Ray moves values) raises, and the one way to its bytes is
`canonical_bytes`.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, NoReturn, Self
from uuid import uuid4

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretBytes,
    Strict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json, to_jsonable_python

from keystore.crypto.canonical import are_plain, canonical_json, canonical_sorted
from keystore.errors import InvalidRecordError

RECORD_VERSION = 3  # of a record that says a payload share; all others are of version 2
RECORD_VERSION_WITHOUT_CARRIERS = 2
OLD_RECORD_VERSION = 1  # had neither `inversion` nor `grid`; such records are still read, stored and released
IMAGE_KEY_BYTES = 32
CARRIER_KEY_BYTES = 32
MAX_NAME_CHARACTERS = 1024  # of an image id, data set or subject
MAX_GRID = 1001  # timesteps that one face may have walked
MAX_CANONICAL_BYTES = 64 * 1024 * 1024  # of one record; masks of a 100-megapixel photograph compress far below it

_SAID_SINCE_2 = ("inversion", "grid")
_SAID_SINCE_3 = ("payload_share",)
_OF_A_FACE_SINCE_3 = ("carrier_key",)

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARACTERS)]
# UUID version 4 (RFC 9562 section 5.4), lowercase with hyphens
RecordId = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
CarrierKey = Annotated[SecretBytes, Strict(), Field(min_length=CARRIER_KEY_BYTES, max_length=CARRIER_KEY_BYTES)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


def new_record_id() -> str:
    """Return a fresh random record id (UUID version 4, lowercase with hyphens)."""
    return str(uuid4())


class FaceRecord(BaseModel):
    """One anonymized face of an image. Coordinates are picture pixels; `mask` is opaque to the keystore (jobs
    choose its encoding). `carrier_key` is the secret of what the face rides on, where it does (version 3)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )

    index: int = Field(ge=0)
    attempt: int = Field(ge=0)
    box: tuple[float, float, float, float]
    affine: tuple[float, float, float, float, float, float]
    scale: float
    # Strict: pydantic would take a str as its UTF-8 bytes, and a forgotten base64 decoding must fail here, not at recovery.
    mask: bytes = Field(repr=False, strict=True)
    mask_shape: tuple[int, ...]
    carrier_key: CarrierKey | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict)

    def canonical(self, version: int) -> dict[str, Any]:
        """Return what canonical JSON is made of, in its order, *with the carrier's key in clear*."""
        fields = vars(self)
        document = {name: fields[name] for name in _FACE_FIELDS_OF_VERSION[version]} | {"mask": _base64(self.mask)}
        if self.carrier_key is not None:
            document["carrier_key"] = _base64(self.carrier_key.get_secret_value())
        return document

    def is_plain(self) -> bool:
        """Return whether `canonical_sorted` may write it."""
        return not self.details and are_plain((*self.box, *self.affine, self.scale))


def _version_of_what_is_said(said: dict[str, Any]) -> int:
    for version, names in ((RECORD_VERSION, _SAID_SINCE_3), (RECORD_VERSION_WITHOUT_CARRIERS, _SAID_SINCE_2)):
        if any(said.get(name) is not None for name in names):
            return version
    return OLD_RECORD_VERSION


class KeyRecord(BaseModel):
    """The key record of one image. Field names are those of the design; `details` is for facts added later.

    Version 2 says with `inversion` and `grid` (the timesteps walked) how the faces were made; a reader that knows version 1 alone
    refuses it. A record that says neither is of version 1: its faces were inverted before the transform, on the prior's own grid.
    Version 3 says with `payload_share` that a face rides on a carrier, whose key is the face's; a reader of version 2 refuses it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, val_json_bytes="base64"
    )

    record_id: RecordId = Field(default_factory=new_record_id)
    run_id: RunId
    dataset: Name
    image_id: Name
    subject: Name | None = None
    source_sha256: Sha256Hex
    output_sha256: Sha256Hex | None = None
    image_key: Annotated[SecretBytes, Strict()]  # of bytes, and no str; in JSON base64
    faces: list[FaceRecord]
    method: Name
    transform: Name
    steps: int = Field(ge=1)
    inversion: Name | None = None
    grid: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, max_length=MAX_GRID)
    payload_share: float | None = Field(default=None, gt=0, lt=1)
    fidelity: Name
    prior_digest: Name
    environment: dict[str, str] = Field(default_factory=dict)
    created_at: AwareDatetime
    details: dict[str, JsonValue] = Field(default_factory=dict)
    version: int = Field(default_factory=_version_of_what_is_said, ge=OLD_RECORD_VERSION, le=RECORD_VERSION)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.image_key.get_secret_value()) != IMAGE_KEY_BYTES:
            raise ValueError(f"image_key must be {IMAGE_KEY_BYTES} bytes")
        said = [self.inversion is not None, self.grid is not None]
        if any(said) if self.version == OLD_RECORD_VERSION else not all(said):
            raise ValueError("a record has inversion and grid from version 2 on, and neither before")
        if self.grid is not None and len(self.grid) != self.steps + 1:
            raise ValueError("grid has one timestep more than steps")
        carried = any(face.carrier_key is not None for face in self.faces)
        if {carried, self.payload_share is not None} != {self.version == RECORD_VERSION}:
            raise ValueError(
                "a record of version 3 has a payload_share and a face with a carrier_key, and no older one has either"
            )
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a KeyRecord is never pickled, since it holds an image key; seal it with keystore.intake.sealing.seal_record"
        )

    def canonical_bytes(self) -> bytes:
        """Return the record as canonical JSON *with the image key in clear* (base64). Only for sealing and for use
        after release."""
        fields = vars(self)
        document = {name: fields[name] for name in _FIELDS_OF_VERSION[self.version]}
        document["image_key"] = _base64(self.image_key.get_secret_value())
        document["environment"] = dict(sorted(self.environment.items()))
        document["details"] = dict(sorted(self.details.items()))
        document["faces"] = [face.canonical(self.version) for face in self.faces]
        plain = all(type(one) is str for one in self.details.values()) and all(face.is_plain() for face in self.faces)
        plain = plain and are_plain([self.payload_share or 0.0])
        return canonical_sorted(document) if plain else canonical_json(to_jsonable_python(document))

    @classmethod
    def from_canonical_bytes(cls, data: bytes) -> Self:
        """Inverse of `canonical_bytes`. Raises InvalidRecordError; its message names fields, never values."""
        if len(data) > MAX_CANONICAL_BYTES:
            raise InvalidRecordError(f"a key record has {len(data)} bytes, more than the {MAX_CANONICAL_BYTES} allowed")
        try:
            if b"NaN" in data or b"Infinity" in data:  # which `details` would take
                from_json(data, allow_inf_nan=False)
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['type']}" for item in error.errors(include_input=False)
            )
            # `from None`: pydantic's own message quotes input values, which may be the key.
            raise InvalidRecordError(f"a key record is malformed ({problems})") from None
        except (ValueError, RecursionError):
            raise InvalidRecordError("a key record is not the JSON object that its version describes") from None


def _without(model: type[BaseModel], *names: str) -> tuple[str, ...]:
    return tuple(sorted(set(model.model_fields) - set(names)))


_FIELDS_OF_VERSION = {
    OLD_RECORD_VERSION: _without(KeyRecord, *_SAID_SINCE_2, *_SAID_SINCE_3),
    RECORD_VERSION_WITHOUT_CARRIERS: _without(KeyRecord, *_SAID_SINCE_3),
    RECORD_VERSION: _without(KeyRecord),
}
_FACE_FIELDS_OF_VERSION = {
    OLD_RECORD_VERSION: _without(FaceRecord, *_OF_A_FACE_SINCE_3),
    RECORD_VERSION_WITHOUT_CARRIERS: _without(FaceRecord, *_OF_A_FACE_SINCE_3),
    RECORD_VERSION: _without(FaceRecord),
}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
