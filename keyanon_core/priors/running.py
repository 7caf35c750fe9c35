"""Running a prior's networks: on which device, in which format, how many faces at once.

States are float64 wherever the caller has them. What a network is shown is brought to its device and format here, and what it
says is brought back; nothing outside knows of either.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from keyanon_core.priors.declaration import Conditioning
from keyanon_core.priors.networks import Autoencoder, Denoiser


class RunningNetworks:
    """A denoiser, and an autoencoder or none (then a latent is the crop itself), on `device` in `dtype`.

    conditioning, space_to_depth: what the denoiser is shown, see `network_input`.
    physical_batch: when set, a network call has this many faces, fewer only as a smaller power of two, so that results
    depend on how many others there are by rounding alone and calls have few shapes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder | None,
        conditioning: Conditioning,
        space_to_depth: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.autoencoder = denoiser, autoencoder
        self.conditioning, self.space_to_depth = conditioning, space_to_depth
        self.device, self.dtype = torch.device(device), dtype
        self.physical_batch: int | None = None
        networks = [denoiser.network] + ([autoencoder.network] if autoencoder else [])
        self.parameters = sum(p.numel() for network in networks for p in network.parameters())
        for network in networks:
            if dtype != torch.float32:
                network.to(dtype)
            network.to(self.device)
            # Channels last is about 1.4 times as fast in the UNet's convolutions on CPU.
            network.to(memory_format=torch.channels_last)

    def predict(self, z: Tensor, t: int, clean: Tensor, inside: Tensor) -> Tensor:
        """What the denoiser says (B, C, h, w) float64 of z at timestep t: noise, x0 or v.

        z, clean: (B, C, h, w) float64, the noisy state and the clean known region; inside: (B, 1, h, w) of {0, 1}.
        """
        # Each part is brought into the network's format before they are put together: that moves the fewest bytes.
        noisy, known, where = (self._inward(part) for part in (z, clean, inside))
        shown = self._inward(network_input(noisy, known, where, self.conditioning, self.space_to_depth))
        timesteps = torch.full((len(z),), t, dtype=torch.long, device=self.device)  # whole: bfloat16 would round them
        said = self._in_pieces(self.denoiser.predict, shown, timesteps)
        return self._outward(F.pixel_shuffle(said, self.space_to_depth), z)

    def encode(self, crop: Tensor) -> Tensor:
        """Crop (B, 3, S, S) -> latent (B, C, h, w) float64."""
        if self.autoencoder is None:
            return crop.to(torch.float64)
        return self._outward(self._in_pieces(self.autoencoder.encode, self._inward(crop)), crop)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, C, h, w) -> crop (B, 3, S, S) float64."""
        if self.autoencoder is None:
            return latent.to(torch.float64)
        return self._outward(self._in_pieces(self.autoencoder.decode, self._inward(latent)), latent)

    def _inward(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype, memory_format=torch.channels_last)

    @staticmethod
    def _outward(x: Tensor, like: Tensor) -> Tensor:
        # A copy made outside inference mode is an ordinary tensor, which callers may use freely.
        return x.to(like.device, torch.float64, memory_format=torch.contiguous_format, copy=True)

    @torch.inference_mode()
    def _in_pieces(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Calls a network in pieces of `physical_batch` faces, the last one padded to a power of two with its own first face."""
        batch = len(inputs[0])
        size = self.physical_batch or batch
        outputs = []
        for start in range(0, batch, size):
            pieces = [x[start : start + size] for x in inputs]
            held = len(pieces[0])
            # A few faces, such as those under another key, do not wait for a whole batch of padding.
            padding = min(1 << (held - 1).bit_length(), size) - held
            if self.physical_batch and padding:
                pieces = [torch.cat([x, x[:1].expand(padding, *x.shape[1:])]) for x in pieces]
            outputs.append(function(*pieces)[:held])
        return torch.cat(outputs)


def network_input(z: Tensor, clean: Tensor, inside: Tensor, conditioning: Conditioning, space_to_depth: int) -> Tensor:
    """What a denoiser sees: the noisy state alone, or for an inpainting one with the clean known region and the mask.

    z, clean: (B, C, h, w); inside: (B, 1, h, w) of {0, 1}. Returns (B, channels, h / d, w / d) with d = space_to_depth.
    """
    parts = (z * inside, clean * (1 - inside), inside) if conditioning == "inpaint" else (z,)
    return torch.cat([F.pixel_unshuffle(part, space_to_depth) for part in parts], 1)
