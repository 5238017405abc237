"""Temporal path: reference features warped by an optical flow and averaged by confidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stsa_lightning.models.layers import ConvBlock, sample
from stsa_lightning.models.modulation import AdaINBlock, SPADEBlock


@dataclass
class Warped:
    """`maps`: (B, C, s, s) at S, S/2, S/4; `image`: (B, 3, S, S); `flow`: (B, N, 2, S, S) in pixels, x then y;
    `confidence`: (B, N, 1, S, S) in (0, 1)."""

    maps: tuple[Tensor, ...]
    image: Tensor
    flow: Tensor
    confidence: Tensor


def deformation(flow: Tensor) -> Tensor:
    """Flow (B, 2, S, S) in pixels -> sampling places (B, S, S, 2): `linspace(-1, 1)` plus `2 * flow / (S - 1)`."""
    flow = flow.float()
    size = flow.shape[-1]
    line = torch.linspace(-1, 1, size, device=flow.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1) + 2 * flow.permute(0, 2, 3, 1) / (size - 1)


def resize_deformation(grid: Tensor, size: int) -> Tensor:
    """(B, S, S, 2) -> (B, `size`, `size`, 2), bilinearly."""
    if grid.shape[1] == size:
        return grid
    return F.interpolate(grid.permute(0, 3, 1, 2), (size, size), mode="bilinear").permute(0, 2, 3, 1)


def weighted_mean(maps: Tensor, confidence: Tensor) -> Tensor:
    """Mean over N of `maps` (B, N, C, s, s) by `confidence` (B, N, 1, S, S), the latter resized nearest."""
    weight = F.interpolate(confidence.squeeze(2), maps.shape[-2:]).unsqueeze(2)
    return (maps * weight).sum(1) / (weight.sum(1) + 1e-5)


class TemporalPath(nn.Module):
    """Flow from each reference to the frame, and the references' features after it.

    Maps have `width` channels at S, 4 and 8 times as many at S/2 and S/4. For the other arguments see `Synthesis`.
    """

    def __init__(self, width: int, code: int, spade_hidden: int, stem_kernel: int, flow_kernel: int) -> None:
        super().__init__()
        half = 4 * width
        self.stem = nn.ModuleList(
            [ConvBlock(4, width, stem_kernel), ConvBlock(width, half, stride=2), ConvBlock(half, 2 * half, stride=2)]
        )
        self.spade1, self.adain1 = SPADEBlock(half, 1, spade_hidden), AdaINBlock(half, code)
        self.spade2, self.adain2 = SPADEBlock(half, 1, spade_hidden), AdaINBlock(half, code)
        self.spade3 = SPADEBlock(width, 1, spade_hidden)
        padding = flow_kernel // 2
        self.flow = nn.Conv2d(width, 2, flow_kernel, padding=padding)
        self.confidence = nn.Sequential(
            nn.Conv2d(width, width, flow_kernel, padding=padding),
            nn.ReLU(),
            nn.Conv2d(width, 1, flow_kernel, padding=padding),
            nn.Sigmoid(),
        )

    def encode(self, images: Tensor, heatmaps: Tensor) -> tuple[Tensor, ...]:
        """What references alone decide: (B, N, 3, S, S), (B, N, 1, S, S) -> maps (B, N, C, s, s) at S, S/2, S/4."""
        features = torch.cat([images, heatmaps], dim=2).flatten(0, 1)
        maps = []
        for block in self.stem:
            features = block(features)
            maps.append(features.unflatten(0, images.shape[:2]))
        return tuple(maps)

    def forward(self, images: Tensor, maps: tuple[Tensor, ...], heatmap: Tensor, audio: Tensor) -> Warped:
        """Reference `images` and results of `encode`; driving `heatmap` (B, 1, S, S), `audio` code (B, K)."""
        batch = images.shape[:2]
        flow, confidence = self.estimate(maps[1].flatten(0, 1), heatmap, audio)
        with torch.autocast(flow.device.type, enabled=False):
            grid = deformation(flow)
            weight = confidence.float().unflatten(0, batch)

            def warp(m: Tensor) -> Tensor:
                moved = sample(m.flatten(0, 1), resize_deformation(grid, m.shape[-1]))
                return weighted_mean(moved.unflatten(0, batch), weight)

            *warped, image = [warp(m) for m in (*maps, images)]
        warped_maps = tuple(m.to(self.flow.weight.dtype) for m in warped)
        return Warped(warped_maps, image, flow.float().unflatten(0, batch), weight)

    def estimate(self, features: Tensor, heatmap: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (B * N, C, S/2, S/2) -> flow (B * N, 2, S, S) in pixels and confidence (B * N, 1, S, S)."""
        half = F.interpolate(heatmap, scale_factor=0.5)  # nearest
        x = self.adain1(self.spade1(features, half), audio)
        x = self.adain2(self.spade2(x, half), audio)
        x = self.spade3(F.pixel_shuffle(x, 2), heatmap)
        with torch.autocast(x.device.type, enabled=False):  # 16 bits place a far pixel by eighths
            flow = self.flow(x.to(self.flow.weight.dtype))
        return flow, self.confidence(x)
