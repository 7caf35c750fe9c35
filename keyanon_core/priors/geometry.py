"""The shapes of a prior, known without running it: its crop, its latent, and how a mask of the one lies on the other."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from keyanon_core.errors import PriorError
from keyanon_core.priors.declaration import DECLARATION_FILE, Declaration
from keyanon_core.priors.networks import Autoencoder, Denoiser


@dataclass(frozen=True)
class Geometry:
    """side: of the square crop, in pixels. latent_shape: (C, h, w). factor: pixels per latent cell, each way.

    in_pixels: whether a latent is the crop itself, without an autoencoder between. landmark_template: (5, 2) float64, where the
    crop shows eyes, nose and mouth corners, (x, y) px, image-left first.
    """

    side: int
    latent_shape: tuple[int, int, int]
    factor: int
    in_pixels: bool
    landmark_template: NDArray[np.float64] = field(repr=False)

    def latent_mask(self, crop_mask: Tensor) -> Tensor:
        """Crop mask (B, 1, S, S) bool -> (B, 1, h, w) float64 of {0, 1}; one masked pixel marks its latent cell."""
        mask = crop_mask.to(torch.float64)
        return mask if self.factor == 1 else F.max_pool2d(mask, self.factor)

    def coordinates(self, crop_mask: NDArray[np.bool_]) -> int:
        """How many coordinates of the latent a crop's mask (S, S) covers, channels counted."""
        return self.latent_shape[0] * int(self.latent_mask(torch.from_numpy(crop_mask)[None, None]).sum())


def geometry_of(name: str, denoiser: Denoiser, autoencoder: Autoencoder | None, declaration: Declaration) -> Geometry:
    """What declaration and networks say together. Raises PriorError, naming the prior, where they contradict each other."""
    block, factor = declaration.space_to_depth, autoencoder.factor if autoencoder else 1
    channels = autoencoder.latent_channels if autoencoder else 3
    cells = denoiser.sample_size
    side = declaration.crop_side or (cells * block * factor if cells else None)
    if side is None:
        raise PriorError(
            f"{name}: neither {DECLARATION_FILE} (crop_side) nor the denoiser's sample_size tells the crop's side"
        )
    if side % (block * factor) or (cells and side != cells * block * factor):
        raise PriorError(
            f"{name}: a crop of {side} pixels does not fit a denoiser of {cells} cells, an autoencoder factor of "
            f"{factor} and space_to_depth {block}; correct {DECLARATION_FILE}"
        )
    wanted_out = channels * block**2
    wanted_in = wanted_out if declaration.conditioning == "none" else 2 * wanted_out + block**2
    if (denoiser.in_channels, denoiser.out_channels) != (wanted_in, wanted_out):
        raise PriorError(
            f"{name}: conditioning {declaration.conditioning!r} with {channels} latent channels and space_to_depth {block} "
            f"needs a denoiser of {wanted_in} -> {wanted_out} channels, this one has {denoiser.in_channels} -> "
            f"{denoiser.out_channels}"
        )
    shape = (channels, side // factor, side // factor)
    return Geometry(side, shape, factor, autoencoder is None, declaration.landmark_template * side)
