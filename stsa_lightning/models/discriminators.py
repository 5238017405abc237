"""Patch discriminators: of faces at several scales, and of windows of mouths in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stsa_lightning.utils.errors import check_at_least
from stsa_lightning.utils.own import imported

Features = list[list[Tensor]]  # over scales, of layers; the last layer is the score


def _patch_layers(dims: int, inputs: int, width: int, layers: int) -> nn.ModuleList:
    """`layers` convolutions that halve, one that does not, and the score (pix2pixHD's layout); 3-d ones keep time."""
    conv: type[nn.Module] = nn.Conv3d if dims == 3 else nn.Conv2d
    norm: type[nn.Module] = nn.InstanceNorm3d if dims == 3 else nn.InstanceNorm2d
    kernel, padding = ((3, 4, 4), (1, 2, 2)) if dims == 3 else (4, 2)

    def stride(step: int) -> int | tuple[int, int, int]:
        return (1, step, step) if dims == 3 else step

    blocks = nn.ModuleList([nn.Sequential(conv(inputs, width, kernel, stride(2), padding), nn.LeakyReLU(0.2))])
    for i in range(1, layers + 1):
        before, after = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
        step = 2 if i < layers else 1
        blocks.append(nn.Sequential(conv(before, after, kernel, stride(step), padding), norm(after), nn.LeakyReLU(0.2)))
    blocks.append(conv(width * min(2**layers, 8), 1, kernel, 1, padding))
    return blocks


def _features(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    features = []
    for layer in layers:
        x = layer(x)
        features.append(x)
    return features


class PatchDiscriminator(nn.Module):
    """PatchGAN at `scales` sizes of an image, each half of the one before (Wang et al. 2018, pix2pixHD).

    `layers` of its convolutions halve the image; the first has `width` channels.
    """

    def __init__(self, inputs: int = 3, width: int = 64, layers: int = 3, scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_patch_layers(2, inputs, width, layers) for _ in range(scales))

    def forward(self, images: Tensor) -> Features:
        """`images` (B, C, H, W) -> per scale, the features of each layer, the last one the score (B, 1, h, w)."""
        outputs: Features = []
        for i, layers in enumerate(self.scales):
            if i:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
            outputs.append(_features(layers, images))  # type: ignore[arg-type]
        return outputs


@dataclass  # not frozen: Lightning copies hyperparameters field by field
class DiscriminatorSettings:
    """The discriminator of single faces as settings say it.

    Attributes:
        width, layers, scales: see `PatchDiscriminator`.
        network: class path of one's own in its place, a module that makes `Features` of faces (B, 3, S, S).
        options: its arguments.
    """

    width: int = 64
    layers: int = 3
    scales: int = 2
    network: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("width", "layers", "scales"):
            check_at_least(f"discriminator.{name}", getattr(self, name), 1)

    def make(self) -> nn.Module:
        if self.network is None:
            return PatchDiscriminator(3, self.width, self.layers, self.scales)
        return imported(self.network, nn.Module, "model.discriminator.network")(**self.options)


PATCHES = DiscriminatorSettings()


class TemporalDiscriminator(nn.Module):
    """3-d PatchGAN of short windows: each score sees several frames of a patch, so it can tell jitter from motion.

    `layers` of its convolutions halve the frame; time keeps its length.
    """

    def __init__(self, inputs: int = 3, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.layers = _patch_layers(3, inputs, width, layers)

    def forward(self, windows: Tensor) -> Features:
        """`windows` (B, T, C, H, W) -> one scale: the features of each layer, at last the score (B, 1, T, h, w)."""
        return [_features(self.layers, windows.transpose(1, 2))]
