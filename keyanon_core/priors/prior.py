"""The prior: the pretrained diffusion model, behind one interface whatever its networks, space and conditioning are."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from keyanon_core.errors import PriorError
from keyanon_core.known_path import KnownPath
from keyanon_core.precision import STRICT
from keyanon_core.priors.declaration import DECLARATION_FILE, Declaration
from keyanon_core.priors.geometry import geometry_of
from keyanon_core.priors.networks import Autoencoder, Denoiser
from keyanon_core.priors.running import RunningNetworks
from keyanon_core.priors.schedules import NoiseSchedule
from keyanon_core.procedure import GRID_POWER, Procedure
from keyanon_core.schedule import lambda_grid, leading_grid

CPU = torch.device("cpu")


class Prior:
    """A denoiser, an autoencoder or none, and a schedule; made by `load_prior`.

    States are float64 on the caller's device; on which device and how sharply networks run: see `RunningNetworks`.
    side: of the crop, in pixels. latent_shape: (C, h, w). landmark_template: (5, 2) float64, px of the crop.
    alpha_bar: (T,) float64, strictly decreasing inside (0, 1).
    grid_ends: first and last timestep that the methods walk between. temperature: rms of the noise that faces are made from.
    min_steps: fewest steps one way that can be inverted, by inversion; empty where the prior does not say.
    nfe: denoiser evaluations so far, one for each face of each call (padding is not counted).
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
        device: torch.device = CPU,
        precision: str = STRICT,
    ) -> None:
        self.name, self.digest, self.files = declaration.name or name, digest, dict(files)
        self.licence = declaration.licence
        self.schedule, self.alpha_bar = schedule, schedule.alpha_bar
        self.grid_ends = declaration.grid or (0, len(schedule.alpha_bar) - 1)
        if self.grid_ends[1] >= len(schedule.alpha_bar):
            raise PriorError(
                f"{name}: {DECLARATION_FILE} ends its grid at timestep {self.grid_ends[1]}, the schedule has "
                f"{len(schedule.alpha_bar)}"
            )
        self.conditioning, self.temperature = declaration.conditioning, declaration.temperature
        self.min_steps = declaration.min_steps
        self.geometry = geometry_of(name, denoiser, autoencoder, declaration)
        self.side, self.latent_shape = self.geometry.side, self.geometry.latent_shape
        self.landmark_template = self.geometry.landmark_template
        self.networks = RunningNetworks(
            denoiser, autoencoder, declaration.conditioning, declaration.space_to_depth, device, precision
        )
        self.nfe = 0

    def grid(self, procedure: Procedure) -> tuple[int, ...]:
        """The timesteps that a procedure walks: its own, or those for its steps. Raises ValueError where they do not fit."""
        if procedure.grid:
            return procedure.grid
        if procedure.method == "paper":
            return tuple(leading_grid(len(self.alpha_bar), procedure.steps))
        return tuple(lambda_grid(self.alpha_bar, procedure.steps, *self.grid_ends, GRID_POWER[procedure.inversion]))

    def encode(self, crop: Tensor) -> Tensor:
        """Crop (B, 3, S, S) in [-1, 1] -> latent (B, C, h, w) float64; the crop itself for a pixel-space prior."""
        self._check("crop", crop, (3, self.side, self.side))
        return self.networks.encode(crop)

    def decode(self, latent: Tensor, *, snapped: bool = False) -> Tensor:
        """Latent (B, C, h, w) float64 -> crop (B, 3, S, S) float64, not clamped. snapped: to the nearest codes first, where the
        autoencoder has any, as it was trained; nothing comes back exactly through them.
        """
        self._check("latent", latent, self.latent_shape)
        return self.networks.decode(latent, snapped=snapped)

    def eps(self, w: Tensor, t: int, known: KnownPath, mask: Tensor, *, coarse: bool = False) -> Tensor:
        """Predicted noise (B, C, h, w) float64 at timestep t.

        w: (B, C, h, w) float64 masked coordinates, zero outside the mask; known: what lies outside; mask: (B, 1, h, w).
        coarse: as in `RunningNetworks.predict`.
        An inpainting prior sees [w, clean known, mask]; what it predicts means something inside the mask only, so the
        rest is returned as zero.
        """
        self._check("latent", w, self.latent_shape)
        inside = mask.to(w)
        inpaints = self.conditioning == "inpaint"
        z = w * inside if inpaints else w + known.at(t)
        beside = self.networks.beside(known.clean, inside) if known.shown is None else known.shown
        eps = self.schedule.eps(z, t, self.networks.predict(z, t, beside, coarse=coarse))
        self.nfe += len(w)
        return eps * inside if inpaints else eps

    def predicted(self, z: Tensor, t: int) -> Tensor:
        """What the network itself says (B, C, h, w) float64 of a whole noisy latent z at timestep t: noise, x0 or v. Of an
        unconditional prior.
        """
        self._check("latent", z, self.latent_shape)
        said = self.networks.predict(z, t, self.networks.beside(z, z[:, :1]))
        self.nfe += len(z)
        return said

    def shown(self, known: KnownPath, mask: Tensor) -> KnownPath:
        """The known region with what the network is shown of it prepared, for a walk of many evaluations. Arguments of `eps`."""
        return replace(known, shown=self.networks.beside(known.clean, mask.to(known.clean)))

    def latent_mask(self, crop_mask: Tensor) -> Tensor:
        """Crop mask (B, 1, S, S) bool -> (B, 1, h, w) float64 of {0, 1}; see `Geometry`."""
        return self.geometry.latent_mask(crop_mask)

    def _check(self, what: str, values: Tensor, shape: tuple[int, int, int]) -> None:
        if tuple(values.shape[1:]) != shape:
            raise ValueError(f"a {what} of {self.name} is (B, {', '.join(map(str, shape))}), got {tuple(values.shape)}")

    def __repr__(self) -> str:
        return f"Prior({self.name!r}, side={self.side}, conditioning={self.conditioning!r}, digest={self.digest[:12]})"
