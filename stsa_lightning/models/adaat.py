"""AdaAT: every channel of a feature map resampled under its own similarity transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stsa_lightning.models.layers import sample

_PI = 3.14159  # as far as the released network knows it: its weights were trained with this one


def blend_neighbours(maps: Tensor) -> Tensor:
    """Each channel of (B, C, H, W) blended with a neighbour, as the released AdaAT's 3-d sampling does.

    The released network samples a volume whose depth is the channel, at depth `linspace(-1, 1, C)` (made for
    `align_corners=True`) without aligned corners. So channel `i` is read at depth `i * C / (C - 1) - 1/2`: a
    blend of two channels, the outermost with zero. Depth and plane being independent, blending first and sampling each
    channel in its plane gives the same values at half the cost.
    """
    channels = maps.shape[1]
    depth = ((_places(channels, maps.float()) + 1) * channels - 1) / 2
    lower = depth.floor()
    share = (depth - lower).to(maps.dtype)[:, None, None]
    lower = lower.long().clamp(max=channels - 1) + 1  # places in the padded channels below
    padded = F.pad(maps, (0, 0, 0, 0, 1, 1))
    return padded[:, lower] * (1 - share) + padded[:, lower + 1] * share


class AdaAT(nn.Module):
    """Adaptive affine transform (Zhang et al. 2023, DINet): every channel resampled under its own similarity transform.

    A code gives each channel a scale in (0, 2), an angle in (-pi, pi) and a translation in (-1, 1) of half the side.
    """

    def __init__(self, code: int, channels: int) -> None:
        super().__init__()
        self.common = nn.Linear(code, code)
        self.scale = nn.Linear(code, channels)
        self.angle = nn.Linear(code, channels)
        self.translation = nn.Linear(code, 2 * channels)

    def grid(self, code: Tensor, height: int, width: int) -> Tensor:
        """(B, K) -> for every channel, where in the map each place of the result is read: (B, C, height, width, 2)."""
        common = torch.relu(self.common(code))
        scale = 2 * torch.sigmoid(self.scale(common))[..., None, None]
        angle = _PI * torch.tanh(self.angle(common))[..., None, None]
        shift_x, shift_y = torch.tanh(self.translation(common)).unflatten(1, (-1, 2))[..., None, None].unbind(2)
        x, y = _places(width, code), _places(height, code)[:, None]
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        return torch.stack([(cos * x + shift_x) - sin * y, (sin * x + shift_y) + cos * y], dim=-1)

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """`maps` (B, C, H, W) under `code` (B, K)."""
        return self.move(blend_neighbours(maps), code)

    def move(self, maps: Tensor, code: Tensor) -> Tensor:
        """The same for maps whose neighbours are blended already."""
        with torch.autocast(maps.device.type, enabled=False):
            grid = self.grid(code.float(), *maps.shape[-2:])
        planes = maps.flatten(0, 1).unsqueeze(1)  # (B * C, 1, H, W)
        return sample(planes, grid.flatten(0, 1)).view_as(maps)


def _places(size: int, like: Tensor) -> Tensor:
    """Centres of `size` pixels from -1 to 1."""
    return 2 * (torch.arange(size, dtype=like.dtype, device=like.device) / (size - 1)) - 1
