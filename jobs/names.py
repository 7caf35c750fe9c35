"""Names of published files: one picture, one name; no name leaves the output or meets another."""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import PublishError

IMAGES: Final = "images"
SIDECARS: Final = "sidecars"
SIDECAR_SUFFIX: Final = ".keyanon"
CLIP_FACTS_SUFFIX: Final = ".json"  # of what lies beside a joined clip
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


def clip_name(name: str) -> str:
    """What a joined clip is called, below the folder of clips: as its source, but that a file beside it may have a longer name.
    Raises PublishError as `image_name`."""
    safe = _safe(name)
    return safe if suffix_of(safe) == suffix_of(name) else safe + suffix_of(name)


def clashing_names(image_ids: pa.Array | Sequence[str]) -> set[int]:
    """Positions of ids whose published file would have to be a folder as well, as `a` beside `a.png/b` has, or beside `a/b`, or
    another picture's file, as `a.gif` beside `a.gif.png`. Counted by columns: there may be millions.
    """
    ids = image_ids if isinstance(image_ids, pa.Array) else pa.array(image_ids, pa.large_string())
    inside = pc.unique(pc.replace_substring_regex(ids.filter(pc.match_substring(ids, "/")), r"/[^/]*\z", ""))
    folders: set[str] = set()
    for folder in inside.to_pylist():
        parts = folder.split("/")
        folders.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    endings = (*SUFFIXES.values(), SIDECAR_SUFFIX)
    taken = {folder.removesuffix(ending) for folder in folders for ending in endings if folder.endswith(ending)}
    pattern = rf"({'|'.join(map(re.escape, sorted(CHANGED_SUFFIXES)))})\z"
    changed = ids.filter(pc.match_substring_regex(ids, pattern, ignore_case=True))
    changed = changed.filter(
        pa.array([suffix_of(image_id) in CHANGED_SUFFIXES for image_id in changed.to_pylist()], pa.bool_())
    )
    pictures = pc.binary_join_element_wise(
        changed, pa.scalar(SUFFIXES["png"], changed.type), pa.scalar("", changed.type)
    )
    taken.update(changed.filter(pc.is_in(pictures, value_set=ids)).to_pylist())
    clashing = pc.is_in(ids, value_set=pa.array(sorted(taken), ids.type))
    return set(np.flatnonzero(clashing.to_numpy(zero_copy_only=False)).tolist())


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
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(name: str) -> str:
    """A name as blocks and records can hold it. Bytes that were no UTF-8, which Python shows as surrogates, become %XX."""
    if is_text(name):
        return name
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
