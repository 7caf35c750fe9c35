"""What a plain machine can not show: the prior on a GPU, and the published 274 M-parameter model's own weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keyanon_core.evaluation import measure_recovery
from keyanon_core.priors import load_prior

LDM_VARIABLE = "KEYANON_LDM"


def _crop(astronaut: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One portrait, roughly cut, and an ellipse for a mask: (1, 3, S, S) in [-1, 1] and (1, S, S)."""
    picture = Image.open(astronaut).convert("RGB").crop((140, 20, 310, 190)).resize((side, side), Image.Resampling.BOX)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return (np.asarray(picture).transpose(2, 0, 1) / 127.5 - 1)[None], ((x / 0.6) ** 2 + (y / 0.75) ** 2 < 1)[None]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_face_comes_back_on_a_gpu(astronaut: Path) -> None:
    prior = load_prior("embedded", device="cuda")
    crops, masks = _crop(astronaut, prior.side)
    figures = measure_recovery(prior, crops, masks, method="exact", transform="rotation", steps=12)
    assert figures.recovered_psnr["sidecar"].min() >= 60


@pytest.mark.real_ldm
@pytest.mark.skipif(LDM_VARIABLE not in os.environ, reason=f"{LDM_VARIABLE} names no directory with the real weights")
def test_the_published_model_gives_a_face_back_from_its_sidecar(astronaut: Path) -> None:
    prior = load_prior(os.environ[LDM_VARIABLE])
    crops, masks = _crop(astronaut, prior.side)
    figures = measure_recovery(prior, crops, masks, method="exact", transform="rotation", steps=12)
    # Against the source crop the autoencoder's own loss counts too; what the method adds to it must stay small.
    assert figures.recovered_psnr["sidecar"].min() >= figures.recovered_psnr["float"].min() - 1
    assert figures.recovered_psnr["sidecar"].min() > figures.anonymized_psnr.max() + 6
