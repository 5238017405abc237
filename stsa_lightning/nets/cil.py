"""Consistent information learning: both paths' features projected to one space, where their agreement is measured."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from stsa_lightning.nets.layers import ConvBlock


class AlignmentHead(ConvBlock):
    """1 x 1 convolution, batch norm, mean over space, without ever computing the projected map.

    All three are linear but for the batch's statistics, and those of W x follow from those of x: its mean is W mean(x),
    its variance diag(W cov(x) W'). A map of few channels at full size is projected to many: this saves half of the time
    of a training step of the smallest networks, and on any the memory of the projected maps.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel=1, activation=nn.Identity())

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, s, s) -> codes (B, ``width``)."""
        if type(self.norm) is nn.BatchNorm2d and self.norm.training:
            return self._under_batch_statistics(maps, self.norm)
        if self.norm.training:  # statistics over processes are the norm's own business
            return super().forward(maps).mean((2, 3))
        return super().forward(maps.mean((2, 3), keepdim=True)).flatten(1)

    def _under_batch_statistics(self, maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        convolution = cast(nn.Conv2d, self.conv)
        with torch.autocast(maps.device.type, enabled=False):
            weight, bias = convolution.weight.flatten(1).float(), convolution.get_parameter("bias").float()
            rows = maps.float().transpose(0, 1).flatten(1)  # (C, B s s)
            mean = rows.mean(1)
            apart = rows - mean[:, None]
            variance = (weight @ (apart @ apart.T) * weight).sum(1) / rows.shape[1]
            projected = weight @ mean + bias
            _follow(norm, projected, variance, rows.shape[1])
            means = maps.float().mean((2, 3)) @ weight.T + bias - projected  # (B, width)
            return means * (norm.weight / (variance + norm.eps).sqrt()) + norm.bias


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move a norm's running statistics as it would itself."""
    norm.get_buffer("num_batches_tracked").add_(1)
    for name, new in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
        running = norm.get_buffer(name)
        running.lerp_(new.to(running.dtype), float(norm.momentum or 0))


class AlignmentHeads(nn.ModuleList):
    """One projection per scale, shared by both paths."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__(AlignmentHead(c, width) for c in channels)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Maps (B, C, s, s) of one path at S, S/2, S/4 -> codes, each (B, ``width``)."""
        return [head(m) for head, m in zip(self, maps, strict=True)]
