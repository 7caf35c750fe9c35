"""Whole numbers over a masked part of a plane, in few bytes.

Each number is predicted from its left and upper neighbours. What the prediction leaves is noise a few hundred wide: its low bits
are stored as they are, its high bits entropy-coded (the Huffman codes of DEFLATE, RFC 1951). Whole numbers throughout, so
that every machine reads the same.

    1 byte     k, number of low bits
    n k bits   low bits of the n numbers, least significant bit first, padded to a byte
    the rest   raw DEFLATE stream of n signed bytes: the high bits

The numbers stand in the order of channels, rows, columns; only masked ones are there.
"""

import zlib

import numpy as np
import numpy.typing as npt

from keyanon_core.errors import SidecarError

MAX_CODE = 2**21  # largest absolute number; what is left of it by a prediction fits into LOW_BITS and a signed byte
LOW_BITS = 16  # at most
RAW_DEFLATE = -15  # zlib's wbits for a stream without header

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def pack(codes: Codes, mask: Mask) -> bytes:
    """Encode the masked part of (C, h, w) numbers; mask: (h, w). Raises ValueError beyond MAX_CODE."""
    codes = np.where(mask, codes, 0)
    if np.abs(codes).max(initial=0) > MAX_CODE:
        raise ValueError(f"a code beyond {MAX_CODE}")
    left, above = np.zeros_like(codes), np.zeros_like(codes)
    left[:, :, 1:], above[:, 1:] = codes[:, :, :-1], codes[:, :-1]
    rest = (codes - (left + above) // _neighbours(mask))[:, mask].ravel()
    low = next(k for k in range(LOW_BITS + 1) if np.abs(rest >> k).max(initial=0) < 128)
    bits = (rest[:, None] >> np.arange(low)) & 1
    deflate = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE, 9, zlib.Z_HUFFMAN_ONLY)
    high = deflate.compress((rest >> low).astype(np.int8).tobytes()) + deflate.flush()
    return bytes([low]) + np.packbits(bits.astype(np.uint8), bitorder="little").tobytes() + high


def unpack(data: bytes, channels: int, mask: Mask) -> Codes:
    """(C, h, w) numbers, zero outside the mask (h, w). Raises SidecarError for bytes that `pack` wrote for no such mask."""
    count = channels * int(mask.sum())
    low = data[0] if data else LOW_BITS + 1
    end = 1 + (count * low + 7) // 8
    if low > LOW_BITS or len(data) < end:
        raise SidecarError("a face's latent is cut short or is not one; restore the sidecar from the run's output")
    bits = np.unpackbits(np.frombuffer(data[1:end], np.uint8), count=count * low, bitorder="little")
    inflate = zlib.decompressobj(RAW_DEFLATE)
    try:
        high = inflate.decompress(data[end:], count + 1)
    except zlib.error as error:
        raise SidecarError(f"a face's latent can not be read ({error})") from error
    if len(high) != count or not inflate.eof or inflate.unused_data:
        raise SidecarError("a face's latent does not fit its mask; restore the sidecar from the run's output")
    rest = np.zeros((channels, *mask.shape), np.int64)
    of_bits = bits.reshape(count, low).astype(np.int64) @ (1 << np.arange(low, dtype=np.int64))
    rest[:, mask] = ((np.frombuffer(high, np.int8).astype(np.int64) << low) + of_bits).reshape(channels, -1)
    return _summed(rest, mask)


def _summed(rest: Codes, mask: Mask) -> Codes:
    """Undo the prediction, one diagonal after the other: the neighbours of each lie on the one before."""
    height, width = mask.shape
    neighbours = _neighbours(mask)
    codes = np.zeros((len(rest), height + 1, width + 1), np.int64)  # a row and a column of nothing before the first
    rows, columns = np.nonzero(mask)
    order = np.argsort(rows + columns, kind="stable")
    ends = np.cumsum(np.bincount(rows + columns, minlength=1))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        y, x = rows[order[start:end]], columns[order[start:end]]
        said = codes[:, y + 1, x] + codes[:, y, x + 1]
        codes[:, y + 1, x + 1] = rest[:, y, x] + said // neighbours[y, x]
    return codes[:, 1:, 1:]


def _neighbours(mask: Mask) -> Codes:
    """(h, w): how many of the left and the upper neighbour are in the mask, 1 where none is."""
    count = np.zeros(mask.shape, np.int64)
    count[:, 1:] += mask[:, :-1]
    count[1:] += mask[:-1]
    return np.maximum(count, 1)
