"""Facial inpainting: the masked face completed under the fused reference features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stsa_lightning.models.layers import ConvBlock
from stsa_lightning.models.modulation import AdaINBlock, SPADEBlock


class Fusion(nn.ModuleList):
    """Per scale, [spatial | temporal] through two blocks to the width of one of them."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__(nn.Sequential(ConvBlock(2 * c, c), ConvBlock(c, c)) for c in channels)

    def forward(self, spatial: tuple[Tensor, ...], temporal: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pairs = zip(self, spatial, temporal, strict=True)
        return tuple(block(torch.cat([s, t], dim=1)) for block, s, t in pairs)


class Inpainting(nn.Module):
    """Masked face and driving heatmap to the whole face, modulated by fused features and audio.

    Args:
        width: channels at full size; 4 and 16 times as many at S/2 and S/4.
        on_warped: correct the masked face completed by the warped reference instead of painting from nothing. This is
            ours: the instance norm of the last AdaIN takes away the colours that the fused features bring, and only
            long training on many people finds a way around it.
        base_reduction: with `on_warped`, the warped reference is given at its size divided by this. At 1 it has all
            detail already, and what both paths bring to the inpainting stays unused; a coarse one leaves the detail to
            be painted from their features.
        blend: with `on_warped`, lay the painted face over the warped reference of full size by a mask that is painted
            beside it: the flow keeps what it can move, the rest is painted (ours; as occlusion masks of image animation
            do). The last convolutions then see the fused features too.
    """

    def __init__(
        self,
        width: int,
        code: int,
        spade_hidden: int,
        stem_kernel: int,
        on_warped: bool = False,
        base_reduction: int = 1,
        blend: bool = False,
    ) -> None:
        super().__init__()
        if blend and not on_warped:
            raise ValueError("blend lays the painted face over the warped reference: it needs on_warped")
        self.on_warped, self.base_reduction = on_warped, base_reduction
        half, quarter = 4 * width, 16 * width
        self.stem = nn.Sequential(
            ConvBlock(4, width, stem_kernel, bias=False),
            ConvBlock(width, half, stride=2, bias=False),
            ConvBlock(half, quarter, stride=2, bias=False),
        )
        self.spade1, self.adain1 = SPADEBlock(quarter, 8 * width, spade_hidden), AdaINBlock(quarter, code)
        self.spade2, self.adain2 = SPADEBlock(half, half, spade_hidden), AdaINBlock(half, code)
        self.spade3, self.adain3 = SPADEBlock(width, width, spade_hidden), AdaINBlock(width, code)
        painted, padding = width * (1 + blend), stem_kernel // 2
        self.last = nn.Conv2d(painted, 3, stem_kernel, padding=padding, bias=False)
        self.mask = nn.Conv2d(painted, 1, stem_kernel, padding=padding) if blend else None
        if on_warped and base_reduction == 1:
            nn.init.normal_(self.last.weight, std=1e-3)  # at first, nearly the warped reference as it is

    def forward(
        self, masked: Tensor, heatmap: Tensor, fused: tuple[Tensor, ...], audio: Tensor, warped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`masked`, `warped` (B, 3, S, S), `heatmap` (B, 1, S, S), `fused` at S, S/2, S/4, `audio` (B, K).

        Returns:
            The face (B, 3, S, S) in (0, 1), and the painted one; they differ with `blend` alone.
        """
        x = self.stem(torch.cat([masked, heatmap], dim=1))
        x = self.adain1(self.spade1(x, fused[2]), audio)
        x = self.adain2(self.spade2(F.pixel_shuffle(x, 2), fused[1]), audio)
        x = self.adain3(self.spade3(F.pixel_shuffle(x, 2), fused[0]), audio)
        x = F.leaky_relu(x, 0.01)
        if self.mask is not None:
            x = torch.cat([x, fused[0]], dim=1)
        painted = self.last(x)
        if not self.on_warped:
            face = torch.sigmoid(painted)
            return face, face
        painted = torch.sigmoid(painted + completed(masked, self._coarse(warped)).float().logit(eps=0.02))
        if self.mask is None:
            return painted, painted
        mask = torch.sigmoid(self.mask(x)).to(painted.dtype)
        return torch.lerp(completed(masked, warped).to(painted.dtype), painted, mask), painted

    def _coarse(self, warped: Tensor) -> Tensor:
        if self.base_reduction == 1:
            return warped
        small = F.avg_pool2d(warped, self.base_reduction)
        return F.interpolate(small, warped.shape[-2:], mode="bilinear", align_corners=False)


def completed(masked: Tensor, lower: Tensor) -> Tensor:
    """Masked faces (B, 3, S, S) with their lower halves from another picture."""
    half = masked.shape[-2] // 2
    return torch.cat([masked[..., :half, :], lower[..., half:, :]], dim=-2)
