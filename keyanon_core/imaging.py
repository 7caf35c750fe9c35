"""Encoded pictures to pixels and back. Everything else in a file (EXIF, GPS, thumbnails, comments) is left
behind.

Read: JPEG, PNG, WebP, BMP, TIFF, AVIF, GIF, and HEIC where pillow-heif is installed. A picture of several frames or pages is
refused, since the faces on its other frames would be lost. Limits are checked on the header, before any pixel is decoded.

- Of the multi-picture JPEG and HEIC that phones write (a picture with its depth or gain map), and of GIF, the first picture is
  read; the others are not published.
- EXIF orientation is applied; where the EXIF can not be read, the picture is taken as it lies.
- An ICC profile is converted to sRGB and dropped, unless the caller keeps it; a profile that can not be used is ignored.
- Transparency is laid over white. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; 16 bits are scaled by their
  full range.

Pillow's parsers meet whatever the world calls a picture, and raise whatever they stumble over: KeyError, TypeError,
AssertionError. All of it is the picture's fault and becomes PictureError; MemoryError alone is the machine's, and passes.
"""

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from keyanon_core.errors import PictureError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # of Pillow itself
FIRST_OF_SEVERAL = ("MPO", "HEIF", "GIF")  # formats of which the first picture stands for the file
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})  # ISO/IEC 23008-12
DEFAULT_MAX_PIXELS = 100_000_000  # width x height
MAX_SIDE = 65_000  # px
BACKGROUND = (255, 255, 255, 255)  # under transparent pixels
DEFAULT_JPEG_QUALITY = 95
EIGHT_OF_SIXTEEN = np.rint(np.arange(2**16) / 257).astype(np.uint8)  # 257 = 65535 / 255
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes a picture upright, by its EXIF orientation (JEITA CP-3451, tag 0x0112)
ICC_SPACE = slice(16, 20)  # of a profile: the kind of colours it is for (ICC.1:2022, 7.2.6)
PNG_STRATEGY = zlib.Z_RLE  # of photographs: a quarter of the time that zlib's default takes, for files 6 % larger
TRUNCATED_WORDS = (
    "truncated",
    "premature",
    "eof",
    "unexpected end",
    "not enough",
)  # of Pillow's messages on files cut short

Pixels = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)


def decode_picture(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, *, convert: bool = True) -> Pixels:
    """Pixels (H, W, 3) uint8 RGB of an encoded picture, upright.

    convert: bring the colours of a profile to sRGB; without, they are the numbers that the file holds.
    Raises PictureError with reason "empty", "not_an_image", "unsupported" (format, or several frames), "too_large",
    "truncated" or "corrupt". MemoryError passes: it says nothing about the picture.
    """
    picture = load_picture(encoded, max_pixels)
    with explained(picture):
        return rgb_pixels(picture, convert=convert)


def load_picture(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The one picture of a file, its pixels loaded, as it lies there. Raises as `decode_picture`."""
    if not encoded:
        raise PictureError("empty", "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, below
        warnings.simplefilter("ignore", UserWarning)
        picture = _open(encoded)
        width, height = picture.size
        if width * height > max_pixels or max(width, height) > MAX_SIDE:
            raise PictureError(
                "too_large",
                f"{width} x {height} px; the limit is {max_pixels} px in all (max_pixels) and {MAX_SIDE} px a side",
            )
        with explained(picture):
            # Not n_frames, which walks through all of them: a small file can hold millions.
            if picture.format not in FIRST_OF_SEVERAL and getattr(picture, "is_animated", False):
                raise PictureError("unsupported", f"{picture.format} of several frames; only still pictures are read")
            picture.load()
            return picture


@contextlib.contextmanager
def explained(picture: Image.Image) -> Iterator[None]:
    """What Pillow stumbles over as PictureError; its remarks on broken EXIF, which is dropped anyway, unheard."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (PictureError, MemoryError):
        raise
    except Exception as error:
        words = str(error).lower()
        reason = "truncated" if any(word in words for word in TRUNCATED_WORDS) else "corrupt"
        width, height = picture.size
        raise PictureError(reason, f"{picture.format} {width} x {height} can not be decoded: {_said(error)}") from error


@cache
def formats() -> tuple[str, ...]:
    """What Pillow and its installed plugins are asked to read."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return FORMATS
    register_heif_opener()
    return (*FORMATS, "HEIF")


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=formats())
    except Image.DecompressionBombError as error:
        raise PictureError("too_large", f"its header claims too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        if encoded[4:8] == b"ftyp" and encoded[8:12] in HEIF_BRANDS and "HEIF" not in formats():
            raise PictureError("unsupported", "HEIC is read after `pip install keyanon[heif]`") from error
        raise PictureError(
            "not_an_image", f"not a picture of a known format ({', '.join(formats())}), or its header is broken"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError("corrupt", f"its header can not be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def orientation(picture: Image.Image) -> int:
    """What a picture's EXIF says of how it lies, 1 to 8; 1 where it says nothing that can be read."""
    try:
        said = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return int(said) if said in TURNS else 1
    except MemoryError:
        raise
    except Exception as error:
        logger.debug("an EXIF block can not be read; the picture is taken as it lies", exc_info=error)
        return 1


def upright(picture: Image.Image) -> Image.Image:
    """A loaded picture turned as its EXIF says."""
    turn = TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def rgb_pixels(picture: Image.Image, *, convert: bool) -> Pixels:
    """A loaded picture as `decode_picture` gives it. Raises whatever Pillow raises, and PictureError."""
    profile = picture.info.get("icc_profile") if convert else None
    return np.array(_to_srgb(upright(picture), profile), dtype=np.uint8)


def is_transparent(picture: Image.Image) -> bool:
    """True when a picture has a channel or a colour of transparency. Of 16-bit samples it is not read."""
    channel = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    return channel or ("transparency" in picture.info and not picture.mode.startswith("I;16"))


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit RGB, with transparency laid over BACKGROUND."""
    if picture.mode in ("I", "F"):
        raise PictureError("unsupported", f"{picture.format} of 32-bit samples, whose range no header tells")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(EIGHT_OF_SIXTEEN[np.asarray(picture)])
        profile = None  # it was made for 16-bit samples
    if is_transparent(picture):
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, BACKGROUND)
        picture = Image.alpha_composite(backdrop, picture).convert("RGB")
    elif picture.mode == "P":
        picture = picture.convert("RGB")
    if profile:
        picture = without_profile(picture, profile)
    return picture.convert("RGB")


def without_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours converted from an ICC profile to sRGB; unchanged when the profile is broken or for another mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
            return picture
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    return converted if converted is not None else picture


def encode_picture(
    pixels: Pixels, format: str, quality: int = DEFAULT_JPEG_QUALITY, profile: bytes | None = None
) -> bytes:
    """Encode (H, W, 3) uint8 as "png", "webp" (lossless) or "jpeg" (quality 1 to 100, colour not subsampled), without
    metadata but the colour profile, where one is given and it is one of RGB pictures.

    Raises PictureError ("unsupported") for another format or a picture larger than the format can hold.
    """
    if profile is not None and profile[ICC_SPACE] != b"RGB ":
        profile = None
    if format == "png":
        return encode_image(Image.fromarray(pixels), "PNG", icc_profile=profile, compress_type=PNG_STRATEGY)
    if format == "webp":
        return encode_image(Image.fromarray(pixels), "WEBP", icc_profile=profile, lossless=True, exact=True)
    if format == "jpeg":
        return encode_image(Image.fromarray(pixels), "JPEG", icc_profile=profile, quality=quality, subsampling=0)
    raise PictureError("unsupported", f"output format {format!r}; choose png, webp or jpeg")


def encode_image(picture: Image.Image, format: str, **options: Any) -> bytes:
    """A picture through one of Pillow's writers. Raises PictureError ("unsupported") where it can not hold the picture."""
    out = io.BytesIO()
    try:
        picture.save(out, format, **options)
    except (OSError, ValueError, SystemError) as error:
        raise PictureError("unsupported", f"{picture.width} x {picture.height} px as {format}: {error}") from error
    return out.getvalue()
