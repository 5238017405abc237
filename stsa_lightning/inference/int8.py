"""Convolutions in 8-bit integers on processors made for it: four multiplications in the place of one.

Weights are rounded once, each output channel on its own scale; an input on the scale of its own extremes, whenever it
comes, so that nothing has to be calibrated. About 38 dB remain of each convolution's output.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)
_LARGEST_ERROR = 0.1  # of a small convolution; that of the two roundings is about 0.03
_LEVELS = 254  # of 255: the two roundings of an input (of its extremes, then of itself) have half a level each


class Int8Conv2d(nn.Module):
    """`layer` on 8-bit weights and inputs, summed in 32 bits; input and output are channels-last float32.

    Args:
        layer: of one group and without dilation.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        self.scale = (weight.abs().amax((1, 2, 3)) / 127).clamp(min=1e-12)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self.stride, self.padding, self.dilation = list(layer.stride), [int(p) for p in layer.padding], [1, 1]
        rounded = (weight / self.scale[:, None, None, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qconv_prepack(
            rounded, self.scale, 1.0, 0, self.stride, self.padding, self.dilation, 1, None
        )

    def forward(self, x: Tensor) -> Tensor:
        low, high = (float(extreme) for extreme in x.permute(0, 2, 3, 1).aminmax())
        low, high = min(low, 0.0), max(high, 1e-12)  # zero, which pads, is among the levels
        step = (high - low) / _LEVELS
        zero = -int(low // step)  # rounded up: the lowest is level 0 to 1, the highest at most 255
        # There is a quick way from float to int8 alone; its 8 bits, less half a turn, are those of uint8.
        levels = torch.add(torch.full((), zero - 128.0), x, alpha=1 / step).round_().to(torch.int8)
        return torch.ops.onednn.qconv2d_pointwise(
            levels.view(torch.uint8).bitwise_xor_(128),
            step,
            zero,
            self.packed,
            self.scale,
            self.zeros,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            1,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )


@lru_cache(maxsize=1)
def int8_is_fast() -> bool:
    """Whether this processor multiplies 8-bit integers faster than floats (AVX-512 VNNI), and PyTorch knows how.

    PyTorch promises nothing about the operators that are used here: where they are gone or answer otherwise, that is
    logged, and networks run exactly.
    """
    try:
        return torch.cpu._is_vnni_supported() and _answers_as_expected()
    except (AttributeError, RuntimeError, TypeError) as error:
        _log.warning("PyTorch %s: no 8-bit convolutions as known (%s); exact ones run", torch.__version__, error)
        return False


def _answers_as_expected() -> bool:
    """Whether a small convolution in 8 bits is near the one in float32."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(32, 8, 3, padding=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.arange(parameter.numel()).float().sin().view_as(parameter))
        x = torch.arange(32 * 8 * 8).float().cos().view(1, 32, 8, 8).to(memory_format=torch.channels_last)
        exact = layer(x)
        error = (Int8Conv2d(layer)(x) - exact).norm() / exact.norm()
    if error < _LARGEST_ERROR:
        return True
    _log.warning("PyTorch %s: 8-bit convolutions are off by %.0f %%; exact ones run", torch.__version__, 100 * error)
    return False


def quantise(module: nn.Module, least_channels: int = 32) -> nn.Module:
    """Replace, in place, the convolutions of a network whose inputs are wide enough to gain by it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            if max(child.kernel_size) > 1 and child.in_channels >= least_channels:
                setattr(module, name, Int8Conv2d(child))
        else:
            quantise(child, least_channels)
    return module
