"""Anonymizes the faces of several pictures together.

Faces are gathered across the pictures and go through the prior in a fixed physical batch; those that the anonymity gate turns
back go again together, under their next attempt's keys. One bad picture costs nobody else's work.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import KeyanonError, PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import BACK_PROJECTIONS, paste, reduction
from keyanon_core.faces.blending import feather
from keyanon_core.faces.detection import Face, box_iou, landmarks_inside
from keyanon_core.faces.masks import PictureMask
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.keys import commitment, face_key, new_image_key
from keyanon_core.methods import anonymize
from keyanon_core.pictures.crops import Crop, align_faces
from keyanon_core.pictures.key import FaceGeometry, PictureKey
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, SidecarFace, seal_source

RIM = 2.0  # crop px of a face's rim that are blended with its surroundings
MAX_GATHERED_PIXELS = 128_000_000  # decoded pixels held at once: 3 bytes each for the source, 3 for the result


@dataclass
class _Face:
    """One face on its way through the prior."""

    detected: Face
    index: int
    affine: npt.NDArray[np.float64]
    mask: PictureMask
    crop: Crop
    picture: "_Picture"
    attempt: int = 0
    latent: npt.NDArray[np.float16] | None = None
    scale: float = 1.0
    noise_rms: float = 0.0
    noise: torch.Tensor | None = field(default=None, repr=False)  # serves the next attempt
    distance: float = float("nan")
    source_embedding: npt.NDArray[np.float32] | None = None

    def key(self, transform: str) -> bytes:
        return face_key(self.picture.image_key, self.index, self.attempt, transform)


@dataclass
class _Picture:
    """One decoded picture: its source stays untouched, its result is pasted face by face."""

    task: PictureTask
    source: npt.NDArray[np.uint8]
    result: npt.NDArray[np.uint8]
    image_key: bytes = field(default_factory=new_image_key, repr=False)
    record_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    faces: list[_Face] = field(default_factory=list)
    failure: str = ""


class PictureAnonymizer:
    """Holds a prior and the face models; call it with a list of pictures, get one result for each, in order."""

    def __init__(self, prior: Prior, models: FaceModels, settings: AnonymizeSettings) -> None:
        self.prior, self.models, self.settings = prior, models, settings
        recognizer = models.recognizer
        self.gate_threshold = recognizer.threshold if settings.gate_threshold is None else settings.gate_threshold

    def __call__(self, tasks: Sequence[PictureTask]) -> list[PictureResult]:
        """Anonymize. Never raises for one picture's sake: that picture's result is `quarantined` with a reason."""
        results: dict[int, PictureResult] = {}
        for group in self._groups(tasks, results):
            self._run([face for _, picture in group for face in picture.faces])
            for position, picture in group:
                results[position] = self._finish(picture)
        return [results[position] for position in range(len(tasks))]

    def _groups(
        self, tasks: Sequence[PictureTask], results: dict[int, PictureResult]
    ) -> Iterator[list[tuple[int, _Picture]]]:
        """Open pictures until MAX_GATHERED_PIXELS are held; pictures that end here go straight to `results`."""
        group: list[tuple[int, _Picture]] = []
        held = 0
        for position, task in enumerate(tasks):
            opened = self._open(task)
            if isinstance(opened, PictureResult):
                results[position] = opened
                continue
            group.append((position, opened))
            held += opened.source.shape[0] * opened.source.shape[1]
            if held >= MAX_GATHERED_PIXELS:
                yield group
                group, held = [], 0
        if group:
            yield group

    def _open(self, task: PictureTask) -> _Picture | PictureResult:
        """Decode, detect, mask and cut the crops of one picture."""
        try:
            source = decode_picture(task.encoded, self.settings.max_pixels)
            detected = self.models.detector.detect(source) if task.faces is None else task.faces
            if not detected:
                return self._no_face(task, source)
            picture = _Picture(task, source, source.copy())
            regions = self.settings.regions
            for index, face in enumerate(align_faces(source, detected, self.models.parser, regions, self.prior)):
                if not face.crop.mask.any():
                    raise PictureError(
                        "empty_mask", f"face {index} at {_at(face.detected)} has no pixel of its own to anonymize"
                    )
                picture.faces.append(_Face(face.detected, index, face.affine, face.mask, face.crop, picture))
            return picture
        except PictureError as error:
            return _quarantined(task, f"{error.reason}: {error}")
        except KeyanonError as error:
            return _quarantined(task, f"unusable: {error}")

    def _no_face(self, task: PictureTask, source: npt.NDArray[np.uint8]) -> PictureResult:
        passes = self.settings.no_face == "pass"
        return PictureResult(
            task.image_id,
            "no_face",
            "no_face: no face was found; such a picture is published, re-encoded, only with --no-face pass",
            encoded=self._encode(source) if passes else None,
            source_sha256=hashlib.sha256(task.encoded).hexdigest(),
        )

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        return encode_picture(pixels, self.settings.output_format, self.settings.jpeg_quality)

    def _run(self, faces: list[_Face]) -> None:
        """Take all faces through the prior and the gate, `face_batch` at a time."""
        while faces:
            turned_back: list[_Face] = []
            for start in range(0, len(faces), self.settings.face_batch):
                batch = faces[start : start + self.settings.face_batch]
                self._anonymize(batch)
                self._measure_distances([face for face in batch if not face.picture.failure])
                turned_back += [face for face in batch if self._goes_again(face)]
            faces = turned_back

    def _goes_again(self, face: _Face) -> bool:
        """The gate: True for a face that is turned back and has another attempt, which this begins."""
        if not face.picture.failure and face.distance < self.gate_threshold:
            if face.attempt + 1 < self.settings.max_attempts:
                face.attempt += 1
                return True
            face.picture.failure = (
                f"still_recognizable: face {face.index} at {_at(face.detected)} stayed at distance "
                f"{face.distance:.3f} (gate {self.gate_threshold:.3f}) after {self.settings.max_attempts} keys"
            )
        face.noise = None
        return False

    def _anonymize(self, batch: list[_Face]) -> None:
        """One pass of a batch: encode with the faces blanked, transform under the key, paste."""
        crops = torch.from_numpy(np.stack([face.crop.values for face in batch]))
        masked = torch.from_numpy(np.stack([face.crop.mask for face in batch]))[:, None]
        mask = self.prior.latent_mask(masked)
        known = _as_stored(self.prior.encode(crops.masked_fill(masked, 0.0))) * (1 - mask)
        done = anonymize(
            self.prior,
            self.prior.encode(crops),
            known,
            mask,
            [face.key(self.settings.transform) for face in batch],
            method=self.settings.method,
            transform=self.settings.transform,
            steps=self.settings.steps,
            noise=_stacked([face.noise for face in batch]),
        )
        latent = _as_stored(done.latent)
        # Recovery from the picture alone needs the latent in it; where the sidecar holds the latent, the picture need not
        # show the noise that the clean end of the grid leaves in it.
        shown = latent if self.settings.fidelity == "image" else done.clean
        decoded = self.prior.decode(shown).clamp(-1, 1).cpu().numpy()
        for position, face in enumerate(batch):
            if not np.isfinite(decoded[position]).all() or not torch.isfinite(latent[position]).all():
                face.picture.failure = f"not_finite: the prior's result for face {face.index} is not a number"
                continue
            face.latent = latent[position].cpu().numpy().astype(np.float16)
            face.noise = None if done.noise is None else done.noise[position].clone()
            face.scale, face.noise_rms = float(done.scale[position]), float(done.noise_rms[position])
            _paste_face(face, decoded[position], exactly=self.settings.fidelity == "image")

    def _measure_distances(self, faces: list[_Face]) -> None:
        """How far the recognizer sees each result from its source; a face below the gate's threshold is the same person."""
        recognizer = self.models.recognizer
        fresh = [face for face in faces if face.source_embedding is None]
        views = [(face.picture.source, face.detected) for face in fresh]
        embeddings = recognizer.embed(views + [(face.picture.result, face.detected) for face in faces])
        for face, embedding in zip(fresh, embeddings, strict=False):
            face.source_embedding = embedding
        for face, after in zip(faces, embeddings[len(fresh) :], strict=True):
            if face.source_embedding is not None:
                face.distance = recognizer.distance(face.source_embedding, after)

    def _finish(self, picture: _Picture) -> PictureResult:
        """Second detection pass, then encode picture and sidecar and assemble the key."""
        task, settings = picture.task, self.settings
        if not picture.failure:
            picture.failure = self._unanonymized(picture)
        if picture.failure:
            return _quarantined(task, picture.failure, faces=len(picture.faces))
        encoded = self._encode(picture.result)
        keys = [face.key(settings.transform) for face in picture.faces]
        sidecar = Sidecar(
            record_id=picture.record_id,
            image_id=task.image_id,
            fidelity=settings.fidelity,
            prior_digest=self.prior.digest,
            shape=picture.source.shape[:2],
            faces=tuple(self._sidecar_face(face, key) for face, key in zip(picture.faces, keys, strict=True)),
        ).to_bytes()
        source_sha256 = hashlib.sha256(task.encoded).hexdigest()
        return PictureResult(
            task.image_id,
            "anonymized",
            encoded=encoded,
            sidecar=sidecar,
            key=PictureKey(
                image_key=picture.image_key,
                record_id=picture.record_id,
                image_id=task.image_id,
                faces=tuple(_geometry(face) for face in picture.faces),
                method=settings.method,
                transform=settings.transform,
                steps=settings.steps,
                fidelity=settings.fidelity,
                prior_digest=self.prior.digest,
                source_sha256=source_sha256,
                output_sha256=hashlib.sha256(encoded).hexdigest(),
                sidecar_sha256=hashlib.sha256(sidecar).hexdigest(),
            ),
            source_sha256=source_sha256,
            faces=len(picture.faces),
            metrics=_metrics(picture),
        )

    def _sidecar_face(self, face: _Face, key: bytes) -> SidecarFace:
        picture, fidelity = face.picture, self.settings.fidelity
        return SidecarFace(
            commitment=commitment(key, picture.task.image_id),
            latent=face.latent if fidelity != "image" else None,
            source=seal_source(picture.source, face.mask, key, picture.record_id, face.index)
            if fidelity == "lossless"
            else None,
        )

    def _unanonymized(self, picture: _Picture) -> str:
        """The second detection pass: a reason when the result shows a face nobody anonymized, else ""."""
        for found in self.models.detector.detect(picture.result):
            if not any(_is_same_place(found, face) for face in picture.faces):
                return f"unanonymized_face: a face at {_at(found)} is in the result and in no mask"
        return ""


def _is_same_place(found: Face, face: _Face) -> bool:
    """True when a face of the result lies where `face` was anonymized."""
    return landmarks_inside(found, face.mask, face.picture.source.shape) > 0.5 or box_iou(found, face.detected) > 0.5


def _stacked(noises: list[torch.Tensor | None]) -> torch.Tensor | None:
    """The noise latents of a batch, or None when one is missing."""
    known = [noise for noise in noises if noise is not None]
    return torch.stack(known) if len(known) == len(noises) else None


def _as_stored(latent: torch.Tensor) -> torch.Tensor:
    """Round to the sidecar's float16, so that anonymizing and recovering start from the same numbers."""
    return latent.half().double()


def _paste_face(face: _Face, decoded: npt.NDArray[np.float64], *, exactly: bool) -> None:
    """Write a decoded crop (3, S, S) in [-1, 1] into the picture, inside the mask only.

    exactly: make the picture read back as the crop, which only recovery from the picture alone needs. Otherwise the rim is
    blended with its surroundings.
    """
    picture = face.picture
    crop = (decoded.transpose(1, 2, 0) + 1.0) * 127.5
    paste(picture.result, crop, face.affine, face.mask, back_projections=BACK_PROJECTIONS if exactly else 0)
    if not exactly:
        others = [other.mask for other in picture.faces if other is not face]
        feather(picture.result, face.mask, others, max(RIM * reduction(face.affine), 1.0))


def _geometry(face: _Face) -> FaceGeometry:
    a = [float(v) for v in face.affine.ravel()]
    x0, y0, x1, y1 = (float(v) for v in face.detected.box)
    return FaceGeometry(
        face.index, face.attempt, (x0, y0, x1, y1), (a[0], a[1], a[2], a[3], a[4], a[5]), face.scale, face.mask
    )


def _metrics(picture: _Picture) -> dict[str, float]:
    faces = picture.faces
    return {
        "attempts": float(sum(face.attempt + 1 for face in faces)),
        "min_distance": min(face.distance for face in faces),
        "mean_noise_rms": float(np.mean([face.noise_rms for face in faces])),
        "max_enlargement": max(1.0 / float(np.linalg.norm(face.affine[0, :2])) for face in faces),
    }


def _quarantined(task: PictureTask, reason: str, faces: int = 0) -> PictureResult:
    digest = hashlib.sha256(task.encoded).hexdigest() if task.encoded else None
    return PictureResult(task.image_id, "quarantined", reason, source_sha256=digest, faces=faces)


def _at(face: Face) -> str:
    x0, y0, x1, y1 = (round(float(v)) for v in face.box)
    return f"({x0}, {y0})-({x1}, {y1})"
