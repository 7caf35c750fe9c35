"""Faces that a carrier decides and their source rides on: what makes one person's pictures show one new face.

    w = T (sqrt(1 - p^2) c + p K(x / rms x))

c: the carrier, standard normal noise under a key that several pictures share, fixed in the aligned crop's coordinates. K: the
keyed rotation under each picture's own key. p: the payload's share of the noise, T: its rms. Hiding the source needs K alone:
what is left when the carrier is known is a vector turned in a way that only the picture's key tells. p = 1 is the plain rotation.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keyanon_core.keys import KeyStream

CarrierKeys = Sequence[bytes | None]
"""For each face of a batch its carrier's key of 32 bytes, None for a face that has no carrier."""


def put_on(payload: Tensor, mask: Tensor, keys: CarrierKeys, share: float, temperature: float) -> Tensor:
    """The noise of faces whose source was transformed, of rms `temperature`: (B, C, h, w) float64, zero outside the masks. A face
    without a carrier keeps its payload.

    mask: (B, 1, h, w). share: p in (0, 1].
    """
    return _of_each(keys, payload, mask, lambda w, carrier: share * w + _rest(share) * temperature * carrier)


def take_off(noise: Tensor, mask: Tensor, keys: CarrierKeys, share: float, temperature: float) -> Tensor:
    """Undoes `put_on` to float64 rounding. Its argument's error comes out 1 / share times as large."""
    return _of_each(keys, noise, mask, lambda w, carrier: (w - _rest(share) * temperature * carrier) / share)


def carrier(key: bytes, shape: Sequence[int]) -> Tensor:
    """(C, h, w) float64 standard normal, of the whole crop: which of it a picture uses its mask says."""
    return torch.from_numpy(KeyStream(key).normal(math.prod(shape))).view(*shape)


def _rest(share: float) -> float:
    return math.sqrt(1.0 - share * share)


def _of_each(keys: CarrierKeys, w: Tensor, mask: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if not any(keys):
        return w
    faces = [
        one if key is None else change(one, carrier(key, one.shape).to(one)) for key, one in zip(keys, w, strict=True)
    ]
    return torch.stack(faces) * mask
