"""Spatial path: reference features deformed by one similarity transform per channel (AdaAT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stsa_lightning.models.adaat import AdaAT
from stsa_lightning.models.layers import ConvBlock, PreActivationResidual, reduced_size


def heatmap_encoder(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Heatmaps (B, `channels`, S, S) to (B, `width`, S/4, S/4)."""
    return nn.Sequential(
        ConvBlock(channels, width, kernel), ConvBlock(width, width, stride=2), ConvBlock(width, width, stride=2)
    )


def reference_encoder(references: int, width: int, residuals: int) -> nn.ModuleList:
    """All references as one image (B, 3 * `references`, S, S) to 1, 4, 8 times `width` channels at S, S/2, S/4."""
    wide, widest = 4 * width, 8 * width
    stems = [
        [ConvBlock(3 * references, width)],
        [ConvBlock(width, 2 * width, stride=2), ConvBlock(2 * width, wide)],
        [ConvBlock(wide, widest, stride=2), ConvBlock(widest, widest)],
    ]
    pairs = zip(stems, (width, wide, widest), strict=True)
    return nn.ModuleList(nn.Sequential(*stem, *_residuals(channels, residuals)) for stem, channels in pairs)


def alignment_encoder(face_size: int, inputs: int, width: int, kernels: tuple[int, int]) -> nn.Sequential:
    """Maps (B, `inputs`, S/4, S/4) to a few points of `width` channels; at S = 128 to a single one."""
    size = reduced_size(reduced_size(reduced_size(face_size // 4, 3), 2), 2)
    return nn.Sequential(
        ConvBlock(inputs, width),
        ConvBlock(width, width, kernels[0]),
        ConvBlock(width, width, stride=3),
        ConvBlock(width, width, kernels[1]),
        ConvBlock(width, width, stride=2),
        ConvBlock(width, width),
        ConvBlock(width, width, stride=2),
        ConvBlock(width, width),
        ConvBlock(width, width, stride=2, padding=0 if size >= 3 else 1),
    )


class SpatialPath(nn.Module):
    """Reference features under per-channel transforms, decided by references, driving heatmap and audio.

    Maps have `width` channels at S, 4 and 8 times as many at S/2 and S/4; `code` is the size of the audio code, and of
    the code of the maps beside it. For the other arguments see `Synthesis`.
    """

    def __init__(
        self,
        face_size: int,
        references: int,
        width: int,
        code: int,
        kernels: tuple[int, int],
        stem_kernel: int,
        residuals: int,
    ) -> None:
        super().__init__()
        channels = (width, 4 * width, 8 * width)
        self.encoder = reference_encoder(references, width, residuals)
        self.heatmap_encoder = heatmap_encoder(1, width, stem_kernel)
        self.reference_heatmap_encoder = heatmap_encoder(references, width, stem_kernel)
        self.alignment = alignment_encoder(face_size, channels[-1] + 2 * width, code, kernels)
        self.pre_blocks = nn.ModuleList(_residuals(c, residuals) for c in channels)
        self.transforms = nn.ModuleList(AdaAT(2 * code, c) for c in channels)
        self.post_blocks = nn.ModuleList(_residuals(c, residuals) for c in channels)

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """What references alone decide: `images` (B, N, 3, S, S), `heatmaps` (B, N, 1, S, S).

        Returns the three maps to be transformed, and (B, C, S/4, S/4) for the alignment encoder.
        """
        features = images.transpose(1, 2).flatten(1, 2)  # colour-major: all reds, all greens, all blues
        maps = []
        for encoder, pre_block in zip(self.encoder, self.pre_blocks, strict=True):
            features = encoder(features)
            maps.append(pre_block(features))
        return tuple(maps), torch.cat([features, self.reference_heatmap_encoder(heatmaps.squeeze(2))], dim=1)

    def forward(self, maps: tuple[Tensor, ...], content: Tensor, heatmap: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        """Results of `encode`, driving `heatmap` (B, 1, S, S), `audio` code (B, K) -> maps at S, S/2, S/4."""
        alignment = self.alignment(torch.cat([content, self.heatmap_encoder(heatmap)], dim=1)).mean((2, 3))
        code = torch.cat([audio, alignment], dim=1)
        layers = zip(maps, self.transforms, self.post_blocks, strict=True)
        return tuple(post_block(transform(m, code)) for m, transform, post_block in layers)


def _residuals(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(PreActivationResidual(channels) for _ in range(count)))
