"""Networks in bfloat16: half the memory to read, and on a GPU or a processor made for it many products at once."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from stsa_lightning.models.adaat import AdaAT

Network = TypeVar("Network", bound=nn.Module)

_UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # of `torch.cpu`, where PyTorch has them


def in_bfloat16(network: Network) -> Network:
    """A copy of a network that computes in bfloat16, but for where AdaAT reads its maps: 8 bits are a quarter pixel."""
    rounded = copy.deepcopy(network).bfloat16()
    for module, exact in zip(rounded.modules(), network.modules(), strict=True):
        if isinstance(module, AdaAT):
            module.float().load_state_dict(exact.state_dict())
    return rounded


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 (AMX, or AVX-512's own), and PyTorch's convolutions know how.

    A processor of AVX-512 without it is taken for able by oneDNN, and converts instead. Narrow networks take 0.7 of
    what they take in 8 bits both with AMX (Intel Xeon) and without (AMD EPYC, Zen 4).
    """
    try:
        made_for_it = any(getattr(torch.cpu, name, lambda: False)() for name in _UNITS)
        return made_for_it and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False
