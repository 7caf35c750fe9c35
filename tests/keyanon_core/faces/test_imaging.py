"""Decoding whatever comes as a picture, and encoding without metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, GifImagePlugin, Image, ImageCms, ImageFile, PngImagePlugin

from keyanon_core.errors import PictureError
from keyanon_core.imaging import decode_picture, encode_picture


def encoded(picture, format, **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def smooth():
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 3], -1).astype(np.uint8)


def reason_of(data, **options):
    with pytest.raises(PictureError) as error:
        decode_picture(data, **options)
    return error.value.reason


@pytest.mark.parametrize("format", ["png", "webp"])
def test_lossless_formats_round_trip_exactly(format, pixels):
    np.testing.assert_array_equal(decode_picture(encode_picture(pixels, format)), pixels)


def test_jpeg_is_near(smooth):
    assert np.abs(decode_picture(encode_picture(smooth, "jpeg")).astype(int) - smooth).max() < 12


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_other_lossless_formats_are_read(format, pixels):
    picture = Image.fromarray(pixels)
    if format == "GIF":
        picture = picture.quantize(16)
    np.testing.assert_array_equal(decode_picture(encoded(picture, format)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, smooth):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(smooth)
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    upright = stored
    for turn in turns.get(orientation, []):
        upright = upright.transpose(turn)
    np.testing.assert_array_equal(decode_picture(encoded(stored, "PNG", exif=exif)), np.asarray(upright))


def test_modes_become_rgb(smooth):
    grey = Image.fromarray(smooth[..., 0])
    as_rgb = np.repeat(smooth[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode_picture(encoded(grey, "PNG")), as_rgb)
    one_bit = grey.convert("1")
    np.testing.assert_array_equal(decode_picture(encoded(one_bit, "PNG")), np.asarray(one_bit.convert("RGB")))
    deep = Image.fromarray(smooth[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_picture(encoded(deep, "PNG")), as_rgb)
    dim = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert decode_picture(encoded(dim, "PNG")).max() <= 1, "16 bits are scaled by their full range, not by the content"
    with pytest.raises(PictureError, match="32-bit"):
        decode_picture(encoded(Image.fromarray(smooth[..., 0].astype(np.float32)), "TIFF"))
    palette = Image.fromarray(smooth).quantize(32)
    np.testing.assert_array_equal(decode_picture(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    cmyk = Image.fromarray(smooth).convert("CMYK")
    assert np.abs(decode_picture(encoded(cmyk, "JPEG", quality=98)).astype(int) - smooth).mean() < 6


def test_transparency_is_laid_over_white(smooth):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    out = decode_picture(encoded(Image.fromarray(np.dstack([smooth, alpha])), "PNG"))
    assert (out[:, :30] == 255).all()
    np.testing.assert_array_equal(out[:, 30:], smooth[:, 30:])
    grey = np.dstack([smooth[..., 0], alpha])
    out = decode_picture(encoded(Image.fromarray(grey, "LA"), "PNG"))
    assert (out[:, :30] == 255).all() and (out[:, 30:, 1] == smooth[:, 30:, 0]).all()
    palette = Image.fromarray(smooth).quantize(8)
    clear = int(np.asarray(palette)[0, 0])
    out = decode_picture(encoded(palette, "PNG", transparency=clear))
    assert (out[np.asarray(palette) == clear] == 255).all()


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile_of_swapped_colours():
    """sRGB under another name, its red and green primaries exchanged: red in the file means green on a screen."""
    made = srgb_profile().replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    head, tags = made[:132], made[132:]  # the tag table begins after the header and the number of tags (ICC.1, 7.3)
    return head + tags.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_is_converted_to_srgb(format, smooth):
    options = {"quality": 98, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    stored = encoded(Image.fromarray(smooth), format, icc_profile=profile_of_swapped_colours(), **options)
    shown = decode_picture(stored).astype(int)
    assert np.abs(shown - smooth[..., [1, 0, 2]]).mean() < 4
    assert np.abs(shown - smooth).mean() > 40


def test_the_profile_of_a_palette_is_converted_too(smooth):
    palette = Image.fromarray(smooth).quantize(16)
    shown = decode_picture(encoded(palette, "PNG", icc_profile=profile_of_swapped_colours())).astype(int)
    assert np.abs(shown - np.asarray(palette.convert("RGB"))[..., [1, 0, 2]]).mean() < 4


def test_a_profile_that_says_nothing_new_or_nothing_at_all_changes_nothing(smooth):
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb_profile(), b"no profile", profile_of_swapped_colours()[:300], grey):
        stored = encoded(Image.fromarray(smooth), "PNG", icc_profile=profile)
        np.testing.assert_array_equal(decode_picture(stored), smooth)


def test_exif_that_can_not_be_read_costs_nobody_the_picture(smooth):
    for exif in (b"\0xif\0\0MM\0*\0\0\0\x08\0\x01", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40):
        for format in ("PNG", "WEBP", "JPEG"):
            stored = encoded(
                Image.fromarray(smooth), format, exif=exif, **({"lossless": True} if format == "WEBP" else {})
            )
            assert np.abs(decode_picture(stored).astype(int) - smooth).mean() < 4


def test_a_machine_without_memory_says_nothing_about_the_picture(monkeypatch, pixels):
    def exhausted(*_, **__):
        raise MemoryError

    for place, name in ((Image, "open"), (ImageFile.ImageFile, "load"), (Image.Image, "getexif")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, exhausted)
            with pytest.raises(MemoryError):
                decode_picture(encode_picture(pixels, "png"))


def test_frames_are_not_counted_one_by_one(monkeypatch, pixels):
    """A small file can hold millions of them; the first is what is read."""
    seen = []
    original = GifImagePlugin.GifImageFile._seek
    monkeypatch.setattr(
        GifImagePlugin.GifImageFile,
        "_seek",
        lambda self, frame, *rest: (seen.append(frame), original(self, frame, *rest)),
    )
    frames = [Image.fromarray(np.roll(pixels, n, 1)).quantize(8) for n in range(9)]
    first = decode_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(first, np.array(frames[0].convert("RGB")))
    assert max(seen) <= 1


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_outputs_carry_no_metadata(format, smooth):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SecretCameraMaker"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SecretComment")
    source = encoded(
        Image.fromarray(smooth), "PNG", exif=exif, pnginfo=info, icc_profile=b"SecretProfile", dpi=(72, 72)
    )
    out = encode_picture(decode_picture(source), format)
    assert b"Secret" not in out and b"Exif" not in out
    reread = Image.open(io.BytesIO(out))
    assert set(reread.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "background", "loop"}
    assert not reread.getexif()


def test_each_kind_of_broken_file_has_its_reason(pixels):
    png, jpeg = encode_picture(pixels, "png"), encode_picture(pixels, "jpeg")
    assert reason_of(b"") == "empty"
    assert reason_of(b"hello, I am a text file\n" * 50) == "not_an_image"
    assert reason_of(b"%PDF-1.7 ...") == "not_an_image"
    assert reason_of(png[: len(png) // 2]) == "truncated"
    assert reason_of(jpeg[: len(jpeg) // 2]) == "truncated"
    webp = encode_picture(pixels, "webp")
    assert reason_of(webp[: len(webp) // 2]) in ("truncated", "corrupt", "not_an_image")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    assert reason_of(bytes(flipped)) == "corrupt"
    assert reason_of(png[:20]) in ("truncated", "corrupt", "not_an_image")


def test_every_prefix_and_random_damage_is_a_picture_error_or_a_picture(pixels):
    rng = np.random.default_rng(0)
    for format in ("png", "jpeg", "webp"):
        data = encode_picture(pixels[:12, :16], format)
        for cut in range(0, len(data), 7):
            try:
                decode_picture(data[:cut])
            except PictureError as error:
                assert error.reason in ("empty", "not_an_image", "truncated", "corrupt", "unsupported", "too_large")
        for _ in range(60):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 3):
                damaged[position] = rng.integers(0, 256)
            try:
                decode_picture(bytes(damaged))
            except PictureError as error:
                assert str(error)


def png_claiming(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header():
    assert reason_of(png_claiming(60_000, 60_000)) == "too_large"
    assert reason_of(png_claiming(12_000, 10_000)) == "too_large"
    assert reason_of(png_claiming(70_000, 3)) == "too_large"


def test_the_limit_is_the_callers(pixels):
    data = encode_picture(pixels, "png")
    assert reason_of(data, max_pixels=40 * 60 - 1) == "too_large"
    assert decode_picture(data, max_pixels=40 * 60).shape == (40, 60, 3)


@pytest.mark.parametrize("format", ["WEBP", "PNG", "TIFF"])
def test_pictures_of_several_frames_are_refused(format, pixels):
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    assert reason_of(encoded(frames[0], format, save_all=True, append_images=frames[1:])) == "unsupported"


def test_truncated_files_are_not_tolerated_by_setting():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_tiny_pictures_round_trip(shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(decode_picture(encode_picture(pixels, "png")), pixels)


def test_unknown_or_impossible_outputs_are_refused(pixels):
    with pytest.raises(PictureError, match="png, webp or jpeg"):
        encode_picture(pixels, "gif")
    with pytest.raises(PictureError):
        encode_picture(np.zeros((1, 20_000, 3), np.uint8), "webp")
