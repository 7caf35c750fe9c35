"""In which forms a picture gives its faces back: copies of what was published, and other ways of storing the same picture.

They are tried on some pictures of a rehearsal, by rule: on one of EVERY.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image

from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import encode_picture
from keyanon_core.pictures.settings import SIDECAR_BITS_LIMITS

EVERY: Final = 8
BESIDE: Final = "-beside"  # how bytes are called that lie beside a picture, for its faces to come back
CUT: Final = 8  # of either end of a picture's height and width: one part in so many
GREY: Final = 128

Copy = Callable[[Pixels], bytes]


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _halved(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    return _resized(pixels, max(width // 2, 1), max(height // 2, 1))


def _middle(pixels: Pixels) -> tuple[slice, slice]:
    height, width = pixels.shape[:2]
    return slice(height // CUT, height - height // CUT), slice(width // CUT, width - width // CUT)


def _on_grey(pixels: Pixels) -> Pixels:
    whole = np.full_like(pixels, GREY)
    whole[_middle(pixels)] = pixels[_middle(pixels)]
    return whole


def _jpeg(quality: int) -> Copy:
    return lambda pixels: encode_picture(pixels, "jpeg", quality)


def _png(made: Callable[[Pixels], Pixels]) -> Copy:
    return lambda pixels: encode_picture(np.ascontiguousarray(made(pixels)), "png")


COPIES: Final[Mapping[str, Copy]] = MappingProxyType(
    {
        **{f"rehearsal-jpeg-{quality}-recovered": _jpeg(quality) for quality in (100, 90, 50)},
        "rehearsal-halved-recovered": _png(_halved),
        "rehearsal-halved-and-back-recovered": _png(lambda pixels: _resized(_halved(pixels), *pixels.shape[1::-1])),
        "rehearsal-cropped-recovered": _png(lambda pixels: pixels[_middle(pixels)]),
        "rehearsal-cropped-and-back-recovered": _png(_on_grey),
    }
)
"""What became of a published picture (H, W, 3) uint8, by the version that comes back of it. Cropped and back: put where it was,
on grey."""

STORED: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **{
            f"rehearsal-sidecar-{bits:g}-bits": {"fidelity": "latent", "sidecar_bits": bits}
            for bits in SIDECAR_BITS_LIMITS
        },
        "rehearsal-lossless": {"fidelity": "lossless"},
        "rehearsal-png-alone": {"fidelity": "image", "output_format": "png"},
    }
)
"""Changes of a run's settings by which the same picture is made anew, by a version that is not shown; what comes back of it is
`...-recovered`."""

FORMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rehearsal-recovered": "what is published",
        "rehearsal-jpeg-100-recovered": "a JPEG copy of it, quality 100",
        "rehearsal-jpeg-90-recovered": "quality 90",
        "rehearsal-jpeg-75-recovered": "quality 75",
        "rehearsal-jpeg-50-recovered": "quality 50",
        "rehearsal-halved-recovered": "half as wide and high: refused, it is of another size",
        "rehearsal-halved-and-back-recovered": "half as wide and high, and enlarged again",
        "rehearsal-cropped-recovered": "an eighth cut off each side: refused, it is of another size",
        "rehearsal-cropped-and-back-recovered": "the same, put back on grey",
        **{
            f"rehearsal-sidecar-{bits:g}-bits-recovered": f"a sidecar of {bits:g} bits, fidelity latent"
            for bits in SIDECAR_BITS_LIMITS
        },
        "rehearsal-png-alone-recovered": "the picture alone as PNG, fidelity image",
        "rehearsal-lossless-recovered": "the source's pixels beside the picture, fidelity lossless",
    }
)
"""All that a face may come back from, by the version that comes back, for people."""
TRIED: Final = frozenset({*COPIES, *(f"{name}-recovered" for name in STORED)})
"""Those that only some pictures are tried in."""
