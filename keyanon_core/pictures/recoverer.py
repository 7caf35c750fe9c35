"""Restores the faces of one anonymized picture from its key, and says how well it can vouch for the result."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import PriorError, SidecarError
from keyanon_core.faces.drawing import paste
from keyanon_core.formats.published import PublishedPixels, published_pixels
from keyanon_core.keys import verify_commitment
from keyanon_core.methods import SolverStep, decode, recover
from keyanon_core.pictures.crops import Crop, cut_crop
from keyanon_core.pictures.key import FaceGeometry, PictureKey
from keyanon_core.pictures.pasting import with_rim
from keyanon_core.pictures.stored import stored_latent
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, open_source
from keyanon_core.transforms import Vector


@dataclass(frozen=True)
class RecoveredPicture:
    """A restored picture.

    pixels: (H, W, 3) uint8, in the colours of `profile` (ICC), sRGB where it is None. exact: True when the source's pixels
    inside every mask were restored bit for bit and authenticated (fidelity `lossless`). crops: the recovered crops (n, 3, S,
    S) float64 in [-1, 1], empty for `lossless`. picture_intact: the anonymized picture is byte for byte the one that was
    published (a re-encoded copy is not). keyed_noise: as in `Recovered`, of each crop its masked coordinates, channel by channel.
    """

    pixels: npt.NDArray[np.uint8]
    exact: bool
    picture_intact: bool
    sidecar_intact: bool
    crops: npt.NDArray[np.float64]
    solver: list[SolverStep]
    nfe: int
    profile: bytes | None = None
    keyed_noise: tuple[Vector, ...] = field(default=(), repr=False)


class PictureRecoverer:
    """Holds the prior that anonymized; `lossless` pictures are restored without it."""

    def __init__(self, prior: Prior | None) -> None:
        self.prior = prior

    def recover(
        self,
        encoded: bytes,
        sidecar: bytes,
        key: PictureKey,
        *others: PictureKey,
        check_key: bool = True,
        only: int | None = None,
    ) -> RecoveredPicture:
        """Restore one picture, or, with `only`, the face of that index in it.

        encoded: the anonymized picture, possibly re-encoded since. sidecar: as published. others: further keys of it, where
        each person has one; faces of which no key is given stay as they were published. check_key=False is for research
        only: it skips the commitment and the sidecar's digest, and shows what a wrong key yields; not of a `lossless` JPEG.
        Raises WrongKeyError before any pixel is computed, SidecarError, PriorError, PictureError, ConvergenceError.
        """
        parsed = Sidecar.from_bytes(sidecar)
        keys, digest = (key, *others), hashlib.sha256(sidecar).hexdigest()
        if check_key:
            for one in keys:
                self._check(parsed, one, digest == one.sidecar_sha256)
        shown = published_pixels(encoded, max_pixels=parsed.shape[0] * parsed.shape[1])
        picture = shown.pixels
        if picture.shape[:2] != parsed.shape:
            raise SidecarError(
                f"{key.image_id}: the picture is {picture.shape[1]} x {picture.shape[0]}, the sidecar belongs to "
                f"{parsed.shape[1]} x {parsed.shape[0]}; give the picture in its published size"
            )
        result = picture.copy()
        exact = key.fidelity == "lossless" and check_key
        solved = [
            self._restore(result, shown, parsed, one, faces, exact)
            for one in keys
            if (faces := [face for face in one.faces if face.mask.count and only in (None, face.index)])
        ]
        return RecoveredPicture(
            pixels=result,
            exact=exact,
            picture_intact=all(hashlib.sha256(encoded).hexdigest() == one.output_sha256 for one in keys),
            sidecar_intact=all(digest == one.sidecar_sha256 for one in keys),
            crops=np.concatenate([one.crops for one in solved]) if solved and not exact else np.empty((0, 3, 0, 0)),
            solver=[step for one in solved for step in one.steps],
            nfe=sum(one.nfe for one in solved),
            profile=shown.profile,
            keyed_noise=tuple(noise for one in solved for noise in one.noise),
        )

    def _restore(
        self,
        result: npt.NDArray[np.uint8],
        shown: PublishedPixels,
        parsed: Sidecar,
        key: PictureKey,
        faces: Sequence[FaceGeometry],
        exact: bool,
    ) -> "_Solved":
        """Restore, in place, some faces of one key. exact: from the source's pixels, which solves nothing."""
        if exact:
            for face in faces:
                self._restore_source(result, parsed, key, face)
            return _Solved()
        cut = self._cut(shown, parsed, key, faces)
        solved = self._solve(cut, parsed, key, faces)
        for crop, shape, face in zip(solved.crops, cut, faces, strict=True):
            whole = with_rim((crop.transpose(1, 2, 0) + 1.0) * 127.5, shape.rim)
            paste(result, whole, _affine(face), face.mask)
        return solved

    def _check(self, parsed: Sidecar, key: PictureKey, intact: bool) -> None:
        """Refuse before any pixel is computed: another record's sidecar, a wrong key, a changed sidecar, another prior."""
        if not _belong_together(parsed, key):
            raise SidecarError(
                f"{key.image_id}: the sidecar belongs to record {parsed.record_id} with {len(parsed.faces)} faces, the key to "
                f"{key.record_id} with {len(key.faces)}; give the sidecar that was published with this picture"
            )
        for face in key.faces:
            verify_commitment(key.face_key(face), key.image_id, parsed.faces[face.index].commitment)
        if not intact:
            raise SidecarError(
                f"{key.image_id}: the sidecar was changed after it was published; restore it from the output"
            )
        if key.fidelity != "lossless" and (self.prior is None or self.prior.digest != key.prior_digest):
            raise PriorError(
                f"{key.image_id} was anonymized with the prior of digest {key.prior_digest}; give that prior, not "
                f"{'none' if self.prior is None else self.prior.digest}"
            )

    def _restore_source(
        self, result: npt.NDArray[np.uint8], parsed: Sidecar, key: PictureKey, face: FaceGeometry
    ) -> None:
        sealed = parsed.faces[face.index].source
        if sealed is None:
            raise SidecarError(f"{key.image_id}: the sidecar holds no source pixels for face {face.index}")
        window = open_source(sealed, face.mask, key.face_key(face), key.record_id, face.index)
        x0, y0, x1, y1 = face.mask.window
        result[y0:y1, x0:x1][face.mask.bits] = window[face.mask.bits]

    def _needed(self, key: PictureKey) -> Prior:
        if self.prior is None:
            raise PriorError(f"{key.image_id}: recovery at fidelity {key.fidelity} needs the prior {key.prior_digest}")
        return self.prior

    def _cut(
        self, shown: PublishedPixels, parsed: Sidecar, key: PictureKey, faces: Sequence[FaceGeometry]
    ) -> list[Crop]:
        """The crops of the anonymized faces, cut as when they were anonymized."""
        side, inner = self._needed(key).side, key.fidelity == "image" and parsed.version > 1
        others = [[other.mask for other in key.faces if other is not face] for face in faces]
        return [
            cut_crop(shown.pixels, _affine(face), face.mask, beside, side, inner=inner, frame_height=shown.frame_height)
            for face, beside in zip(faces, others, strict=True)
        ]

    def _solve(self, cut: Sequence[Crop], parsed: Sidecar, key: PictureKey, faces: Sequence[FaceGeometry]) -> "_Solved":
        """Invert the diffusion for n faces."""
        prior = self._needed(key)
        crop_masks = torch.from_numpy(np.stack([crop.mask for crop in cut]))[:, None]
        mask = prior.latent_mask(crop_masks)
        if key.fidelity == "image":
            crops = torch.from_numpy(np.stack([crop.values for crop in cut]))
            known = prior.encode(crops.masked_fill(crop_masks, 0.0)).half().double()
            latent = mask * prior.encode(crops) + (1 - mask) * known
        else:
            stored = [_stored(parsed, key, face, prior, crop.mask) for face, crop in zip(faces, cut, strict=True)]
            latent = torch.from_numpy(np.stack(stored))
        procedure = key.procedure.shown() if key.fidelity == "image" and parsed.version > 1 else key.procedure
        done = recover(
            prior,
            latent,
            mask,
            [key.face_key(face) for face in faces],
            torch.tensor([face.scale for face in faces], dtype=torch.float64),
            procedure,
            carrier_keys=[face.carrier_key for face in faces],
        )
        shown = decode(prior, done.latent, procedure).clamp(-1, 1).cpu().numpy()
        found = [] if done.keyed_noise is None else zip(done.keyed_noise.cpu().double(), mask.cpu(), strict=True)
        noise = tuple(one[:, inside[0] > 0].numpy().ravel() for one, inside in found)
        return _Solved(shown, done.steps, done.nfe, noise)


@dataclass(frozen=True)
class _Solved:
    """crops: (n, 3, S, S) in [-1, 1]. steps, nfe, noise: what is told of the way."""

    crops: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3, 0, 0)))
    steps: list[SolverStep] = field(default_factory=list)
    nfe: int = 0
    noise: tuple[Vector, ...] = ()


def _belong_together(parsed: Sidecar, key: PictureKey) -> bool:
    """Whether a sidecar says of itself that it is the key's. One of several keys is of some of its faces, and bound to it by the
    digest.
    """
    if key.part is not None:
        return parsed.image_id == key.image_id and all(face.index < len(parsed.faces) for face in key.faces)
    indices = [face.index for face in key.faces]
    return parsed.record_id == key.record_id and indices == list(range(len(parsed.faces)))


def _stored(
    parsed: Sidecar, key: PictureKey, face: FaceGeometry, prior: Prior, mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    try:
        return stored_latent(prior, parsed.faces[face.index], mask, parsed.levels)
    except SidecarError as error:
        where = f"{key.image_id}: the sidecar's part of face {face.index} can not be used"
        if key.fidelity == "lossless":  # whose true key solves for nothing
            raise SidecarError(
                f"{where} to try another key: at fidelity lossless the record says which pixels come back, which in a JPEG are "
                f"more than the face's; anonymize into PNG to try one ({error})"
            ) from error
        raise SidecarError(f"{where}: {error}") from error


def _affine(face: FaceGeometry) -> npt.NDArray[np.float64]:
    return np.array(face.affine, dtype=np.float64).reshape(2, 3)
