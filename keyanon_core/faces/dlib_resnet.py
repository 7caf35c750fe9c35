"""dlib's face recognition network in torch: the same weights, many faces at once, several times faster than dlib without a BLAS.

A ResNet of 29 convolutions (D. King, dlib's dnn_face_recognition_ex.cpp, after He et al. 2016 with half the filters): every
batch normalisation is a fixed affine map, folded into its convolution here. The file's digest is pinned, so its layout is known.
"""

import copy
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keyanon_core.device import multiplies_bfloat16
from keyanon_core.precision import STRICT, multiplying

CPU: Final = torch.device("cpu")
CHIP_SIDE: Final = 150  # px; the network's input
EMBEDDING_SIZE: Final = 128
MEAN_COLOUR: Final = (122.782, 117.001, 104.298)  # of the training pictures, R G B
COLOUR_RANGE: Final = 256.0
STEM: Final = 32  # filters of the first convolution, 7 x 7
BLOCKS: Final = (
    *((32, False),) * 3,
    *((64, True), (64, False), (64, False), (64, False)),
    *((128, True), (128, False), (128, False)),
    *((256, True), (256, False), (256, False)),
    (256, True),
)
"""Filters of each residual block, and whether it halves the picture."""
TEXTURE_STAGES: Final = (64, 128)  # filters of the blocks whose last activations are the texture features
TEXTURE_SIZE: Final = sum(TEXTURE_STAGES)


class DlibResNet(nn.Module):
    """Face chips -> identity vectors."""

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        """Read the weights; `path` is a file whose digest the caller has checked (`dlib_model`)."""
        super().__init__()
        tensors = _Tensors(path.read_bytes())
        self.stem = tensors.convolution(3, STEM, side=7, stride=2)
        self.blocks = nn.ModuleList()
        channels = STEM
        for filters, halves in BLOCKS:
            self.blocks.append(_Block(tensors, channels, filters, halves))
            channels = filters
        self.head = nn.Parameter(tensors.head(channels), requires_grad=False)
        self.device = device
        self.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)

    def forward(self, chips: Tensor) -> Tensor:
        """chips: (B, 3, 150, 150) float32, R G B, 0 to 255 -> (B, 128) float32."""
        x = self._stemmed(chips)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3)) @ self.head

    def embed(self, chips: npt.NDArray[np.uint8], *, coarse: bool = False) -> npt.NDArray[np.float32]:
        """chips: (B, 150, 150, 3) uint8 -> (B, 128) float32; neighbours do not matter but for rounding. coarse: in bfloat16 where
        the hardware multiplies it.
        """
        network, shown = self, self._channels_first(chips)
        if coarse and multiplies_bfloat16(self.device):
            network, shown = self._in_bfloat16, shown.bfloat16()
        with torch.inference_mode(), multiplying(STRICT):
            return np.asarray(network(shown).float().cpu().numpy())

    @cached_property
    def _in_bfloat16(self) -> Self:
        return copy.deepcopy(self).bfloat16()

    def features(self, chips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Texture: chips (B, 150, 150, 3) uint8 -> (B, 192) float32, the spatial means of the activations after the last
        block of 64 filters and after the last one of 128: grain, edges and colours, wherever they are.
        """
        last = {filters: index for index, (filters, _) in enumerate(BLOCKS) if filters in TEXTURE_STAGES}
        means = []
        with torch.inference_mode(), multiplying(STRICT):
            x = self._stemmed(self._channels_first(chips))
            for index, block in enumerate(self.blocks[: max(last.values()) + 1]):
                x = block(x)
                if index in last.values():
                    means.append(x.mean((2, 3)))
            return np.asarray(torch.cat(means, 1).cpu().numpy())

    def _stemmed(self, chips: Tensor) -> Tensor:
        """chips (B, 3, 150, 150) float32, 0 to 255 -> what the first block takes."""
        x = (chips - chips.new_tensor(MEAN_COLOUR)[:, None, None]) / COLOUR_RANGE
        return F.max_pool2d(F.relu_(self.stem(x.contiguous(memory_format=torch.channels_last))), 3, 2)

    def _channels_first(self, chips: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(chips).to(self.device).permute(0, 3, 1, 2).float()


class _Block(nn.Module):
    """A residual block; when it halves the picture, its shortcut is an average and absent channels count as zero."""

    def __init__(self, tensors: "_Tensors", channels: int, filters: int, halves: bool) -> None:
        super().__init__()
        self.first = tensors.convolution(channels, filters, side=3, stride=2 if halves else 1)
        self.second = tensors.convolution(filters, filters, side=3, stride=1)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu_(self.first(x)))
        if self.halves:
            x = F.avg_pool2d(x, 2, 2)
            # dlib adds as if both went on in zeros
            shape = [max(sizes) for sizes in zip(x.shape, y.shape, strict=True)]
            x, y = _extended(x, shape), _extended(y, shape)
        return F.relu_(y + x)


def _extended(x: Tensor, shape: list[int]) -> Tensor:
    """x (B, C, h, w) with zeros behind it up to `shape`."""
    return F.pad(x, (0, shape[3] - x.shape[3], 0, shape[2] - x.shape[2], 0, shape[1] - x.shape[1]))


class _Tensors:
    """The parameters of a dlib network file, in the order of the layers, input first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def convolution(self, channels: int, filters: int, *, side: int, stride: int) -> nn.Conv2d:
        """The next convolution with the affine map behind it. dlib pads only convolutions of stride 1."""
        values = self._next(b"con_4")
        affine = self._next(b"affine_")
        gamma, beta = affine[:filters], affine[filters:]
        padding = side // 2 if stride == 1 else 0
        # On no device: weights of chance would be drawn first, for nothing.
        layer = nn.Conv2d(channels, filters, side, stride, padding, device="meta")
        weight, bias = values[:-filters].reshape(filters, channels, side, side), values[-filters:]
        layer.weight = nn.Parameter(torch.from_numpy(weight * gamma[:, None, None, None]))
        layer.bias = nn.Parameter(torch.from_numpy(bias * gamma + beta))
        return layer

    def head(self, channels: int) -> Tensor:
        """The fully connected layer without bias: (channels, 128)."""
        return torch.from_numpy(self._next(b"fc_2").reshape(channels, EMBEDDING_SIZE).copy())

    def _next(self, layer: bytes) -> npt.NDArray[np.float32]:
        """All values of the next layer of that kind: a version, four dimensions, then little-endian float32."""
        self._position = self._data.index(layer, self._position) + len(layer)
        if layer == b"fc_2":
            self._skip_integers(2)  # outputs, inputs
        self._skip_integers(1)
        count = int(np.prod(list(self._integers(4))))
        values = np.frombuffer(self._data, "<f4", count, self._position)
        self._position += values.nbytes
        return values

    def _skip_integers(self, count: int) -> None:
        for _ in self._integers(count):
            pass

    def _integers(self, count: int) -> Iterator[int]:
        """dlib's packed integers: a byte that counts the bytes, then the value, lowest byte first."""
        for _ in range(count):
            length = self._data[self._position]
            yield int.from_bytes(self._data[self._position + 1 : self._position + 1 + length], "little")
            self._position += 1 + length
