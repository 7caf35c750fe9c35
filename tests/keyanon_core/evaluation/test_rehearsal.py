"""A picture under keys that are thrown away: every version of it is there, and no key."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from keyanon_core.evaluation import rehearsal
from keyanon_core.evaluation.forms import BESIDE, COPIES, FORMS, STORED, TRIED
from keyanon_core.evaluation.likeness import peak_signal_to_noise
from keyanon_core.evaluation.rehearsal import (
    COPY,
    OTHER_KEY,
    OTHER_SIZE,
    PERMANENT,
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


PAPER, PAPER_BACK = "paper-inpaint", "paper-inpaint-recovered"
FEW_COPIES = ("rehearsal-jpeg-50-recovered", "rehearsal-halved-recovered", "rehearsal-cropped-recovered")
ALONE = "rehearsal-png-alone"


@pytest.mark.slow
def test_a_picture_comes_back_with_its_key_and_as_noise_with_another(
    models: FaceModels, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And out of a copy, but none of another size; by the paper's method, not as well; and out of a picture alone."""
    monkeypatch.setattr(rehearsal, "COPIES", {name: COPIES[name] for name in FEW_COPIES})
    monkeypatch.setattr(rehearsal, "STORED", {ALONE: STORED[ALONE]})
    done = Rehearsal(load_prior("embedded"), models, OPEN_GATE)(portrait, forms=True)
    copied, *resized = FEW_COPIES
    of_forms = {PAPER, PAPER_BACK, copied, f"{ALONE}-recovered"}
    assert set(done.versions) == {*REHEARSED, *of_forms}
    assert done.missing == dict.fromkeys(resized, OTHER_SIZE)
    assert done.stored_bytes[f"{ALONE}{BESIDE}"] < 1000 < done.stored_bytes[f"{PAPER}{BESIDE}"]
    assert done.stored_bytes[REHEARSAL] > 10_000 and done.stored_bytes[SIDECAR] > 10_000
    source = np.asarray(Image.open(io.BytesIO(portrait)))
    face = (done.versions[REHEARSAL] != source).any(2)
    likeness = {name: peak_signal_to_noise(source, pixels, face) for name, pixels in done.versions.items()}
    assert likeness[RECOVERED] > 30 > 18 > likeness[REHEARSAL] > likeness[WRONG_KEY]
    assert likeness[OTHER_KEY] < 18 and not np.array_equal(done.versions[REHEARSAL], done.versions[OTHER_KEY])
    for copy in (COPY, copied):
        assert likeness[copy] > 30, "from the sidecar, whatever became of the picture"
    assert likeness[RECOVERED] > likeness[PAPER_BACK] + 3 and likeness[PAPER_BACK] > likeness[PAPER] + 3
    (seen,) = models.detector.detect(source)
    assert done.normality_of(seen) > 1e-6, "as noise is, but for one key in a million"
    assert math.isnan(done.normality_of(replace(seen, box=(0.0, 0.0, 9.0, 9.0))))
    for name in set(REHEARSED) - {COPY}:
        outside = (done.versions[name] != source).any(2) & ~face
        assert outside.sum() <= 3, "where another key's pixels are not the source's and this one's are, by chance"


@pytest.mark.slow
def test_of_a_run_that_forgets_its_keys_nothing_is_recovered(models: FaceModels, portrait: bytes) -> None:
    done = Rehearsal(load_prior("embedded"), models, replace(OPEN_GATE, reversible=False, steps=1))(
        portrait, forms=True
    )
    assert set(done.versions) == {REHEARSAL, OTHER_KEY, PAPER, PAPER_BACK}
    assert set(done.missing) == {RECOVERED, COPY, WRONG_KEY, *TRIED} and set(done.missing.values()) == {PERMANENT}
    assert done.stored_bytes[SIDECAR] == 0


@pytest.mark.slow
def test_two_keys_of_a_subjects_picture_show_its_pseudonym(models: FaceModels, portrait: bytes) -> None:
    """As the run made it: of a picture without a subject each key shows another face."""
    on_carriers = replace(OPEN_GATE, reversible=False, steps=1, payload_share=0.2)
    rehearse = Rehearsal(load_prior("embedded"), models, on_carriers)
    apart = []
    for subject in ("ada", None):
        done = rehearse(portrait, subject=subject)
        shown, again = (done.versions[name] for name in (REHEARSAL, OTHER_KEY))
        apart.append(peak_signal_to_noise(shown, again, (shown != again).any(2)))
        assert PAPER in done.versions, "which knows no carriers"
    assert apart[0] > apart[1] + 6


def test_a_picture_that_would_not_be_published_says_why(models: FaceModels, coffee: Pixels) -> None:
    """And costs no other figure of it: what a run published of such a picture is the more to be measured."""
    done = Rehearsal(load_prior("embedded"), models, OPEN_GATE)(encode_picture(coffee, "png"))
    assert (done.versions, done.stored_bytes, set(done.missing)) == ({}, {}, set(REHEARSED))
    assert all(why.startswith("no_face: ") for why in done.missing.values())


def test_copies_are_what_they_are_called_and_each_form_is_said(astronaut: Pixels) -> None:
    made = {name: np.asarray(Image.open(io.BytesIO(copy(astronaut)))) for name, copy in COPIES.items()}
    height, width = astronaut.shape[:2]
    sizes = {name: pixels.shape[:2] for name, pixels in made.items()}
    assert sizes.pop("rehearsal-halved-recovered") == (height // 2, width // 2)
    assert sizes.pop("rehearsal-cropped-recovered") == (height * 3 // 4, width * 3 // 4)
    assert set(sizes.values()) == {(height, width)}
    kept = (made["rehearsal-cropped-and-back-recovered"] == astronaut).all(2)
    assert kept[height // 8 : -(height // 8), width // 8 : -(width // 8)].all() and kept.mean() < 0.7
    likeness = [
        peak_signal_to_noise(astronaut, made[f"rehearsal-jpeg-{quality}-recovered"]) for quality in (100, 90, 50)
    ]
    assert likeness == sorted(likeness, reverse=True)
    assert {RECOVERED, COPY, *TRIED} == set(FORMS)
