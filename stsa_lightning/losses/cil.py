"""Consistent Information Learning (CIL): both paths agree, by the mutual information of their feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.losses.mutual_information import MINE, Critic, Estimator, InfoNCE
from stsa_lightning.models.layers import ConvBlock
from stsa_lightning.utils.errors import UserError, check_at_least, check_choice

Negatives = Literal["batch", "clip"]
Region = Literal["face", "mouth"]


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class CILSettings:
    """Consistent Information Learning as settings say it.

    Attributes:
        weight: of the term `cil`; 0 leaves it out.
        gradient_share: in place of a fixed weight, the part of the gradient at both paths' feature maps that is CIL's,
            such as 0.05; see `losses.balance.GradientShare`. None: `weight` is the weight.
        detach_temporal: CIL teaches the spatial path alone to agree with the temporal one: no gradient reaches the
            temporal path's feature maps.
        negatives: what a pair is told apart from: all others of the `batch`, where knowing who speaks is enough, or
            the others of its `clip`, where it is not; see `data.windows_together`.
        region: what of the maps an embedding is the mean of: the whole `face`, or the `mouth`.
        estimator: `infonce`, or `mine`, that of the released code.
        temperature, critic: of `InfoNCE`.
        momentum: of `MINE`.
    """

    weight: float = 0.1
    gradient_share: float | None = None
    detach_temporal: bool = False
    negatives: Negatives = "batch"
    region: Region = "face"
    estimator: Estimator = "infonce"
    temperature: float = 0.07
    critic: Critic = "cosine"
    momentum: float | None = None

    def __post_init__(self) -> None:
        check_at_least("cil.weight", self.weight, 0)
        if self.gradient_share is not None and not 0 < self.gradient_share < 1:
            raise UserError(f"cil.gradient_share must be between 0 and 1, or null, got {self.gradient_share}")
        if self.gradient_share is not None and not self.weight:
            raise UserError("cil.gradient_share: has no effect with cil.weight 0, which leaves CIL out")
        kinds = {"estimator": Estimator, "critic": Critic, "negatives": Negatives, "region": Region}
        for name, kind in kinds.items():
            check_choice(f"cil.{name}", getattr(self, name), get_args(kind))
        if not self.temperature > 0:
            raise UserError(f"cil.temperature must be above 0, got {self.temperature}")
        if self.momentum is not None and (self.estimator != "mine" or not 0 < self.momentum < 1):
            raise UserError(f"cil.momentum must be between 0 and 1, of estimator mine alone, got {self.momentum}")
        if self.estimator == "mine" and self.negatives != "batch":
            raise UserError(f"cil.negatives is InfoNCE's: leave it out with estimator mine, got {self.negatives!r}")
        if self.estimator == "mine" and self.critic != "cosine":
            raise UserError(f"cil.critic is InfoNCE's: leave it out with estimator mine, got {self.critic!r}")

    def make(self, dim: int, scales: int) -> InfoNCE | MINE:
        """The estimator for embeddings of `dim` values at so many scales."""
        if self.estimator == "mine":
            return MINE(dim, momentum=self.momentum, scales=scales)
        return InfoNCE(dim, self.temperature, self.critic)


INFO_NCE = CILSettings()


class CILLoss(nn.Module):
    """Negative mutual information of both paths' feature maps, the mean over their scales.

    Per scale, one 1 x 1 convolution and batch norm that both paths share projects their maps to `width` channels; the
    means over the face, or the mouth alone, are a pair of embeddings for the estimator.

    Args:
        channels: of the paths' maps, scale by scale.
        estimator: of the mutual information of two embeddings of its `dim`; learns along where it has parameters.
        detach_temporal: no gradient reaches the temporal path's maps.
    """

    def __init__(self, channels: Sequence[int], estimator: InfoNCE | MINE, detach_temporal: bool = False) -> None:
        super().__init__()
        self.detach_temporal = detach_temporal
        self.heads = nn.ModuleList(ConvBlock(c, estimator.dim, kernel=1, activation=nn.Identity()) for c in channels)
        self.estimator = estimator

    def embed(self, maps: Sequence[Tensor], region: Tensor | None = None) -> list[Tensor]:
        """Maps (B, C, s, s) of one path at S, S/2, S/4 -> embeddings, each (B, `width`).

        `region`: weights (B, 1, S, S) of the means, all alike without it.
        """
        return [_mean(head(m), region) for head, m in zip(self.heads, maps, strict=True)]

    def forward(
        self,
        spatial: Sequence[Tensor],
        temporal: Sequence[Tensor],
        region: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Maps of both paths -> scalar, nats; lower is more information in common.

        Args:
            region: see `embed`.
            groups: (B,), see `info_nce`; of InfoNCE alone.
        """
        if self.detach_temporal:
            temporal = [maps.detach() for maps in temporal]
        pairs = zip(self.embed(spatial, region), self.embed(temporal, region), strict=True)
        among = {} if groups is None else {"groups": groups}
        return -torch.stack([self.estimator(x, y, scale, **among) for scale, (x, y) in enumerate(pairs)]).mean()


def _mean(maps: Tensor, region: Tensor | None) -> Tensor:
    """Over space, (B, C, s, s) -> (B, C)."""
    if region is None:
        return maps.mean((2, 3))
    weights = F.adaptive_avg_pool2d(region, (maps.shape[2], maps.shape[3])) + 1e-6  # a mouth off the picture: all alike
    return (maps * weights).sum((2, 3)) / weights.sum((2, 3))
