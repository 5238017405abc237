"""Building blocks of the two networks, each under the name the field knows it by.

"Block" is convolution, batch norm, activation. Modulated norms are an instance norm without own parameters, scaled and
shifted by a condition: a map (SPADE) or a code (AdaIN). Several inputs may share one condition: when the batch of the
input is ``n`` times the batch of the condition, each condition serves ``n`` consecutive inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


Modulation = tuple[Tensor, Tensor]  # gain and offset of a normalised map: (B, C, H or 1, W or 1)


def modulate(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """``instance_norm(x) * gain + offset`` for x (B * n, C, H, W) under (B, C, H or 1, W or 1)."""
    if x.is_contiguous():
        normalised = F.instance_norm(x)
    elif gain.shape[0] == gain.shape[2] == gain.shape[3] == 1:
        return F.group_norm(x, x.shape[1], gain.flatten(), offset.flatten())
    else:  # channels last, which an instance norm would undo; groups of one channel are the same thing
        normalised = F.group_norm(x, x.shape[1])
    normalised = normalised.unflatten(0, (gain.shape[0], -1))  # (B, n, C, H, W)
    return torch.addcmul(offset.unsqueeze(1), normalised, gain.unsqueeze(1)).flatten(0, 1)


# Where a convolution of a convolution feels the rim: the place of the lines there, the line of the later kernel that
# then lies outside, the line of the earlier kernel that still reaches inside; first, the map as a whole.
_LINES = (
    (slice(None), slice(None), slice(None)),
    (slice(0, 1), slice(0, 1), slice(2, 3)),
    (slice(-1, None), slice(2, 3), slice(0, 1)),
)


@dataclass
class ComposedPart:
    """A convolution that makes, or corrects, the part of a map at ``place``: ``kernel``, ``bias``, ``padding``."""

    place: tuple[slice, slice]
    kernel: Tensor
    bias: Tensor
    padding: tuple[int, int]


def compose(shared: nn.Conv2d, weight: Tensor, bias: Tensor) -> list[ComposedPart]:
    """The parts whose sum is the 3 x 3 convolution (``weight``, ``bias``) of the 3 x 3 convolution ``shared``.

    First one 5 x 5 convolution of the whole map. It takes ``shared`` to go on for one pixel outside of the map, where
    the two steps have zeros: four 1 x 5 convolutions take that away along the sides, four 1 x 1 give back the corners,
    which were taken away twice.
    """
    parts = []
    for row, later_row, earlier_row in _LINES:
        for column, later_column, earlier_column in _LINES:
            later = weight[:, :, later_row, later_column]
            earlier = shared.weight[:, :, earlier_row, earlier_column]
            # kernel[o, i] = sum over h of the full convolution of later[o, h] with earlier[h, i].
            kernel = F.conv_transpose2d(earlier.transpose(0, 1), later.transpose(0, 1)).transpose(0, 1)
            constant = later.sum((2, 3)) @ shared.get_parameter("bias")
            inside = (row == slice(None), column == slice(None))
            if inside[0] != inside[1]:
                kernel, constant = -kernel, -constant
            constant = constant + bias if all(inside) else constant
            parts.append(ComposedPart((row, column), kernel, constant, (2 * inside[0], 2 * inside[1])))
    return parts


class SPADE(nn.Module):
    """Instance norm modulated by a map (Park et al. 2019), without the activation between the two convolutions.

    Gamma and beta are each a 3 x 3 convolution of one shared 3 x 3 convolution of the condition. Both being linear,
    they equal one 5 x 5 convolution except on the outermost pixels, where the inner zero padding shows. With a narrow
    condition (a heatmap) that costs a fraction and is the same function, see :func:`compose`.
    """

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(condition, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)
        # Multiplications per pixel that composition saves; below, making the kernels anew for each batch outweighs it.
        self.saved = 9 * hidden * (condition + 2 * channels) - 25 * condition * 2 * channels
        self.compose = self.saved > 20_000

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``x`` (B * n, C, H, W) under ``condition`` (B, K, H, W)."""
        return modulate(x, *self.modulation(condition))

    def modulation(self, condition: Tensor) -> Modulation:
        """Gain (1 + gamma) and offset (beta), each (B, C, H, W), from (B, K, H, W)."""
        weight, bias = self.kernel()
        if not self.compose:
            gain, offset = F.conv2d(self.shared(condition), weight, bias, padding=1).chunk(2, dim=1)
            return gain, offset
        whole, *rim = compose(self.shared, weight, bias)
        maps = F.conv2d(condition, whole.kernel, whole.bias, padding=2)
        for part in rim:
            row, column = part.place
            maps[..., row, column] += F.conv2d(
                condition[..., row, column], part.kernel, part.bias, padding=part.padding
            )
        gain, offset = maps.chunk(2, dim=1)
        return gain, offset

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the second step: for the gain, then for the offset."""
        bias = torch.cat([self.gamma.get_parameter("bias") + 1, self.beta.get_parameter("bias")])
        return torch.cat([self.gamma.weight, self.beta.weight]), bias


class AdaIN(nn.Module):
    """Instance norm modulated by a code (Huang and Belongie 2017), by an MLP with a hidden layer of the code's size."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.shared = nn.Linear(code, code)
        self.gamma = nn.Linear(code, channels)
        self.beta = nn.Linear(code, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """``x`` (B * n, C, H, W) under ``code`` (B, K)."""
        return modulate(x, *self.modulation(code))

    def modulation(self, code: Tensor) -> Modulation:
        """Gain (1 + gamma) and offset (beta), each (B, C, 1, 1), from (B, K)."""
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
        return self.under(x, self.modulations(condition))

    def modulations(self, condition: Tensor) -> tuple[Modulation, Modulation]:
        """What the condition decides, for :meth:`under`."""
        return self.norm1.modulation(condition), self.norm2.modulation(condition)

    def under(self, x: Tensor, modulations: tuple[Modulation, Modulation]) -> Tensor:
        """The block where the condition's part is known."""
        first, second = modulations
        x = self.conv1(F.leaky_relu(modulate(x, *first), 0.2))
        return self.conv2(F.leaky_relu(modulate(x, *second), 0.2))


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
