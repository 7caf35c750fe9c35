"""The networks of a prior: built from their configurations, filled from their safetensors, nothing missing or left over."""

import copy
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from keyanon_core.errors import PriorError
from keyanon_core.priors.files import PriorFiles
from keyanon_core.priors.unet import PlainUNet, is_plain

# Classes of diffusers, loaded for those priors alone that need it.
DENOISERS: Final = ("UNet2DModel", "DiTTransformer2DModel")
AUTOENCODERS: Final = ("VQModel", "AutoencoderKL")

VQ_LATENT_SCALING: Final = 1.0
"""VQModel's default scaling_factor, 0.18215, is Stable Diffusion's; the latents of LDM's VQ models are not scaled."""

_RENAMED_ATTENTION: Final = (
    (re.compile(r"\.query\."), ".to_q."),
    (re.compile(r"\.key\."), ".to_k."),
    (re.compile(r"\.value\."), ".to_v."),
    (re.compile(r"\.proj_attn\."), ".to_out.0."),
)
"""Names of attention weights in checkpoints saved before diffusers 0.15, such as ldm-celebahq-256."""


def build(files: PriorFiles, folder: str, classes: Collection[str]) -> nn.Module:
    """The component in `folder`, float32, in evaluation mode, without gradients.

    Raises PriorError for a class not in `classes`, a configuration it does not accept, or weights that do not fit it.
    """
    where = files.root / folder
    config = files.json(folder, "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in classes:
        raise PriorError(f"{where}/config.json: class {name!r} is not one of {', '.join(classes)}")
    try:
        network = _empty(name, config)
    except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise PriorError(f"{where}/config.json: {name} can not be built from it ({error})") from error
    _fill(network, files.weights(folder), str(where))
    return network.eval().requires_grad_(False)


def _empty(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A network of diffusers' class of that name, or the same one in torch alone, with no weights yet."""
    if name == "UNet2DModel" and is_plain(config):
        with torch.device("meta"):
            return PlainUNet(config)
    import diffusers

    made: Any = getattr(diffusers, name)
    accepted = inspect.signature(made.__init__).parameters
    network: nn.Module = made(**{key: value for key, value in config.items() if key in accepted})
    return network


def _fill(network: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    held = {_current_name(key, wanted): tensor for key, tensor in weights.items()}
    missing, extra = sorted(set(wanted) - set(held)), sorted(set(held) - set(wanted))
    misshaped = sorted(key for key in set(wanted) & set(held) if wanted[key] != tuple(held[key].shape))
    for what, keys in (("missing", missing), ("not in the network", extra), ("of another shape", misshaped)):
        if keys:
            raise PriorError(
                f"{where}: weights and config.json do not fit: {len(keys)} tensor(s) {what}, the first is {keys[0]}; "
                "take both from the same model"
            )
    network.load_state_dict(held, strict=True, assign=True)


def _current_name(key: str, wanted: Mapping[str, object]) -> str:
    if key in wanted:
        return key
    renamed = key
    for pattern, replacement in _RENAMED_ATTENTION:
        renamed = pattern.sub(replacement, renamed)
    return renamed


@dataclass(frozen=True)
class Denoiser:
    """A network as a function `(input (B, C', h, w), timesteps (B,) int64) -> (B, C, h, w)`, in the format of its weights.

    predict: what asks a network of this kind. sample_size: side of its input in network cells, None when it takes any.
    """

    network: nn.Module
    predict: Callable[[nn.Module, Tensor, Tensor], Tensor]
    in_channels: int
    out_channels: int
    sample_size: int | None

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.predict(self.network, x, timesteps)

    def in_bfloat16(self) -> "Denoiser":
        """A second one, with weights of half the bytes."""
        # diffusers' own `to` warns of layers that some networks want in float32; these have none
        coarse = nn.Module.to(copy.deepcopy(self.network), torch.bfloat16)

        def predict(network: nn.Module, x: Tensor, timesteps: Tensor) -> Tensor:
            return self.predict(network, x.to(torch.bfloat16), timesteps)

        return replace(self, network=coarse, predict=predict)


def build_denoiser(files: PriorFiles, folder: str) -> Denoiser:
    """An unconditional view of the denoiser. A DiT is asked for its null class, the one its label dropout trained."""
    network: Any = build(files, folder, DENOISERS)
    config = network.config
    size = config["sample_size"]
    if size is not None and not isinstance(size, int):
        raise PriorError(
            f"{files.root / folder}/config.json: sample_size {size!r} must be one number: crops are square"
        )
    if isinstance(network, PlainUNet):
        return Denoiser(network, PlainUNet.__call__, config["in_channels"], config["out_channels"], size)
    if type(network).__name__ == "DiTTransformer2DModel":
        null_class, channels = int(config.num_embeds_ada_norm), int(config.in_channels)

        def predict_dit(dit: nn.Module, x: Tensor, timesteps: Tensor) -> Tensor:
            labels = torch.full((len(x),), null_class, dtype=torch.long, device=x.device)
            out: Tensor = dit(x, timestep=timesteps, class_labels=labels).sample
            return out[:, : min(channels, out.shape[1])]  # a learned variance, if any, comes after the mean

        out_channels = config.out_channels or channels
        return Denoiser(network, predict_dit, channels, min(out_channels, channels), size)
    if config.num_class_embeds is not None or config.class_embed_type is not None:
        raise PriorError(f"{files.root / folder}/config.json: a class-conditional UNet2DModel has no unconditional use")

    return Denoiser(network, predict_unet, int(config.in_channels), int(config.out_channels), size)


def predict_unet(unet: nn.Module, x: Tensor, timesteps: Tensor) -> Tensor:
    """What a `UNet2DModel` of diffusers says."""
    said: Tensor = unet(x, timesteps).sample
    return said


@dataclass(frozen=True)
class Autoencoder:
    """Pixels to latent and back, deterministic, float32; factor: pixels per latent cell. decode_snapped: through the codebook,
    where there is one."""

    network: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    decode_snapped: Callable[[Tensor], Tensor]
    factor: int
    latent_channels: int


def build_autoencoder(files: PriorFiles, folder: str, scaling: float | None) -> Autoencoder:
    """scaling: what `keyanon_prior.json` declares, or None for the autoencoder's own."""
    network: Any = build(files, folder, AUTOENCODERS)
    config = network.config
    factor = 2 ** (len(config.block_out_channels) - 1)
    if type(network).__name__ == "VQModel":
        if config.lookup_from_codebook:
            raise PriorError(
                f"{files.root / folder}/config.json: lookup_from_codebook quantises: recovery would be lost"
            )
        vq_scale = VQ_LATENT_SCALING if scaling is None else scaling
        channels = config.vq_embed_dim or config.latent_channels
        return Autoencoder(
            network,
            lambda pixels: network.encode(pixels).latents * vq_scale,
            # The codebook would snap a recovered latent to its nearest codes.
            lambda latent: network.decode(latent / vq_scale, force_not_quantize=True).sample,
            lambda latent: network.decode(latent / vq_scale).sample,
            factor,
            int(channels),
        )
    scale = float(config.scaling_factor) if scaling is None else scaling
    shift = float(getattr(config, "shift_factor", None) or 0.0)

    def decode(latent: Tensor) -> Tensor:
        pixels: Tensor = network.decode(latent / scale + shift).sample
        return pixels

    return Autoencoder(
        network,
        lambda pixels: (network.encode(pixels).latent_dist.mode() - shift) * scale,
        decode,
        decode,
        factor,
        int(config.latent_channels),
    )
