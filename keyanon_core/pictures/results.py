"""What becomes of one picture: what is published of it, and its keys."""

import hashlib
from dataclasses import replace

import numpy as np

from keyanon_core.keys import commitment, source_hmac
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.pictures.stored import packed
from keyanon_core.priors import Prior
from keyanon_core.sidecar import MAX_FACES, Sidecar, SidecarFace, seal_source


def quarantined(task: PictureTask, reason: str, faces: int = 0) -> PictureResult:
    """Nothing is published of it. faces: how many were found."""
    return PictureResult(task.image_id, "quarantined", reason, faces=faces)


def without_faces(task: PictureTask, picture: OpenedPicture | None, *, passes: bool) -> PictureResult:
    """A picture with nothing to anonymize.

    picture: None when it was not searched again, and is not published. passes: whether one without faces is to be published.
    """
    if picture is not None and picture.kept:
        reason = "kept: every face that was found is to be left alone; the picture is published, re-encoded"
        kept = len(picture.kept)
        return PictureResult(task.image_id, "no_face", reason, picture.encoded, kept=kept)
    return PictureResult(
        task.image_id,
        "no_face",
        "no_face: no face was found; such a picture is published, re-encoded, only with --no-face pass",
        encoded=picture.encoded if picture is not None and passes else None,
    )


def anonymized(picture: OpenedPicture, prior: Prior, settings: AnonymizeSettings, levels: int) -> PictureResult:
    """A picture all of whose faces are done: its file and, unless it is permanent, its sidecar and keys.

    levels: that the sidecar's latents are stored in.
    """
    task = picture.task
    if len(picture.faces) > MAX_FACES:
        reason = f"too_many_faces: {len(picture.faces)}, more than the {MAX_FACES} that a sidecar holds"
        return quarantined(task, reason, faces=len(picture.faces))
    done = PictureResult(
        task.image_id,
        "anonymized",
        encoded=picture.encoded,
        faces=len(picture.faces),
        kept=len(picture.kept),
        metrics=_metrics(picture),
    )
    if task.permanent:  # its key ends here, with the opened picture
        return done
    keys = [face.key(settings.transform) for face in picture.faces]
    sidecar = Sidecar(
        record_id=picture.faces[0].part.record_id,
        image_id=task.image_id,
        fidelity=picture.fidelity,
        prior_digest=prior.digest,
        shape=picture.source.shape[:2],
        levels=levels,
        faces=tuple(_sidecar_face(face, key, prior, levels) for face, key in zip(picture.faces, keys, strict=True)),
    ).to_bytes()
    key, *others = _keys(picture, sidecar, prior, settings)
    named = source_hmac(key.image_key, task.encoded)
    return replace(done, sidecar=sidecar, key=key, further_keys=tuple(others), source_hmac=named)


def _keys(picture: OpenedPicture, sidecar: bytes, prior: Prior, settings: AnonymizeSettings) -> list[PictureKey]:
    """Of each of its parts one, that of the first face before the others."""
    digests = [hashlib.sha256(one).hexdigest() for one in (picture.task.encoded, picture.encoded, sidecar)]
    parts: dict[str | None, list[FaceAtWork]] = {}
    for face in picture.faces:
        parts.setdefault(picture.task.part_of(face.index), []).append(face)
    return [
        PictureKey(
            image_key=picture.parts[name].image_key,
            record_id=picture.parts[name].record_id,
            image_id=picture.task.image_id,
            faces=tuple(face.geometry() for face in faces),
            method=settings.method,
            transform=settings.transform,
            steps=settings.steps,
            fidelity=picture.fidelity,
            prior_digest=prior.digest,
            source_sha256=digests[0],
            output_sha256=digests[1],
            sidecar_sha256=digests[2],
            inversion=settings.inversion,
            grid=prior.grid(settings.procedure),
            payload_share=settings.payload_share if any(face.pseudonym for face in faces) else 1.0,
            part=name,
        )
        for name, faces in parts.items()
    ]


def _sidecar_face(face: FaceAtWork, key: bytes, prior: Prior, levels: int) -> SidecarFace:
    picture = face.picture
    committed = SidecarFace(commitment(key, picture.task.image_id))
    if picture.alone or face.latent is None:
        return committed
    codes = packed(prior, face.latent, face.crop.mask, levels)
    source = None
    if picture.fidelity == "lossless":
        source = seal_source(picture.source, face.restored, key, face.part.record_id, face.index)
    return replace(committed, surroundings=face.surroundings, codes=codes, source=source)


def _metrics(picture: OpenedPicture) -> dict[str, float]:
    faces = [face for face in picture.faces if not face.is_painted]
    if not faces:
        return {}
    return {
        "attempts": float(sum(face.attempt + 1 for face in faces)),
        "min_distance": min(face.distance for face in faces),
        "mean_noise_rms": float(np.mean([face.noise_rms for face in faces])),
        "max_enlargement": max(1.0 / float(np.linalg.norm(face.affine[0, :2])) for face in faces),
    }
