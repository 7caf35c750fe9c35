"""The blocks of a JPEG that a mask touches, made anew from the anonymized picture; every other block keeps its coefficients.

A sample stands for one pixel, or for several in a subsampled component; a block is touched when one of its samples stands for
a masked pixel. It is put together from samples again: those that stand for a masked pixel are the mean of the anonymized
pixels they stand for, and of no other; the rest are what the source's coefficients give (T.81 A.3.3, unrounded, so that they
come through a second quantization with little loss). Beyond the picture's edge a block repeats its last samples, never the
source's. Then it is transformed and quantized with the source's own table.

Everything here is in the JPEG's stored orientation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keyanon_core.faces.masks import PictureMask
from keyanon_core.formats.jpeg_coefficients import Coefficients
from keyanon_core.formats.jpeg_header import Component, JpegHeader

SIDE: Final = 8  # samples of a block
LEVEL: Final = 128.0  # taken off every sample (T.81 A.3.1)
LARGEST: Final = 1023  # of a quantized coefficient, by size (T.81 F.1.2)
COLOURS: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)  # RGB to Y, Cb and Cr (T.871, clause 7)
OFFSETS: Final = (0.0, LEVEL, LEVEL)

_K: Final = np.arange(SIDE)
COSINES: Final = np.sqrt(np.where(_K == 0, 1, 2) / SIDE)[:, None] * np.cos(
    (2 * _K + 1) * _K[:, None] * np.pi / (2 * SIDE)
)  # (8, 8) frequency, sample: the transform of T.81 A.3.3 is COSINES @ block @ COSINES.T

Bits = npt.NDArray[np.bool_]
Samples = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Renewal:
    """What touched blocks are made of. picture: (H, W, 3) uint8 RGB in the JPEG's own colours, anonymized. masks: where it is."""

    header: JpegHeader
    picture: Pixels
    masks: Sequence[PictureMask]

    def apply(self, blocks: Sequence[Coefficients]) -> list[Bits]:
        """Make the touched blocks anew, in place. Returns which they are: for each component (rows, columns) bool.

        blocks: as `read_coefficients` gives them.
        """
        touched = [np.zeros(self.header.blocks(component), np.bool_) for component in self.header.components]
        for mask in self.masks:
            if mask.count:
                for index in range(len(touched)):
                    where, hit = self._renew(index, blocks[index], mask.window)
                    touched[index][where] |= hit
        return touched

    def _renew(self, index: int, blocks: Coefficients, window: Window) -> tuple[tuple[slice, slice], Bits]:
        """Renew one component's blocks under a window of pixels. All masks count there, so that a block that several touch is
        made of anonymized pixels in one go. Returns where the blocks lie, and which of them were touched.
        """
        component = self.header.components[index]
        (down, across), (rows, columns) = self.header.steps(component), self.header.samples(component)
        top, left = window[1] // (down * SIDE), window[0] // (across * SIDE)
        bottom, right = -(-window[3] // (down * SIDE)), -(-window[2] // (across * SIDE))
        where = slice(top, bottom), slice(left, right)
        height, width = min(bottom * SIDE, rows) - top * SIDE, min(right * SIDE, columns) - left * SIDE
        x0, y0 = left * SIDE * across, top * SIDE * down
        # what the samples stand for; the last ones may stand for pixels beyond the picture's edge, which no mask has
        under = (x0, y0, x0 + width * across, y0 + height * down)
        bits = np.zeros((height * down, width * across), np.bool_)
        for mask in self.masks:
            bits |= mask.crop(under)
        values = np.zeros(bits.shape)
        shown = self.picture[under[1] : under[3], under[0] : under[2]]
        values[: shown.shape[0], : shown.shape[1]] = shown @ COLOURS[index] + OFFSETS[index]

        masked = _grouped(bits, down, across)
        counts = masked.sum(axis=(1, 3))
        anew = counts > 0
        samples = _decoded(blocks[where], component)
        inside = samples[:height, :width]
        inside[anew] = (_grouped(values, down, across) * masked).sum(axis=(1, 3))[anew] / counts[anew]
        beyond = ((0, samples.shape[0] - height), (0, samples.shape[1] - width))
        hit = np.asarray(_grouped(np.pad(anew, beyond), SIDE, SIDE).any(axis=(1, 3)))
        blocks[where][hit] = _quantized(np.pad(inside, beyond, "edge"), component)[hit]
        return where, hit


def touched_pixels(header: JpegHeader, touched: Sequence[Bits]) -> Bits:
    """(H, W) bool: pixels that a touched block has a part in once the picture is decoded. Decoders enlarge a subsampled component
    smoothly, so that a pixel takes some of the neighbouring sample too.
    """
    reached = np.zeros((header.height, header.width), np.bool_)
    for component, hit in zip(header.components, touched, strict=True):
        down, across = header.steps(component)
        samples = hit.repeat(SIDE, 0).repeat(SIDE, 1)
        if (down, across) != (1, 1):
            samples = _widened(samples)
        reached |= samples.repeat(down, 0).repeat(across, 1)[: header.height, : header.width]
    return reached


def _grouped(values: npt.NDArray[Any], down: int, across: int) -> npt.NDArray[Any]:
    """(H, W) as (H / down, down, W / across, across)."""
    height, width = values.shape
    return values.reshape(height // down, down, width // across, across)


def _decoded(blocks: Coefficients, component: Component) -> Samples:
    """Samples (rows, columns) in [0, 255], unrounded, of blocks (r, c, 8, 8): dequantized and transformed back."""
    values = COSINES.T @ (blocks * component.table.astype(np.float64)) @ COSINES + LEVEL
    rows, columns = blocks.shape[:2]
    return np.asarray(np.clip(values.transpose(0, 2, 1, 3).reshape(rows * SIDE, columns * SIDE), 0, 255))


def _quantized(samples: Samples, component: Component) -> Coefficients:
    """The inverse of `_decoded`, rounded: blocks (r, c, 8, 8) int16."""
    blocks = _grouped(samples - LEVEL, SIDE, SIDE).transpose(0, 2, 1, 3)
    steps = np.rint(COSINES @ blocks @ COSINES.T / component.table)
    return np.asarray(np.clip(steps, -LARGEST, LARGEST), np.int16)


def _widened(bits: Bits) -> Bits:
    """True also beside, above and below what is True, and at its corners."""
    padded = np.pad(bits, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])
