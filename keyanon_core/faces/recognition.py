"""The embedded recognizer: dlib's face_recognition_resnet_model_v1 (CC0), 128-d, Euclidean distance.

Its author's threshold for "the same person" is 0.6 (99.38 % on LFW).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import dlib
import numpy as np
import numpy.typing as npt

from keyanon_core.device import usable_device
from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.faces.dlib_models import RECOGNIZER, SHA256, dlib_model
from keyanon_core.faces.dlib_resnet import CHIP_SIDE, EMBEDDING_SIZE, TEXTURE_SIZE, DlibResNet
from keyanon_core.faces.landmarks import ShapePredictor

CHIP_PADDING = 0.25  # of the face, as in the network's training
SAME_PERSON_DISTANCE = 0.6
# Mean of the identity vectors of 150 people, one portrait each, and their total variance about it
# fmt: off
MEAN_IDENTITY: npt.NDArray[np.float64] = np.array(
    [
        -0.103, 0.092, 0.044, -0.033, -0.094, -0.002, -0.005, -0.095, 0.128, -0.065, 0.204, -0.038, -0.266, -0.037,
        -0.017, 0.136, -0.144, -0.108, -0.148, -0.101, -0.001, 0.036, 0.015, 0.010, -0.129, -0.293, -0.071, -0.111,
        0.053, -0.081, 0.003, 0.046, -0.167, -0.056, 0.034, 0.051, -0.057, -0.053, 0.198, 0.005, -0.164, 0.002,
        0.048, 0.252, 0.207, 0.025, 0.012, -0.069, 0.104, -0.272, 0.042, 0.138, 0.096, 0.077, 0.085, -0.142,
        0.013, 0.123, -0.180, 0.052, 0.057, -0.117, -0.056, -0.054, 0.178, 0.093, -0.097, -0.127, 0.190, -0.151,
        -0.034, 0.074, -0.091, -0.152, -0.269, 0.041, 0.397, 0.132, -0.165, 0.004, -0.080, -0.029, 0.042, 0.039,
        -0.069, -0.071, -0.082, 0.025, 0.197, -0.057, -0.003, 0.204, 0.006, -0.017, 0.032, 0.049, -0.116, -0.034,
        -0.100, -0.022, 0.053, -0.111, 0.013, 0.094, -0.170, 0.153, -0.019, -0.034, -0.001, -0.028, -0.062, -0.010,
        0.184, -0.236, 0.206, 0.183, -0.017, 0.121, 0.048, 0.070, -0.022, -0.007, -0.157, -0.117, 0.034, -0.022,
        0.006, 0.026,
    ]
)
# fmt: on
IDENTITY_VARIANCE = 0.353
FACES_AT_ONCE = 32  # bounds the memory of one call: some 20 MB a face


class DlibRecognizer:
    """Identity vectors of faces, computed together in torch; the alignment of a face is dlib's own."""

    name = "dlib-resnet-v1"
    threshold = SAME_PERSON_DISTANCE

    def __init__(self, predictor: ShapePredictor | None = None, device: str = "cpu") -> None:
        """device: where the network computes, of `usable_device`. Raises FaceModelError, DeviceError."""
        self._predictor = predictor or ShapePredictor()
        self._network = DlibResNet(dlib_model(RECOGNIZER), usable_device(device))
        self.digest = SHA256[RECOGNIZER]

    def embed(self, views: Sequence[tuple[Pixels, Face]], *, coarse: bool = False) -> npt.NDArray[np.float32]:
        """(n, 128) float32 of n faces, each given with its (H, W, 3) uint8 picture. Neighbours do not matter but for
        float32 rounding. coarse: in bfloat16 where the hardware multiplies it, 0.009 off (12 photographs).
        Raises PictureError ("degenerate_landmarks").
        """
        return self._computed(views, partial(self._network.embed, coarse=coarse), EMBEDDING_SIZE)

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
        return np.asarray(dlib.get_face_chip(view, points, CHIP_SIDE, CHIP_PADDING), np.uint8)

    def distance(self, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
        """Euclidean distance of two identity vectors (128,); 0 for the same, around 0.9 for strangers."""
        return float(np.linalg.norm(first.astype(np.float64) - second.astype(np.float64)))

    def stranger_distance(self, embedding: npt.NDArray[np.float32]) -> float:
        """Root mean square distance of strangers from a face of this identity vector (128,): 0.75 for a face like many, up to 1.

        For strangers spread about a mean m with total variance v it is sqrt(|e - m|^2 + v), whatever their distribution.
        """
        from_mean = embedding.astype(np.float64) - MEAN_IDENTITY
        return math.sqrt(float(np.square(from_mean).sum()) + IDENTITY_VARIANCE)
