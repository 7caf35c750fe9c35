"""Names of published files: one picture, one name; no name leaves the output or meets another."""

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from jobs.errors import PublishError

IMAGES: Final = "images"
SIDECARS: Final = "sidecars"
SIDECAR_SUFFIX: Final = ".keyanon"
SAME: Final = "same"
SUFFIXES: Final = {SAME: "", "png": ".png", "webp": ".webp", "jpeg": ".jpg"}
KEPT_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Of pictures that may stay what they are."""
CHANGED_SUFFIXES: Final = frozenset({".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"})
"""Of pictures that become PNG with `same`, and are called so: other programs go by the name."""
# File systems allow 255 bytes, of which a suffix needs its share.
MAX_NAME_BYTES: Final = 255
MAX_COMPONENT_BYTES: Final = 200
NO_TEXT: Final = "no text that UTF-8 can hold"
_DIGEST_CHARACTERS: Final = 32  # 128 bits: two long names never meet


def image_name(image_id: str, output_format: str) -> str:
    """Where a picture is published, relative to the output. Its own name is kept whole (`a.jpg` and `a.png` differ); a format
    that the user chose is appended, with `same` nothing but to CHANGED_SUFFIXES.

    Raises:
        PublishError: the id is no relative path, or would leave the output; no listing of this project makes such.
    """
    if output_format == SAME and suffix_of(image_id) in CHANGED_SUFFIXES:
        output_format = "png"
    limit = MAX_NAME_BYTES if output_format == SAME else MAX_COMPONENT_BYTES
    return f"{IMAGES}/{_safe(image_id, limit)}{SUFFIXES[output_format]}"


def sidecar_name(image_id: str) -> str:
    """Where a picture's sidecar is published, relative to the output. Raises PublishError as `image_name`."""
    return f"{SIDECARS}/{_safe(image_id)}{SIDECAR_SUFFIX}"


def clashing_names(image_ids: Sequence[str]) -> set[int]:
    """Positions of ids whose published file would have to be a folder as well, as `a` beside `a.png/b` has, or beside `a/b`, or
    another picture's file, as `a.gif` beside `a.gif.png`.
    """
    folders: set[str] = set()
    for image_id in image_ids:
        parts = image_id.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    endings = (*SUFFIXES.values(), SIDECAR_SUFFIX)
    changed = {image_id + SUFFIXES["png"] for image_id in image_ids if suffix_of(image_id) in CHANGED_SUFFIXES}
    taken = changed.intersection(image_ids)

    def clashes(image_id: str) -> bool:
        return image_id + SUFFIXES["png"] in taken or any(image_id + ending in folders for ending in endings)

    return {at for at, image_id in enumerate(image_ids) if clashes(image_id)}


def suffix_of(name: str) -> str:
    """The extension in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  names of remote file systems are no local paths


def name_problem(image_id: str) -> str:
    """Why no file below the output can be named by this id; "" when one can."""
    if any(part in ("", ".", "..") for part in image_id.split("/")):
        return "it is no plain path below the output"
    if "\0" in image_id:
        return "it holds a NUL"
    return "" if is_text(image_id) else f"it is {NO_TEXT}"


def is_text(name: str) -> bool:
    """False for what file names, listings and Parquet can bring that is no Unicode: surrogates without their other half."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def as_text(name: str) -> str:
    """A name as blocks and records can hold it. Bytes that were no UTF-8, which Python shows as surrogates, become %XX."""
    return (
        "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)
        .encode("utf-8", "backslashreplace")
        .decode()
    )


def _safe(image_id: str, limit: int = MAX_COMPONENT_BYTES) -> str:
    parts = image_id.split("/")
    if name_problem(image_id):
        raise PublishError(f"image id {image_id!r} can not be a path below the output; nothing was written for it")
    return "/".join(_shortened(part, limit) for part in parts)


def _shortened(part: str, limit: int) -> str:
    encoded = part.encode()
    if len(encoded) <= limit:
        return part
    kept = encoded[: limit - _DIGEST_CHARACTERS - 1].decode("utf-8", "ignore")
    return f"{kept}~{hashlib.sha256(encoded).hexdigest()[:_DIGEST_CHARACTERS]}"
