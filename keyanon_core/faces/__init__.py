"""Faces in photographs: found, outlined, aligned and told apart."""

from dataclasses import dataclass
from pathlib import Path

from keyanon_core.errors import FaceModelError
from keyanon_core.faces.detection import Detector, Face, FaceParser, Recognizer
from keyanon_core.faces.looks import DEFAULT_MIN_FACE
from keyanon_core.faces.masks import PictureMask, disjoint_masks

__all__ = ["Face", "FaceModels", "PictureMask", "disjoint_masks", "load_detector", "load_face_models"]


@dataclass(frozen=True)
class FaceModels:
    """A detector, a parser and a recognizer that go together."""

    detector: Detector
    parser: FaceParser
    recognizer: Recognizer

    def digests(self) -> dict[str, str]:
        """Name and sha256 of every model's weights, for the run's manifest."""
        return {f"{role}:{model.name}": model.digest for role, model in vars(self).items()}


def load_face_models(
    kind: str = "embedded",
    weights: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    min_face: int = DEFAULT_MIN_FACE,
) -> FaceModels:
    """Load face models. Raises FaceModelError with the remedy when a package or a file is missing or is not what it
    should be.

    kind: "embedded" (CenterFace and our own network, 68 landmarks; nothing to download) or "facexlib" (RetinaFace, BiSeNet;
    `weights` is the directory that holds their files, or None for facexlib's own download). The recognizer is dlib's in both.
    threads: of the embedded detector on one picture. device: of the recognizer and the facexlib networks. min_face: px, height of
    the smallest face that is searched for; the time that finding takes falls with its square.
    """
    detector = load_detector(kind, weights, threads, device, min_face)
    from keyanon_core.faces.landmarks import ShapePredictor
    from keyanon_core.faces.recognition import DlibRecognizer

    predictor = ShapePredictor()
    if kind == "facexlib":
        from keyanon_core.faces.facexlib_models import BiSeNetParser

        return FaceModels(detector, BiSeNetParser(weights, device), DlibRecognizer(predictor, device))
    from keyanon_core.faces.parsing import LandmarkParser

    return FaceModels(detector, LandmarkParser(predictor), DlibRecognizer(predictor, device))


def load_detector(
    kind: str = "embedded",
    weights: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
    min_face: int = DEFAULT_MIN_FACE,
) -> Detector:
    """The detector of `load_face_models` alone, with the same arguments and errors; the embedded one loads no torch."""
    if kind == "embedded":
        from keyanon_core.faces.embedded_detector import EmbeddedDetector

        return EmbeddedDetector(threads, min_face)
    if kind == "facexlib":
        from keyanon_core.faces.facexlib_models import RetinaFaceDetector

        return RetinaFaceDetector(weights, device, min_face)
    raise FaceModelError(f"unknown face models {kind!r}; choose embedded or facexlib")
