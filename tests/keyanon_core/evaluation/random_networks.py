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
