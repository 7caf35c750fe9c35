"""The network of the second embedded detector: a small U-net that says of every 4 x 4 px cell whether a face has its middle
there.

Residual blocks (He et al., arXiv 1512.03385) down to a stride of 32, joined upwards by addition (feature pyramids, Lin et al.,
arXiv 1612.03144); faces are points of a heatmap with regressed properties (Zhou et al., arXiv 1904.07850).
"""

import itertools
import math

import torch
from torch import nn

CELL = 4  # px of an output cell
WIDTHS = (40, 80, 128, 160)  # channels at strides 4, 8, 16, 32
BLOCKS = (2, 2, 3, 2)  # residual blocks at each
OUTPUTS = (
    1 + 2 + 2 + 10
)  # logit; log of box width and height over CELL; centre - cell's centre in CELL; landmarks - centre over size
PRIOR = 0.01  # share of faces that the untrained heatmap claims


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)
    )


class Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


class FaceNetwork(nn.Module):
    """(B, 3, H, W) float32 RGB in [0, 255], H and W multiples of 32 -> heat (B, 1, H/4, W/4) in [0, 1], and (B, 14, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 24, 3, 2), conv(24, WIDTHS[0], 3, 2))
        self.stages = nn.ModuleList()
        for level, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            down = [conv(WIDTHS[level - 1], width, 3, 2)] if level else []
            self.stages.append(nn.Sequential(*down, *(Block(width) for _ in range(blocks))))
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(above, below, 1, bias=False), nn.BatchNorm2d(below))
            for below, above in itertools.pairwise(WIDTHS)
        )
        self.joined = nn.ModuleList(conv(width, width) for width in WIDTHS[:-1])
        self.head = nn.Sequential(conv(WIDTHS[0], 64), nn.Conv2d(64, OUTPUTS, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        last.bias.data[0] = -math.log((1 - PRIOR) / PRIOR)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(B, OUTPUTS, H/4, W/4)."""
        x = self.stem((x - 127.5) / 64.0)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        for level in (2, 1, 0):
            up = nn.functional.interpolate(self.lateral[level](x), scale_factor=2.0, mode="nearest")
            x = self.joined[level](torch.relu(levels[level] + up))
        out: torch.Tensor = self.head(x)
        return out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.logits(x)
        return torch.sigmoid(out[:, :1]), out[:, 1:]
