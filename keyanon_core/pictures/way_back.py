"""The way back is tried before anything is published: a face is restored from exactly what would be stored of it.

The first face of a run, and then one in `check_every`, comes back from the encoded picture, the sidecar's bytes and the key, as a
recovery will have them. If it does not come back, no other face of the run can be trusted to, and the run ends: found out at
recovery, it would be too late. The rest of the faces cost nothing; a face that is tried costs a recovery of one face.

What must come back depends on what was stored:

- `lossless`: every pixel of the source inside the mask, bit for bit.
- `latent`: the crop, to LATENT_PSNR. The embedded prior gives 60 dB and more (`benchmarks/recovery.py`), a step that was solved
  for another of its sources 5 to 20.
- `image`: the crop, to IMAGE_PSNR; to TRUSTED_PSNR where `auto` took the picture for one that carries its faces. Only faces count
  that the picture holds at the crop's size or larger: in a smaller one there is no room for what recovery reads, whatever the
  prior. Of larger ones the embedded prior gives 38 dB and more, and an autoencoder that loses too much is refused.
- the paper's methods, inexact by nature, and at `image` faces with more beyond black and white than a picture can show: a
  crop nearer to the source than the anonymized one is, by GAIN. They were seen to gain 9 dB and more, the crop that a wrong key
  gives 1.

What an autoencoder loses of a face is no fault of the way back: crops are compared with what the prior decodes of the source in
the stored surroundings.
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import KeyanonError, NotReversibleError
from keyanon_core.faces.alignment import reduction
from keyanon_core.methods import decode
from keyanon_core.pictures.carried import CARRIED_PSNR, HELD_ERROR, read_error
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.opened import FaceAtWork, OpenedPicture
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import FIDELITIES, AnonymizeSettings, PictureResult
from keyanon_core.priors import Prior

LATENT_PSNR = 45.0  # dB inside the mask, peak to peak 2
HOLDING_REDUCTION = 1.0  # picture px per crop px from which a picture alone holds a face
IMAGE_PSNR = 30.0
TRUSTED_PSNR = CARRIED_PSNR - 3.0  # what a crop's reading tells of its recovery is not exact
GAIN = 3.0  # dB nearer to the source than the anonymized face: half its error

Crop = npt.NDArray[np.float64]


class WayBack:
    """Counts the faces of a run and tries the way back where it is due."""

    def __init__(self, prior: Prior, settings: AnonymizeSettings) -> None:
        self.prior, self.settings = prior, settings
        self._recoverer = PictureRecoverer(prior)
        self.passed: dict[str, int] = dict.fromkeys(FIDELITIES, 0)

    def pass_by(self, picture: OpenedPicture, result: PictureResult) -> None:
        """Every picture passes here before it is published; faces that are due are tried.

        result: what would be stored of it. Raises NotReversibleError with the numbers.
        """
        keys = {face.index: key for key in result.keys for face in key.faces}
        every, passed = self.settings.check_every, self.passed[picture.fidelity]
        faces = [face for face in picture.faces if self._is_held(face)]
        for face in faces[-passed % every :: every]:
            self._try(face, result, keys[face.index])
        self.passed[picture.fidelity] += len(faces)  # after them: a face that failed is due again

    def take_for_tried(self) -> None:
        """As if the first faces had come back: for measurements that are of something else."""
        self.passed = dict.fromkeys(self.passed, 1)

    def _is_held(self, face: FaceAtWork) -> bool:
        """Whether what is stored of a face has room for it."""
        if face.is_painted:
            return False
        return not face.picture.alone or reduction(face.affine) >= HOLDING_REDUCTION

    def _try(self, face: FaceAtWork, result: PictureResult, key: PictureKey) -> None:
        where = f"{key.image_id}: face {face.index} does not come back from what would be published"
        stored = "fidelity latent or lossless" if face.picture.alone else "fidelity lossless"
        remedy = f"nothing of this batch was published; take more steps, {stored} or another prior"
        try:
            back = self._recoverer.recover(result.encoded or b"", result.sidecar or b"", key, only=face.index)
        except KeyanonError as error:
            raise NotReversibleError(f"{where}: {error}; {remedy}") from error
        fault = self._exactly(face, back) if key.fidelity == "lossless" else self._nearly(face, back)
        if fault:
            raise NotReversibleError(f"{where}: {fault}; {remedy}")

    def _exactly(self, face: FaceAtWork, back: RecoveredPicture) -> str:
        """What is wrong with source pixels that were stored, "" for nothing."""
        x0, y0, x1, y1 = face.mask.window
        bits = face.mask.bits
        differs = back.pixels[y0:y1, x0:x1][bits] != face.picture.source[y0:y1, x0:x1][bits]
        wrong = int(differs.any(axis=1).sum())
        return "" if back.exact and wrong == 0 else f"{wrong} of {len(differs)} pixels are not the source's"

    def _nearly(self, face: FaceAtWork, back: RecoveredPicture) -> str:
        """What is wrong with a crop that was solved for, "" for nothing."""
        source, anonymized = self._decoded(face)
        (crop,) = back.crops
        came_back, was_at = _psnr(crop, source, face.crop.mask), _psnr(anonymized, source, face.crop.mask)
        wanted = self._wanted(face, was_at)
        if came_back >= wanted:
            return ""
        said = f"PSNR {came_back:.1f} dB where {wanted:.1f} dB is wanted (anonymized: {was_at:.1f} dB)"
        if not back.solver:  # the paper's methods solve nothing
            return said
        residual = max(step.residual for step in back.solver)
        iterations = max(step.iterations for step in back.solver)
        return f"{said}, residual {residual:.1e} after at most {iterations} iterations a step"

    def _wanted(self, face: FaceAtWork, anonymized: float) -> float:
        """What PSNR a face must come back at. anonymized: that of what the picture shows now."""
        if self.settings.method != "exact":
            return anonymized + GAIN
        if not face.picture.alone:
            return LATENT_PSNR
        if self.prior.geometry.in_pixels and not read_error(face, face.picture.result) <= HELD_ERROR:
            return anonymized + GAIN
        return TRUSTED_PSNR if self.settings.fidelity == "auto" else IMAGE_PSNR

    def _decoded(self, face: FaceAtWork) -> tuple[Crop, Crop]:
        """The source's crop and the anonymized one as the prior shows them beside the stored surroundings, (3, S, S) each."""
        if face.latent is None:
            raise ValueError(f"face {face.index} was not anonymized")
        stored = torch.from_numpy(face.latent)[None]
        inside = self.prior.latent_mask(torch.from_numpy(face.crop.mask)[None, None])
        source = inside * self.prior.encode(torch.from_numpy(face.crop.values)[None]) + (1 - inside) * stored
        both = decode(self.prior, torch.cat([source, stored]), self.settings.procedure)
        shown, anonymized = both.clamp(-1, 1).cpu().numpy()
        return shown, anonymized


def _psnr(result: Crop, source: Crop, mask: npt.NDArray[np.bool_]) -> float:
    """dB inside the mask (S, S) of crops (3, S, S) in [-1, 1]; NaN when the result is not a number."""
    square = float(np.square(result - source)[:, mask].mean())
    return math.inf if square == 0 else 10 * math.log10(4 / square) if math.isfinite(square) else math.nan
