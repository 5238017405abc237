"""Building blocks of the two networks, each under the name the field knows it by.

"Block" is convolution, batch norm, activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
_BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


def check_shape(name: str, tensor: Tensor, *expected: int | None) -> None:
    """Raise `ValueError` unless `tensor` has the `expected` shape; `None` stands for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected, strict=True)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} has shape {shape}, expected ({wanted})")


def check_face_size(face_size: int) -> int:
    """`face_size` itself when it is a power of two of at least 64, else `ValueError`."""
    if face_size < 64 or face_size & (face_size - 1):
        raise ValueError(f"face_size must be a power of two of at least 64 (64, 128, 256), got {face_size}")
    return face_size


def reduced_size(size: int, stride: int, *, kernel: int = 3, padding: int = 1) -> int:
    """Side of a map of side `size` after one strided convolution."""
    return (size + 2 * padding - kernel) // stride + 1


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation; `dims` 1 for sequences (B, C, L), 2 for maps (B, C, H, W)."""

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
    """Transposed convolution of kernel 4, batch norm, ReLU: doubles a map; `stride=1` makes 4 x 4 of a point."""

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


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """`maps` (B, C, H, W) read bilinearly at `grid` (B, h, w, 2) in [-1, 1], zero outside; in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.grid_sample(maps.float(), grid.float(), align_corners=False)


class HoldsFrozen(nn.Module):
    """Holds a frozen network outside the registered modules: it follows `.to(...)` alone.

    It is in no `state_dict`, in no `parameters()` (so in no optimiser and in no DDP bucket), and `train()` does not
    reach it.
    """

    def _hold(self, network: nn.Module) -> None:
        # A list hides the network from nn.Module's registration.
        self._frozen: list[Any] = [network.eval().requires_grad_(False)]

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self._frozen[0]._apply(fn)
        return super()._apply(fn, *args, **kwargs)
