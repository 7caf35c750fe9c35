"""The embedded recognizer: dlib's face_recognition_resnet_model_v1 (CC0), 128-d, Euclidean distance.

Its author's threshold for "the same person" is 0.6 (99.38 % on LFW).
"""

from collections.abc import Callable, Sequence

import dlib
import numpy as np
import numpy.typing as npt

from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.dlib_models import RECOGNIZER, SHA256, dlib_model
from keyanon_core.faces.dlib_resnet import CHIP_SIDE, EMBEDDING_SIZE, TEXTURE_SIZE, DlibResNet
from keyanon_core.faces.landmarks import ShapePredictor

CHIP_PADDING = 0.25  # of the face, as in the network's training
SAME_PERSON_DISTANCE = 0.6
FACES_AT_ONCE = 32  # bounds the memory of one call: some 20 MB a face


class DlibRecognizer:
    """Identity vectors of faces, computed together in torch; the alignment of a face is dlib's own."""

    name = "dlib-resnet-v1"
    threshold = SAME_PERSON_DISTANCE

    def __init__(self, predictor: ShapePredictor | None = None) -> None:
        self._predictor = predictor or ShapePredictor()
        self._network = DlibResNet(dlib_model(RECOGNIZER))
        self.digest = SHA256[RECOGNIZER]

    def embed(self, views: Sequence[tuple[Pixels, Face]]) -> npt.NDArray[np.float32]:
        """(n, 128) float32 of n faces, each given with its (H, W, 3) uint8 picture. Neighbours do not matter but for
        float32 rounding. Raises PictureError ("degenerate_landmarks").
        """
        return self._computed(views, self._network.embed, EMBEDDING_SIZE)

    def features(self, views: Sequence[tuple[Pixels, Face]]) -> npt.NDArray[np.float32]:
        """(n, 192) float32 texture features of n faces (`DlibResNet.features`), for measuring how far apart two sets of
        faces are; not for telling people apart. Raises PictureError ("degenerate_landmarks").
        """
        return self._computed(views, self._network.features, TEXTURE_SIZE)

    def _computed(
        self,
        views: Sequence[tuple[Pixels, Face]],
        network: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
        size: int,
    ) -> npt.NDArray[np.float32]:
        """(n, size) of n faces, FACES_AT_ONCE at a time."""
        vectors = [np.zeros((0, size), np.float32)]
        for start in range(0, len(views), FACES_AT_ONCE):
            chips = [self._chip(pixels, face) for pixels, face in views[start : start + FACES_AT_ONCE]]
            vectors.append(network(np.stack(chips)))
        return np.concatenate(vectors)

    def _chip(self, pixels: Pixels, face: Face) -> Pixels:
        """The face as the network saw faces in its training: (150, 150, 3) uint8."""
        view, _, points = self._predictor.on_chip(pixels, face)
        parts = dlib.points([dlib.point(round(x), round(y)) for x, y in points])
        whole = dlib.rectangle(0, 0, view.shape[1] - 1, view.shape[0] - 1)
        return np.asarray(
            dlib.get_face_chip(view, dlib.full_object_detection(whole, parts), CHIP_SIDE, CHIP_PADDING), np.uint8
        )

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        """Euclidean distance of two identity vectors (128,); 0 for the same, around 0.9 for strangers."""
        return float(np.linalg.norm(first.astype(np.float64) - second.astype(np.float64)))
