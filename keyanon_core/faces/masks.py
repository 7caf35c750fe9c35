"""Which pixels of a picture belong to a face: a window and its bits, so that cost follows the face, not the picture."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import FaceModelError

MAGIC = b"KM\x01"  # format and version of the serialised form
HEADER = struct.Struct(">3s4I")  # magic, x0, y0, width, height
MAX_PIXELS = 200_000_000  # a window larger than this is refused when it is read
MAX_COORDINATE = 1_000_000  # px; the largest x or y a serialised window may reach
COMPRESSION_LEVEL = 6  # zlib
TILE_SIDE = 1024  # px; what works on a picture tile by tile holds no more than this at once

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PictureMask:
    """Pixels of a picture: those of `window` (x0, y0, x1, y1), half open, whose `bits` (y1 - y0, x1 - x0) are True."""

    window: tuple[int, int, int, int]
    bits: Bits

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.window
        if min(x0, y0) < 0 or self.bits.shape != (y1 - y0, x1 - x0) or self.bits.dtype != np.bool_:
            raise FaceModelError(f"mask window {self.window} does not fit {self.bits.dtype} bits of {self.bits.shape}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PictureMask) and self.window == other.window and np.array_equal(self.bits, other.bits)

    def __hash__(self) -> int:
        return hash((self.window, self.bits.tobytes()))

    @classmethod
    def from_full(cls, full: Bits) -> "PictureMask":
        """The smallest mask that holds the True pixels of an (H, W) bool array."""
        return cls((0, 0, full.shape[1], full.shape[0]), full.astype(np.bool_)).trimmed()

    def trimmed(self) -> "PictureMask":
        """The same pixels in the smallest window; the empty mask has the window (0, 0, 0, 0)."""
        rows, columns = np.flatnonzero(self.bits.any(axis=1)), np.flatnonzero(self.bits.any(axis=0))
        if len(rows) == 0:
            return PictureMask((0, 0, 0, 0), np.zeros((0, 0), np.bool_))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        x0, y0 = self.window[:2]
        return PictureMask((x0 + left, y0 + top, x0 + right, y0 + bottom), self.bits[top:bottom, left:right].copy())

    @property
    def count(self) -> int:
        """Number of True pixels."""
        return int(self.bits.sum())

    def full(self, shape: Sequence[int]) -> Bits:
        """(H, W) bool of a whole picture of shape (H, W, ...). FaceModelError when the window reaches beyond."""
        self.check_inside(shape)
        x0, y0, x1, y1 = self.window
        full = np.zeros(tuple(shape[:2]), np.bool_)
        full[y0:y1, x0:x1] = self.bits
        return full

    def check_inside(self, shape: Sequence[int]) -> None:
        """Raise FaceModelError unless the window lies inside a picture of shape (H, W, ...)."""
        if self.window[2] > shape[1] or self.window[3] > shape[0]:
            raise FaceModelError(f"mask window {self.window} reaches beyond the picture of {shape[1]} x {shape[0]} px")

    def crop(self, window: tuple[int, int, int, int]) -> Bits:
        """(y1 - y0, x1 - x0) bool of any window, which may reach beyond the mask's and below zero."""
        x0, y0, x1, y1 = window
        out = np.zeros((y1 - y0, x1 - x0), np.bool_)
        shared = _shared(self.window, window)
        if shared is not None:
            out[shared[1] - y0 : shared[3] - y0, shared[0] - x0 : shared[2] - x0] = self._part(shared)
        return out

    def _part(self, window: tuple[int, int, int, int]) -> Bits:
        x0, y0 = self.window[:2]
        return self.bits[window[1] - y0 : window[3] - y0, window[0] - x0 : window[2] - x0]

    def tiles(self) -> Iterator["PictureMask"]:
        """The mask in pieces of at most TILE_SIDE px a side, those without a True pixel left out."""
        x0, y0, x1, y1 = self.window
        for top in range(y0, y1, TILE_SIDE):
            for left in range(x0, x1, TILE_SIDE):
                window = (left, top, min(left + TILE_SIDE, x1), min(top + TILE_SIDE, y1))
                bits = self._part(window)
                if bits.any():
                    yield PictureMask(window, bits)

    def to_bytes(self) -> bytes:
        """Compact, versioned form: header, then the packed bits through zlib."""
        x0, y0, x1, y1 = self.window
        packed = np.packbits(self.bits).tobytes()
        return HEADER.pack(MAGIC, x0, y0, x1 - x0, y1 - y0) + zlib.compress(packed, COMPRESSION_LEVEL)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PictureMask":
        """Inverse of `to_bytes`. Raises FaceModelError on anything that is not exactly such bytes; never inflates more
        than the header declares, and refuses a header beyond MAX_PIXELS or MAX_COORDINATE.
        """
        if len(data) < HEADER.size or data[:3] != MAGIC:
            raise FaceModelError("not a mask: wrong magic, or a version this release does not read")
        _, x0, y0, width, height = HEADER.unpack_from(data)
        if width * height > MAX_PIXELS or x0 + width > MAX_COORDINATE or y0 + height > MAX_COORDINATE:
            raise FaceModelError(
                f"mask refused: a window of {width} x {height} px at ({x0}, {y0}) is beyond the limits"
            )
        expected = (width * height + 7) // 8
        inflater = zlib.decompressobj()
        try:
            packed = inflater.decompress(data[HEADER.size :], expected + 1)
        except zlib.error as error:
            raise FaceModelError(f"not a mask: {error}") from error
        if len(packed) != expected or not inflater.eof or inflater.unused_data:
            raise FaceModelError(f"not a mask: its bits are not the {expected} bytes its header declares")
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=width * height).view(np.bool_)
        return cls((x0, y0, x0 + width, y0 + height), bits.reshape(height, width))


def _shared(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def disjoint_masks(masks: Sequence[PictureMask]) -> list[PictureMask]:
    """Masks of one picture made disjoint, in the same order: a contested pixel goes to the mask whose centre is
    nearest, measured in that mask's own radius; ties go to the first. The union is unchanged, so nothing that was to be
    anonymized escapes.
    """
    centres, radii = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask.bits)
        x0, y0 = mask.window[:2]
        centres.append((x0 + columns.mean(), y0 + rows.mean()) if len(rows) else (0.0, 0.0))
        radii.append(max(np.sqrt(len(rows) / np.pi), 1.0))

    def nearness(index: int, window: tuple[int, int, int, int]) -> npt.NDArray[np.float64]:
        y, x = np.ogrid[window[1] : window[3], window[0] : window[2]]
        return np.asarray(np.hypot(x - centres[index][0], y - centres[index][1]) / radii[index])

    kept = [mask.bits.copy() for mask in masks]
    for first in range(len(masks)):
        for second in range(first + 1, len(masks)):
            shared = _shared(masks[first].window, masks[second].window)
            if shared is None:
                continue
            contested = masks[first]._part(shared) & masks[second]._part(shared)
            if not contested.any():
                continue
            first_wins = nearness(first, shared) <= nearness(second, shared)
            _view(kept[first], masks[first], shared)[contested & ~first_wins] = False
            _view(kept[second], masks[second], shared)[contested & first_wins] = False
    return [PictureMask(mask.window, bits).trimmed() for mask, bits in zip(masks, kept, strict=True)]


def _view(bits: Bits, mask: PictureMask, window: tuple[int, int, int, int]) -> Bits:
    x0, y0 = mask.window[:2]
    return bits[window[1] - y0 : window[3] - y0, window[0] - x0 : window[2] - x0]
