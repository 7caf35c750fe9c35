"""The embedded recognizer: dlib's face_recognition_resnet_model_v1 (CC0), 128-d, Euclidean distance.

Its author's threshold for "the same person" is 0.6 (99.38 % on LFW).
"""

from collections.abc import Sequence

import dlib
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.dlib_models import RECOGNIZER, SHA256, dlib_model
from keyanon_core.faces.landmarks import ShapePredictor

CHIP_SIDE = 150  # px; the network's input
CHIP_PADDING = 0.25  # of the face, as in the network's training
SAME_PERSON_DISTANCE = 0.6
EMBEDDING_SIZE = 128


class DlibRecognizer:
    """One identity vector per face, about 0.1 s each. dlib runs it on one thread."""

    name = "dlib-resnet-v1"
    threshold = SAME_PERSON_DISTANCE

    def __init__(self, predictor: ShapePredictor | None = None) -> None:
        self._predictor = predictor or ShapePredictor()
        self._network = dlib.face_recognition_model_v1(str(dlib_model(RECOGNIZER)))
        self.digest = SHA256[RECOGNIZER]

    def embed(self, pixels: Pixels, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """(n, 128) float32 of n faces of one (H, W, 3) uint8 picture; each on its own, so that neighbours do not
        matter.

        Raises PictureError ("degenerate_landmarks").
        """
        vectors = np.zeros((len(faces), EMBEDDING_SIZE), np.float32)
        for index, face in enumerate(faces):
            view, _, points = self._predictor.on_chip(pixels, face)
            parts = dlib.points([dlib.point(round(x), round(y)) for x, y in points])
            whole = dlib.rectangle(0, 0, view.shape[1] - 1, view.shape[0] - 1)
            aligned = dlib.get_face_chip(view, dlib.full_object_detection(whole, parts), CHIP_SIDE, CHIP_PADDING)
            vectors[index] = np.asarray(self._network.compute_face_descriptor(aligned), np.float32)
        return vectors

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        """Euclidean distance of two identity vectors (128,); 0 for the same, around 0.9 for strangers."""
        return float(np.linalg.norm(first.astype(np.float64) - second.astype(np.float64)))
