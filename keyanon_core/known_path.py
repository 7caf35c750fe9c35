"""The path of the known region: what a network sees outside the mask while the masked coordinates walk the grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KnownPath:
    """The clean known region and, for a prior that must see it noisy, the noise that its path ends in.

    clean: (B, C, h, w) float64, zero inside the mask; encoded with the face blanked, so it depends on nothing masked.
    noise: (B, C, h, w) float64 keyed standard normal, zero inside the mask; None for an inpainting prior.
    alpha_bar: (T,) float64. first: the clean end of the grid, where the path is `clean` itself.
    shown: what the network is shown of it at every timestep, once prepared by `Prior.shown`.
    """

    clean: Tensor
    noise: Tensor | None
    alpha_bar: Tensor
    first: int = 0
    shown: Tensor | None = None

    def at(self, t: int) -> Tensor:
        """`c clean + sqrt((1 - ab_t) - c^2 (1 - ab_0)) noise` with `c = sqrt(ab_t / ab_0)`: (B, C, h, w) float64.

        The marginal of DDPM's forward process from `clean` at the grid's first timestep (Ho et al. 2020, Eq. 4).
        """
        ab_0, ab_t = float(self.alpha_bar[self.first]), float(self.alpha_bar[t])
        c2 = ab_t / ab_0
        path = math.sqrt(c2) * self.clean
        if self.noise is None:
            return path
        variance = max((1 - ab_t) - c2 * (1 - ab_0), 0.0)  # rounding may leave -1e-17 at the clean end
        return path + math.sqrt(variance) * self.noise

    def of(self, faces: Tensor) -> "KnownPath":
        """The path of some faces of the batch; faces: (n,) int64 indices."""
        noise = None if self.noise is None else self.noise[faces]
        shown = None if self.shown is None else self.shown[faces]
        return KnownPath(self.clean[faces], noise, self.alpha_bar, self.first, shown)

    @staticmethod
    def together(paths: Sequence["KnownPath"]) -> "KnownPath":
        """One batch of several, of one prior and grid."""
        noises = [path.noise for path in paths if path.noise is not None]
        shown = [path.shown for path in paths if path.shown is not None]
        return KnownPath(
            torch.cat([path.clean for path in paths]),
            torch.cat(noises) if noises else None,
            paths[0].alpha_bar,
            paths[0].first,
            torch.cat(shown) if len(shown) == len(paths) else None,
        )


def zero_path(like: Tensor, alpha_bar: Tensor, first: int) -> KnownPath:
    """No known region: the state handed to the prior is the whole latent."""
    return KnownPath(torch.zeros_like(like), None, alpha_bar, first)
