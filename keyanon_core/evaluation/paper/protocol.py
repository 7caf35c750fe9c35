"""What the protocol does to a picture and measures of it: method `paper` as its authors run it, and `exact` beside it.

The pictures are `pictures.lfw_view`s and `celeba_view`s. Keys are drawn here and thrown away: they never made anything that was
published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import PictureError
from keyanon_core.evaluation.faces import FaceInVersion
from keyanon_core.evaluation.paper.versions import QUALITIES
from keyanon_core.faces.detection import Embedder, Face, Pixels
from keyanon_core.priors import Prior
from keyanon_core.procedure import PAPER_STEPS

DETECTOR_SCORE: Final = 0.5


class WholePictureParser(Protocol):
    """Labels every pixel of a picture. `name` and `digest` as a detector's."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def classes(self, pixels: Pixels) -> npt.NDArray[np.int64]:
        """BiSeNet's classes (512, 512) of a whole square picture (s, s, 3) uint8."""
        ...


class FaceDetector(Protocol):
    """Finds faces. `name` and `digest` as a detector's."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def detect(self, pixels: Pixels) -> list[Face]:
        """All faces of an (H, W, 3) uint8 RGB picture, in a stable order."""
        ...


class PictureFeatures(Protocol):
    """Vectors of whole pictures, of which a Frechet distance is taken: of Inception's 2048 it is the FID."""

    @property
    def name(self) -> str: ...

    def __call__(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """(n, d) float32 of n pictures (H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class PaperModels:
    """prior: unconditional, with an autoencoder, its pictures 256 px a side. parser: BiSeNet. recognizers: no two of one name.
    detector: RetinaFace at DETECTOR_SCORE. features: Inception's 2048 for the FID, None without its weights.
    """

    prior: Prior
    parser: WholePictureParser
    recognizers: Sequence[Embedder]
    detector: FaceDetector
    features: PictureFeatures | None = None

    def digests(self) -> dict[str, str]:
        """Name and sha256 of every model's weights, as `FaceModels.digests`."""
        raise NotImplementedError


def load_paper_models(
    prior: Prior,
    weights: Path | None,
    recognizers: Sequence[Embedder],
    features: PictureFeatures | None = None,
    device: str = "cpu",
) -> PaperModels:
    """With facexlib's BiSeNet and RetinaFace. weights: the directory of their files, as `load_face_models`' for facexlib. Raises
    FaceModelError, DeviceError, and what `PaperProtocol` does.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class Asked:
    """A picture to be anonymized, (256, 256, 3) uint8. other: another one of the same person, LFW's first of the pair. degraded:
    whether it is recovered from JPEG copies and with wrong keys, too: the protocol asks for it of 1,000 pictures.
    """

    picture: Pixels
    other: Pixels | None = None
    degraded: bool = False


class PaperProtocol:
    """Anonymizes pictures by both methods, recovers them, and measures what became of each."""

    def __init__(
        self, models: PaperModels, steps: int = PAPER_STEPS, degraded_qualities: Sequence[int] = QUALITIES
    ) -> None:
        """steps: DDIM steps one way of method `paper`. Raises PriorError for a prior that is conditional, has no autoencoder or
        another side, EvaluationError for recognizers of one name.
        """
        self.models, self.steps, self.degraded_qualities = models, steps, tuple(degraded_qualities)

    def measure(self, picture: Pixels, other: Pixels | None = None, *, degraded: bool = False) -> list[FaceInVersion]:
        """The face of a picture in every version, face 0 without a tone: of `faces.SOURCE`, OTHER where it is given, PAPER and
        EXACT, `recovered_of` each, and `wrong_key_of` each where `degraded`. Arguments as in `Asked`.

        values: found, mask_iou, mask_dice, psnr_picture, ssim_picture, mae_picture, `distance:` of each recognizer, all against
        the source. vectors: by the recognizer's name, and `versions.FEATURES` + the features' name. Raises PictureError
        ("other_size", "no_face").
        """
        (found,) = self.measure_all([Asked(picture, other, degraded)])
        if isinstance(found, PictureError):
            raise found
        return found

    def measure_all(self, asked: Sequence[Asked]) -> list[list[FaceInVersion] | PictureError]:
        """`measure` of several pictures, whose faces go through the prior together, which a GPU is much faster at. One that can
        not be measured costs the others nothing.
        """
        raise NotImplementedError
