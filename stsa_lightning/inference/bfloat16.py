"""Networks in bfloat16: half the memory to read, and on a GPU or a processor with AMX many products at once."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from stsa_lightning.models.adaat import AdaAT

Network = TypeVar("Network", bound=nn.Module)


def in_bfloat16(network: Network) -> Network:
    """A copy of a network that computes in bfloat16, but for where AdaAT reads its maps: 8 bits are a quarter pixel."""
    rounded = copy.deepcopy(network).bfloat16()
    for module, exact in zip(rounded.modules(), network.modules(), strict=True):
        if isinstance(module, AdaAT):
            module.float().load_state_dict(exact.state_dict())
    return rounded


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies matrices of bfloat16 (AMX), and PyTorch's convolutions know how.

    AVX-512's bfloat16 without AMX was not measured, and does not count.
    """
    try:
        return torch.cpu._is_amx_tile_supported() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False
