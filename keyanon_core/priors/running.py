"""Running a prior's networks: on which device, in which format, how many faces at once.

States are float64 wherever the caller has them: best on the networks' device, so that nothing travels between the steps of a
walk. What a network is shown is brought to its device and format here, and what it says is brought back.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from keyanon_core.errors import DeviceError
from keyanon_core.precision import FINE, STRICT, Precision, chosen_precision, multiplying
from keyanon_core.priors.declaration import Conditioning
from keyanon_core.priors.networks import Autoencoder, Denoiser


class RunningNetworks:
    """A denoiser, and an autoencoder or none (then a latent is the crop itself), with float32 weights on `device`.

    precision: what the denoiser multiplies in where it may be coarse (`predict`). The autoencoder is strict always: both
    directions must have the same known region.
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
        device: torch.device,
        precision: str,
    ) -> None:
        """precision: of `chosen_precision`. Raises DeviceError."""
        self.denoiser, self.autoencoder = denoiser, autoencoder
        self.conditioning, self.space_to_depth = conditioning, space_to_depth
        self.device = device
        self.precision: Precision = chosen_precision(precision, device)
        self.physical_batch: int | None = None
        self._compiled: dict[Precision, Callable[[Tensor, Tensor], Tensor]] = {}
        networks = [denoiser.network] + ([autoencoder.network] if autoencoder else [])
        self.parameters = sum(p.numel() for network in networks for p in network.parameters())
        for network in networks:
            network.to(self.device)
            # Channels last is about 1.4 times as fast in the UNet's convolutions on CPU.
            network.to(memory_format=torch.channels_last)

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        """The denoiser multiplies in strict float32 and is not compiled in the `with` block, as solving needs it."""
        usual = self.precision, self._compiled
        self.precision, self._compiled = STRICT, {}
        try:
            yield
        finally:
            self.precision, self._compiled = usual

    def compile(self, latent_shape: tuple[int, int, int]) -> None:
        """From now on `torch.compile` runs the denoiser: its first shape is compiled here, each other one when it comes.

        Raises DeviceError where nothing can be compiled.
        """
        from torch._dynamo.exc import TorchDynamoException  # loading it takes as long as torch itself

        formats = {self.precision, FINE[self.precision]}
        self._compiled = {one: torch.compile(self._denoiser_in(one).__call__, dynamic=False) for one in formats}
        state = torch.zeros(1, *latent_shape, dtype=torch.float64, device=self.device)
        try:
            for coarse in (False, True):
                self.predict(state, 0, self.beside(state, state[:, :1]), coarse=coarse)
        except TorchDynamoException as error:
            raise DeviceError(
                f"the denoiser can not be compiled here ({type(error).__name__}); install a C++ compiler, or leave compile out"
            ) from error

    @property
    def is_compiled(self) -> bool:
        """True after `compile`."""
        return bool(self._compiled)

    def beside(self, clean: Tensor, inside: Tensor) -> Tensor:
        """What the denoiser is shown beside the state, the same at every timestep: (B, channels, h / d, w / d) float32, on its
        device; without channels where it is shown nothing else. Arguments as in `predict`.
        """
        return constant_input(self._inward(clean), self._inward(inside), self.conditioning, self.space_to_depth)

    def predict(self, z: Tensor, t: int, beside: Tensor, *, coarse: bool = False) -> Tensor:
        """What the denoiser says (B, C, h, w) float64 of z at timestep t: noise, x0 or v.

        z: (B, C, h, w) float64, the noisy state; beside: of `beside`. coarse: whether `precision` itself will do, whatever it is.
        """
        precision = self.precision if coarse else FINE[self.precision]
        denoiser = self._compiled.get(precision) or self._denoiser_in(precision)
        # Each part is brought into the network's format before they are put together: that moves the fewest bytes.
        shown = torch.cat([F.pixel_unshuffle(self._inward(z), self.space_to_depth), beside], 1)
        timesteps = torch.full((len(z),), t, dtype=torch.long, device=self.device)
        with multiplying(precision):
            said = self._in_pieces(denoiser, self._inward(shown), timesteps)
        return self._outward(F.pixel_shuffle(said, self.space_to_depth), z)

    def encode(self, crop: Tensor) -> Tensor:
        """Crop (B, 3, S, S) -> latent (B, C, h, w) float64."""
        return crop.to(torch.float64) if self.autoencoder is None else self._strictly(self.autoencoder.encode, crop)

    def decode(self, latent: Tensor, *, snapped: bool = False) -> Tensor:
        """Latent (B, C, h, w) -> crop (B, 3, S, S) float64. snapped: as in `Prior.decode`."""
        if self.autoencoder is None:
            return latent.to(torch.float64)
        return self._strictly(self.autoencoder.decode_snapped if snapped else self.autoencoder.decode, latent)

    def _denoiser_in(self, precision: Precision) -> Denoiser:
        return self._in_bfloat16 if precision == "bfloat16" else self.denoiser

    @cached_property
    def _in_bfloat16(self) -> Denoiser:
        return self.denoiser.in_bfloat16()

    def _strictly(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with multiplying(STRICT):
            return self._outward(self._in_pieces(function, self._inward(x)), x)

    def _inward(self, x: Tensor) -> Tensor:
        return x.to(self.device, torch.float32, memory_format=torch.channels_last)

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

    z, clean: (B, C, h, w), z zero outside the mask for an inpainting one; inside: (B, 1, h, w) of {0, 1}.
    Returns (B, channels, h / d, w / d) with d = space_to_depth.
    """
    beside = constant_input(clean, inside, conditioning, space_to_depth)
    return torch.cat([F.pixel_unshuffle(z, space_to_depth), beside], 1)


def constant_input(clean: Tensor, inside: Tensor, conditioning: Conditioning, space_to_depth: int) -> Tensor:
    """The part of `network_input` that no timestep changes: none but for an inpainting denoiser."""
    if conditioning != "inpaint":
        return inside[:, :0, ::space_to_depth, ::space_to_depth]
    return torch.cat([F.pixel_unshuffle(part, space_to_depth) for part in (clean * (1 - inside), inside)], 1)
