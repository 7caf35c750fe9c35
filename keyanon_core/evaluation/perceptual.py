"""LPIPS: how far two pictures lie apart for people who look at them (Zhang et al., CVPR 2018).

Network, linear heads and what is made of both are those of the authors' package lpips, version 0.1 of the heads, which lie in it.
AlexNet's weights, which it would download, are a file of the user's.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from keyanon_core.errors import EvaluationError, FaceModelError
from keyanon_core.faces.detection import Pixels
from keyanon_core.published_weights import PublishedWeights, fill

WEIGHTS: Final = PublishedWeights(
    "alexnet-owt-7be5be79",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
)
"""torchvision's AlexNet_Weights.IMAGENET1K_V1."""

PAIRS_AT_ONCE: Final = 16


class Lpips:
    """LPIPS by AlexNet, on the CPU. No other weights than WEIGHTS are read, on whatever machine."""

    name = "lpips-alex-0.1"

    def __init__(self, file: Path, weights: PublishedWeights = WEIGHTS) -> None:
        """Raises EvaluationError without the package lpips, FaceModelError for another file than `weights`."""
        try:
            import lpips
        except ModuleNotFoundError as error:
            raise EvaluationError(f"LPIPS needs {error.name}; install keyanon[evaluation]") from error
        self.digest = weights.sha256
        state = weights.read(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision deprecates the argument by which lpips asks for no weights
            self._network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        backbone = self._network.net  # names sliceM.N what torchvision names features.N
        try:
            own = {name: state[f"features.{name.partition('.')[2]}"] for name in backbone.state_dict()}
        except KeyError as error:
            raise FaceModelError(f"{file.name} is not torchvision's AlexNet: it has no {error}") from error
        fill(backbone, own, file.name)
        self._network.eval()

    def __call__(self, first: Sequence[Pixels], second: Sequence[Pixels]) -> npt.NDArray[np.float64]:
        """(n,) distances of n pairs of pictures (H, W, 3) uint8, all of one size, of 64 px or more each way; 0 for equal ones."""
        found = [np.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(first), PAIRS_AT_ONCE):
                pair = (_shown(pictures[start : start + PAIRS_AT_ONCE]) for pictures in (first, second))
                found.append(self._network(*pair).flatten().numpy().astype(np.float64))
        return np.concatenate(found)


def _shown(pictures: Sequence[Pixels]) -> torch.Tensor:
    """(n, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
