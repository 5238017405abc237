"""Consistent information learning: both paths' features projected to one space, where their agreement is measured."""

from __future__ import annotations

from torch import Tensor, nn

from stsa_lightning.nets.layers import ConvBlock


class AlignmentHeads(nn.ModuleList):
    """One projection per scale, shared by both paths: 1 x 1 convolution, batch norm, mean over space."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__(ConvBlock(c, width, kernel=1, activation=nn.Identity()) for c in channels)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Maps (B, C, s, s) of one path at S, S/2, S/4 -> codes, each (B, ``width``)."""
        return [head(m).mean((2, 3)) for head, m in zip(self, maps, strict=True)]
