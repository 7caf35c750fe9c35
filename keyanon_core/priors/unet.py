"""diffusers' `UNet2DModel` as most unconditional priors have it, the embedded one among them, in torch alone.

Loading diffusers takes longer than loading torch, in each process that computes. Names of weights, layers and the order of
what they multiply are those of `UNet2DModel`, so that results are its own but for rounding (a test); a configuration
beyond PLAIN is left to it. The network is J. Ho et al. 2020's (Denoising Diffusion Probabilistic Models, appendix B), with
attention per head.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN: Final[Mapping[str, Any]] = {
    "act_fn": "silu",
    "add_attention": True,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""What a configuration must say, each of it, for this network to be what it means."""
DOWN: Final = {"DownBlock2D": False, "AttnDownBlock2D": True}  # and whether there is attention in it
UP: Final = {"UpBlock2D": False, "AttnUpBlock2D": True}
LONGEST_PERIOD: Final = 10_000  # of the time's sines
SMALL_PICTURE: Final = 1024  # places, below which torch normalises channel by channel


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether the network of a `UNet2DModel`'s configuration is this one."""
    names = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim")
    kinds = (("down_block_types", DOWN), ("up_block_types", UP))
    widths = config.get("block_out_channels")
    return (
        all(name in config and config[name] == value for name, value in PLAIN.items())
        and all(_is_size(config.get(name)) for name in names)
        and isinstance(config.get("norm_eps"), float)
        and isinstance(widths, list)
        and len(widths) > 0
        and all(_is_size(width) and width % 2 == 0 for width in widths)
        and all(width % config["attention_head_dim"] == 0 for width in widths)
        and all(isinstance(config.get(name), list) and len(config[name]) == len(widths) for name, _ in kinds)
        and all(isinstance(one, str) and one in known for name, known in kinds for one in config[name])
    )


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


class PlainUNet(nn.Module):
    """(B, in_channels, h, w) and timesteps (B,) int64 -> (B, out_channels, h, w), in the format of its weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: for which `is_plain`. The weights are to be filled in. Raises ValueError, TypeError where it does not fit."""
        super().__init__()
        self.config = {"sample_size": None, **config}
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        time = config.get("time_embedding_dim") or 4 * widths[0]
        kind = _Kind(time, config["norm_num_groups"], config["norm_eps"], config["attention_head_dim"])
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0], time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        above = widths[0]
        for width, name in zip(widths, config["down_block_types"], strict=True):
            self.down_blocks.append(_Block(kind, [above, *[width] * (layers - 1)], width, layers * DOWN[name]))
            above = width
        self.mid_block = _Block(kind, [widths[-1]] * 2, widths[-1], attentions=1)
        upwards = widths[::-1]
        for level, (width, name) in enumerate(zip(upwards, config["up_block_types"], strict=True)):
            below = [upwards[max(level - 1, 0)], *[width] * layers]
            beside = [*[width] * layers, upwards[min(level + 1, len(widths) - 1)]]
            channels = [x + skip for x, skip in zip(below, beside, strict=True)]
            self.up_blocks.append(_Block(kind, channels, width, len(channels) * UP[name]))
        for width, block in zip(widths[:-1], self.down_blocks[:-1], strict=True):
            block.downsamplers = nn.ModuleList([_Resampling(width, stride=2)])
        for width, block in zip(upwards[:-1], self.up_blocks[:-1], strict=True):
            block.upsamplers = nn.ModuleList([_Resampling(width)])
        self.conv_norm_out = _GroupNorm(kind.groups, widths[0], kind.eps)
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """See the class."""
        time = self.time_embedding(timesteps)
        x = self.conv_in(x)
        skips = [x]
        for block in cast(list[_Block], self.down_blocks):
            for layer in range(len(block.resnets)):
                x = block(x, time, layer)
                skips.append(x)
            for resampling in block.downsamplers:
                x = resampling(x)
                skips.append(x)
        for layer in range(len(self.mid_block.resnets)):
            x = self.mid_block(x, time, layer)
        for block in cast(list[_Block], self.up_blocks):
            for layer in range(len(block.resnets)):
                x = block(torch.cat([x, skips.pop()], 1), time, layer)
            for resampling in block.upsamplers:
                x = resampling(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        shown: Tensor = self.conv_out(F.silu(self.conv_norm_out(x), inplace=True))
        return shown


@dataclass(frozen=True)
class _Kind:
    """What all blocks have in common. time: length of the time's embedding; head: channels of one head of attention."""

    time: int
    groups: int
    eps: float
    head: int


class _Block(nn.Module):
    """Residual layers of one width, and attention after so many of them. channels: of each layer's input."""

    def __init__(self, kind: _Kind, channels: Sequence[int], width: int, attentions: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_Residual(kind, each, width) for each in channels])
        self.attentions = nn.ModuleList([_Attention(kind, width) for _ in range(attentions)])
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def forward(self, x: Tensor, time: Tensor, layer: int) -> Tensor:
        """One layer of it: others of the network stand between them."""
        x = self.resnets[layer](x, time)
        if layer < len(self.attentions):
            x = self.attentions[layer](x)
        return x


class _GroupNorm(nn.GroupNorm):
    """Wu and He 2018; small pictures in bfloat16 on a CPU in float32, where torch's own is up to nine times as slow."""

    def forward(self, x: Tensor) -> Tensor:
        small = x.dim() == 4 and x.shape[2] * x.shape[3] < SMALL_PICTURE
        if not (small and x.dtype == torch.bfloat16 and x.device.type == "cpu"):
            return super().forward(x)
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class _Residual(nn.Module):
    """He et al. 2016, told the time."""

    def __init__(self, kind: _Kind, channels: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (_GroupNorm(kind.groups, each, kind.eps) for each in (channels, width))
        self.conv1, self.conv2 = (nn.Conv2d(each, width, 3, padding=1) for each in (channels, width))
        self.time_emb_proj = nn.Linear(kind.time, width)
        self.conv_shortcut = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x), inplace=True))
        y += self.time_emb_proj(F.silu(time))[:, :, None, None]
        z: Tensor = self.conv2(F.silu(self.norm2(y), inplace=True))
        z += self.conv_shortcut(x)
        return z


class _Attention(nn.Module):
    """Every place of a picture with every other (Vaswani et al. 2017)."""

    def __init__(self, kind: _Kind, width: int) -> None:
        super().__init__()
        self.head = kind.head
        self.group_norm = _GroupNorm(kind.groups, width, kind.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        places = self.group_norm(x.reshape(batch, channels, height * width)).transpose(1, 2)
        # In any other order, torch would copy the weights for each picture.
        places = places.contiguous()
        q, k, v = (
            each(places).unflatten(2, (-1, self.head)).transpose(1, 2) for each in (self.to_q, self.to_k, self.to_v)
        )
        seen: Tensor = self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return seen.transpose(1, 2).reshape(x.shape) + x


class _Resampling(nn.Module):
    """The convolution before a halved or behind a doubled picture."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class _TimeEmbedding(nn.Module):
    """Timesteps (B,) -> (B, length): sines of falling frequency, and two layers."""

    def __init__(self, waves: int, length: int) -> None:
        super().__init__()
        self.waves = waves
        self.linear_1, self.linear_2 = nn.Linear(waves, length), nn.Linear(length, length)

    def forward(self, timesteps: Tensor) -> Tensor:
        half = self.waves // 2
        exponents = -math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        angles = timesteps[:, None].float() * torch.exp(exponents)[None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], 1).to(self.linear_1.weight.dtype)
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return embedded
