"""Anonymizes the faces of several pictures together.

Faces are gathered across the pictures and go through the prior in a fixed physical batch; those that the anonymity gate turns
back go again together, under their next attempt's keys. Then each result is searched again, otherwise than the source was;
faces found there that nobody anonymized are taken up in another round. One bad picture costs nobody else's work.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import KeyanonError, PictureError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import BACK_PROJECTIONS, paste, reduction
from keyanon_core.faces.blending import feather
from keyanon_core.faces.detection import Face
from keyanon_core.faces.given import choose_faces, is_kept, newly_kept
from keyanon_core.faces.masks import PictureMask
from keyanon_core.faces.missed import missed_faces
from keyanon_core.imaging import decode_picture, encode_picture
from keyanon_core.keys import commitment, source_hmac
from keyanon_core.methods import anonymize
from keyanon_core.pictures.crops import AlignedFace, align_faces
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, SidecarFace, seal_source

RIM = 2.0  # crop px of a face's rim that are blended with its surroundings
MAX_ROUNDS = 3  # searches of one picture's result; what the last one still finds quarantines the picture
MAX_GATHERED_PIXELS = 128_000_000  # decoded pixels held at once: 3 bytes each for the source, 3 for the result


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
            work = [(picture, list(picture.faces)) for _, picture in group]
            while work:
                self._run([face for _, faces in work for face in faces])
                work = [(picture, faces) for picture, _ in work if (faces := self._missed(picture))]
            for position, picture in group:
                results[position] = self._finish(picture)
        return [results[position] for position in range(len(tasks))]

    def _groups(
        self, tasks: Sequence[PictureTask], results: dict[int, PictureResult]
    ) -> Iterator[list[tuple[int, OpenedPicture]]]:
        """Open pictures until MAX_GATHERED_PIXELS are held; pictures that end here go straight to `results`."""
        group: list[tuple[int, OpenedPicture]] = []
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

    def _open(self, task: PictureTask) -> OpenedPicture | PictureResult:
        """Decode, detect, mask and cut the crops of one picture."""
        try:
            source = decode_picture(task.encoded, self.settings.max_pixels)
            faces, kept = task.faces, task.kept
            if faces is None:
                chosen = choose_faces(source, self.models.detector, task.given, self.settings.faces)
                faces, kept = chosen.faces, chosen.kept
            if not faces and not kept and not self._searched_without_faces():
                return self._without_faces(task, None)
            picture = OpenedPicture(task, source, source.copy(), kept=list(kept))
            for aligned in self._aligned(picture, faces):
                picture.faces.append(FaceAtWork(aligned, len(picture.faces), picture))
            return picture
        except PictureError as error:
            return _quarantined(task, f"{error.reason}: {error}")
        except KeyanonError as error:
            return _quarantined(task, f"unusable: {error}")

    def _searched_without_faces(self) -> bool:
        """True when a picture in which nothing was found goes through the second search all the same: it would be published, or
        was not searched at all."""
        return self.settings.no_face == "pass" or self.settings.faces == "given"

    def _aligned(self, picture: OpenedPicture, detected: Sequence[Face]) -> list[AlignedFace]:
        """All faces of a picture, outlined and cut together. Raises PictureError."""
        crop = self.settings.faces == "aligned"
        regions = self.settings.regions
        aligned = align_faces(picture.source, detected, self.models.parser, regions, self.prior, aligned_crop=crop)
        for index, face in enumerate(aligned):
            if not face.crop.mask.any():
                raise PictureError("empty_mask", f"face {index} has no pixel of its own to anonymize")
        return aligned

    def _without_faces(self, task: PictureTask, picture: OpenedPicture | None) -> PictureResult:
        """A picture with nothing to anonymize; picture: None when it was not searched again, and is not published."""
        if picture is not None and picture.kept:
            reason = "kept: every face that was found is to be left alone; the picture is published, re-encoded"
            kept = len(picture.kept)
            return PictureResult(task.image_id, "no_face", reason, self._encode(picture.result), kept=kept)
        passes = picture is not None and self.settings.no_face == "pass"
        return PictureResult(
            task.image_id,
            "no_face",
            "no_face: no face was found; such a picture is published, re-encoded, only with --no-face pass",
            encoded=self._encode(picture.result) if passes and picture is not None else None,
        )

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        return encode_picture(pixels, self.settings.output_format, self.settings.jpeg_quality)

    def _run(self, faces: list[FaceAtWork]) -> None:
        """Take all faces through the prior and the gate, `face_batch` at a time."""
        while faces:
            turned_back: list[FaceAtWork] = []
            for start in range(0, len(faces), self.settings.face_batch):
                batch = faces[start : start + self.settings.face_batch]
                self._anonymize(batch)
                self._measure_distances([face for face in batch if not face.picture.failure])
                turned_back += [face for face in batch if self._goes_again(face)]
            faces = turned_back

    def _goes_again(self, face: FaceAtWork) -> bool:
        """The gate: True for a face that is turned back and has another attempt, which this begins."""
        if not face.picture.failure and face.distance < self.gate_threshold:
            if face.keys_tried < self.settings.max_attempts:
                face.attempt += 1
                return True
            # Neither place nor distance: the reason is published, and both are the source's.
            face.picture.failure = (
                f"still_recognizable: face {face.index} resembled its source under {self.settings.max_attempts} keys"
            )
        face.noise = None
        return False

    def _anonymize(self, batch: list[FaceAtWork]) -> None:
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
        # show the noise that the clean end of the grid leaves in it. A permanent picture is never recovered.
        exactly = [self.settings.fidelity == "image" and not face.picture.task.permanent for face in batch]
        shown = torch.where(torch.tensor(exactly, device=latent.device)[:, None, None, None], latent, done.clean)
        decoded = self.prior.decode(shown).clamp(-1, 1).cpu().numpy()
        for position, face in enumerate(batch):
            if not np.isfinite(decoded[position]).all() or not torch.isfinite(latent[position]).all():
                face.picture.failure = f"not_finite: the prior's result for face {face.index} is not a number"
                continue
            face.latent = latent[position].cpu().numpy().astype(np.float16)
            face.noise = None if done.noise is None else done.noise[position].clone()
            face.scale, face.noise_rms = float(done.scale[position]), float(done.noise_rms[position])
            _paste_face(face, decoded[position], exactly=exactly[position])

    def _measure_distances(self, faces: list[FaceAtWork]) -> None:
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

    def _finish(self, picture: OpenedPicture) -> PictureResult:
        """Encode picture and sidecar and assemble the key."""
        task, settings = picture.task, self.settings
        if picture.failure:
            return _quarantined(task, picture.failure, faces=len(picture.faces))
        if not picture.faces:
            return self._without_faces(task, picture)
        encoded = self._encode(picture.result)
        done = PictureResult(
            task.image_id,
            "anonymized",
            encoded=encoded,
            faces=len(picture.faces),
            kept=len(picture.kept),
            metrics=_metrics(picture),
        )
        if task.permanent:  # its key ends here, with the opened picture
            return done
        keys = [face.key(settings.transform) for face in picture.faces]
        sidecar = Sidecar(
            record_id=picture.record_id,
            image_id=task.image_id,
            fidelity=settings.fidelity,
            prior_digest=self.prior.digest,
            shape=picture.source.shape[:2],
            faces=tuple(self._sidecar_face(face, key) for face, key in zip(picture.faces, keys, strict=True)),
        ).to_bytes()
        return replace(
            done,
            sidecar=sidecar,
            key=PictureKey(
                image_key=picture.image_key,
                record_id=picture.record_id,
                image_id=task.image_id,
                faces=tuple(face.geometry() for face in picture.faces),
                method=settings.method,
                transform=settings.transform,
                steps=settings.steps,
                fidelity=settings.fidelity,
                prior_digest=self.prior.digest,
                source_sha256=hashlib.sha256(task.encoded).hexdigest(),
                output_sha256=hashlib.sha256(encoded).hexdigest(),
                sidecar_sha256=hashlib.sha256(sidecar).hexdigest(),
            ),
            source_hmac=source_hmac(picture.image_key, task.encoded),
        )

    def _sidecar_face(self, face: FaceAtWork, key: bytes) -> SidecarFace:
        picture, fidelity = face.picture, self.settings.fidelity
        return SidecarFace(
            commitment=commitment(key, picture.task.image_id),
            latent=face.latent if fidelity != "image" else None,
            source=seal_source(picture.source, face.mask, key, picture.record_id, face.index)
            if fidelity == "lossless"
            else None,
        )

    def _missed(self, picture: OpenedPicture) -> list[FaceAtWork]:
        """Search a picture's result for faces nobody anonymized, and take them up. Returns all faces that must go through the
        prior now: the found ones, and those whose crop held what turned out to be a face.
        """
        if picture.failure:
            return []
        seen = self.models.detector.look_again(picture.result)
        faces = [face.detected for face in picture.faces]
        masks = [face.mask for face in picture.faces]
        missed = missed_faces(seen, faces, masks, picture.source.shape)
        keep = picture.task.given.keep
        picture.kept += newly_kept(missed, keep, picture.kept)
        missed = [face for face in missed if not is_kept(face, keep, picture.kept)]
        if not missed:
            return []
        if picture.rounds == MAX_ROUNDS:
            picture.failure = f"unanonymized_face: after {MAX_ROUNDS} rounds the result still shows a face in no mask"
            return []
        picture.rounds += 1
        try:
            return self._take_up(picture, missed)
        except PictureError as error:
            picture.failure = f"unanonymized_face: the result shows a face that can not be outlined ({error.reason})"
            return []

    def _take_up(self, picture: OpenedPicture, missed: Sequence[Face]) -> list[FaceAtWork]:
        """Add faces to a picture; see `_missed`. Raises PictureError."""
        known = [face.detected for face in picture.faces]
        aligned = self._aligned(picture, [*known, *missed])
        added = [FaceAtWork(face, len(known) + i, picture) for i, face in enumerate(aligned[len(known) :])]
        again = []
        for face, anew in zip(picture.faces, aligned, strict=False):
            if any(_touches(face, other.mask) for other in added) or not _same_crop(face.aligned, anew):
                face.start_again(anew)
                again.append(face)
        picture.faces += added
        return again + added


def _touches(face: FaceAtWork, mask: PictureMask) -> bool:
    """True when a face's softened rim may have taken colours from pixels of the mask."""
    reach = int(np.ceil(_rim(face))) + 1
    x0, y0, x1, y1 = face.mask.window
    return bool(mask.crop((x0 - reach, y0 - reach, x1 + reach, y1 + reach)).any())


def _same_crop(first: AlignedFace, second: AlignedFace) -> bool:
    """True when two crops of one face, and what they stand for, are the same to the bit."""
    same = np.array_equal(first.crop.values, second.crop.values) and np.array_equal(first.crop.mask, second.crop.mask)
    return same and first.mask == second.mask


def _rim(face: FaceAtWork) -> float:
    """Width in picture px of the rim that is blended with its surroundings."""
    return max(RIM * reduction(face.affine), 1.0)


def _stacked(noises: list[torch.Tensor | None]) -> torch.Tensor | None:
    """The noise latents of a batch, or None when one is missing."""
    known = [noise for noise in noises if noise is not None]
    return torch.stack(known) if len(known) == len(noises) else None


def _as_stored(latent: torch.Tensor) -> torch.Tensor:
    """Round to the sidecar's float16, so that anonymizing and recovering start from the same numbers."""
    return latent.half().double()


def _paste_face(face: FaceAtWork, decoded: npt.NDArray[np.float64], *, exactly: bool) -> None:
    """Write a decoded crop (3, S, S) in [-1, 1] into the picture, inside the mask only.

    exactly: make the picture read back as the crop, which only recovery from the picture alone needs. Otherwise the rim is
    blended with its surroundings.
    """
    picture = face.picture
    crop = (decoded.transpose(1, 2, 0) + 1.0) * 127.5
    paste(picture.result, crop, face.affine, face.mask, back_projections=BACK_PROJECTIONS if exactly else 0)
    if not exactly:
        others = [other.mask for other in picture.faces if other is not face]
        feather(picture.result, face.mask, others, _rim(face))


def _metrics(picture: OpenedPicture) -> dict[str, float]:
    faces = picture.faces
    return {
        "attempts": float(sum(face.attempt + 1 for face in faces)),
        "min_distance": min(face.distance for face in faces),
        "mean_noise_rms": float(np.mean([face.noise_rms for face in faces])),
        "max_enlargement": max(1.0 / float(np.linalg.norm(face.affine[0, :2])) for face in faces),
    }


def _quarantined(task: PictureTask, reason: str, faces: int = 0) -> PictureResult:
    return PictureResult(task.image_id, "quarantined", reason, faces=faces)
