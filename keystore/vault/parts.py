"""Records of a part of an image: of the faces of one person in a piece of a clip, whose key opens nobody else's.

The image id of such a record is the image's with `#track-` and the number of the person's track behind it, or `none` for faces
that are on no track. An image that has such records has no other.
"""

from __future__ import annotations

import re
from typing import Final

PART_MARK: Final = "#track-"
_PART: Final = re.compile(rf"(.+){PART_MARK}(?:0|[1-9][0-9]*|none)", re.DOTALL)


def part_id(image_id: str, track: int | None) -> str:
    """Return the image id of the record of one track's faces in an image; track None: of the faces that are on none."""
    return f"{image_id}{PART_MARK}{'none' if track is None else track}"


def whole_id(image_id: str) -> str | None:
    """Return the id of the image that a record is of a part of, by its own image id; None where that is no part's."""
    found = _PART.fullmatch(image_id)
    return None if found is None else found[1]
