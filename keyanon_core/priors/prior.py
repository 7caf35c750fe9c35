"""The prior: the pretrained diffusion model, behind one interface whatever its networks, space and conditioning are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from keyanon_core.errors import PriorError
from keyanon_core.known_path import KnownPath
from keyanon_core.priors.declaration import DECLARATION_FILE, Conditioning, Declaration
from keyanon_core.priors.networks import Autoencoder, Denoiser
from keyanon_core.priors.schedules import NoiseSchedule
from keyanon_core.procedure import GRID_POWER, Procedure
from keyanon_core.schedule import lambda_grid


class Prior:
    """A denoiser, an autoencoder or none, and a schedule; made by `load_prior`.

    States are float64 on the caller's device; the networks run in `dtype` on `device`.
    grid_ends: first and last timestep that the methods walk between. temperature: rms of the noise that faces are made from.
    min_steps: fewest steps one way that can be inverted, by inversion; empty where the prior does not say.
    nfe: denoiser evaluations so far, one for each face of each call (padding is not counted).
    physical_batch: when set, a network call has this many faces, fewer only as a smaller power of two, so that results
    depend on how many others there are by rounding alone and calls have few shapes.
    """

    def __init__(
        self,
        *,
        name: str,
        denoiser: Denoiser,
        autoencoder: Autoencoder | None,
        schedule: NoiseSchedule,
        declaration: Declaration,
        digest: str,
        files: Mapping[str, str],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.digest, self.files = declaration.name or name, digest, dict(files)
        self.licence = declaration.licence
        self.device, self.dtype = torch.device(device), dtype
        self.alpha_bar, self.prediction_type = schedule.alpha_bar, schedule.prediction_type
        self.grid_ends = declaration.grid or (0, len(schedule.alpha_bar) - 1)
        if self.grid_ends[1] >= len(schedule.alpha_bar):
            raise PriorError(
                f"{name}: {DECLARATION_FILE} ends its grid at timestep {self.grid_ends[1]}, the schedule has "
                f"{len(schedule.alpha_bar)}"
            )
        self.conditioning = declaration.conditioning
        self.temperature = declaration.temperature
        self.min_steps = declaration.min_steps
        self.physical_batch: int | None = None
        self.nfe = 0
        self._denoiser, self._autoencoder = denoiser, autoencoder
        self.space_to_depth = declaration.space_to_depth
        self._factor = autoencoder.factor if autoencoder else 1
        self.side, self.latent_shape = _geometry(name, denoiser, autoencoder, declaration)
        self.landmark_template: NDArray[np.float64] = declaration.landmark_template * self.side
        networks = [denoiser.network] + ([autoencoder.network] if autoencoder else [])
        self.parameters = sum(p.numel() for network in networks for p in network.parameters())
        for network in networks:
            if dtype != torch.float32:
                network.to(dtype)
            network.to(self.device)
            # Channels last is about 1.4 times as fast in the UNet's convolutions on CPU.
            network.to(memory_format=torch.channels_last)

    @property
    def network(self) -> nn.Module:
        """The denoiser itself."""
        return self._denoiser.network

    def grid(self, procedure: Procedure) -> tuple[int, ...]:
        """The timesteps that a procedure walks: its own, or those for its steps. Raises ValueError as `lambda_grid`."""
        power = GRID_POWER[procedure.inversion]
        return procedure.grid or tuple(lambda_grid(self.alpha_bar, procedure.steps, *self.grid_ends, power))

    @property
    def in_pixels(self) -> bool:
        """True when the states are crops, without an autoencoder between."""
        return self._autoencoder is None

    def __repr__(self) -> str:
        return f"Prior({self.name!r}, side={self.side}, conditioning={self.conditioning!r}, digest={self.digest[:12]})"

    @torch.inference_mode()
    def _run(self, function: Any, *inputs: Tensor) -> Tensor:
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

    def _inward(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype, memory_format=torch.channels_last)

    @staticmethod
    def _outward(x: Tensor, like: Tensor) -> Tensor:
        # A copy made outside inference mode is an ordinary tensor, which callers may use freely.
        return x.to(like.device, torch.float64, memory_format=torch.contiguous_format, copy=True)

    def encode(self, crop: Tensor) -> Tensor:
        """Crop (B, 3, S, S) in [-1, 1] -> latent (B, C, h, w) float64; the crop itself for a pixel-space prior."""
        if tuple(crop.shape[1:]) != (3, self.side, self.side):
            raise ValueError(f"a crop for {self.name} is (B, 3, {self.side}, {self.side}), got {tuple(crop.shape)}")
        if self._autoencoder is None:
            return crop.to(torch.float64)
        return self._outward(self._run(self._autoencoder.encode, self._inward(crop)), crop)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, C, h, w) float64 -> crop (B, 3, S, S) float64, not clamped."""
        self._check_latent(latent)
        if self._autoencoder is None:
            return latent.to(torch.float64)
        return self._outward(self._run(self._autoencoder.decode, self._inward(latent)), latent)

    def latent_mask(self, crop_mask: Tensor) -> Tensor:
        """Crop mask (B, 1, S, S) bool -> (B, 1, h, w) float64 of {0, 1}; one masked pixel marks its latent cell."""
        mask = crop_mask.to(torch.float64)
        return mask if self._factor == 1 else F.max_pool2d(mask, self._factor)

    def coordinates(self, crop_mask: NDArray[np.bool_]) -> int:
        """How many coordinates of the latent a crop's mask (S, S) covers, channels counted."""
        return self.latent_shape[0] * int(self.latent_mask(torch.from_numpy(crop_mask)[None, None]).sum())

    def eps(self, w: Tensor, t: int, known: KnownPath, mask: Tensor) -> Tensor:
        """Predicted noise (B, C, h, w) float64 at timestep t.

        w: (B, C, h, w) float64 masked coordinates, zero outside the mask; known: what lies outside; mask: (B, 1, h, w).
        An inpainting prior sees [w, clean known, mask]; what it predicts means something inside the mask only, so the
        rest is returned as zero.
        """
        self._check_latent(w)
        timesteps = torch.full(
            (len(w),), t, dtype=torch.long, device=self.device
        )  # integers: bfloat16 would round them
        inside = mask.to(w)
        inpaints = self.conditioning == "inpaint"
        z = w * inside if inpaints else w + known.at(t)
        # Each part is brought into the network's format before they are put together: that moves the fewest bytes.
        noisy, clean, where = (self._inward(part) for part in (z, known.clean, inside))
        shown = network_input(noisy, clean, where, self.conditioning, self.space_to_depth)
        raw = self._run(self._denoiser.predict, self._inward(shown), timesteps)
        self.nfe += len(w)
        predicted = self._outward(F.pixel_shuffle(raw, self.space_to_depth), w)
        ab = float(self.alpha_bar[t])
        if self.prediction_type == "epsilon":
            eps = predicted
        elif self.prediction_type == "sample":
            eps = (z - ab**0.5 * predicted) / (1 - ab) ** 0.5
        else:  # v = sqrt(ab) eps - sqrt(1 - ab) x0 (Salimans and Ho 2022, appendix D)
            eps = ab**0.5 * predicted + (1 - ab) ** 0.5 * z
        return eps * inside if inpaints else eps

    def _check_latent(self, latent: Tensor) -> None:
        if tuple(latent.shape[1:]) != self.latent_shape:
            raise ValueError(f"a latent of {self.name} is (B, {self.latent_shape}), got {tuple(latent.shape)}")


def network_input(z: Tensor, clean: Tensor, inside: Tensor, conditioning: Conditioning, space_to_depth: int) -> Tensor:
    """What a denoiser sees: the noisy state alone, or for an inpainting one with the clean known region and the mask.

    z, clean: (B, C, h, w); inside: (B, 1, h, w) of {0, 1}. Returns (B, channels, h / d, w / d) with d = space_to_depth.
    """
    parts = (z * inside, clean * (1 - inside), inside) if conditioning == "inpaint" else (z,)
    return torch.cat([F.pixel_unshuffle(part, space_to_depth) for part in parts], 1)


def _geometry(
    name: str, denoiser: Denoiser, autoencoder: Autoencoder | None, declaration: Declaration
) -> tuple[int, tuple[int, int, int]]:
    """Crop side in pixels and latent shape (C, h, w), checked against what the networks take."""
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
    return side, (channels, side // factor, side // factor)
