"""What was stored before records said how they were made is restored as it was made; what is stored now says it.

`record_of_version_1` holds what the last version that wrote such records made of one photograph, at its defaults: method exact,
rotation, 12 steps there and back, under an image key that anybody can make (`IMAGE_KEY`), so that no key need be stored.
`record_of_paper_before` holds what the last version whose method `paper` was not its authors' made of the same, without the
picture, of which recovery needs the size alone.
"""

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from jobs.demo.photographs import ASTRONAUT, packaged_picture
from jobs.run.key_records import to_key_record, to_picture_key
from keyanon_core.errors import KeyanonError
from keyanon_core.evaluation import psnr
from keyanon_core.pictures.crops import cut_crop
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from keystore.crypto.canonical import canonical_json
from keystore.crypto.hybrid import HybridPrivateKey
from keystore.errors import InvalidRecordError
from keystore.intake.records import KeyRecord
from keystore.intake.sealing import open_record, seal_record

STORED = Path(__file__).parent / "record_of_version_1"
IMAGE_KEY = hashlib.sha256(b"keyanon: the image key of the stored record of version 1").digest()
PAPER = Path(__file__).parent / "record_of_paper_before"
KEY_OF_PAPER = hashlib.sha256(
    b"keyanon: the image key of the stored record of method paper, before it was its authors'"
).digest()
CUT = (slice(40, 184), slice(150, 300))  # of the packaged photograph: its source


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior("embedded")


def old_document() -> dict[str, Any]:
    """The record's JSON, with its key."""
    document: dict[str, Any] = json.loads((STORED / "record.json").read_bytes())
    return {**document, "image_key": base64.b64encode(IMAGE_KEY).decode()}


def old_bytes() -> bytes:
    """The record as it was stored."""
    return canonical_json(old_document())


def old_record() -> KeyRecord:
    return KeyRecord.from_canonical_bytes(old_bytes())


def test_a_record_of_version_1_is_recovered_as_it_was_made(prior: Prior) -> None:
    key = to_picture_key(old_record())
    assert (key.inversion, key.steps, key.grid) == ("ddim", 12, ())
    encoded, sidecar = ((STORED / name).read_bytes() for name in ("astronaut.png", "astronaut.png.keyanon"))
    back = PictureRecoverer(prior).recover(encoded, sidecar, key)
    assert back.picture_intact and back.sidecar_intact
    assert [step.phase for step in back.solver] == ["phi"] * 12 + ["psi"] * 12
    assert came_back_at(back, key, prior) > 65


def came_back_at(back: RecoveredPicture, key: PictureKey, prior: Prior) -> float:
    """dB of the recovered face against the source's."""
    source = np.asarray(Image.open(packaged_picture(ASTRONAUT)).convert("RGB"))[CUT]
    (face,) = key.faces
    cut = cut_crop(source, np.reshape(face.affine, (2, 3)), face.mask, [], prior.side)
    return float(psnr(back.crops, cut.values[None], cut.mask[None])[0])


@pytest.mark.parametrize("version", [1, 2])
def test_a_face_of_method_paper_before_it_was_its_authors_is_recovered_as_it_was_made(
    prior: Prior, version: int
) -> None:
    document = json.loads((PAPER / "record.json").read_bytes())
    document["image_key"] = base64.b64encode(KEY_OF_PAPER).decode()
    if version == 1:  # whose grid was the prior's own, as here, and not said
        document = {name: value for name, value in document.items() if name not in ("grid", "inversion")} | {
            "version": 1
        }
    key = to_picture_key(KeyRecord.from_canonical_bytes(canonical_json(document)))
    assert (key.method, key.procedure.method, key.steps) == ("paper", "paper-inpaint", 12)
    picture, sidecar = (STORED / "astronaut.png").read_bytes(), (PAPER / "astronaut.png.keyanon").read_bytes()
    back = PictureRecoverer(prior).recover(picture, sidecar, key)
    assert back.nfe == 24
    assert came_back_at(back, key, prior) == pytest.approx(26.729, abs=0.01)  # as by the version that made it


def test_what_the_papers_method_made_is_told_by_the_grid_of_its_record() -> None:
    grid = (0, 0, 333, 666)
    made = {**vars(to_picture_key(old_record())), "method": "paper", "transform": "sign", "steps": 3, "grid": grid}
    record = to_key_record(PictureKey(**made), run_id="run-1", dataset="photos")
    again = to_picture_key(KeyRecord.from_canonical_bytes(record.canonical_bytes()))
    assert again.procedure == Procedure("paper", "sign", "ddim", 3, grid)


def test_a_record_of_version_1_is_sealed_and_stored_to_the_byte_as_it_was() -> None:
    stored = old_bytes()
    record = old_record()
    assert (record.version, record.inversion, record.grid) == (1, None, None)
    assert record.canonical_bytes() == stored
    key = HybridPrivateKey.generate()
    assert open_record(seal_record(record, key.public_bytes), key).canonical_bytes() == stored


def test_a_record_says_how_its_faces_were_made_and_comes_back_with_it() -> None:
    old = to_picture_key(old_record())
    made = {**vars(old), "inversion": "none", "steps": 2, "grid": (1, 300, 949)}
    record = to_key_record(type(old)(**made), run_id="run-1", dataset="photos")
    assert (record.version, record.inversion, record.grid) == (2, "none", (1, 300, 949))
    again = KeyRecord.from_canonical_bytes(record.canonical_bytes())
    assert vars(to_picture_key(again)) == made


def test_a_record_of_a_face_on_a_carrier_brings_its_key_and_its_share_back() -> None:
    old = to_picture_key(old_record())
    faces = (replace(old.faces[0], carrier_key=b"c" * 32), *old.faces[1:])
    made = {**vars(old), "inversion": "none", "steps": 2, "grid": (1, 300, 949), "faces": faces, "payload_share": 0.2}
    record = to_key_record(type(old)(**made), run_id="run-1", dataset="photos")
    assert (record.version, record.payload_share) == (3, 0.2)
    assert vars(to_picture_key(KeyRecord.from_canonical_bytes(record.canonical_bytes()))) == made


def recent_key(**changes: object) -> dict[str, Any]:
    """The fields of a key as it is made now."""
    made = {**vars(to_picture_key(old_record())), "inversion": "none", "steps": 2, "grid": (1, 300, 949)}
    return {**made, **changes}


@pytest.mark.parametrize(("part", "said"), [("track 12 of clip a\nb.mp4 00ff", "12"), ("", "none")])
def test_a_record_of_one_track_says_of_whom_it_is_and_comes_back_with_it(part: str, said: str) -> None:
    made = recent_key(part=part)
    record = to_key_record(PictureKey(**made), run_id="run-1", dataset="photos")
    assert record.image_id == f"{made['image_id']}#track-{said}"
    assert vars(to_picture_key(KeyRecord.from_canonical_bytes(record.canonical_bytes()))) == made


def test_a_picture_that_is_called_like_a_part_is_none() -> None:
    made = recent_key(image_id="photos.parquet#track-1")
    record = to_key_record(PictureKey(**made), run_id="run-1", dataset="photos")
    assert record.image_id == "photos.parquet#track-1" and list(record.details) == ["sidecar_sha256"]
    assert vars(to_picture_key(record)) == made


def test_a_record_of_a_part_that_its_id_does_not_say_is_refused() -> None:
    record = to_key_record(PictureKey(**recent_key(part="")), run_id="run-1", dataset="photos")
    for changes in ({"image_id": "a.mp4/000000000.mp4"}, {"details": {**record.details, "part": 3}}):
        with pytest.raises(KeyanonError, match="is of a part of an image that its id does not say"):
            to_picture_key(record.model_copy(update=changes))
    with pytest.raises(ValueError, match="no track"):
        to_key_record(replace(to_picture_key(record), part="somebody"), run_id="run-1", dataset="photos")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1, "inversion": "none"},
        {"version": 1, "grid": [1, 949]},
        {"version": 2, "inversion": "none"},
        {"version": 2, "grid": [1] * 13},
        {"version": 2, "inversion": "none", "grid": [1, 949]},
        {"version": 3, "inversion": "none", "grid": [1] * 13},
        {"version": 2, "inversion": "none", "grid": [-1] * 13},
    ],
)
def test_a_record_that_says_half_of_it_or_what_its_version_does_not_know_is_refused(change: dict[str, object]) -> None:
    document = old_document()
    with pytest.raises(InvalidRecordError):
        KeyRecord.from_canonical_bytes(json.dumps({**document, **change}).encode())


def test_a_record_can_not_claim_version_1_and_say_more() -> None:
    values = old_record().model_dump(exclude={"inversion", "grid"})
    with pytest.raises(ValidationError, match="neither before"):
        KeyRecord(**values, inversion="none", grid=(1, 949))
