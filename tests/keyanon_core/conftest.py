"""The embedded models, loaded once, public-domain photographs that ship in packages, and keys that are drawn alike each time."""

import hashlib
import importlib.util
from collections.abc import Callable
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from keyanon_core.faces import FaceModels, load_face_models
from keyanon_core.imaging import decode_picture

Pixels = npt.NDArray[np.uint8]


def draw_keys_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the same image keys come one after the other, each time.

    What a result looks like depends on its key, and so does what a search of it, the gate or a solver makes of it: under one key
    in some hundred the neck below an anonymized face passes for another face.
    """
    drawn = count()
    monkeypatch.setattr("secrets.token_bytes", lambda size: hashlib.shake_256(b"%d" % next(drawn)).digest(size))


@pytest.fixture
def keys_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_keys_alike(monkeypatch)


def _packaged(package: str, path: str) -> Pixels:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return decode_picture((Path(spec.origin).parent / path).read_bytes())


@pytest.fixture(scope="session")
def models() -> FaceModels:
    return load_face_models("embedded")


@pytest.fixture(scope="session")
def astronaut() -> Pixels:
    return _packaged("skimage", "data/astronaut.png")


@pytest.fixture(scope="session")
def hopper() -> Pixels:
    return _packaged("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")


@pytest.fixture(scope="session")
def coffee() -> Pixels:
    return _packaged("skimage", "data/coffee.png")


@pytest.fixture(scope="session")
def cat() -> Pixels:
    return _packaged("skimage", "data/chelsea.png")


@pytest.fixture(scope="session")
def turned() -> Callable[[Pixels, float], tuple[Pixels, npt.NDArray[np.float64]]]:
    """Turn a picture by degrees, clockwise as seen, on a canvas that holds it all; also the affine that did it."""

    def turn(pixels: Pixels, degrees: float) -> tuple[Pixels, npt.NDArray[np.float64]]:
        height, width = pixels.shape[:2]
        side = int(np.hypot(height, width)) + 1
        affine = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
        affine[:, 2] += [(side - width) / 2, (side - height) / 2]
        return np.asarray(cv2.warpAffine(pixels, affine, (side, side)), np.uint8), affine

    return turn
