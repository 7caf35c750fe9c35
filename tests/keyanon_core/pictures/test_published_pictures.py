"""Photographs published in their own format: what stays of them, what comes back, and what the gate and the second search see."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keyanon_core.errors import KeyanonError
from keyanon_core.faces import FaceModels
from keyanon_core.faces.detection import Face
from keyanon_core.formats.jpeg_source import JpegSource
from keyanon_core.formats.published import Published
from keyanon_core.imaging import decode_picture
from keyanon_core.pictures.anonymizer import MAX_ROUNDS, PictureAnonymizer
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import Prior
from tests.keyanon_core.formats.test_jpeg_blocks import coefficients, steps, touched
from tests.keyanon_core.pictures.photographs import settings


def _jpeg(encoded: bytes, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.open(BytesIO(encoded)).convert("RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _sideways(encoded: bytes) -> bytes:
    """The picture, lying on its side, with the orientation that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    lying = Image.open(BytesIO(encoded)).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    lying.save(buffer, "JPEG", quality=88, exif=exif)
    return buffer.getvalue()


def _anonymized(prior: Prior, models: FaceModels, encoded: bytes, **changes: Any) -> PictureResult:
    (result,) = PictureAnonymizer(prior, models, settings(**changes))([PictureTask("a.jpg", encoded)])
    assert result.status == "anonymized", result.reason
    assert result.encoded is not None and result.sidecar is not None and result.key is not None
    return result


@pytest.mark.slow
def test_every_face_of_a_jpeg_changes_and_blocks_without_one_do_not(
    prior: Prior, models: FaceModels, group: bytes
) -> None:
    encoded = _jpeg(group, quality=90, subsampling="4:2:0")
    result = _anonymized(prior, models, encoded)
    before, after = decode_picture(encoded), decode_picture(result.encoded or b"")
    assert result.key is not None and len(result.key.faces) == 4
    masked = np.any([face.mask.full(before.shape) for face in result.key.faces], axis=0)
    assert (before != after).any(axis=2)[masked].mean() > 0.9
    for component, (old, new) in enumerate(
        zip(coefficients(encoded), coefficients(result.encoded or b""), strict=True)
    ):
        hit = touched(masked, old.shape, steps("4:2:0", component))
        assert np.array_equal(old[~hit], new[~hit])
        assert (old != new).any(axis=(2, 3))[hit].mean() > (0.9 if component == 0 else 0.5)
    assert len(result.encoded or b"") < 1.05 * len(encoded)


@pytest.mark.slow
@pytest.mark.parametrize("lying", [False, True])
def test_every_pixel_of_a_jpeg_comes_back_at_fidelity_lossless(
    prior: Prior, models: FaceModels, group: bytes, astronaut: bytes, lying: bool
) -> None:
    encoded = _sideways(astronaut) if lying else _jpeg(group, quality=75)
    result = _anonymized(prior, models, encoded, fidelity="lossless")
    back = PictureRecoverer(None).recover(result.encoded or b"", result.sidecar or b"", result.key)  # type: ignore[arg-type]
    assert back.exact and np.array_equal(back.pixels, decode_picture(encoded))
    alone = PictureRecoverer(None).recover(result.encoded or b"", result.sidecar or b"", result.key, only=0)  # type: ignore[arg-type]
    for face in result.key.faces[1:]:  # type: ignore[union-attr]
        own = face.mask.full(back.pixels.shape)
        others = [other.mask.full(back.pixels.shape) for other in result.key.faces if other is not face]  # type: ignore[union-attr]
        own &= ~np.any(others, axis=0)
        assert np.array_equal(alone.pixels[own], decode_picture(result.encoded or b"")[own]), (
            "one face brings back no other"
        )


@pytest.mark.slow
def test_a_face_comes_back_from_its_sidecar_whatever_the_format(
    prior: Prior, models: FaceModels, astronaut: bytes
) -> None:
    """The way back is tried for every face here, and raises where one does not come back."""
    result = _anonymized(prior, models, _sideways(astronaut), check_every=1)
    published = Image.open(BytesIO(result.encoded or b""))
    assert published.format == "JPEG" and dict(published.getexif()) == {0x0112: 6}


def test_fidelity_image_asks_for_a_lossless_format() -> None:
    with pytest.raises(KeyanonError, match="png or webp instead of same"):
        AnonymizeSettings(fidelity="image")
    AnonymizeSettings(fidelity="image", output_format="png")


@pytest.mark.slow
def test_the_gate_judges_what_the_published_file_shows(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format that would show the source again never gets a picture published."""
    published: list[np.ndarray] = []

    def show_the_source(self: JpegSource, result: np.ndarray, masks: object) -> Published:
        published.append(result.copy())
        return Published(b"file", self.pixels)

    monkeypatch.setattr(JpegSource, "publish", show_the_source)
    anonymizer = PictureAnonymizer(prior, models, settings(max_attempts=2, gate_threshold=0.2))
    (result,) = anonymizer([PictureTask("a.jpg", _jpeg(astronaut, quality=90))])
    assert (result.status, result.reason.split(":")[0]) == ("quarantined", "still_recognizable")
    assert result.encoded is None
    assert len(published) == 2 and not np.array_equal(*published), "another key after the first"


@pytest.mark.slow
def test_the_second_search_looks_at_what_the_published_file_shows(
    prior: Prior, models: FaceModels, astronaut: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def look(pixels: np.ndarray) -> list[Face]:
        seen.append(pixels)
        return []

    monkeypatch.setattr(models.detector, "look_again", look)
    result = _anonymized(prior, models, _jpeg(astronaut, quality=60))
    assert 1 <= len(seen) <= MAX_ROUNDS
    assert np.array_equal(seen[-1], decode_picture(result.encoded or b""))
