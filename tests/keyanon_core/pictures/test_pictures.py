"""Whole photographs through the embedded models: what is published, what is refused, and what comes back."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from keyanon_core.errors import PriorError, SidecarError, WrongKeyError
from keyanon_core.evaluation import psnr
from keyanon_core.faces import FaceModels, load_detector
from keyanon_core.faces.detection import Face
from keyanon_core.faces.landmarks import template_in_box
from keyanon_core.faces.masks import PictureMask
from keyanon_core.keys import new_image_key
from keyanon_core.pictures.anonymizer import MAX_ROUNDS, PictureAnonymizer
from keyanon_core.pictures.crops import cut_crop
from keyanon_core.pictures.gate import AnonymityGate
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer, RecoveredPicture
from keyanon_core.pictures.settings import PictureResult, PictureTask
from keyanon_core.priors import Prior
from keyanon_core.sidecar import Sidecar, encode_surroundings
from tests.keyanon_core.pictures.photographs import STEPS, in_mid_run, pixels_of, settings


def _parts(result: PictureResult) -> tuple[bytes, bytes, PictureKey]:
    assert result.encoded is not None
    assert result.sidecar is not None
    assert result.key is not None
    return result.encoded, result.sidecar, result.key


def _inside(key: PictureKey, shape: tuple[int, ...]) -> np.ndarray:
    return np.any([face.mask.full(shape) for face in key.faces], axis=0)


def test_pixels_outside_the_masks_stay_bit_identical_and_every_face_changes(
    group: bytes, anonymized_group: PictureResult
) -> None:
    encoded, _, key = _parts(anonymized_group)
    source, result = pixels_of(group), pixels_of(encoded)
    assert len(key.faces) == 4
    inside = _inside(key, source.shape)
    assert np.array_equal(source[~inside], result[~inside])
    for face in key.faces:
        changed = (source != result).any(axis=2)[face.mask.full(source.shape)]
        assert changed.mean() > 0.9


def test_lossless_recovery_is_pixel_exact(group: bytes, anonymized_group: PictureResult) -> None:
    recovered = PictureRecoverer(None).recover(*_parts(anonymized_group))
    assert recovered.exact
    assert recovered.picture_intact
    assert np.array_equal(recovered.pixels, pixels_of(group))
    assert (len(recovered.crops), recovered.solver, recovered.nfe) == (0, [], 0)


def test_latent_recovery_survives_a_jpeg_copy(prior: Prior, models: FaceModels, astronaut: bytes) -> None:
    (result,) = in_mid_run(prior, models)([PictureTask("a", astronaut)])
    encoded, sidecar, key = _parts(result)
    buffer = BytesIO()
    Image.open(BytesIO(encoded)).save(buffer, "JPEG", quality=60)
    recoverer = PictureRecoverer(prior)
    from_png, from_jpeg = (recoverer.recover(data, sidecar, key) for data in (encoded, buffer.getvalue()))
    assert from_png.picture_intact
    assert not from_jpeg.picture_intact
    assert np.array_equal(from_png.crops, from_jpeg.crops)
    inside = _inside(key, from_png.pixels.shape)
    error = pixels_of(astronaut)[inside].astype(float) - from_png.pixels[inside]
    anonymized = pixels_of(astronaut)[inside].astype(float) - pixels_of(encoded)[inside]
    assert np.square(error).mean() < np.square(anonymized).mean() / 10


@pytest.mark.slow
@pytest.mark.parametrize("inversion", ["", "ddim"])
def test_at_fidelity_image_the_picture_alone_gives_back_the_face(
    prior: Prior, models: FaceModels, astronaut: bytes, inversion: str
) -> None:
    """All that recovery reads is the picture: the face was warped back into it, rounded to 8 bits, and is warped out of it
    again. What is lost on the way is what the crop, smaller than the face, does not hold."""
    anonymizer = in_mid_run(prior, models, fidelity="image", output_format="png", inversion=inversion, steps=0)
    (result,) = anonymizer([PictureTask("a", astronaut)])
    encoded, sidecar, key = _parts(result)
    assert all(
        (face.surroundings, face.codes, face.source) == (None, None, None) for face in Sidecar.from_bytes(sidecar).faces
    )
    recovered = PictureRecoverer(prior).recover(encoded, sidecar, key)
    assert not recovered.exact and recovered.picture_intact
    source, inside = pixels_of(astronaut), _inside(key, recovered.pixels.shape)

    def decibels(pixels: np.ndarray) -> float:
        error = np.square(source[inside].astype(float) - pixels[inside]).mean()
        return float(10 * np.log10(255**2 / error))

    (geometry,) = key.faces
    held = cut_crop(source, np.reshape(geometry.affine, (2, 3)), geometry.mask, [], prior.side, inner=True)
    assert psnr(recovered.crops, held.values[None], held.mask[None])[0] > 33
    assert decibels(recovered.pixels) > decibels(pixels_of(encoded)) + 8
    assert np.array_equal(source[~inside], recovered.pixels[~inside])
    (face,) = models.detector.detect(recovered.pixels)
    (person,) = models.detector.detect(source)
    restored, original = (
        models.recognizer.embed([(pixels, found)])[0] for pixels, found in ((recovered.pixels, face), (source, person))
    )
    assert models.recognizer.distance(restored, original) < models.recognizer.threshold


def test_a_mask_too_small_for_a_key_to_hide_quarantines_the_picture(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_pixels(pixels: np.ndarray, face: Face, regions: frozenset[str]) -> PictureMask:
        bits = np.zeros(pixels.shape[:2], np.bool_)
        x, y = face.landmarks[2].astype(int)
        bits[y, x : x + 2] = True
        return PictureMask.from_full(bits)

    monkeypatch.setattr(models.parser, "mask", two_pixels)
    before = prior.nfe
    (result,) = PictureAnonymizer(prior, models, settings())([PictureTask("a", astronaut)])
    assert (result.status, result.reason.partition(":")[0], result.encoded) == ("quarantined", "small_mask", None)
    assert prior.nfe == before


@pytest.mark.parametrize("inversion", ["none", "ddim"])
def test_a_wrong_key_is_refused_and_when_overridden_shows_noise_or_after_an_inversion_another_face(
    prior: Prior, models: FaceModels, astronaut: bytes, inversion: str
) -> None:
    (result,) = in_mid_run(prior, models, inversion=inversion)([PictureTask("a", astronaut)])
    encoded, sidecar, key = _parts(result)
    wrong = replace(key, image_key=new_image_key())
    recoverer = PictureRecoverer(prior)
    with pytest.raises(WrongKeyError):
        recoverer.recover(encoded, sidecar, wrong)
    shown = recoverer.recover(encoded, sidecar, wrong, check_key=False)
    inside = _inside(key, shown.pixels.shape)
    source = pixels_of(astronaut)[inside].astype(float)
    assert not shown.exact
    # Of single faces some are nearer than the anonymized one by chance; none is near.
    assert np.square(source - shown.pixels[inside]).mean() > 0.4 * np.square(source - pixels_of(encoded)[inside]).mean()
    own, others = (_neighbours_agree(one) for one in (recoverer.recover(encoded, sidecar, key), shown))
    assert own > 0.9
    assert others < 0.1 if inversion == "none" else others > 0.7


def _neighbours_agree(recovered: RecoveredPicture) -> float:
    """Correlation of pixels side by side in the middle of a recovered crop: of a face nearly 1, of noise 0."""
    (crop,) = recovered.crops
    middle = crop[:, 48:80, 48:80]
    return float(np.corrcoef(middle[..., 1:].ravel(), middle[..., :-1].ravel())[0, 1])


def test_a_changed_sidecar_another_picture_and_another_prior_are_refused(
    anonymized_group: PictureResult, coffee: bytes, prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    encoded, sidecar, key = _parts(anonymized_group)
    parsed = Sidecar.from_bytes(sidecar)
    tampered = replace(parsed, levels=parsed.levels + 1).to_bytes()
    recoverer = PictureRecoverer(None)
    with pytest.raises(SidecarError, match="changed after it was published"):
        recoverer.recover(encoded, tampered, key)
    sizes = "the picture is 600 x 400, the sidecar belongs to {1} x {0};".format(*parsed.shape)
    with pytest.raises(SidecarError, match=f"{sizes} give the picture in its published size"):
        recoverer.recover(coffee, sidecar, key)
    (other,) = in_mid_run(prior, models)([PictureTask("a", astronaut)])
    with pytest.raises(SidecarError, match="belongs to record"):
        recoverer.recover(encoded, _parts(other)[1], key)
    other_encoded, other_sidecar, other_key = _parts(other)
    with pytest.raises(PriorError, match="give that prior"):
        recoverer.recover(other_encoded, other_sidecar, other_key)


def test_one_bad_picture_costs_nobody_elses_work(
    prior: Prior, models: FaceModels, astronaut: bytes, coffee: bytes
) -> None:
    tasks = [
        PictureTask("corrupt", astronaut[:5000]),
        PictureTask("good", astronaut),
        PictureTask("empty", b""),
        PictureTask("text", b"not a picture at all"),
        PictureTask("no face", coffee),
    ]
    results = PictureAnonymizer(prior, models, settings(steps=1, fidelity="lossless"))(tasks)
    assert [result.image_id for result in results] == [task.image_id for task in tasks]
    assert [result.status for result in results] == [
        "quarantined",
        "anonymized",
        "quarantined",
        "quarantined",
        "no_face",
    ]
    for result in results:
        if result.status != "anonymized":
            assert result.reason
            assert (result.encoded, result.sidecar, result.key) == (None, None, None)


def test_no_face_passes_only_when_asked_and_without_metadata(prior: Prior, models: FaceModels, coffee: bytes) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    buffer = BytesIO()
    Image.open(BytesIO(coffee)).save(buffer, "JPEG", exif=exif)
    (result,) = PictureAnonymizer(prior, models, settings(no_face="pass"))([PictureTask("c", buffer.getvalue())])
    assert result.status == "no_face"
    assert result.encoded is not None
    assert b"secret" not in result.encoded
    assert np.array_equal(pixels_of(result.encoded), pixels_of(buffer.getvalue()))


def test_a_face_that_stays_recognizable_is_re_keyed_then_quarantined(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    anonymizer = PictureAnonymizer(
        prior, models, settings(steps=1, fidelity="lossless", gate_threshold=99.0, max_attempts=3)
    )
    opened = anonymizer._open(PictureTask("a", astronaut))
    keys = set()
    for attempt in range(3):
        opened.faces[0].attempt = attempt  # type: ignore[union-attr]
        keys.add(opened.faces[0].key("rotation"))  # type: ignore[union-attr]
    assert len(keys) == 3
    (result,) = anonymizer([PictureTask("a", astronaut)])
    assert result.status == "quarantined"
    assert result.reason.startswith("still_recognizable")
    assert "under 3 keys" in result.reason
    assert result.encoded is None


@pytest.mark.parametrize(("inversion", "psi"), [("none", 0), ("ddim", STEPS)])
def test_a_face_under_its_second_key_is_recovered_and_was_not_inverted_again(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch, inversion: str, psi: int
) -> None:
    anonymizer = in_mid_run(prior, models, gate_threshold=0.5, inversion=inversion)
    verdicts = iter([0.1, 0.9])
    monkeypatch.setattr(models.recognizer, "distance", lambda before, after: next(verdicts))
    monkeypatch.setattr(AnonymityGate, "hopeless", lambda self, faces, crops, margin: [False] * len(faces))
    before = prior.nfe
    (result,) = anonymizer([PictureTask("a", astronaut)])
    assert prior.nfe - before == psi + 2 * STEPS
    encoded, sidecar, key = _parts(result)
    assert key.faces[0].attempt == 1
    recovered = PictureRecoverer(prior).recover(encoded, sidecar, key)
    inside = _inside(key, recovered.pixels.shape)
    source = pixels_of(astronaut)[inside].astype(float)
    wrong_by = np.square(source - pixels_of(encoded)[inside]).mean()
    assert np.square(source - recovered.pixels[inside]).mean() < wrong_by / 10


def test_a_face_that_was_missed_is_anonymized_in_another_round_and_comes_back(
    prior: Prior, models: FaceModels, group: bytes
) -> None:
    faces = models.detector.detect(pixels_of(group))
    anonymizer = PictureAnonymizer(prior, models, settings(fidelity="lossless", steps=1))
    (result,) = anonymizer([PictureTask("g", group, faces[:-1])])
    encoded, sidecar, key = _parts(result)
    assert len(key.faces) == len(faces) == 4
    changed = (pixels_of(group) != pixels_of(encoded)).any(axis=2)
    assert changed[key.faces[-1].mask.full(changed.shape)].mean() > 0.9
    assert np.array_equal(PictureRecoverer(None).recover(encoded, sidecar, key).pixels, pixels_of(group))


def test_what_a_missed_face_touched_is_made_again_under_another_key(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    one = Image.open(BytesIO(astronaut)).convert("RGB").crop((172, 0, 272, 250))
    scene, buffer = Image.new("RGB", (200, 250)), BytesIO()
    scene.paste(one, (0, 0))
    scene.paste(one, (100, 0))
    scene.save(buffer, "PNG")
    source = pixels_of(buffer.getvalue())
    faces = models.detector.detect(source)
    assert len(faces) == 2
    anonymizer = PictureAnonymizer(prior, models, settings(steps=1, fidelity="lossless"))
    (result,) = anonymizer([PictureTask("side by side", buffer.getvalue(), faces[:1])])
    key = _parts(result)[2]
    others = [face.mask for face in key.faces]
    sidecar = Sidecar.from_bytes(_parts(result)[1])
    # The stored crops show no source pixel of a face that was found later.
    for face, stored in zip(key.faces, sidecar.faces, strict=True):
        affine = np.reshape(face.affine, (2, 3))
        crop = cut_crop(source, affine, face.mask, others[: face.index] + others[face.index + 1 :], prior.side)
        assert stored.surroundings == encode_surroundings(crop.values, crop.mask)
    assert [face.attempt for face in key.faces] == [1, 0]


def test_a_face_that_is_still_seen_after_all_rounds_quarantines_the_picture(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def see_elsewhere(pixels: np.ndarray) -> list[Face]:
        seen.append(pixels)
        box = 20.0 * len(seen)
        return [Face((box, 420.0, box + 16, 440.0), template_in_box((box, 420.0, box + 16, 440.0)), 0.9)]

    monkeypatch.setattr(models.detector, "look_again", see_elsewhere)
    (result,) = PictureAnonymizer(prior, models, settings(steps=1, fidelity="lossless"))([PictureTask("a", astronaut)])
    assert len(seen) == MAX_ROUNDS
    assert result.status == "quarantined"
    assert result.reason.startswith("unanonymized_face")
    assert result.encoded is None


def test_a_face_does_not_depend_on_its_batch_neighbours(
    prior: Prior, models: FaceModels, astronaut: bytes, group: bytes
) -> None:
    anonymizer = PictureAnonymizer(prior, models, settings(face_batch=4))
    alone = anonymizer._open(PictureTask("a", astronaut))
    beside = anonymizer._open(PictureTask("a", astronaut))
    others = anonymizer._open(PictureTask("g", group))
    beside.parts = alone.parts  # type: ignore[union-attr]
    anonymizer.attempts.run(list(alone.faces))  # type: ignore[union-attr]
    anonymizer.attempts.run([*others.faces[:2], *beside.faces])  # type: ignore[union-attr]
    a, b = alone.faces[0].latent, beside.faces[0].latent  # type: ignore[union-attr]
    assert a is not None
    assert b is not None
    assert np.abs(a - b).max() <= 2 / anonymizer.attempts.levels


@pytest.mark.slow
def test_a_face_in_a_50_megapixel_picture_is_found_and_the_rest_left_alone(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    # The search for the smallest faces alone takes three tiles in four.
    models = replace(models, detector=load_detector(min_face=64))
    scene = Image.new("RGB", (8000, 6250), (90, 110, 130))
    scene.paste(Image.open(BytesIO(astronaut)).convert("RGB").resize((1536, 1536)), (5000, 3000))
    buffer = BytesIO()
    scene.save(buffer, "PNG", compress_level=1)
    (result,) = in_mid_run(prior, models)([PictureTask("huge", buffer.getvalue())])
    encoded, _, key = _parts(result)
    source, published = np.asarray(scene), pixels_of(encoded)
    inside = _inside(key, source.shape)
    assert len(key.faces) == 1
    assert np.array_equal(source[~inside], published[~inside])
    assert (source != published).any(axis=2)[inside].mean() > 0.9


def test_nothing_secret_shows_in_a_repr(anonymized_group: PictureResult) -> None:
    key = _parts(anonymized_group)[2]
    for text in (repr(anonymized_group), repr(key), str(key)):
        assert key.image_key.hex() not in text
        assert repr(key.image_key) not in text
