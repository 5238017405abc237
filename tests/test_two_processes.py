"""Two processes with half each are one with the whole: negatives from all ranks, and every metric.

In one file, so that one pair of processes serves both.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stsa_lightning.losses.mutual_information import InfoNCE
from stsa_lightning.metrics.identity import CSIM
from stsa_lightning.metrics.image import PSNR, SSIM
from stsa_lightning.metrics.landmarks import LandmarkDistance
from stsa_lightning.metrics.perceptual import FrechetDistance
from stsa_lightning.metrics.stability import FlowWarpedError, Jitter, SilenceLeak
from tests.pair import Pair

CLIPS = 4


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


class Colours(FrechetDistance):
    def __init__(self) -> None:
        super().__init__(nn.Identity(), 3)

    def features(self, frames):
        return frames.mean(dim=(2, 3))


def evaluate(clips: range) -> dict[str, torch.Tensor]:
    """All metrics of these clips; the second half has other lengths than the first."""
    metrics = {
        "psnr": PSNR(),
        "ssim": SSIM("mouth"),
        "fréchet": Colours(),
        "lmd": LandmarkDistance(),
        "lmv": LandmarkDistance(motion=True, norm="l1"),
        "csim": CSIM(),
        "jitter": Jitter(),
        "warp": FlowWarpedError(),
        "silence": SilenceLeak(),
    }
    for clip in clips:
        generator = torch.Generator().manual_seed(clip)
        frames = 4 + 2 * clip
        true = torch.rand(frames, 3, 24, 24, generator=generator)
        pred = (true + 0.1 * (clip + 1) * torch.rand(true.shape, generator=generator)).clamp(0, 1)
        points = 20 * torch.rand(frames, 131, 2, generator=generator)
        guess = points + (clip + 1) * torch.rand(points.shape, generator=generator)
        guess[1] = torch.nan
        for name in ("psnr", "ssim", "fréchet", "warp"):
            metrics[name].update(pred, true)
        for name in ("lmd", "lmv", "jitter"):
            metrics[name].update(guess, points)
        metrics["csim"].update(guess[:, :, 0], points[:, :, 0])
        metrics["silence"].update(points[:, 0, 0] / 3, points[:, 0, 1])
    values = {}
    for name, metric in metrics.items():
        result = metric.compute()
        values |= {f"{name} {key}": x for key, x in result.items()} if isinstance(result, dict) else {name: result}
    return values


def evaluate_share(rank: int) -> dict[str, torch.Tensor]:
    return evaluate(range(CLIPS)[rank::2])


def test_every_metric_of_two_processes_is_that_of_one(pair: Pair):
    expected, half = evaluate(range(CLIPS)), evaluate(range(CLIPS)[::2])
    for values in pair(evaluate_share):
        assert values.keys() == expected.keys()
        for name, value in expected.items():
            if not name.endswith("normalised"):
                assert values[name].item() == pytest.approx(value.item(), rel=1e-5), name
                assert half[name].item() != values[name].item(), name
