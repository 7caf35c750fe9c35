"""Published pictures in the format of their sources: what stays of a file, and what goes."""

import io
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
import pytest
from PIL import Image, ImageCms

from keyanon_core.errors import PictureError
from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats import jpeg_source
from keyanon_core.formats.jpeg_source import JpegSource
from keyanon_core.formats.opening import open_source
from keyanon_core.formats.published import Published, SourceFile
from keyanon_core.imaging import FORMATS, decode_picture, formats
from tests.keyanon_core.formats.pictures import Pixels, as_file, decoded, exif, markers, opened, scene

SIZE = (90, 70)
MASK = PictureMask((20, 12, 50, 45), np.ones((33, 30), np.bool_))
FAR = np.s_[56:, 64:]  # no block that MASK touches, nor a neighbour, whatever the sampling
SECRETS = (b"SECRET", b"Ducky", b"GPano", b"trailing", b"comment")


def profile(gamma: float = 2.2, primaries: str = "adobe") -> bytes:
    """An RGB profile that is not sRGB: Little CMS can make Lab, XYZ and sRGB, so one of them is patched into another gamma."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # description and curves by tag, ICC.1:2022 7.3: number of tags at 128, then signature, offset and size of each
    for at in range(132, 132 + 12 * int.from_bytes(made[128:132], "big"), 12):
        name = bytes(made[at : at + 4])
        offset, size = (int.from_bytes(made[at + shift : at + shift + 4], "big") for shift in (4, 8))
        if name == b"desc":
            made[offset : offset + size] = bytes(made[offset : offset + size]).replace(b"R\0G\0B", b"X\0Y\0Z")
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            curve = b"para" + bytes(4) + b"\0\0\0\0" + round(gamma * 65536).to_bytes(4, "big")
            made[offset : offset + size] = curve + bytes(size - len(curve))
    return bytes(made)


def publish(encoded: bytes, seed: int = 9) -> tuple[SourceFile, Pixels, Published]:
    """A source, a result with other pixels in MASK, and the published picture."""
    source = open_source(encoded, "same", 95, 10**7)
    result = source.pixels.copy()
    x0, y0, x1, y1 = MASK.window
    result[y0:y1, x0:x1] = scene(*result.shape[1::-1], seed, noise=1)[y0:y1, x0:x1]
    return source, result, source.publish(result, [MASK])


def metadata(encoded: bytes) -> set[str]:
    picture = opened(encoded)
    return set(picture.info) - {
        "jfif",
        "jfif_version",
        "jfif_density",
        "jfif_unit",
        "progressive",
        "progression",
        "loop",
        "background",
    }


def test_of_a_jpegs_metadata_nothing_stays_but_profile_and_orientation() -> None:
    icc = profile()
    source = bytearray(as_file(scene(*SIZE), exif=exif(6), icc_profile=icc, comment=b"SECRET comment", quality=90))
    extra = b"\xff\xe1\x00\x0eSECRET xmp  " + b"\xff\xec\x00\x0bDucky1234" + b"\xff\xe2\x00\x0fMPF\0SECRET MP"
    encoded = bytes(source[:2] + extra + source[2:]) + b"trailing SECRET" + as_file(scene(40, 30))
    opening, _, made = publish(encoded)
    assert isinstance(opening, JpegSource)
    kinds = [marker for marker, _ in markers(made.encoded)]
    assert kinds[:3] == [0xE0, 0xE1, 0xE2] and set(kinds[3:]) == {0xDB, 0xC0, 0xC4, 0xDA}
    assert not any(secret in made.encoded for secret in SECRETS) and made.encoded.endswith(b"\xff\xd9")
    assert dict(opened(made.encoded).getexif()) == {0x0112: 6}
    assert opened(made.encoded).info["icc_profile"] == icc
    assert made.encoded.count(b"\xff\xd8\xff") == 1, "no second picture"


def test_an_upright_jpeg_without_a_profile_keeps_no_metadata_at_all() -> None:
    made = publish(as_file(scene(*SIZE), exif=exif(1), comment=b"SECRET"))[2]
    assert metadata(made.encoded) == set() and not opened(made.encoded).getexif()


def test_a_large_profile_comes_back_from_its_chunks() -> None:
    icc = profile() + bytes(150_000)
    made = publish(as_file(scene(*SIZE), icc_profile=icc))[2]
    assert opened(made.encoded).info["icc_profile"] == icc


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_colours_of_a_profile_stay_as_they_are(format: str) -> None:
    icc = profile()
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    encoded = as_file(scene(*SIZE), format, icc_profile=icc, **options)
    source, _, made = publish(encoded)
    assert opened(made.encoded).info["icc_profile"] == icc and opened(made.encoded).format == format
    assert np.array_equal(source.pixels, decoded(encoded)), "the numbers of the file"
    assert np.array_equal(decoded(made.encoded)[FAR], decoded(encoded)[FAR])
    assert not np.array_equal(decode_picture(encoded), source.pixels), "the profile is not sRGB"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_profile_far_from_srgb_is_converted(format: str) -> None:
    encoded = as_file(scene(*SIZE), format, icc_profile=profile(gamma=1.0), quality=95)
    source, _, made = publish(encoded)
    assert np.array_equal(source.pixels, decode_picture(encoded))
    assert "icc_profile" not in opened(made.encoded).info and opened(made.encoded).format == format
    assert np.abs(decoded(made.encoded)[FAR].astype(int) - source.pixels[FAR]).mean() < 3


def test_a_broken_profile_goes_and_the_coefficients_stay() -> None:
    encoded = as_file(scene(*SIZE), icc_profile=b"no profile at all, but long enough to be one")
    source, _, made = publish(encoded)
    assert isinstance(source, JpegSource) and metadata(made.encoded) == set()
    assert np.array_equal(decoded(made.encoded)[FAR], decoded(encoded)[FAR])


def rgb_coded() -> bytes:
    return as_file(scene(*SIZE), keep_rgb=True)


def cmyk() -> bytes:
    return as_file(scene(*SIZE), mode="CMYK")


def contradicting() -> bytes:
    """A YCbCr file whose Adobe marker says that it is RGB."""
    plain = as_file(scene(*SIZE))
    return plain[:20] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0" + plain[20:]


def arithmetic(tmp_path: Path) -> bytes:
    jpeglib.version.set("turbo210")  # libjpeg itself writes none
    picture = jpeglib.from_spatial(scene(*SIZE))
    picture.write_spatial(str(tmp_path / "picture.jpg"), qt=90, flags=["+ARITH_CODE"])
    encoded = (tmp_path / "picture.jpg").read_bytes()
    assert 0xC9 in [marker for marker, _ in markers(encoded)]
    return encoded


def test_an_arithmetic_coded_jpeg_is_encoded_anew(tmp_path: Path) -> None:
    encoded = arithmetic(tmp_path)
    made = publish(encoded)[2]
    assert 0xC0 in [marker for marker, _ in markers(made.encoded)]
    assert np.abs(made.shown[FAR].astype(int) - decode_picture(encoded)[FAR]).mean() < 4


@pytest.mark.parametrize("made_by", [rgb_coded, cmyk, contradicting])
def test_a_jpeg_whose_coefficients_can_not_be_kept_is_encoded_anew_as_a_jpeg(made_by: Any) -> None:
    encoded = made_by()
    _, result, made = publish(encoded)
    assert opened(made.encoded).format == "JPEG" and opened(made.encoded).mode == "RGB"
    assert np.array_equal(made.shown, decode_picture(made.encoded))
    assert np.abs(made.shown.astype(int) - result).mean() < 6
    assert metadata(made.encoded) == set()


def test_where_libjpeg_and_pillow_disagree_nothing_of_the_source_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = as_file(scene(*SIZE), quality=90)
    real = jpeg_source.read_coefficients

    def another(header: Any) -> Any:
        blocks = real(header)
        blocks[0][-1, -1, 0, 0] += 3
        return blocks

    monkeypatch.setattr(jpeg_source, "read_coefficients", another)
    _, result, made = publish(encoded)
    assert opened(encoded).layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]
    assert opened(made.encoded).layer[0][1:3] == (1, 1), "encoded anew, not subsampled"  # type: ignore[attr-defined]
    assert np.abs(made.shown.astype(int) - result).mean() < 6


def test_where_the_blocks_went_wrong_the_picture_is_encoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if masks were looked for in another orientation: the face would stay."""
    encoded = as_file(scene(*SIZE), quality=90)
    monkeypatch.setattr(
        jpeg_source, "mask_to_stored", lambda mask, *_: PictureMask((0, 0, 8, 8), np.ones((8, 8), np.bool_))
    )
    _, result, made = publish(encoded)
    x0, y0, x1, y1 = MASK.window
    assert np.abs(made.shown[y0:y1, x0:x1].astype(int) - result[y0:y1, x0:x1]).mean() < 6


def test_a_face_that_coarse_tables_can_not_hold_is_encoded_anew() -> None:
    encoded = as_file(scene(*SIZE, noise=0), quality=1)
    source = open_source(encoded, "same", 95, 10**7)
    result = source.pixels.copy()
    x0, y0, x1, y1 = MASK.window
    result[y0:y1, x0:x1] = np.random.default_rng(1).integers(0, 255, (33, 30, 1))
    made = source.publish(result, [MASK])
    assert opened(made.encoded).quantization[0][0] < 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "LA", "RGBA"])
def test_png_keeps_its_kind(mode: str) -> None:
    picture = Image.fromarray(scene(*SIZE)).convert("RGBA" if mode in ("LA", "RGBA") else "RGB")
    if mode in ("LA", "RGBA"):
        alpha = np.full(SIZE[::-1], 255, np.uint8)
        alpha[:10] = 0
        picture.putalpha(Image.fromarray(alpha))
    out = io.BytesIO()
    picture.convert(mode).save(out, "PNG", exif=exif(1), dpi=(72, 72))
    encoded = out.getvalue()
    source, result, made = publish(encoded)
    assert opened(made.encoded).format == "PNG" and metadata(made.encoded) <= {"transparency"}
    assert opened(made.encoded).mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    assert np.array_equal(made.shown, decode_picture(made.encoded))
    outside = np.ones(SIZE[::-1], np.bool_)
    x0, y0, x1, y1 = MASK.window
    outside[y0:y1, x0:x1] = False
    assert np.array_equal(made.shown[outside], source.pixels[outside])
    grey = mode in ("L", "1", "LA")
    wanted = np.array(Image.fromarray(result).convert("L").convert("RGB")) if grey else result
    assert np.array_equal(made.shown[~outside], wanted[~outside])


def test_what_transparency_hides_is_not_published_and_masks_are_opaque() -> None:
    pixels = np.dstack([scene(*SIZE), np.full(SIZE[::-1], 255, np.uint8)])
    pixels[:20, :60, 3] = 0  # partly under the mask
    pixels[40:42, :, 3] = 100
    _, result, made = publish(as_file(pixels, "PNG"))
    shown = np.array(opened(made.encoded))
    assert (shown[:12, :60, :3] == 255).all(), "invisible colours are white"
    x0, y0, x1, y1 = MASK.window
    assert (shown[y0:y1, x0:x1, 3] == 255).all() and np.array_equal(shown[y0:y1, x0:x1, :3], result[y0:y1, x0:x1])
    assert np.array_equal(shown[50:, :, 3], pixels[50:, :, 3]) and (shown[41, 60:, 3] == 100).all()
    assert np.abs(made.shown.astype(int) - result).max() <= 2


def test_transparency_that_is_a_picture_of_its_own_is_laid_over_white() -> None:
    pixels = np.dstack([np.full((*SIZE[::-1], 3), 255, np.uint8), scene(*SIZE)[..., 0]])
    _, result, made = publish(as_file(pixels, "PNG"))
    assert opened(made.encoded).mode == "RGB" and np.array_equal(made.shown, result)


def test_sixteen_bits_become_eight() -> None:
    grey = scene(*SIZE)[..., 0].astype(np.uint16) * 257
    _, _, made = publish(as_file(grey, "PNG"))
    assert opened(made.encoded).mode == "L"
    assert np.array_equal(decoded(made.encoded)[FAR][..., 0], (grey // 257)[FAR])


def test_lossless_webp_stays_lossless_and_lossy_lossy_of_about_its_size() -> None:
    pixels = scene(400, 300)
    lossless, lossy = as_file(pixels, "WEBP", lossless=True), as_file(pixels, "WEBP", quality=85)
    _, result, made = publish(lossless)
    assert b"VP8L" in made.encoded[:40] and np.array_equal(decoded(made.encoded), result)
    _, result, made = publish(lossy)
    assert b"VP8 " in made.encoded[:40] and 0.5 * len(lossy) < len(made.encoded) < 1.06 * len(lossy)
    assert np.array_equal(made.shown, decoded(made.encoded))


@pytest.fixture
def heic() -> None:
    """Pillow writes HEIC as well from here on."""
    pytest.importorskip("pillow_heif", reason="HEIC is read with the extra heif")
    formats()


@pytest.mark.usefixtures("heic")
@pytest.mark.parametrize("format", ["BMP", "GIF", "TIFF", "AVIF", "HEIF"])
def test_another_format_becomes_png(format: str) -> None:
    encoded = as_file(scene(*SIZE), format)
    source, result, made = publish(encoded)
    assert opened(made.encoded).format == "PNG" and np.array_equal(decoded(made.encoded), result)
    assert np.array_equal(source.pixels, decoded(encoded))


@pytest.mark.usefixtures("heic")
@pytest.mark.parametrize("format", ["GIF", "HEIF"])
def test_of_several_pictures_in_a_gif_or_a_heic_the_first_is_published_and_no_byte_of_the_others(format: str) -> None:
    pictures = [Image.fromarray(scene(*SIZE, seed)).quantize(16).convert("RGB") for seed in (1, 2)]
    out = io.BytesIO()
    pictures[0].save(out, format, save_all=True, append_images=pictures[1:])
    source, result, made = publish(out.getvalue())
    apart = [np.abs(source.pixels.astype(int) - np.array(picture)).mean() for picture in pictures]
    assert apart[0] < 10 < apart[1]
    assert not getattr(opened(made.encoded), "is_animated", False) and np.array_equal(decoded(made.encoded), result)


@pytest.mark.parametrize("format", ["TIFF", "PNG", "WEBP", "AVIF"])
def test_another_file_of_several_pictures_is_refused(format: str) -> None:
    out = io.BytesIO()
    Image.fromarray(scene(*SIZE)).save(out, format, save_all=True, append_images=[Image.fromarray(scene(*SIZE, 2))])
    with pytest.raises(PictureError, match="several frames"):
        open_source(out.getvalue(), "same", 95, 10**7)


@pytest.mark.usefixtures("heic")
@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_a_turned_picture_of_a_phone_lies_upright_and_says_nothing_of_the_phone(format: str) -> None:
    source, _, made = publish(as_file(scene(*SIZE), format, exif=exif(6)))
    assert source.pixels.shape == (90, 70, 3)
    assert metadata(made.encoded) == set() and not any(secret in made.encoded for secret in SECRETS)


@pytest.mark.usefixtures("heic")
def test_a_heic_cut_short_is_a_bad_picture_and_no_error_of_the_run() -> None:
    encoded = as_file(scene(*SIZE), "HEIF")
    for end in (8, 20, len(encoded) // 3, len(encoded) - 20):
        with pytest.raises(PictureError):
            open_source(encoded[:end], "same", 95, 10**7)
    with pytest.raises(PictureError, match="the limit is 100 px"):
        open_source(encoded, "same", 95, 100)


@pytest.mark.usefixtures("heic")
def test_where_heic_can_not_be_read_its_rows_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = as_file(scene(*SIZE), "HEIF")
    monkeypatch.setattr("keyanon_core.imaging.formats", lambda: FORMATS)
    with pytest.raises(PictureError, match=r"pip install keyanon\[heif\]") as refused:
        open_source(encoded, "same", 95, 10**7)
    assert refused.value.reason == "unsupported"


def test_a_turned_png_lies_upright() -> None:
    encoded = as_file(scene(*SIZE), "PNG", exif=exif(6))
    source, result, made = publish(encoded)
    assert source.pixels.shape == (90, 70, 3) and np.array_equal(decoded(made.encoded), result)


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_format_of_the_users_choice_is_as_ever(format: str) -> None:
    encoded = as_file(scene(*SIZE), icc_profile=profile(), exif=exif(3))
    source = open_source(encoded, format, 95, 10**7)
    assert np.array_equal(source.pixels, decode_picture(encoded))
    made = source.publish(source.pixels, [])
    assert metadata(made.encoded) == set() and np.array_equal(made.shown, decode_picture(made.encoded))


def test_limits_hold_before_anything_is_read() -> None:
    with pytest.raises(PictureError, match="the limit is 100 px"):
        open_source(as_file(scene(*SIZE)), "same", 95, 100)
