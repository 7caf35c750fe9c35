"""Files of random weights in the place of published ones, which are not at hand."""

import hashlib
from pathlib import Path
from unittest.mock import patch

import torch

from keyanon_core.published_weights import PublishedWeights


def saved(state: object, file: Path) -> PublishedWeights:
    """Write a state, as if it had been published."""
    torch.save(state, file)
    return PublishedWeights(file.stem, "https://example.org/weights", hashlib.sha256(file.read_bytes()).hexdigest())


def random_inception(file: Path) -> PublishedWeights:
    """Weights for torch-fidelity's Inception, of the same names and shapes as the published ones. 96 MB."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    saved({}, file)
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(file))
    scaled = {name: one * 6**0.5 if one.ndim == 4 else one for name, one in network.state_dict().items()}
    return saved(scaled, file)  # as He et al. do, so that no layer fades away


def random_alexnet(file: Path) -> PublishedWeights:
    """Weights for the convolutions of torchvision's AlexNet, without the layers behind them. 10 MB."""
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {}
    for layer, shape in shapes.items():
        spread = (2 / torch.Size(shape[1:]).numel()) ** 0.5
        state |= {
            f"features.{layer}.weight": torch.randn(shape) * spread,
            f"features.{layer}.bias": torch.zeros(shape[0]),
        }
    return saved(state, file)
