"""Decodes a source and chooses how its picture will be published.

With the format `same` a JPEG stays a JPEG (`jpeg_source`), PNG and WebP stay what they are (`raster_source`), and whatever else
is read becomes PNG. A piece of a clip stays one with any (`keyanon_core.clips`). A colour profile stays if it may (`profiles`),
and everything else in the file goes.
"""

from typing import Final

from PIL import Image

from keyanon_core.clips.piece import is_piece
from keyanon_core.formats.jpeg_source import JpegSource
from keyanon_core.formats.profiles import may_stay
from keyanon_core.formats.published import FixedFormat, SourceFile
from keyanon_core.formats.raster_source import GREY_MODES, RasterSource
from keyanon_core.imaging import decode_picture, explained, load_picture, orientation, rgb_pixels

SAME: Final = "same"
JPEGS: Final = ("JPEG", "MPO")
KEPT_MODES: Final = ("L", "RGB")  # in which a JPEG's coefficients may be kept
COLOUR_MODES: Final = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA")


def open_source(encoded: bytes, output_format: str, quality: int, max_pixels: int) -> SourceFile:
    """Decode a source for a picture in `output_format`: "same", or one of `imaging.encode_picture`.

    quality: of JPEGs that are encoded as a whole, 1 to 100. Raises PictureError as `decode_picture`.
    """
    if is_piece(encoded):
        from keyanon_core.clips.strip_source import StripSource  # and with it PyAV, which may not be there

        return StripSource.of(encoded, max_pixels)
    if output_format != SAME:
        return FixedFormat(decode_picture(encoded, max_pixels), output_format, quality)
    picture = load_picture(encoded, max_pixels)
    with explained(picture):
        return _same(picture, encoded, quality)


def _same(picture: Image.Image, encoded: bytes, quality: int) -> SourceFile:
    profile = picture.info.get("icc_profile")
    kept = profile if profile and may_stay(profile, _profile_mode(picture)) else None
    if picture.format not in JPEGS:
        return RasterSource.of(picture, encoded, kept)
    pixels = rgb_pixels(picture, convert=kept is None)
    # a profile that may not stay and can be used has changed the colours: then no coefficient is right any more
    unchanged = kept is not None or not profile or (pixels == rgb_pixels(picture, convert=False)).all()
    if picture.mode in KEPT_MODES and unchanged:
        return JpegSource(pixels, encoded, orientation(picture), quality, kept)
    return FixedFormat(pixels, "jpeg", quality, kept)


def _profile_mode(picture: Image.Image) -> str:
    """The kind of profile that a picture can have: "RGB", "L", or "" for none that may stay."""
    if picture.mode in GREY_MODES and not picture.mode.startswith("I"):
        return "L"
    return "RGB" if picture.mode in COLOUR_MODES else ""
