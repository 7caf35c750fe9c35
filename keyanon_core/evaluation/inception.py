"""Features of pictures in which distances of sets are called FID and KID: Inception's, with the weights of 2015-12-05.

Architecture and resizing are torch-fidelity's, which are those of the TensorFlow network that Heusel et al. (NeurIPS 2017) used.
The weights are a file of the user's; nothing is downloaded.
"""

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import EvaluationError, FaceModelError
from keyanon_core.faces.detection import Pixels
from keyanon_core.published_weights import PublishedWeights

WEIGHTS: Final = PublishedWeights(
    "weights-inception-2015-12-05-6726825d",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
"""pytorch-fid publishes the same file as pt_inception-2015-12-05-6726825d.pth."""

LAYER: Final = "2048"  # the last pooling, and the number of its features
SIDE: Final = 299  # px that the network sees
PICTURES_AT_ONCE: Final = 16

Features = npt.NDArray[np.float32]


class Inception:
    """The network, on the CPU. No other weights than WEIGHTS are read, on whatever machine: what it gives is comparable."""

    name = "inception"

    def __init__(self, file: Path, weights: PublishedWeights = WEIGHTS) -> None:
        """Raises EvaluationError without torch-fidelity, FaceModelError for another file than `weights`."""
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise EvaluationError(f"FID and KID need {error.name}; install keyanon[evaluation]") from error
        self.digest = weights.sha256
        # It opens what it is given as any pickle: it is given bytes that were written here.
        read = io.BytesIO()
        torch.save(weights.read(file), read)
        read.seek(0)
        try:
            self._network = FeatureExtractorInceptionV3(self.name, [LAYER], feature_extractor_weights_path=read)
        except RuntimeError as error:
            first = " ".join(str(error).splitlines()[:2])[:300]
            raise FaceModelError(f"{file.name} does not fit torch-fidelity's Inception: {first}") from error
        self._network.eval()  # 0.3 leaves it in training, where neighbours decide

    def __call__(self, pictures: Sequence[Pixels]) -> Features:
        """(n, 2048) float32 of n pictures (H, W, 3) uint8, of any size.

        Each is stretched to SIDE px square, bilinearly and without averaging, as TensorFlow 1 does; reduce larger ones before.
        """
        parts = [np.zeros((0, int(LAYER)), np.float32)]
        with torch.inference_mode():
            for _, same in groupby(pictures, key=lambda one: one.shape):
                stack = np.stack(list(same))
                for start in range(0, len(stack), PICTURES_AT_ONCE):
                    shown = torch.from_numpy(stack[start : start + PICTURES_AT_ONCE]).permute(0, 3, 1, 2)
                    parts.append(self._network(shown)[0].numpy())
        return np.concatenate(parts)
