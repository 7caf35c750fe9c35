"""Keyed, norm-preserving, exactly invertible transforms of the masked coordinates of the noise latent (K in the paper).

`sign` is the paper's (Eq. 3, 6): each coordinate is multiplied by a keyed Rademacher sign, p = 0.5.

`rotation` scales the vector to the prior's temperature as its rms, 1 or a little less (the scale is kept with the key), and
applies ROUNDS rounds of keyed signs, keyed permutation and orthonormal Walsh-Hadamard blocks: an n log n stand-in for a
Haar-random rotation, which would make a vector uniform on the sphere whatever it was. Sign flips keep every |z_i|, so
they can be linked to the source without a key.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keyanon_core.keys import KeyStream, subkey

ROUNDS: Final = 4
"""Rounds of the rotation. Two already spread any coordinate over the vector; four leave no weak tail in a short one."""

MIN_COORDINATES: Final = 48
"""Fewest masked coordinates, channels counted, that a face is anonymized with: 16 cells of a prior in pixels. Of one coordinate a
rotation can turn the sign alone, and from a few it reaches few directions; from 24 on `benchmarks/hiding.py` can not tell its
results from the sphere, whatever the vector was."""

STRIP: Final = 128
"""Coordinates that a block is cut into, a power of two: the root of some 16,000."""

Vector = NDArray[np.float64]


class KeyedTransform(Protocol):
    """A keyed bijection on n masked coordinates."""

    def forward(self, values: Vector, temperature: float = 1.0) -> tuple[Vector, float]:
        """(n,) float64 -> transformed (n,) float64 and the scale that was divided out of it.

        temperature: rms that the result of a transform which scales has; 1 is the prior's own noise.
        """

    def inverse(self, values: Vector, scale: float) -> Vector:
        """Undoes `forward` to float64 rounding."""


class SignFlip:
    """Bernoulli(0.5) sign flips (paper, Eq. 3 and 6); its own inverse, and its scale is always 1."""

    def __init__(self, key: bytes, n: int) -> None:
        self._signs = KeyStream(key).signs(n)

    def forward(self, values: Vector, temperature: float = 1.0) -> tuple[Vector, float]:
        return values * self._signs, 1.0

    def inverse(self, values: Vector, scale: float) -> Vector:
        return values * self._signs * scale


class Rotation:
    """Scaling to the temperature, then rounds of signs, permutation and Walsh-Hadamard blocks (see the module's docstring)."""

    def __init__(self, key: bytes, n: int) -> None:
        stream = KeyStream(key)
        self._rounds = [(stream.signs(n), stream.permutation(n)) for _ in range(ROUNDS)]
        self._norm = np.sqrt(_block_sizes(n))

    def forward(self, values: Vector, temperature: float = 1.0) -> tuple[Vector, float]:
        rms = float(np.sqrt(np.mean(np.square(values))))
        if not np.isfinite(rms) or rms == 0.0:
            raise ValueError(f"a masked latent of rms {rms} has no direction to rotate")
        scale = rms / temperature
        mixed = values / scale
        for signs, order in self._rounds:
            mixed = _walsh_hadamard_blocks((mixed * signs)[order]) / self._norm
        return mixed, scale

    def inverse(self, values: Vector, scale: float) -> Vector:
        mixed = values
        for signs, order in reversed(self._rounds):
            unmixed = np.empty_like(mixed)
            unmixed[order] = _walsh_hadamard_blocks(mixed) / self._norm  # orthonormal and symmetric: its own inverse
            mixed = unmixed * signs
        return mixed * scale


_OF_KIND: Final[dict[str, type[SignFlip] | type[Rotation]]] = {"rotation": Rotation, "sign": SignFlip}


def _walsh_hadamard_blocks(values: Vector) -> Vector:
    """Walsh-Hadamard transform of consecutive blocks, n split into its powers of two, largest first; not normalised.

    Splitting by the binary digits of n needs no padding (which would not be a bijection) and leaves at most one
    coordinate alone in a round; the next round's permutation moves it.
    """
    whole = len(values) - len(values) % STRIP
    # Coordinates near each other first, as rows that lie far apart: sums of long rows are many times as fast as those of short.
    strips = _butterflies(values[:whole].reshape(-1, STRIP).T.copy())
    front = _butterflies(strips.T.copy())
    rest = _butterflies(values[whole:, None].copy())
    return np.concatenate([front.ravel(), rest.ravel()])


def _butterflies(rows: Vector) -> Vector:
    """The blocks' sums and differences over the first axis of (n, m). Overwrites its argument."""
    count, other, half = len(rows), np.empty_like(rows), 1
    while 2 * half <= count:
        # Of all blocks larger than `half`, which lie together at the front, at once.
        end = count - count % (2 * half)
        pairs, mixed = (each[:end].reshape(end // (2 * half), 2, half, each.shape[1]) for each in (rows, other))
        np.add(pairs[:, 0], pairs[:, 1], out=mixed[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=mixed[:, 1])
        other[end:] = rows[end:]
        rows, other, half = other, rows, 2 * half
    return rows


def _block_sizes(count: int) -> NDArray[np.int64]:
    """The size of the block that each of `count` coordinates lies in."""
    sizes = [1 << digit for digit in range(count.bit_length() - 1, -1, -1) if count & 1 << digit]
    return np.repeat(sizes, sizes)


def keyed_transform(kind: str, key: bytes, n: int) -> KeyedTransform:
    """The transform of n coordinates under a key of its own. Raises ValueError for a kind that is none."""
    if kind not in _OF_KIND:
        raise ValueError(f"unknown transform {kind!r}; choose from {', '.join(_OF_KIND)}")
    return _OF_KIND[kind](key, n)


def masked_transforms(kind: str, face_keys: Sequence[bytes], mask: Tensor, channels: int) -> list[KeyedTransform]:
    """One transform per face of a batch, each under its own key and sized for its own mask.

    mask: (B, 1, h, w), nonzero inside. Raises ValueError for an unknown kind or an empty mask.
    """
    counts = [channels * int(n) for n in (mask != 0).sum((1, 2, 3))]
    if 0 in counts:
        raise ValueError(f"the mask of face {counts.index(0)} of the batch is empty: there is nothing to transform")
    return [
        keyed_transform(kind, subkey(key, "transform"), count) for key, count in zip(face_keys, counts, strict=True)
    ]


def apply_forward(
    w: Tensor, mask: Tensor, transforms: Sequence[KeyedTransform], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """K on the masked coordinates of w (B, C, h, w) float64, zero elsewhere; returns K w and the scales (B,)."""
    out, scales = torch.zeros_like(w), torch.empty(len(w), dtype=torch.float64)
    for i, transform in enumerate(transforms):
        inside = _inside(mask[i], w.shape[1])
        values, scales[i] = transform.forward(w[i].masked_select(inside).cpu().numpy(), temperature)
        out[i].masked_scatter_(inside, torch.from_numpy(values).to(w))
    return out, scales


def apply_inverse(w: Tensor, mask: Tensor, transforms: Sequence[KeyedTransform], scale: Tensor) -> Tensor:
    """K^-1 on the masked coordinates of w (B, C, h, w) float64."""
    out = torch.zeros_like(w)
    for i, transform in enumerate(transforms):
        inside = _inside(mask[i], w.shape[1])
        values = transform.inverse(w[i].masked_select(inside).cpu().numpy(), float(scale[i]))
        out[i].masked_scatter_(inside, torch.from_numpy(values).to(w))
    return out


def _inside(mask: Tensor, channels: int) -> Tensor:
    return (mask != 0).expand(channels, *mask.shape[1:])
