"""Fidelity `auto`: the picture alone where it brings every face back, else its sidecar, and never without saying which."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keyanon_core.errors import KeyanonError
from keyanon_core.evaluation import psnr
from keyanon_core.faces import FaceModels
from keyanon_core.imaging import decode_picture
from keyanon_core.methods.exact import begin
from keyanon_core.pictures import anonymizer as anonymizer_module
from keyanon_core.pictures import attempts as attempts_module
from keyanon_core.pictures import carried
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import cut_crop
from keyanon_core.pictures.opened import FaceAtWork
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.pictures.way_back import WayBack
from keyanon_core.priors import Prior, load_prior
from keyanon_core.procedure import SHOWN_NOISE
from keyanon_core.sidecar import Sidecar
from tests.keyanon_core.diffusion.tiny_priors import ldm_prior, pixel_prior
from tests.keyanon_core.pictures.photographs import settings
from tests.keyanon_core.pictures.told_models import Told, face_at, plain_photograph

STEPS = 4
LARGE, SMALL = face_at(64, 60, 80.0), face_at(64, 60, 13.0)  # 8 and 1.3 picture px per px of the tiny priors' crop
BESIDE = face_at(150, 60, 13.0)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_prior(pixel_prior(tmp_path_factory.mktemp("tiny"), "inpaint"))


def photograph(format: str = "PNG", number: int = 1, mode: str = "RGB", width: int = 180, **options: Any) -> bytes:
    buffer = BytesIO()
    plain_photograph(width, 128, number).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def anonymizer(prior: Prior, told: Told, **changes: object) -> PictureAnonymizer:
    chosen = {"steps": STEPS, "fidelity": "auto", "output_format": "png", **changes}
    return PictureAnonymizer(prior, FaceModels(told, told, told), settings(**chosen))


def anonymized(prior: Prior, told: Told, encoded: bytes, **changes: object) -> PictureResult:
    (result,) = anonymizer(prior, told, **changes)([PictureTask("a", encoded)])
    assert result.status == "anonymized", result.reason
    return result


def fidelity(prior: Prior, result: PictureResult, source: bytes) -> str:
    """What record and sidecar say of a picture whose faces come back as well as that fidelity promises."""
    assert result.encoded is not None and result.sidecar is not None and result.key is not None
    said, stored = result.key.fidelity, Sidecar.from_bytes(result.sidecar)
    assert stored.fidelity == said
    assert all((face.codes is None) == (face.surroundings is None) == (said == "image") for face in stored.faces)
    recovered = PictureRecoverer(prior).recover(result.encoded, result.sidecar, result.key)
    masks = [face.mask for face in result.key.faces]
    for face, crop in zip(result.key.faces, recovered.crops, strict=True):
        others = [mask for mask in masks if mask is not face.mask]
        affine = np.reshape(face.affine, (2, 3))
        cut = cut_crop(decode_picture(source), affine, face.mask, others, prior.side, inner=said == "image")
        assert psnr(crop[None], cut.values[None], cut.mask[None])[0] > carried.CARRIED_PSNR
    return said


@pytest.mark.parametrize(
    ("source", "changes", "expected"),
    [
        ({}, {}, "image"),
        ({"width": 110}, {}, "image"),  # higher than wide
        ({"format": "JPEG"}, {}, "image"),  # what counts is the format of the published picture
        ({"mode": "L"}, {}, "image"),
        ({}, {"output_format": "webp"}, "image"),
        ({}, {"output_format": "same"}, "image"),
        ({"format": "WEBP", "lossless": True}, {"output_format": "same"}, "image"),
        ({}, {"inversion": "ddim", "steps": 8}, "image"),
        ({}, {"transform": "sign", "steps": 8}, "image"),
        ({}, {"output_format": "jpeg"}, "latent"),
        ({"format": "JPEG"}, {"output_format": "same"}, "latent"),
        ({"format": "WEBP", "quality": 95}, {"output_format": "same"}, "latent"),
        ({"mode": "L"}, {"output_format": "same"}, "latent"),  # a face's luminance alone is stored
        ({"mode": "RGBA"}, {"output_format": "same"}, "latent"),
    ],
)
def test_a_picture_carries_its_face_where_its_format_shows_every_pixel(
    prior: Prior, source: dict[str, Any], changes: dict[str, object], expected: str
) -> None:
    encoded = photograph(**source)
    result = anonymized(prior, Told({1: [LARGE]}), encoded, **changes)
    assert fidelity(prior, result, encoded) == expected


def test_a_face_without_room_sends_its_picture_to_the_sidecar_before_anything_is_computed(prior: Prior) -> None:
    encoded = photograph()
    for faces in ([SMALL], [LARGE, BESIDE]):
        tried = anonymizer(prior, Told({1: faces}))
        tried.way_back.take_for_tried()
        before = prior.nfe
        (result,) = tried([PictureTask("a", encoded)])
        assert prior.nfe - before == STEPS * len(faces)
        assert fidelity(prior, result, encoded) == "latent"


def test_a_prior_with_an_autoencoder_is_not_tried(tmp_path: Path) -> None:
    prior = load_prior(ldm_prior(tmp_path))
    before = prior.nfe
    tried = anonymizer(prior, Told({1: [LARGE]}))
    tried.way_back.take_for_tried()
    (result,) = tried([PictureTask("a", photograph())])
    assert result.key is not None and result.key.fidelity == "latent"
    assert prior.nfe - before == STEPS


@pytest.fixture
def procedures(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The noise that faces were begun with, in order."""
    found: list[float | None] = []

    def begun(*problem: Any) -> Any:
        keys, procedure = problem[4:6]
        found.extend([procedure.clean_noise] * len(keys))
        return begin(*problem)

    monkeypatch.setattr(attempts_module, "begin", begun)
    return found


def test_what_is_not_read_back_is_made_anew_for_the_sidecar_under_another_key_and_without_grain(
    prior: Prior, procedures: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(carried.CARRIED_ERROR, "none", 0.0)
    encoded = photograph()
    told = Told({1: [LARGE]})
    result = anonymized(prior, told, encoded)
    assert fidelity(prior, result, encoded) == "latent"
    assert procedures == [SHOWN_NOISE, None]
    assert result.key is not None and [face.attempt for face in result.key.faces] == [1]
    assert [search for search, _ in told.log] == ["detect", "look_again"], (
        "what was not to be published was not searched"
    )


def test_the_gate_judges_the_face_that_is_published_and_not_the_one_that_was_tried(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(carried.CARRIED_ERROR, "none", 0.0)
    distances = iter([0.9, 0.1, 0.8])  # of the trial, and of two keys of the face that is made for the sidecar
    monkeypatch.setattr(Told, "distance", lambda self, first, second: next(distances))
    told = Told({1: [LARGE]})
    quick = {"gate_threshold": 0.5, "max_attempts": 1000}
    monkeypatch.setattr(attempts_module, "EARLY_CHECKS", {"none": ()})
    result = anonymized(prior, told, photograph(), **quick)
    assert result.key is not None and result.key.fidelity == "latent"
    assert [face.attempt for face in result.key.faces] == [2]
    assert next(distances, None) is None


def test_a_small_face_that_is_found_late_sends_all_faces_to_the_sidecar(
    prior: Prior, procedures: list[float | None]
) -> None:
    encoded = photograph()
    result = anonymized(prior, Told({1: [LARGE]}, {1: [[BESIDE], []]}), encoded)
    assert fidelity(prior, result, encoded) == "latent"
    assert procedures == [SHOWN_NOISE, None, None]
    assert result.key is not None and [face.attempt for face in result.key.faces] == [1, 0]


def test_a_large_face_that_is_found_late_leaves_the_others_as_they_are(prior: Prior) -> None:
    encoded, late = photograph(width=420), face_at(350, 60, 40.0)
    result = anonymized(prior, Told({1: [LARGE]}, {1: [[late], []]}), encoded)
    assert fidelity(prior, result, encoded) == "image"
    assert result.key is not None and [face.attempt for face in result.key.faces] == [0, 0]


def test_faces_in_each_others_crops_come_back_from_the_picture_alone(prior: Prior) -> None:
    encoded, near = photograph(width=240), face_at(148, 60, 80.0)
    assert fidelity(prior, anonymized(prior, Told({1: [LARGE, near]}), encoded), encoded) == "image"


def test_pictures_of_both_kinds_go_through_the_prior_together(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    eps = prior.eps
    monkeypatch.setattr(prior, "eps", lambda w, *rest, **how: (sizes.append(len(w)), eps(w, *rest, **how))[1])
    numbers = [1, 2, 3, 4]
    told = Told({1: [LARGE], 2: [SMALL], 3: [LARGE], 4: [SMALL]})
    tried = anonymizer(prior, told, face_batch=2)
    tried.way_back.take_for_tried()
    sources = [photograph(number=number) for number in numbers]
    results = tried([PictureTask(str(n), source) for n, source in zip(numbers, sources, strict=True)])
    assert sizes == [2] * STEPS * 2, "full batches of one kind each"
    said = [fidelity(prior, result, source) for result, source in zip(results, sources, strict=True)]
    assert said == ["image", "latent"] * 2


def test_a_permanent_picture_is_made_without_grain(prior: Prior, procedures: list[float | None]) -> None:
    anonymizer(prior, Told({1: [LARGE]}))([PictureTask("a", photograph(), permanent=True)])
    assert procedures == [None]


def test_the_first_face_of_either_kind_is_tried_on_the_way_back(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(WayBack, "_try", lambda self, face, result, key: tried.append(f"{key.image_id} {key.fidelity}"))
    run = anonymizer(prior, Told({1: [LARGE], 2: [SMALL]}), check_every=3)
    for number in (1, 2, 1, 2, 1, 2, 1):
        run([PictureTask(str(number), photograph(number=number))])
    assert tried == ["1 image", "2 latent", "1 image"]


def test_a_face_is_read_from_its_own_cells(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[FaceAtWork, np.ndarray]] = []
    is_carried: Callable[..., bool] = carried.is_carried
    monkeypatch.setattr(
        anonymizer_module,
        "is_carried",
        lambda face, shown, inversion: (seen.append((face, shown.copy())), is_carried(face, shown, inversion))[1],
    )
    anonymized(prior, Told({1: [LARGE]}), photograph())
    ((face, shown),) = seen
    error = carried.read_error(face, shown)
    assert 0 < error < carried.CARRIED_ERROR["none"]
    beside, within = shown.copy(), shown.copy()
    beside[~face.mask.full(shown.shape)] ^= 255
    assert carried.read_error(face, beside) == error
    within[face.mask.full(shown.shape)] = np.maximum(within, 1)[face.mask.full(shown.shape)] - 1
    assert carried.read_error(face, within) == pytest.approx(1.0, abs=0.1)
    assert not carried.is_carried(face, within, "none")
    face.latent = None
    assert not carried.is_carried(face, shown, "none"), "of a face that was not made nothing is known"


@pytest.mark.parametrize("method", ["paper", "paper-inpaint"])
def test_the_paper_whose_faces_never_come_back_so_well_is_refused(method: str) -> None:
    with pytest.raises(KeyanonError, match=rf"fidelity auto .* method {method} .* choose latent"):
        settings(fidelity="auto", method=method)
    settings(fidelity="auto", method=method, reversible=False)
