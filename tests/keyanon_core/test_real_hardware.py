"""What a plain machine can not show: the prior on a GPU, and the published 274 M-parameter model's own weights.

The GPU's test runs on the CPU as well, so that a test nobody can see running is known to run.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from keyanon_core.faces import load_face_models
from keyanon_core.faces.recognition import DlibRecognizer
from keyanon_core.imaging import encode_picture
from keyanon_core.keys import face_key
from keyanon_core.methods import anonymize, recover
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureTask
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import Procedure
from tests.keyanon_core.diffusion.tiny_priors import psnr

LDM_VARIABLE = "KEYANON_LDM"
STEPS = 8
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RoundTrip:
    """PSNR in dB inside the mask, against the source crop: of what is published, of what comes back from a sidecar, and of
    what the prior's autoencoder alone makes of the source."""

    anonymized: float
    recovered: float
    autoencoder: float


def _round_trip(prior: Prior, astronaut: Pixels) -> RoundTrip:
    """One portrait, roughly cut, with an ellipse for a mask, anonymized and recovered from float16."""
    side = prior.side
    face = Image.fromarray(astronaut).crop((140, 20, 310, 190)).resize((side, side), Image.Resampling.BOX)
    crops = torch.from_numpy(np.asarray(face).transpose(2, 0, 1)[None] / 127.5 - 1)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = torch.from_numpy((x / 0.6) ** 2 + (y / 0.75) ** 2 < 1)[None, None]
    mask, z, keys = prior.latent_mask(inside), prior.encode(crops), [face_key(bytes(32), 0, 0, "rotation")]
    known = prior.encode(crops.masked_fill(inside, 0.0)).half().double() * (1 - mask)
    done = anonymize(prior, z, known, mask, keys, Procedure(steps=STEPS))
    again = recover(prior, done.latent.half().double(), mask, keys, done.scale, Procedure(steps=STEPS))
    shown = (prior.decode(latent).cpu() for latent in (done.latent, again.latent, z))
    return RoundTrip(*(psnr(picture, crops, inside) for picture in shown))


NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


@pytest.mark.parametrize(
    ("device", "precision", "wanted"),
    [
        ("cpu", "float32", 60),
        ("cpu", "bfloat16", 45),
        pytest.param("cuda", "float32", 60, marks=NEEDS_GPU),
        pytest.param("cuda", "tf32", 50, marks=NEEDS_GPU),
        pytest.param("cuda", "bfloat16", 45, marks=NEEDS_GPU),
    ],
)
def test_a_face_comes_back_on_either_device(astronaut: Pixels, device: str, precision: str, wanted: float) -> None:
    found = _round_trip(load_prior("embedded", device, precision), astronaut)
    assert found.recovered >= wanted
    assert found.anonymized < 25


@pytest.mark.parametrize("device", DEVICES)
def test_a_picture_that_was_made_on_either_device_is_restored_on_the_cpu(astronaut: Pixels, device: str) -> None:
    models = load_face_models(device=device)
    settings = AnonymizeSettings(gate_threshold=0.1, output_format="png")
    source = encode_picture(astronaut, "png")
    (result,) = PictureAnonymizer(load_prior("embedded", device), models, settings)([PictureTask("a", source)])
    assert result.status == "anonymized" and result.encoded and result.sidecar and result.key
    back = PictureRecoverer(load_prior()).recover(result.encoded, result.sidecar, result.key)
    (face,) = result.key.faces
    inside = face.mask.full(astronaut.shape)
    error = np.square(back.pixels[inside].astype(float) - astronaut[inside]).mean()
    assert 10 * np.log10(255**2 / error) > 30, "the crop's resampling is the rest"


@pytest.mark.parametrize("device", DEVICES)
def test_the_recognizer_says_the_same_on_either_device(astronaut: Pixels, device: str) -> None:
    models = load_face_models(device=device)
    view = (astronaut, models.detector.detect(astronaut)[0])
    assert models.recognizer.distance(*DlibRecognizer().embed([view]), *models.recognizer.embed([view])) < 1e-3


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; on the CPU a smaller prior is compiled elsewhere"
)
def test_a_compiled_denoiser_says_the_same_on_a_gpu(astronaut: Pixels) -> None:
    prior = load_prior("embedded", "cuda")
    prior.networks.compile(prior.latent_shape)
    assert _round_trip(prior, astronaut).recovered >= 60


@pytest.mark.real_ldm
@pytest.mark.skipif(LDM_VARIABLE not in os.environ, reason=f"{LDM_VARIABLE} names no directory with the real weights")
def test_the_published_model_gives_a_face_back_from_its_sidecar(astronaut: Pixels) -> None:
    found = _round_trip(load_prior(os.environ[LDM_VARIABLE]), astronaut)
    # The autoencoder's own loss counts in both; what the method adds to it must stay small.
    assert found.recovered >= found.autoencoder - 1
    assert found.recovered > found.anonymized + 6
