"""The denoiser being trained: made new, or from a prior's weights, also of another crop side, conditioning or prediction."""

import copy
from typing import Any, cast

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from keyanon_core.errors import PriorError
from keyanon_core.priors import Prior
from keyanon_core.priors.networks import Denoiser, predict_unet
from keyanon_core.training.settings import PriorSettings

NORM_GROUPS = 16
HEAD_CHANNELS = 32  # of an attention head


def new_denoiser(settings: PriorSettings, time_embedding: int | None = None) -> nn.Module:
    """A UNet2DModel with random weights. Raises PriorError when the settings do not fit each other.

    time_embedding: width of the time's embedding, None for the usual four times the first level's channels.
    """
    cells, rest = divmod(settings.side, settings.space_to_depth)
    levels = len(settings.channels)
    if rest or cells % 2 ** (levels - 1) or not 0 <= settings.attention_levels <= levels:
        raise PriorError(
            f"a crop of {settings.side} px in blocks of {settings.space_to_depth} px does not fit a UNet of {levels} levels, "
            f"{settings.attention_levels} of them with attention"
        )
    if any(width % HEAD_CHANNELS for width in settings.channels):
        raise PriorError(f"channels {settings.channels} must be multiples of {HEAD_CHANNELS}")
    attends = [level >= levels - settings.attention_levels for level in range(levels)]
    network: nn.Module = UNet2DModel(
        sample_size=cells,
        in_channels=input_channels(settings),
        out_channels=3 * settings.space_to_depth**2,
        time_embedding_dim=time_embedding,
        layers_per_block=settings.layers_per_block,
        block_out_channels=settings.channels,
        down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        attention_head_dim=HEAD_CHANNELS,
        norm_num_groups=NORM_GROUPS,
    )
    return network


def input_channels(settings: PriorSettings) -> int:
    """Of the network: the noisy state, and for an inpainting prior the known pixels and the mask, space to depth."""
    return (7 if settings.conditioning == "inpaint" else 3) * settings.space_to_depth**2


def denoiser_from(prior: Prior, settings: PriorSettings) -> nn.Module:
    """The network of `settings` with the weights of `prior`.

    A block of another size is read and written as if its pixels were resampled; inputs the prior did not have begin at zero
    weight, and a change between x0 and v keeps what the network says at the noisy end, where v is -x0. A network with one more,
    finer level takes the prior's levels as its inner ones; the outer one, and what leads in and out of it, begin anew. Raises
    PriorError when the inner layers differ, or the prior has an autoencoder.
    """
    if prior.networks.autoencoder is not None or prior.schedule.prediction_type not in ("sample", "v_prediction"):
        raise PriorError(f"{prior.name} can not be trained on: only pixel-space priors that predict x0 or v can")
    config = cast(Any, prior.networks.denoiser.network).config
    levels = tuple(config.get("block_out_channels", ()))
    if not levels:
        raise PriorError(f"{prior.name} can not be trained on: its network is no UNet")
    network = new_denoiser(settings, time_embedding=config.get("time_embedding_dim") or 4 * levels[0])
    if settings.channels[1:] == levels:
        return _grown(network, prior, settings)
    weights = copy.deepcopy(prior.networks.denoiser.network.state_dict())
    sign = 1.0 if prior.schedule.prediction_type == settings.prediction else -1.0
    shares = _resampling(prior.networks.space_to_depth, settings.space_to_depth)
    weights["conv_in.weight"] = _read_blocks(weights["conv_in.weight"], prior, settings, shares)
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = sign * _write_blocks(weights[name], shares)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise PriorError(f"the weights of {prior.name} do not fit the network asked for: {error}") from error
    return network


def _grown(network: nn.Module, prior: Prior, settings: PriorSettings) -> nn.Module:
    """The new network, which has a finer level around those of `prior`, with the weights of all layers they share."""
    config = cast(Any, prior.networks.denoiser.network).config
    built = config["layers_per_block"], sum("Attn" in kind for kind in config["down_block_types"])
    if built != (settings.layers_per_block, settings.attention_levels):
        raise PriorError(
            f"the weights of {prior.name} do not fit the network asked for: it has {built[0]} layers a block and attention on "
            f"{built[1]} levels"
        )
    inner = {_one_level_in(name): weight for name, weight in prior.networks.denoiser.network.state_dict().items()}
    weights = network.state_dict()
    shared = {name: weight for name, weight in inner.items() if name in weights and weight.shape == weights[name].shape}
    network.load_state_dict(weights | shared)
    return network


def _one_level_in(name: str) -> str:
    """What a layer is called in a network with one more outer level: down blocks count inwards, up blocks outwards."""
    part, _, rest = name.partition(".")
    if part != "down_blocks":
        return name
    level, _, layer = rest.partition(".")
    return f"{part}.{int(level) + 1}.{layer}"


def as_prior(network: nn.Module, settings: PriorSettings, name: str) -> Prior:
    """The prior that `network` is at this moment, for measuring; it shares the network's weights."""
    cells = settings.side // settings.space_to_depth
    denoiser = Denoiser(network, predict_unet, input_channels(settings), 3 * settings.space_to_depth**2, cells)
    return Prior(
        name=name,
        denoiser=denoiser,
        autoencoder=None,
        schedule=settings.schedule,
        declaration=settings.declaration(name),
        digest="",
        files={},
        device=next(network.parameters()).device,
    )


def _resampling(old: int, new: int) -> Tensor:
    """(old, new): share of each new pixel in each old one, when both divide one block; rows sum to 1."""
    low = torch.maximum(torch.arange(old)[:, None] / old, torch.arange(new)[None, :] / new)
    high = torch.minimum((torch.arange(old)[:, None] + 1) / old, (torch.arange(new)[None, :] + 1) / new)
    return (high - low).clamp(min=0) * old


def _read_blocks(weight: Tensor, prior: Prior, settings: PriorSettings, shares: Tensor) -> Tensor:
    """The first layer for blocks of another size: each old pixel becomes the mean of the new ones it covers."""
    old, new = shares.shape
    rows, columns = weight.shape[2:]

    def planes(part: Tensor, count: int) -> Tensor:
        blocks = part.reshape(len(part), count, old, old, rows, columns)
        spread = torch.einsum("ocijxy,ia,jb->ocabxy", blocks, shares, shares)
        return spread.reshape(len(part), count * new**2, rows, columns)

    parts = [planes(weight[:, : 3 * old**2], 3)]
    if settings.conditioning == "inpaint":
        if prior.conditioning == "inpaint":
            parts += [planes(weight[:, 3 * old**2 : 6 * old**2], 3), planes(weight[:, 6 * old**2 :], 1)]
        else:
            parts.append(weight.new_zeros(len(weight), 4 * new**2, rows, columns))
    return torch.cat(parts, 1)


def _write_blocks(weight: Tensor, shares: Tensor) -> Tensor:
    """The last layer for blocks of another size: each new pixel is interpolated from the old ones."""
    old, new = shares.shape
    upward = (shares / shares.sum(0, keepdim=True)).T
    blocks = weight.reshape(3, old, old, -1)
    return torch.einsum("cijn,ai,bj->cabn", blocks, upward, upward).reshape(3 * new**2, *weight.shape[1:])
