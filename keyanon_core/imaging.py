"""Encoded pictures to pixels and back. Everything else in a file (EXIF, GPS, thumbnails, comments, profiles) is left
behind.

Read: JPEG, PNG, WebP, BMP, TIFF, GIF, of one frame. A picture of several frames or pages is refused, since the faces on
its other frames would be lost or kept unseen. Limits are checked on the header, before any pixel is decoded.

- Of the multi-picture JPEG that phones write (a picture with its depth or gain map), the first picture is read.
- EXIF orientation is applied; where the EXIF can not be read, the picture is taken as it lies.
- An ICC profile is converted to sRGB and dropped; a profile that can not be used is ignored.
- Transparency is laid over white. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; 16 bits are scaled by their
  full range.

Pillow's parsers meet whatever the world calls a picture, and raise whatever they stumble over: KeyError, TypeError,
AssertionError. All of it is the picture's fault and becomes PictureError; MemoryError alone is the machine's, and passes.
"""

import io
import logging
import warnings
import zlib

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from keyanon_core.errors import PictureError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
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


def decode_picture(encoded: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Pixels (H, W, 3) uint8 RGB of an encoded picture, upright.

    Raises PictureError with reason "empty", "not_an_image", "unsupported" (format, or several frames), "too_large",
    "truncated" or "corrupt". MemoryError passes: it says nothing about the picture.
    """
    if not encoded:
        raise PictureError("empty", "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides, below
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on broken EXIF, which is dropped anyway
        picture = _open(encoded)
        width, height = picture.size
        if width * height > max_pixels or max(width, height) > MAX_SIDE:
            raise PictureError(
                "too_large",
                f"{width} x {height} px; the limit is {max_pixels} px in all (max_pixels) and {MAX_SIDE} px a side",
            )
        try:
            return _still(picture)
        except (PictureError, MemoryError):
            raise
        except Exception as error:
            words = str(error).lower()
            reason = "truncated" if any(word in words for word in TRUNCATED_WORDS) else "corrupt"
            raise PictureError(
                reason, f"{picture.format} {width} x {height} can not be decoded: {_said(error)}"
            ) from error


def _open(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("too_large", f"its header claims too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise PictureError(
            "not_an_image", f"not a picture of a known format ({', '.join(FORMATS)}), or its header is broken"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError("corrupt", f"its header can not be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _still(picture: Image.Image) -> Pixels:
    """The pixels of a picture of one frame. Raises whatever Pillow raises."""
    # Not n_frames, which walks through all of them: a small file can hold millions.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise PictureError("unsupported", f"{picture.format} of several frames; only still pictures are read")
    picture.load()
    return np.array(_to_srgb(_upright(picture), picture.info.get("icc_profile")), dtype=np.uint8)


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception as error:
        logger.debug("an EXIF block can not be read; the picture is taken as it lies", exc_info=error)
        return picture
    return picture if turn is None else picture.transpose(turn)


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit RGB, with transparency laid over BACKGROUND."""
    if picture.mode in ("I", "F"):
        raise PictureError("unsupported", f"{picture.format} of 32-bit samples, whose range no header tells")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray(EIGHT_OF_SIXTEEN[np.asarray(picture)])
        profile = None  # it was made for 16-bit samples
    transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
    if transparent:
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, BACKGROUND)
        picture = Image.alpha_composite(backdrop, picture).convert("RGB")
    elif picture.mode == "P":
        picture = picture.convert("RGB")
    if profile:
        picture = _without_profile(picture, profile)
    return picture.convert("RGB")


def _without_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours converted from an ICC profile to sRGB; unchanged when the profile is broken or for another mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
            return picture
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    return converted if converted is not None else picture


def encode_picture(pixels: Pixels, format: str, quality: int = DEFAULT_JPEG_QUALITY) -> bytes:
    """Encode (H, W, 3) uint8 as "png", "webp" (lossless) or "jpeg" (quality 1 to 100, colour not subsampled), without
    metadata.

    Raises PictureError ("unsupported") for another format or a picture larger than the format can hold.
    """
    picture, out = Image.fromarray(pixels), io.BytesIO()
    try:
        if format == "png":
            picture.save(out, "PNG", compress_type=PNG_STRATEGY)
        elif format == "webp":
            picture.save(out, "WEBP", lossless=True, exact=True)
        elif format == "jpeg":
            picture.save(out, "JPEG", quality=quality, subsampling=0)
        else:
            raise PictureError("unsupported", f"output format {format!r}; choose png, webp or jpeg")
    except (OSError, ValueError, SystemError) as error:
        raise PictureError("unsupported", f"{pixels.shape[1]} x {pixels.shape[0]} px as {format}: {error}") from error
    return out.getvalue()
