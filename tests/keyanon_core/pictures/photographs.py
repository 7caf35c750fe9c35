"""Settings and pictures the tests of this folder share."""

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.faces import FaceModels
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import Prior

STEPS = 8  # DDIM steps one way: the fewest that both inversions allow


def settings(**changes: object) -> AnonymizeSettings:
    # Three steps give a face that is not always far enough from the source for the gate; the gate has tests of its own.
    return AnonymizeSettings(**{"steps": STEPS, "gate_threshold": 0.0, **changes})  # type: ignore[arg-type]


def in_mid_run(prior: Prior, models: FaceModels, **changes: object) -> PictureAnonymizer:
    """An anonymizer that has tried its first face's way back, for tests that go that way themselves."""
    anonymizer = PictureAnonymizer(prior, models, settings(**changes))
    anonymizer.way_back.take_for_tried()
    return anonymizer


def pixels_of(encoded: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(encoded)).convert("RGB"))
