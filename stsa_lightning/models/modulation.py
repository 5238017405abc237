"""SPADE and AdaIN: instance norms without parameters of their own, scaled and shifted by a map or by a code.

Several inputs may share one condition: where the batch of the input is `n` times that of the condition, each condition
serves `n` consecutive inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Modulation = tuple[Tensor, Tensor]  # gain (1 + gamma) and offset (beta): (B, C, H or 1, W or 1)


def modulate(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """`instance_norm(x) * gain + offset` for x (B * n, C, H, W) under (B, C, H or 1, W or 1)."""
    normalised = F.instance_norm(x).unflatten(0, (gain.shape[0], -1))  # (B, n, C, H, W)
    return (normalised * gain.unsqueeze(1) + offset.unsqueeze(1)).flatten(0, 1)


class SPADE(nn.Module):
    """Instance norm modulated by a map (Park et al. 2019), without the activation between the two convolutions."""

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(condition, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """`x` (B * n, C, H, W) under `condition` (B, K, H, W)."""
        return modulate(x, *self.modulation(condition))

    def modulation(self, condition: Tensor) -> Modulation:
        """Gain and offset, each (B, C, H, W), from (B, K, H, W)."""
        hidden = self.shared(condition)
        return 1 + self.gamma(hidden), self.beta(hidden)


class AdaIN(nn.Module):
    """Instance norm modulated by a code (Huang and Belongie 2017), by an MLP with a hidden layer of the code's size."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.shared = nn.Linear(code, code)
        self.gamma = nn.Linear(code, channels)
        self.beta = nn.Linear(code, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """`x` (B * n, C, H, W) under `code` (B, K)."""
        return modulate(x, *self.modulation(code))

    def modulation(self, code: Tensor) -> Modulation:
        """Gain and offset, each (B, C, 1, 1), from (B, K)."""
        hidden = torch.relu(self.shared(code))
        return 1 + self.gamma(hidden)[..., None, None], self.beta(hidden)[..., None, None]


class ModulatedBlock(nn.Module):
    """[modulated norm, LeakyReLU 0.2, 3 x 3 convolution] twice; no skip connection."""

    norm1: SPADE | AdaIN
    norm2: SPADE | AdaIN

    def __init__(self, channels: int, norm1: SPADE | AdaIN, norm2: SPADE | AdaIN) -> None:
        super().__init__()
        self.norm1 = norm1
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm2
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.conv1(F.leaky_relu(self.norm1(x, condition), 0.2))
        return self.conv2(F.leaky_relu(self.norm2(x, condition), 0.2))


class SPADEBlock(ModulatedBlock):
    """Modulated block under a map (B, `condition`, H, W) of the input's own size."""

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__(channels, SPADE(channels, condition, hidden), SPADE(channels, condition, hidden))


class AdaINBlock(ModulatedBlock):
    """Modulated block under a code (B, `code`)."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__(channels, AdaIN(channels, code), AdaIN(channels, code))
