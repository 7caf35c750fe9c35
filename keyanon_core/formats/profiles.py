"""Which colour profiles a published picture may keep.

A kept profile is not looked through: faces are found, made and judged in the numbers that the file holds, as if they were sRGB,
in both directions. That is exact, and near enough to what is seen as long as the profile's greys are about sRGB's, as those of
Display P3 and Adobe RGB are. Where they are not, the picture is converted to sRGB.
"""

import io
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES: Final = 1024 * 1024  # a larger one holds something else
SPACES: Final = {"L": "GRAY", "RGB": "RGB"}  # by a picture's mode: the colour space in the profile's header
KNOWN_PROFILES: Final = 16  # answers kept: a folder's pictures share a few
MAX_GREY_SHIFT: Final = 16  # levels of 255 between a grey in the profile and the same numbers in sRGB


def may_stay(profile: bytes, mode: str) -> bool:
    """True for an ICC profile of pictures of a mode ("RGB" or "L"; of others none) whose numbers can be taken for sRGB's."""
    if mode not in SPACES or not profile or len(profile) > MAX_PROFILE_BYTES:
        return False
    return _has_about_srgbs_greys(profile, mode)


@lru_cache(KNOWN_PROFILES)
def _has_about_srgbs_greys(profile: bytes, mode: str) -> bool:
    """`may_stay` of a profile that is small enough to be looked into, and kept here."""
    ramp = np.arange(256, dtype=np.uint8)
    greys = Image.fromarray(ramp[None] if mode == "L" else np.repeat(ramp[None, :, None], 3, axis=2))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACES[mode]:
            return False
        seen = ImageCms.profileToProfile(greys, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    if seen is None:
        return False
    shift = np.abs(np.asarray(seen, np.int16)[0] - ramp[:, None])
    return bool(shift.max() <= MAX_GREY_SHIFT)
