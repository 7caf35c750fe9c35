"""A trial's practice face as a picture of its own with sidecar and key: what recovery takes, for attacks on recovery."""

import hashlib
from dataclasses import dataclass, field

from keyanon_core.evaluation.trial import Trial, pictures_of
from keyanon_core.faces.masks import PictureMask
from keyanon_core.imaging import encode_picture
from keyanon_core.keys import commitment
from keyanon_core.pictures.crops import scaling
from keyanon_core.pictures.key import FaceGeometry, PictureKey
from keyanon_core.pictures.stored import packed
from keyanon_core.sidecar import Sidecar, SidecarFace, encode_surroundings


@dataclass(frozen=True)
class PublishedCrop:
    """encoded: PNG of the anonymized crop."""

    encoded: bytes = field(repr=False)
    sidecar: Sidecar
    key: PictureKey


def publish_crop(trial: Trial, at: int) -> PublishedCrop:
    """Face number `at` of the practice."""
    practice, mask, side = trial.practice, trial.masks[at], trial.prior.side
    image_id, record_id = f"{at}.png", f"record {at}"
    encoded = encode_picture(pictures_of(practice.seen.crops[at : at + 1])[0], "png")
    face = SidecarFace(
        commitment(practice.keys[at], image_id),
        surroundings=encode_surroundings(trial.sources[at], mask),
        codes=packed(trial.prior, practice.seen.latent[at], mask, trial.levels),
    )
    sidecar = Sidecar(record_id, image_id, "latent", trial.prior.digest, (side, side), trial.levels, (face,))
    a, b, c, d, e, f = scaling(side, side).ravel().tolist()
    box = (0.0, 0.0, float(side), float(side))
    geometry = FaceGeometry(0, 0, box, (a, b, c, d, e, f), float(practice.scale[at]), PictureMask.from_full(mask))
    procedure = trial.procedure
    key = PictureKey(
        practice.image_keys[at],
        record_id,
        image_id,
        (geometry,),
        procedure.method,
        procedure.transform,
        procedure.steps,
        "latent",
        trial.prior.digest,
        hashlib.sha256(trial.sources[at].tobytes()).hexdigest(),
        hashlib.sha256(encoded).hexdigest(),
        hashlib.sha256(sidecar.to_bytes()).hexdigest(),
        procedure.inversion,
        trial.prior.grid(procedure),
    )
    return PublishedCrop(encoded, sidecar, key)
