from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stsa_lightning.models.layers import PreActivationResidual, ResidualConvBlock, UpBlock, check_face_size, check_shape
from stsa_lightning.models.modulation import SPADE, AdaIN, AdaINBlock, SPADEBlock, modulate


def literal_spade(layer: SPADE, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    hidden = layer.shared(condition)
    centred = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    return centred * (1 + layer.gamma(hidden)) + layer.beta(hidden)


def test_spade_equals_its_definition() -> None:
    layer, x, condition = SPADE(channels=6, condition=2, hidden=10), torch.randn(2, 6, 9, 9), torch.randn(2, 2, 9, 9)
    torch.testing.assert_close(layer(x, condition), literal_spade(layer, x, condition), atol=1e-5, rtol=1e-5)


def test_one_condition_serves_consecutive_inputs() -> None:
    block, x = SPADEBlock(4, 1, 8), torch.randn(6, 4, 8, 8)
    condition = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(block(x, condition), block(x, condition.repeat_interleave(3, 0)))
    block_of_codes, code = AdaINBlock(4, 5), torch.randn(2, 5)
    torch.testing.assert_close(block_of_codes(x, code), block_of_codes(x, code.repeat_interleave(3, 0)))


def test_modulation_sets_mean_and_deviation() -> None:
    x = torch.randn(2, 3, 16, 16) * 7 + 2
    gain, offset = torch.full((2, 3, 1, 1), 2.0), torch.full((2, 3, 1, 1), 5.0)
    out = modulate(x, gain, offset)
    torch.testing.assert_close(out.mean((2, 3)), torch.full((2, 3), 5.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((2, 3), correction=0), torch.full((2, 3), 2.0), atol=1e-4, rtol=0)


def test_adain_gamma_and_beta_come_from_one_hidden_layer() -> None:
    layer, x, code = AdaIN(3, 4), torch.randn(2, 3, 5, 5), torch.randn(2, 4)
    hidden = torch.relu(F.linear(code, layer.shared.weight, layer.shared.bias))
    gamma, beta = layer.gamma(hidden)[..., None, None], layer.beta(hidden)[..., None, None]
    torch.testing.assert_close(layer(x, code), F.instance_norm(x) * (1 + gamma) + beta)


def test_residual_blocks_add_their_input() -> None:
    x = torch.randn(2, 4, 6, 6)
    pre = PreActivationResidual(4).eval()
    torch.nn.init.zeros_(pre.conv2.weight)
    torch.nn.init.zeros_(pre.conv2.bias)
    torch.testing.assert_close(pre(x), x)
    post = ResidualConvBlock(4).eval()
    torch.nn.init.zeros_(post.norm.weight)
    torch.testing.assert_close(post(x), x.relu())


def test_up_block_makes_four_of_a_point_and_doubles_a_map() -> None:
    assert UpBlock(3, 2, stride=1)(torch.randn(2, 3, 1, 1)).shape == (2, 2, 4, 4)
    assert UpBlock(3, 2)(torch.randn(2, 3, 8, 8)).shape == (2, 2, 16, 16)


def test_wrong_shapes_and_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"audio has shape \(2, 3\), expected \(any, 4\)"):
        check_shape("audio", torch.zeros(2, 3), None, 4)
    for size in (32, 96, 127, 0):
        with pytest.raises(ValueError, match="power of two"):
            check_face_size(size)
    assert [check_face_size(s) for s in (64, 128, 256)] == [64, 128, 256]
