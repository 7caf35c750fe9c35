"""Masks, keys and the priors the diffusion tests run on; small, because two busy cores run them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keyanon_core.priors import Prior, load_prior


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two threads that wait for each other on a busy machine are ten times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> Prior:
    torch.set_num_threads(1)
    return load_prior("embedded")


@pytest.fixture(scope="session")
def astronaut_face() -> torch.Tensor:
    """(1, 3, 128, 128) float64 in [-1, 1]: a public-domain face roughly where the embedded prior expects one."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    picture = Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB")
    crop = picture.crop((160, 44, 290, 174)).resize((128, 128), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(crop)).permute(2, 0, 1)[None].double() / 127.5 - 1
