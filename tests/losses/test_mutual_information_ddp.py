"""Negatives from all ranks: two processes with half a batch each are one process with the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stsa_lightning.losses.mutual_information import InfoNCE
from tests.pair import Pair


class TwoPaths(nn.Module):
    def __init__(self, critic: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spatial, self.temporal = nn.Linear(6, 8), nn.Linear(6, 8)
        self.estimate = InfoNCE(8, critic=critic, temperature=0.3, hidden=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.estimate(self.spatial(x), self.temporal(x.flip(1)))


def batch() -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def run_rank(rank: int, critic: str) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model = nn.parallel.DistributedDataParallel(TwoPaths(critic))
    loss = model(batch()[4 * rank : 4 * rank + 4])
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.module.named_parameters()}


@pytest.mark.parametrize("critic", ["cosine", "mlp"])
def test_two_ranks_are_one_batch(pair: Pair, critic: str):
    model = TwoPaths(critic)
    loss = model(batch())
    loss.backward()
    for rank_loss, gradients in pair(run_rank, critic):
        assert rank_loss.item() == pytest.approx(loss.item(), abs=1e-5)
        assert gradients.keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().max() > 1e-4
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)
