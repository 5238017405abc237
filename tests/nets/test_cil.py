"""Codes of consistent information learning, against the layers that they stand for."""

import copy

import pytest
import torch

from stsa_lightning.nets.cil import AlignmentHead


@pytest.mark.parametrize("training", [True, False])
def test_codes_gradients_and_statistics_are_those_of_convolution_norm_and_mean(training):
    torch.manual_seed(0)
    head = AlignmentHead(6, 16).double()
    torch.nn.init.normal_(head.norm.weight)
    torch.nn.init.normal_(head.norm.bias)
    head.norm.running_mean.normal_()
    plain = copy.deepcopy(head)
    head.train(training)
    plain.train(training)
    maps = (torch.randn(3, 6, 8, 8) * torch.rand(6, 1, 1) + torch.randn(6, 1, 1)).double().requires_grad_()
    towards = torch.randn(3, 16).double()

    expected = plain.norm(plain.conv(maps)).mean((2, 3))
    expected.mul(towards).sum().backward()
    wanted, maps.grad = maps.grad, None
    got = head(maps)
    got.mul(towards).sum().backward()

    torch.testing.assert_close(got.float(), expected.float())
    torch.testing.assert_close(maps.grad, wanted, atol=1e-6, rtol=1e-4)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(head.norm, name).grad, getattr(plain.norm, name).grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.conv.weight.grad, plain.conv.weight.grad, atol=1e-5, rtol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(head.norm, name), getattr(plain.norm, name), atol=1e-6, rtol=1e-5)
