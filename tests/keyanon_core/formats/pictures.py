"""Pictures made at test time, and what of a JPEG tests look at with other eyes than the code's."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def scene(width: int, height: int, seed: int = 0, noise: float = 8.0) -> Pixels:
    """(height, width, 3) of smooth colours and some noise, different for every seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16.0
    waves = [128 + 90 * np.sin(a * x + b * y + c) for a, b, c in random.uniform(-1.5, 1.5, (3, 3))]
    return np.clip(np.stack(waves, axis=2) + random.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)


def as_file(pixels: npt.NDArray[Any], format: str = "JPEG", mode: str | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(pixels)
    out = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(out, format, **options)
    return out.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF with an orientation, a camera's name and a thumbnail's worth of text."""
    said = Image.Exif()
    said[0x0112], said[0x010F], said[0x9286] = orientation, "SECRET camera", b"SECRET comment" * 20
    return said.tobytes()


def markers(encoded: bytes) -> list[tuple[int, bytes]]:
    """Marker segments before the first scan, by T.81 B.1.1.4: marker and content."""
    found, at = [], 2
    while True:
        marker, length = struct.unpack(">xBH", encoded[at : at + 4])
        found.append((marker, encoded[at + 4 : at + 2 + length]))
        if marker == 0xDA:
            return found
        at += 2 + length


def opened(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


def decoded(encoded: bytes) -> Pixels:
    """As Pillow gives it, neither turned nor converted but to RGB."""
    return np.array(opened(encoded).convert("RGB"))
