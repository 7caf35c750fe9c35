"""The networks that the protocol takes, all of them the user's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import EvaluationError, PriorError
from keyanon_core.evaluation.paper.pictures import SIDE
from keyanon_core.faces.detection import Embedder, Face, Pixels
from keyanon_core.faces.facexlib_models import BiSeNetParser, PlainRetinaFace, RetinaFaceDetector
from keyanon_core.methods import check_prior
from keyanon_core.priors import Prior

DETECTOR_SCORE: Final = 0.5  # of RetinaFace, from which the authors count a face

Classes = npt.NDArray[np.int64]


class WholePictureParser(Protocol):
    """Labels every pixel of a picture. `name` and `digest` as a detector's."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...

    def classes(self, pixels: Pixels | npt.NDArray[np.float64]) -> Classes:
        """BiSeNet's classes (512, 512) of a whole square picture (s, s, 3): uint8, or float64 on the same scale, beyond which it
        may go.
        """
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
    @property
    def digest(self) -> str: ...

    def __call__(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """(n, d) float32 of n pictures (H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class PaperModels:
    """prior: unconditional, with an autoencoder, its pictures 256 px a side. parser: BiSeNet. recognizers: no two of one name.
    detector: RetinaFace at DETECTOR_SCORE. features: Inception's 2048 for the FID, None without its weights.

    Raises PriorError for a prior that is conditional, has no autoencoder or another side, EvaluationError without recognizers and
    for two of one name.
    """

    prior: Prior
    parser: WholePictureParser
    recognizers: Sequence[Embedder]
    detector: FaceDetector
    features: PictureFeatures | None = None

    def __post_init__(self) -> None:
        prior, names = self.prior, [recognizer.name for recognizer in self.recognizers]
        check_prior(prior, "paper")
        if prior.geometry.in_pixels or prior.side != SIDE:
            raise PriorError(
                f"the paper's protocol takes a prior of {SIDE} px with an autoencoder, such as ldm-celebahq-256; {prior.name} is "
                f"of {prior.side} px{', and has none' if prior.geometry.in_pixels else ''}"
            )
        if not names or len(set(names)) < len(names):
            raise EvaluationError(f"the paper's protocol takes recognizers, each of a name of its own, not {names}")

    def digests(self) -> dict[str, str]:
        """Name and sha256 of every model's weights, as `FaceModels.digests`."""
        digests = {
            f"{role}:{getattr(self, role).name}": getattr(self, role).digest for role in ("prior", "parser", "detector")
        }
        digests |= {f"recognizer:{one.name}": one.digest for one in self.recognizers}
        return digests | ({f"features:{self.features.name}": self.features.digest} if self.features else {})


def load_paper_models(
    prior: Prior,
    weights: Path | None,
    recognizers: Sequence[Embedder],
    features: PictureFeatures | None = None,
    device: str = "cpu",
) -> PaperModels:
    """With facexlib's BiSeNet and RetinaFace. weights: the directory of their files, as `load_face_models`' for facexlib. Raises
    FaceModelError, DeviceError, PriorError, EvaluationError.
    """
    detector = PlainRetinaFace(RetinaFaceDetector(weights, device), DETECTOR_SCORE)
    return PaperModels(prior, BiSeNetParser(weights, device), recognizers, detector, features)
