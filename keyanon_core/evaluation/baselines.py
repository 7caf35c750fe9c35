"""What other ways of hiding a face do to the same faces, so that every figure can be read beside theirs.

Each takes pixels (H, W, 3) uint8 RGB and the masks of the faces, and returns new pixels of the same shape; nothing outside the
masks changes. A mask that reaches beyond the picture raises FaceModelError. They are for comparison: none keeps a secret.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from keyanon_core.faces.detection import Pixels
from keyanon_core.faces.masks import Bits, PictureMask, disjoint_masks
from keyanon_core.imaging import decode_picture, encode_image

BLUR_SHARE: Final = 0.1  # sigma over the face's width
CELLS: Final = 8  # of a pixelated face, from side to side
GREY: Final = (128, 128, 128)
BLOCK_SIDE: Final = 8  # px, a JPEG's
CROP_QUALITY: Final = 95  # of WebP
SEALING_BYTES: Final = 16 + 12  # tag and nonce of AES-GCM
_COLOURS: Final = tuple(itertools.permutations(range(3)))

Window = tuple[int, int, int, int]


def blur(pixels: Pixels, masks: Sequence[PictureMask], share: float = BLUR_SHARE) -> Pixels:
    """Gaussian blur, sigma `share` (> 0) of the width of the mask."""
    if not 0 < share < math.inf:
        raise ValueError(f"a blur's sigma is a share above 0 of the face's width, not {share}")

    def blurred(picture: Pixels, window: Window) -> Pixels:
        x0, y0, x1, y1 = window
        sigma = share * (x1 - x0)
        reach = math.ceil(4 * sigma)
        left, top = max(x0 - reach, 0), max(y0 - reach, 0)
        around = np.ascontiguousarray(picture[top : y1 + reach, left : x1 + reach])
        return np.asarray(cv2.GaussianBlur(around, (0, 0), sigma), np.uint8)[y0 - top :, x0 - left :][
            : y1 - y0, : x1 - x0
        ]

    return _replaced(pixels, masks, blurred)


def pixelate(pixels: Pixels, masks: Sequence[PictureMask], cells: int = CELLS) -> Pixels:
    """Means of cells, `cells` of them (>= 1) across the width of the mask and as many as keep them square down its height."""
    if cells < 1:
        raise ValueError(f"a pixelated face has a cell or more, not {cells}")

    def coarse(picture: Pixels, window: Window) -> Pixels:
        x0, y0, x1, y1 = window
        across = min(cells, x1 - x0)
        down = min(max(round(across * (y1 - y0) / (x1 - x0)), 1), y1 - y0)
        means = cv2.resize(np.ascontiguousarray(picture[y0:y1, x0:x1]), (across, down), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(means, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST), np.uint8)

    return _replaced(pixels, masks, coarse)


def fill(pixels: Pixels, masks: Sequence[PictureMask], colour: tuple[int, int, int] = GREY) -> Pixels:
    """One colour."""
    return _replaced(pixels, masks, lambda _, window: np.full((*_shape(window), 3), colour, np.uint8))


def shuffle_blocks(pixels: Pixels, masks: Sequence[PictureMask], key: bytes, side: int = BLOCK_SIDE) -> Pixels:
    """Block-wise encryption: the blocks of a face change places, are turned, mirrored and inverted, and their channels swapped.

    The blocks are those of the picture's grid of `side` px that lie in the mask as a whole; the mask's other pixels are treated
    in the same way, one by one. Steps as in Kurihara, Kikuchi, Imaizumi, Shiota, Kiya, "An encryption-then-compression system for
    JPEG/Motion JPEG standard", IEICE Trans. Fundamentals E98-A(11), 2015. `key` draws them from a generator that is not made for
    secrets.
    """
    return _scrambled(pixels, masks, key, side, back=False)


def unshuffle_blocks(pixels: Pixels, masks: Sequence[PictureMask], key: bytes, side: int = BLOCK_SIDE) -> Pixels:
    """Inverse of `shuffle_blocks`, exactly, with the same masks, key and side."""
    return _scrambled(pixels, masks, key, side, back=True)


def _shape(window: Window) -> tuple[int, int]:
    return window[3] - window[1], window[2] - window[0]


def _replaced(pixels: Pixels, masks: Sequence[PictureMask], make: Callable[[Pixels, Window], Pixels]) -> Pixels:
    """The picture with each mask's pixels from what `make` gives for its window, one face after the other."""
    out = pixels.copy()
    for mask in masks:
        mask.check_inside(pixels.shape)
        if mask.count == 0:
            continue
        tight = mask.trimmed()
        x0, y0, x1, y1 = tight.window
        out[y0:y1, x0:x1][tight.bits] = make(out, tight.window)[tight.bits]
    return out


def _scrambled(pixels: Pixels, masks: Sequence[PictureMask], key: bytes, side: int, back: bool) -> Pixels:
    if side < 1:
        raise ValueError(f"a block has a side of 1 px or more, not {side}")
    for mask in masks:
        mask.check_inside(pixels.shape)
    out = pixels.copy()
    for index, mask in enumerate(disjoint_masks(masks)):
        seed = hashlib.sha256(key + index.to_bytes(4, "big")).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        for rows, columns in _blocks(mask, side):
            out[rows, columns] = _turned_about(out[rows, columns], rng, back)
    return out


def _blocks(mask: PictureMask, side: int) -> Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows (k, s, 1) and columns (k, 1, s) of a mask's whole blocks, and of its other pixels with s = 1."""
    x0, y0, x1, y1 = mask.window
    x0, y0, x1, y1 = x0 // side * side, y0 // side * side, -(-x1 // side) * side, -(-y1 // side) * side
    bits = mask.crop((x0, y0, x1, y1))
    whole = bits.reshape((y1 - y0) // side, side, (x1 - x0) // side, side).all((1, 3))
    others = bits & ~whole.repeat(side, 0).repeat(side, 1)
    steps = np.arange(side)
    found = []
    for chosen, scale, step in ((whole, side, steps), (others, 1, steps[:1])):
        rows, columns = np.nonzero(chosen)
        found.append((y0 + rows[:, None, None] * scale + step[:, None], x0 + columns[:, None, None] * scale + step))
    return found


def _turned_about(blocks: Pixels, rng: np.random.Generator, back: bool) -> Pixels:
    """Blocks (k, s, s, 3), each turned, mirrored, inverted, its channels and at last its place changed; or all of it undone."""
    count = len(blocks)
    order = rng.permutation(count)
    turns, mirrored, inverted, colours = (rng.integers(0, kinds, count) for kinds in (4, 2, 2, len(_COLOURS)))
    out = np.empty_like(blocks)
    if back:
        out[order] = blocks
    else:
        out[:] = blocks
    out[inverted == 1] = 255 - out[inverted == 1]
    for kind, colour in enumerate(_COLOURS):
        channels = np.argsort(colour) if back else list(colour)
        out[colours == kind] = out[colours == kind][..., channels]
    if back:
        out[mirrored == 1] = out[mirrored == 1][:, :, ::-1]
    for turn in range(1, 4):
        out[turns == turn] = np.rot90(out[turns == turn], -turn if back else turn, axes=(1, 2))
    if not back:
        out[mirrored == 1] = out[mirrored == 1][:, :, ::-1]
        out = out[order]
    return out


def encrypted_crop(pixels: Pixels, inside: Bits, quality: int = CROP_QUALITY) -> tuple[int, Pixels]:
    """The cheapest way back: what is inside (h, w) of a crop (h, w, 3), grey outside, as WebP of this quality, encrypted.

    Returns the bytes that are stored, and the crop that comes back with the key.
    """
    encoded = encode_image(
        Image.fromarray(np.where(inside[..., None], pixels, np.uint8(GREY[0]))), "WEBP", quality=quality
    )
    return len(encoded) + SEALING_BYTES, decode_picture(encoded)


@dataclass(frozen=True, eq=False)
class Restored:
    """pixels: (H, W, 3) uint8, what comes back with the right key. sizes: (n,) int64, bytes stored for each of n faces."""

    pixels: Pixels
    sizes: npt.NDArray[np.int64]


def from_encrypted_crops(pixels: Pixels, masks: Sequence[PictureMask], quality: int = CROP_QUALITY) -> Restored:
    """Of a source: its faces out of an encrypted crop each, all else as it was."""
    out, sizes = pixels.copy(), np.zeros(len(masks), np.int64)
    for index, mask in enumerate(masks):
        mask.check_inside(pixels.shape)
        if mask.count:
            tight = mask.trimmed()
            x0, y0, x1, y1 = tight.window
            sizes[index], crop = encrypted_crop(pixels[y0:y1, x0:x1], tight.bits, quality)
            out[y0:y1, x0:x1][tight.bits] = crop[tight.bits]
    return Restored(out, sizes)


@dataclass(frozen=True)
class Baseline:
    """A way of hiding faces, as reports name it.

    sentence: what it does, and what is left to whom. source: where it comes from. apply: source and masks to what is published.
    restore: source and masks to what comes back with the right key; None where nothing does.
    """

    sentence: str
    source: str
    apply: Callable[[Pixels, Sequence[PictureMask]], Pixels]
    restore: Callable[[Pixels, Sequence[PictureMask]], Restored] | None = None


def _of_the_picture(pixels: Pixels) -> bytes:
    """A key of its own for each picture, the same in each report."""
    return hashlib.sha256(pixels.tobytes()).digest()


def _shuffled_back(pixels: Pixels, masks: Sequence[PictureMask]) -> Restored:
    key = _of_the_picture(pixels)
    return Restored(unshuffle_blocks(shuffle_blocks(pixels, masks, key), masks, key), np.zeros(len(masks), np.int64))


_DEFEATED: Final = (
    "McPherson, Shokri, Shmatikov, Defeating image obfuscation with deep learning, arXiv:1609.00408, 2016"
)

BASELINES: Final = {
    "blur": Baseline(
        f"Gaussian blur, sigma {BLUR_SHARE:.0%} of the face's width: what is coarse of the face stays for everybody, for good.",
        _DEFEATED,
        blur,
    ),
    "pixelation": Baseline(
        f"Mean colours of {CELLS} cells from side to side of the face: they stay for everybody, for good.",
        _DEFEATED,
        pixelate,
    ),
    "solid fill": Baseline("One grey: nothing of the face stays but its outline, and nobody gets it back.", "-", fill),
    "block-wise encryption": Baseline(
        f"Blocks of {BLOCK_SIDE} px change places, turn and are inverted under a key: colours and texture stay for everybody, the"
        " picture shows noise where a face was, and the key gives it back exactly.",
        "Kurihara, Kikuchi, Imaizumi, Shiota, Kiya, IEICE Trans. Fundamentals E98-A(11), 2015",
        lambda pixels, masks: shuffle_blocks(pixels, masks, _of_the_picture(pixels)),
        _shuffled_back,
    ),
    "blur and encrypted crop": Baseline(
        f"Blur, and the face beside it as WebP {CROP_QUALITY}, encrypted: whoever has its key has the face, without any model.",
        "-",
        blur,
        from_encrypted_crops,
    ),
}
"""By the name that reports give them."""
