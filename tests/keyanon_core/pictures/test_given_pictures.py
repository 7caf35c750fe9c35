"""Whole pictures whose user says what of their faces, and pictures whose key is forgotten."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from keyanon_core.errors import PriorError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.alignment import UPRIGHT_TEMPLATE, similarity
from keyanon_core.faces.crop_kernel import CropKernel
from keyanon_core.faces.detection import Face, same_face
from keyanon_core.faces.given import Box, GivenFace, GivenFaces
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.pictures.anonymizer import PictureAnonymizer
from keyanon_core.pictures.crops import scaling
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, decode_surroundings
from tests.keyanon_core.pictures.photographs import in_mid_run, pixels_of, settings

CROP_SIDE = 320  # px, of the aligned crop
KEY = bytes(range(32))
FEW = settings(steps=1, fidelity="lossless")  # which faces are taken does not depend on the number of steps

Pixels = npt.NDArray[np.uint8]


def as_png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def around(face: Face, by: float = 0.2) -> Box:
    x0, y0, x1, y1 = face.box
    margin = by * (x1 - x0)
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def inside(box: Box) -> tuple[slice, slice]:
    return slice(max(int(box[1]), 0), int(box[3])), slice(max(int(box[0]), 0), int(box[2]))


@pytest.fixture(scope="module")
def found(models: FaceModels, group: bytes) -> list[Face]:
    return models.detector.detect(pixels_of(group))


@pytest.fixture(scope="module")
def aligned(models: FaceModels, astronaut: bytes) -> bytes:
    """The astronaut's face cut as FFHQ cuts faces."""
    pixels = pixels_of(astronaut)
    (face,) = models.detector.detect(pixels)
    affine = similarity(face.landmarks, UPRIGHT_TEMPLATE * CROP_SIDE - 0.5)
    crop = CropKernel(affine, CROP_SIDE, pixels.shape).warp(pixels)
    return as_png(np.rint(crop).astype(np.uint8))


def test_a_kept_face_stays_to_the_bit_and_the_second_search_lets_it_be(
    prior: Prior, models: FaceModels, group: bytes, found: list[Face]
) -> None:
    keep = (around(found[0]),)
    (result,) = PictureAnonymizer(prior, models, FEW)([PictureTask("g", group, given=GivenFaces(keep=keep))])
    assert (result.status, result.faces, result.kept) == ("anonymized", 3, 1), result.reason
    assert result.encoded is not None and result.key is not None
    source, published = pixels_of(group), pixels_of(result.encoded)
    assert np.array_equal(source[inside(keep[0])], published[inside(keep[0])])
    for face in result.key.faces:
        assert (source != published).any(axis=2)[face.mask.full(source.shape)].mean() > 0.9


def test_a_face_beside_a_kept_one_is_found_by_the_second_search(
    prior: Prior, models: FaceModels, group: bytes, found: list[Face]
) -> None:
    keep = (around(found[0]),)
    first_search = PictureTask("g", group, faces=[], kept=found[:1], given=GivenFaces(keep=keep))
    (result,) = PictureAnonymizer(prior, models, FEW)([first_search])
    assert (result.status, result.faces, result.kept) == ("anonymized", 3, 1), result.reason


def test_a_picture_of_kept_faces_alone_is_published_re_encoded_and_says_so(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    pixels = pixels_of(astronaut)
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x010E] = "a secret description"
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    (face,) = models.detector.detect(pixels)
    task = PictureTask("a", buffer.getvalue(), given=GivenFaces(keep=(around(face),)))
    (result,) = PictureAnonymizer(prior, models, FEW)([task])
    assert (result.status, result.faces, result.kept) == ("no_face", 0, 1)
    assert result.reason.startswith("kept: ")
    assert result.encoded is not None and b"secret" not in result.encoded
    assert np.array_equal(pixels_of(result.encoded), pixels)
    assert (result.sidecar, result.key, result.source_hmac) == (None, None, None)


def test_a_kept_face_does_not_stand_for_the_one_behind_it(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (front,) = models.detector.detect(pixels_of(astronaut))
    x0, y0, x1, y1 = around(front, 0.35)
    rear = Face((x0, y0, x1, y1), template_in_box((x0, y0, x1, y1)), front.score - 0.1)
    assert same_face(front, rear), "as the searches see it"
    monkeypatch.setattr(models.detector, "look_again", lambda pixels: [front, rear])
    (left, top), (right, bottom) = front.landmarks.min(0) - 2, front.landmarks.max(0) + 2
    keep = (float(left), float(top), float(right), float(bottom))
    task = PictureTask("a", astronaut, faces=[], kept=[front], given=GivenFaces(keep=(keep,)))
    (result,) = PictureAnonymizer(prior, models, FEW)([task])
    assert (result.status, result.faces, result.kept) == ("anonymized", 1, 1), result.reason
    assert result.key is not None and result.key.faces[0].box == pytest.approx(rear.box)


def test_a_given_face_in_a_kept_box_is_not_counted_as_left_alone(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face,) = models.detector.detect(pixels_of(astronaut))
    monkeypatch.setattr(models.detector, "look_again", lambda pixels: [face])
    task = PictureTask("a", astronaut, given=GivenFaces((GivenFace(face.box),), (around(face),)))
    (result,) = PictureAnonymizer(prior, models, FEW)([task])
    assert (result.status, result.faces, result.kept) == ("anonymized", 1, 0), result.reason


def test_a_kept_box_without_a_face_publishes_nothing(prior: Prior, models: FaceModels, coffee: bytes) -> None:
    task = PictureTask("c", coffee, given=GivenFaces(keep=((10.0, 10.0, 60.0, 60.0),)))
    (result,) = PictureAnonymizer(prior, models, FEW)([task])
    assert (result.status, result.encoded, result.kept) == ("no_face", None, 0)
    assert result.reason.startswith("no_face: ")


def test_with_given_faces_alone_a_face_nobody_gave_is_taken_up_all_the_same(
    prior: Prior, models: FaceModels, group: bytes, found: list[Face], astronaut: bytes, coffee: bytes
) -> None:
    tasks = [
        PictureTask("some", group, given=GivenFaces((GivenFace(found[1].box),), (around(found[0]),))),
        PictureTask("none", astronaut),
        PictureTask("empty", coffee),
    ]
    some, none, empty = PictureAnonymizer(prior, models, replace(FEW, faces="given"))(tasks)
    assert (some.status, some.faces, some.kept) == ("anonymized", 3, 1), some.reason
    assert (none.status, none.faces) == ("anonymized", 1), none.reason
    assert (empty.status, empty.encoded) == ("no_face", None)


def test_a_picture_passed_without_a_face_was_searched_twice(prior: Prior, models: FaceModels, astronaut: bytes) -> None:
    overlooked = PictureTask("a", astronaut, faces=[])
    (passed,) = PictureAnonymizer(prior, models, replace(FEW, no_face="pass"))([overlooked])
    assert (passed.status, passed.faces) == ("anonymized", 1)


def test_an_aligned_crop_is_scaled_onto_the_prior_and_comes_back(
    prior: Prior, models: FaceModels, aligned: bytes
) -> None:
    (result,) = in_mid_run(prior, models, faces="aligned")([PictureTask("a", aligned)])
    assert result.status == "anonymized", result.reason
    assert result.encoded is not None and result.sidecar is not None and result.key is not None
    (face,) = result.key.faces
    assert np.allclose(np.reshape(face.affine, (2, 3)), scaling(CROP_SIDE, prior.side), atol=0)
    source, published = pixels_of(aligned), pixels_of(result.encoded)
    masked = face.mask.full(source.shape)
    assert np.array_equal(source[~masked], published[~masked])
    recovered = PictureRecoverer(prior).recover(result.encoded, result.sidecar, result.key)
    # What comes back is what the prior's small crop can hold of the face.
    kernel = CropKernel(scaling(CROP_SIDE, prior.side), prior.side, source.shape)
    held = kernel.warp(source).transpose(2, 0, 1) / 127.5 - 1
    (stored,) = Sidecar.from_bytes(result.sidecar).faces
    assert stored.surroundings is not None
    around = decode_surroundings(stored.surroundings, prior.side)
    error, change = np.abs(recovered.crops[0] - held), np.abs(around - held)
    assert error.mean() < change.mean() / 5


def test_the_scaling_maps_outline_onto_outline() -> None:
    affine = scaling(300, 100)
    assert affine @ [-0.5, 299.5, 1] == pytest.approx([-0.5, 99.5])
    assert affine @ [149.5, 149.5, 1] == pytest.approx([49.5, 49.5])


def test_an_aligned_crop_that_is_not_square_is_quarantined(prior: Prior, models: FaceModels, aligned: bytes) -> None:
    cut = as_png(pixels_of(aligned)[:-1])
    (result,) = PictureAnonymizer(prior, models, replace(FEW, faces="aligned"))([PictureTask("a", cut)])
    assert (result.status, result.reason.split(":")[0], result.encoded) == ("quarantined", "not_square", None)


def test_a_second_face_in_an_aligned_crop_is_anonymized_as_well(
    prior: Prior, models: FaceModels, aligned: bytes
) -> None:
    pixels = pixels_of(aligned).copy()
    small = np.asarray(Image.fromarray(pixels).resize((CROP_SIDE // 4, CROP_SIDE // 4)))
    pixels[: small.shape[0], : small.shape[1]] = small
    (result,) = PictureAnonymizer(prior, models, replace(FEW, faces="aligned"))([PictureTask("a", as_png(pixels))])
    assert (result.status, result.faces) == ("anonymized", 2), result.reason
    assert result.key is not None
    first, second = (np.reshape(face.affine, (2, 3)) for face in result.key.faces)
    assert np.allclose(first, scaling(CROP_SIDE, prior.side), atol=0)
    assert not np.allclose(second, first, atol=0.1)


def test_a_permanent_picture_leaves_nothing_of_its_key_and_looks_like_any_other(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda count: KEY[:count])  # where every image key comes from
    tasks = [PictureTask("a", astronaut), PictureTask("a", astronaut, permanent=True)]
    kept, permanent = PictureAnonymizer(prior, models, FEW)(tasks)
    assert kept.key is not None and kept.key.image_key == KEY and kept.sidecar is not None and kept.source_hmac
    assert permanent.encoded == kept.encoded
    assert replace(permanent, encoded=None, metrics={}) == PictureResult("a", "anonymized", faces=1)


def test_a_run_that_is_not_reversible_makes_every_picture_permanent_and_may_take_few_steps(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    with pytest.raises(PriorError, match="can not be inverted"):
        PictureAnonymizer(prior, models, settings(steps=1))
    (result,) = PictureAnonymizer(prior, models, settings(steps=1, reversible=False))([PictureTask("a", astronaut)])
    assert (result.status, result.key, result.sidecar, result.source_hmac) == ("anonymized", None, None, None)


def test_a_permanent_picture_shows_no_noise_for_a_recovery_that_never_comes(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda count: KEY[:count])
    shown = [
        PictureAnonymizer(
            prior, models, settings(fidelity=fidelity, reversible=reversible, inversion="ddim", output_format="png")
        )([PictureTask("a", astronaut, permanent=True)])[0].encoded
        for fidelity, reversible in (("image", True), ("latent", False))
    ]
    assert shown[0] == shown[1] is not None
