"""3 x 3 convolutions by Winograd's minimal filtering F(4 x 4, 3 x 3): a quarter of the multiplications.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks". A tile of 4 x 4 results needs 6 x 6 inputs; in
the transformed space it is 36 products in the place of 144, each a matrix product over channels. The transforms are
matrix products too, small beside the others where channels are many. Rounding errors are about ten times larger.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILE = 4
# Interpolation at 0, 1, -1, 2, -2 and infinity: of the input, the kernel and the result.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_RESULT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


Network = TypeVar("Network", bound=nn.Module)


class WinogradConv2d(nn.Module):
    """`layer`, 3 x 3 of stride and padding 1, on channels-last maps."""

    forward_matrix: Tensor
    backward_matrix: Tensor
    kernel: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        given, kernel, result = (torch.tensor(m, dtype=torch.float64) for m in (_INPUT, _KERNEL, _RESULT))
        transformed = torch.einsum("ap,bq,oipq->abio", kernel, kernel, layer.weight.detach().double())
        self.register_buffer("forward_matrix", torch.kron(given, given).float())  # (36, 36)
        self.register_buffer("backward_matrix", torch.kron(result, result).float())  # (16, 36)
        self.register_buffer("kernel", transformed.flatten(0, 1).float().contiguous())  # (36, C, O)
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = -(-height // _TILE), -(-width // _TILE)
        rim = (0, 0, 1, 1 + columns * _TILE - width, 1, 1 + rows * _TILE - height)
        padded = F.pad(x.permute(0, 2, 3, 1), rim).contiguous()  # (B, 4 * rows + 2, 4 * columns + 2, C)
        image, row, column, _ = padded.stride()
        tiles = padded.as_strided(
            (6, 6, batch, rows, columns, channels),
            (row, column, image, _TILE * row, _TILE * column, 1),
        )
        points = self.forward_matrix @ tiles.reshape(36, -1)
        products = torch.bmm(points.view(36, -1, channels), self.kernel)  # (36, tiles, O)
        results = (self.backward_matrix @ products.view(36, -1)).view(_TILE, _TILE, batch, rows, columns, -1)
        maps = results.permute(2, 3, 0, 4, 1, 5).reshape(batch, _TILE * rows, _TILE * columns, -1) + self.bias
        return maps[:, :height, :width].permute(0, 3, 1, 2)


def with_winograd(module: Network, least_channels: int = 128) -> Network:
    """Replace, in place, the convolutions of a network that are wide enough to gain by it."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Conv2d):
            with_winograd(child, least_channels)
        elif (child.kernel_size, child.stride, child.padding) == ((3, 3), (1, 1), (1, 1)) and min(
            child.in_channels, child.out_channels
        ) >= least_channels:
            setattr(module, name, WinogradConv2d(child))
    return module
