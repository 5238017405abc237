"""Consistent Information Learning (CIL): both paths agree, by the mutual information of their feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stsa_lightning.losses.mutual_information import MINE, InfoNCE
from stsa_lightning.nets.layers import ConvBlock


class CILLoss(nn.Module):
    """Negative mutual information of both paths' feature maps, the mean over their scales.

    Per scale, one 1 x 1 convolution and batch norm that both paths share projects their maps to `width` channels; the
    means over space are a pair of embeddings for the estimator.

    Args:
        channels: of the paths' maps, scale by scale.
        estimator: of the mutual information of two embeddings of its `dim`; learns along where it has parameters.
    """

    def __init__(self, channels: Sequence[int], estimator: InfoNCE | MINE) -> None:
        super().__init__()
        self.heads = nn.ModuleList(ConvBlock(c, estimator.dim, kernel=1, activation=nn.Identity()) for c in channels)
        self.estimator = estimator

    def embed(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, s, s) of one path at S, S/2, S/4 -> embeddings, each (B, `width`)."""
        return [head(m).mean((2, 3)) for head, m in zip(self.heads, maps, strict=True)]

    def forward(self, spatial: Sequence[Tensor], temporal: Sequence[Tensor]) -> Tensor:
        """Maps of both paths -> scalar, nats; lower is more information in common."""
        pairs = zip(self.embed(spatial), self.embed(temporal), strict=True)
        return -torch.stack([self.estimator(x, y) for x, y in pairs]).mean()
