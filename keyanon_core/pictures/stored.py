"""What a sidecar keeps of a face's anonymized latent, and the latent that it gives back: both directions start from the same."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from keyanon_core.errors import SidecarError
from keyanon_core.priors import Prior
from keyanon_core.sidecar import MAX_CODE, SidecarFace, decode_surroundings, pack, unpack


def levels_of(bits: float) -> int:
    """Into how many levels a latent's 1 is divided so that -1 to 1 takes so many bits."""
    return round(math.pow(2, bits - 1))


def known_latent(prior: Prior, surroundings: Sequence[bytes], masked: Tensor) -> Tensor:
    """(B, C, h, w) float64 latent of B encoded surroundings, zero inside, on the device of `masked`, (B, 1, S, S) bool. Raises
    SidecarError."""
    decoded = np.stack([decode_surroundings(one, prior.side) for one in surroundings])
    crops = torch.from_numpy(decoded).to(masked.device)
    return prior.encode(crops.masked_fill(masked, 0.0)) * (1 - prior.latent_mask(masked))


def rounded(latent: Tensor, mask: Tensor, levels: int) -> Tensor:
    """Latents (B, C, h, w) as they are stored: their masked part in levels."""
    return mask * (latent * levels).round() / levels + (1 - mask) * latent


def is_storable(latent: npt.NDArray[np.float64], levels: int) -> bool:
    """Whether a latent is of numbers that can be stored."""
    return bool(np.isfinite(latent).all() and np.abs(latent).max() * levels < MAX_CODE)


def packed(prior: Prior, latent: npt.NDArray[np.float64], crop_mask: npt.NDArray[np.bool_], levels: int) -> bytes:
    """The codes of a rounded latent (C, h, w) whose crop's mask is (S, S)."""
    return pack(np.rint(latent * levels).astype(np.int64), _inside(prior, crop_mask))


def stored_latent(
    prior: Prior, face: SidecarFace, crop_mask: npt.NDArray[np.bool_], levels: int
) -> npt.NDArray[np.float64]:
    """The anonymized latent (C, h, w) float64 that a sidecar of any version holds of a face. Raises SidecarError."""
    if face.latent is not None:
        if face.latent.shape != tuple(prior.latent_shape):
            raise SidecarError("its latent does not fit the prior")
        return face.latent.astype(np.float64)
    if face.surroundings is None or face.codes is None:
        raise SidecarError("it holds no latent of the face")
    masked = torch.from_numpy(crop_mask)[None, None]
    known = known_latent(prior, [face.surroundings], masked)[0].cpu().numpy()
    return known + unpack(face.codes, prior.latent_shape[0], _inside(prior, crop_mask)) / levels


def _inside(prior: Prior, crop_mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return prior.latent_mask(torch.from_numpy(crop_mask)[None, None])[0, 0].cpu().numpy() > 0
