"""A picture under keys that are thrown away: every version of it is there, and no key."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from keyanon_core.evaluation.likeness import peak_signal_to_noise
from keyanon_core.evaluation.rehearsal import (
    COPY,
    OTHER_KEY,
    RECOVERED,
    REHEARSAL,
    REHEARSED,
    SIDECAR,
    WRONG_KEY,
    Rehearsal,
)
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import encode_picture
from keyanon_core.pictures.settings import AnonymizeSettings
from keyanon_core.priors import load_prior

OPEN_GATE = AnonymizeSettings(gate_threshold=0.1, output_format="png")


@pytest.fixture(scope="module")
def portrait(astronaut: Pixels) -> bytes:
    with Image.fromarray(astronaut) as whole:
        buffer = io.BytesIO()
        whole.resize((256, 256)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_a_picture_comes_back_with_its_key_and_as_noise_with_another(models: FaceModels, portrait: bytes) -> None:
    done = Rehearsal(load_prior("embedded"), models, OPEN_GATE)(portrait)
    assert tuple(done.versions) == (REHEARSAL, OTHER_KEY, RECOVERED, COPY, WRONG_KEY) and set(REHEARSED) == set(
        done.versions
    )
    assert done.missing == {} and done.stored_bytes[REHEARSAL] > 10_000 and done.stored_bytes[SIDECAR] > 10_000
    source = np.asarray(Image.open(io.BytesIO(portrait)))
    face = (done.versions[REHEARSAL] != source).any(2)
    likeness = {name: peak_signal_to_noise(source, pixels, face) for name, pixels in done.versions.items()}
    assert likeness[RECOVERED] > 30 > 18 > likeness[REHEARSAL] > likeness[WRONG_KEY]
    assert likeness[OTHER_KEY] < 18 and not np.array_equal(done.versions[REHEARSAL], done.versions[OTHER_KEY])
    assert likeness[COPY] > 30, "from the sidecar, whatever became of the picture"
    whole = {name: pixels for name, pixels in done.versions.items() if name != COPY}
    assert all(np.array_equal(pixels[~face], source[~face]) for pixels in whole.values())


@pytest.mark.slow
def test_of_a_run_that_forgets_its_keys_nothing_is_recovered(models: FaceModels, portrait: bytes) -> None:
    done = Rehearsal(load_prior("embedded"), models, replace(OPEN_GATE, reversible=False, steps=1))(portrait)
    assert set(done.versions) == {REHEARSAL, OTHER_KEY} and set(done.missing) == {RECOVERED, COPY, WRONG_KEY}
    assert done.stored_bytes[SIDECAR] == 0


def test_a_picture_that_would_not_be_published_says_why(models: FaceModels, coffee: Pixels) -> None:
    """And costs no other figure of it: what a run published of such a picture is the more to be measured."""
    done = Rehearsal(load_prior("embedded"), models, OPEN_GATE)(encode_picture(coffee, "png"))
    assert (done.versions, done.stored_bytes, set(done.missing)) == ({}, {}, set(REHEARSED))
    assert all(why.startswith("no_face: ") for why in done.missing.values())
