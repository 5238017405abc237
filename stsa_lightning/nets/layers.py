"""Building blocks of the two networks, each under the name the field knows it by.

"Block" is convolution, batch norm, activation. Modulated norms are an instance norm without own parameters, scaled and
shifted by a condition: a map (SPADE) or a code (AdaIN). Several inputs may share one condition: when the batch of the
input is ``n`` times the batch of the condition, each condition serves ``n`` consecutive inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
_BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


def check_shape(name: str, tensor: Tensor, *expected: int | None) -> None:
    """Raise ``ValueError`` unless ``tensor`` has the ``expected`` shape; ``None`` stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected, strict=True)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} has shape {shape}, expected ({wanted})")


def check_face_size(face_size: int) -> int:
    """``face_size`` itself when it is a power of two of at least 64, else ``ValueError``."""
    if face_size < 64 or face_size & (face_size - 1):
        raise ValueError(f"face_size must be a power of two of at least 64 (64, 128, 256), got {face_size}")
    return face_size


def reduced_size(size: int, stride: int, *, kernel: int = 3, padding: int = 1) -> int:
    """Side of a map of side ``size`` after one strided convolution."""
    return (size + 2 * padding - kernel) // stride + 1


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation; ``dims`` 1 for sequences (B, C, L), 2 for maps (B, C, H, W)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        *,
        dims: Literal[1, 2] = 2,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = _CONVOLUTIONS[dims](inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = _BATCH_NORMS[dims](outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class ResidualConvBlock(ConvBlock):
    """A block of equal width that adds its input before the activation."""

    def __init__(self, channels: int, *, dims: Literal[1, 2] = 2) -> None:
        super().__init__(channels, channels, dims=dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)) + x)


class UpBlock(nn.Module):
    """Transposed convolution of kernel 4, batch norm, ReLU: doubles a map; ``stride=1`` makes 4 x 4 of a point."""

    def __init__(self, inputs: int, outputs: int, *, stride: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding=stride - 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class PreActivationResidual(nn.Module):
    """[batch norm, ReLU, convolution] twice, added to the input (He et al. 2016, "Identity mappings")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(inner)))


def modulate(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """``instance_norm(x) * (1 + gamma) + beta`` for x (B * n, C, H, W) under (B, C, H or 1, W or 1)."""
    normalised = F.instance_norm(x).unflatten(0, (gamma.shape[0], -1))  # (B, n, C, H, W)
    return (normalised * (1 + gamma.unsqueeze(1)) + beta.unsqueeze(1)).flatten(0, 1)


class SPADE(nn.Module):
    """Instance norm modulated by a map (Park et al. 2019), without the activation between the two convolutions.

    Gamma and beta are each a 3 x 3 convolution of one shared 3 x 3 convolution of the condition. Both being linear,
    they equal one 5 x 5 convolution except on the outermost pixels, where the inner zero padding shows. With a narrow
    condition (a heatmap) that costs a fraction and is the same function: the rim is computed the long way.
    """

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(condition, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)
        saved = 9 * hidden * (condition + 2 * channels) - 25 * condition * 2 * channels
        self.compose = saved > 100_000  # multiplications per pixel; below, the rim outweighs it

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` (B * n, C, H, W) under ``condition`` (B, K, H, W)."""
        weight = torch.cat([self.gamma.weight, self.beta.weight])
        bias = torch.cat([self.gamma.get_parameter("bias"), self.beta.get_parameter("bias")])
        modulation = self._composed if self.compose else self._stepwise
        gamma, beta = modulation(condition, weight, bias).chunk(2, dim=1)
        return modulate(x, gamma, beta)

    def _stepwise(self, condition: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(self.shared(condition), weight, bias, padding=1)

    def _composed(self, condition: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # K[o, i] = sum over h of the full convolution of weight[o, h] with shared[h, i].
        kernel = F.conv_transpose2d(self.shared.weight.transpose(0, 1), weight.transpose(0, 1)).transpose(0, 1)
        offset = bias + weight.sum((2, 3)) @ self.shared.get_parameter("bias")
        inner = F.conv2d(condition, kernel, offset, padding=2)[..., 1:-1, 1:-1]

        # Three lines of the condition decide one line of the rim.
        rows = torch.cat([condition[..., :3, :], condition[..., -3:, :]])
        columns = torch.cat([condition[..., :3], condition[..., -3:]])
        top, bottom = self._stepwise(rows, weight, bias).chunk(2)
        left, right = self._stepwise(columns, weight, bias)[..., 1:-1, :].chunk(2)
        middle = torch.cat([left[..., :1], inner, right[..., -1:]], dim=-1)
        return torch.cat([top[..., :1, :], middle, bottom[..., -1:, :]], dim=-2)


class AdaIN(nn.Module):
    """Instance norm modulated by a code (Huang and Belongie 2017), by an MLP with a hidden layer of the code's size."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.shared = nn.Linear(code, code)
        self.gamma = nn.Linear(code, channels)
        self.beta = nn.Linear(code, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """``x`` (B * n, C, H, W) under ``code`` (B, K)."""
        hidden = torch.relu(self.shared(code))
        return modulate(x, self.gamma(hidden)[..., None, None], self.beta(hidden)[..., None, None])


class ModulatedBlock(nn.Module):
    """[modulated norm, LeakyReLU 0.2, 3 x 3 convolution] twice; no skip connection."""

    def __init__(self, channels: int, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1 = norm1
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm2
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.conv1(F.leaky_relu(self.norm1(x, condition), 0.2))
        return self.conv2(F.leaky_relu(self.norm2(x, condition), 0.2))


class SPADEBlock(ModulatedBlock):
    """Modulated block under a map (B, ``condition``, H, W) of the input's own size."""

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__(channels, SPADE(channels, condition, hidden), SPADE(channels, condition, hidden))


class AdaINBlock(ModulatedBlock):
    """Modulated block under a code (B, ``code``)."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__(channels, AdaIN(channels, code), AdaIN(channels, code))


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """``maps`` (B, C, H, W) read bilinearly at ``grid`` (B, h, w, 2) in [-1, 1], zero outside; in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.grid_sample(maps.float(), grid.float(), align_corners=False)
