from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stsa_lightning.inference.fold import (
    ComposedSPADE,
    compose_for_training,
    for_inference,
    modulate,
    saved_by_composing,
    warp_mean,
)
from stsa_lightning.inference.int8 import Int8Conv2d, int8_is_fast
from stsa_lightning.inference.winograd import WinogradConv2d
from stsa_lightning.models import modulation
from stsa_lightning.models.layers import PreActivationResidual, ResidualConvBlock, UpBlock
from stsa_lightning.models.modulation import SPADE, SPADEBlock
from stsa_lightning.models.temporal_path import weighted_mean


def trained(module: nn.Module) -> nn.Module:
    """With running statistics unlike those of a new network."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return module.eval()


@pytest.mark.parametrize("block", [ResidualConvBlock(6), PreActivationResidual(6), UpBlock(6, 4)])
def test_folded_norms_change_nothing(block: nn.Module) -> None:
    network, x = trained(nn.Sequential(block)), torch.randn(2, 6, 8, 8)
    prepared = for_inference(network)
    left = [m for m in prepared.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == isinstance(block, PreActivationResidual)
    torch.testing.assert_close(prepared(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("channels", "condition", "hidden"), [(6, 2, 40), (6, 12, 2)])
@pytest.mark.parametrize("size", [3, 4, 9])
def test_prepared_spade(channels: int, condition: int, hidden: int, size: int) -> None:
    layer, condition_map = SPADE(channels, condition, hidden), torch.randn(1, condition, size, size)
    prepared = for_inference(nn.Sequential(layer))[0]
    assert bool(prepared.places) == (saved_by_composing(layer) > 2_000)
    for ours, plain in zip(prepared.modulation(condition_map), layer.modulation(condition_map), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 4, 9])
def test_spade_composed_for_training_has_values_gradients_and_names_of_the_plain_one(size: int) -> None:
    layer = SPADE(channels=4, condition=1, hidden=8)
    composed = ComposedSPADE(layer)
    assert composed.state_dict().keys() == layer.state_dict().keys()
    x, condition = torch.randn(1, 4, size, size), torch.randn(1, 1, size, size, requires_grad=True)
    inputs, weight = [condition, *layer.parameters()], torch.randn(1, 4, size, size)
    torch.testing.assert_close(composed(x, condition), layer(x, condition), atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((composed(x, condition) * weight).sum(), inputs)
    expected = torch.autograd.grad((layer(x, condition) * weight).sum(), inputs)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_spade_is_composed_for_training_where_that_saves_most_of_the_work() -> None:
    def is_composed(*sizes: int) -> bool:
        return isinstance(compose_for_training(nn.Sequential(SPADE(*sizes)))[0], ComposedSPADE)

    assert is_composed(128, 1, 256)
    assert not is_composed(512, 256, 256)
    assert not is_composed(24, 1, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("place", [(1, 1), (12, 8)], ids=["code", "map"])
@pytest.mark.parametrize(("channels", "inputs"), [(4, 1), (6, 2), (15, 3), (16, 2)])
def test_norms_of_narrow_channels_last_maps(
    channels: int, inputs: int, place: tuple[int, int], dtype: torch.dtype
) -> None:
    x = (3 * torch.randn(2 * inputs, channels, 12, 8) + 2).to(dtype, memory_format=torch.channels_last)
    both = torch.randn(2, 2 * channels, *place).to(dtype, memory_format=torch.channels_last)
    before, halves = x.clone(), both.chunk(2, dim=1)
    found = modulate(x, *halves)
    expected = modulation.modulate(x.double(), *(half.double() for half in halves))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
    atol = {torch.float32: 1e-5, torch.float64: 1e-7, torch.bfloat16: 0.06}[dtype]
    torch.testing.assert_close(found.double(), expected, atol=atol, rtol=0.02 if dtype == torch.bfloat16 else 1e-5)


def test_norms_of_an_odd_number_of_pixels_and_of_constant_maps() -> None:
    odd = torch.randn(1, 4, 5, 7).contiguous(memory_format=torch.channels_last)
    gain, offset = torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(modulate(odd, gain, offset), modulation.modulate(odd, gain, offset), atol=1e-5, rtol=0)
    flat = torch.full((1, 4, 8, 8), 7.0).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(modulate(flat, gain, offset), offset.expand(flat.shape), atol=0.02, rtol=0)


def test_a_prepared_block_changes_none_of_its_inputs() -> None:
    block = SPADEBlock(4, 1, 8)
    x, condition = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(1, 1, 8, 8)
    before, prepared = x.clone(), for_inference(nn.Sequential(block))[0]
    torch.testing.assert_close(prepared(x, condition), block(x, condition), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_one_gather_is_sampling_and_averaging() -> None:
    frames, maps, confidence = 2, torch.randn(3, 5, 16, 16), torch.rand(6, 1, 32, 32)
    grid = torch.rand(6, 16, 16, 2) * 2.6 - 1.3  # also outside
    sampled = F.grid_sample(maps.repeat(frames, 1, 1, 1), grid, align_corners=False)
    expected = weighted_mean(sampled.unflatten(0, (2, 3)), confidence.unflatten(0, (2, 3)))
    torch.testing.assert_close(warp_mean(maps, grid, confidence), expected, atol=1e-5, rtol=1e-4)


def test_the_gather_bears_any_flow() -> None:
    grid = torch.tensor([-1e9, 1e9, 3.0, -7.0]).repeat(8).view(1, 4, 4, 2)
    assert warp_mean(torch.ones(1, 2, 4, 4), grid, torch.ones(1, 1, 4, 4)).abs().max() == 0


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (3, 3)])
def test_winograd_is_the_convolution(size: tuple[int, int]) -> None:
    layer, x = nn.Conv2d(20, 12, 3, padding=1), torch.randn(2, 20, *size)
    torch.testing.assert_close(WinogradConv2d(layer)(x), layer(x), atol=1e-4, rtol=0)


@pytest.mark.skipif(not int8_is_fast(), reason="a processor without fast 8-bit multiplications")
@pytest.mark.parametrize(("stride", "offset"), [(1, 0.0), (2, 0.0), (1, 3.0), (1, -9.0)])
def test_integers_keep_35_db(stride: int, offset: float) -> None:
    layer = nn.Conv2d(32, 48, 3, stride, padding=1)
    x = (torch.randn(2, 32, 12, 12) + offset).contiguous(memory_format=torch.channels_last)
    expected = layer(x)
    wrong = (Int8Conv2d(layer)(x) - expected).square().mean() / expected.square().mean()
    assert -10 * torch.log10(wrong) > 35
    assert Int8Conv2d(layer)(torch.zeros_like(x)).allclose(layer.bias[:, None, None].expand_as(expected), atol=1e-5)
