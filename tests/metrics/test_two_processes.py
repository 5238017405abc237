"""Every metric: two processes with half of the clips each give what one process gives with all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stsa_lightning.metrics.identity import CSIM
from stsa_lightning.metrics.image import PSNR, SSIM
from stsa_lightning.metrics.landmarks import LandmarkDistance
from stsa_lightning.metrics.perceptual import FrechetDistance
from stsa_lightning.metrics.stability import FlowWarpedError, Jitter, SilenceLeak
from tests.pair import Pair

CLIPS = 4


class Colours(FrechetDistance):
    def __init__(self) -> None:
        super().__init__(nn.Identity(), 3)

    def features(self, frames):
        return frames.mean(dim=(2, 3))


class Colour:
    name, alignment = "colour", "none"

    def __call__(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return picture.mean(axis=(0, 1)).astype(np.float32)


def evaluate(clips: range) -> dict[str, torch.Tensor]:
    """All metrics of these clips; the second half has other lengths than the first."""
    metrics = {
        "psnr": PSNR(),
        "ssim": SSIM("mouth"),
        "fréchet": Colours(),
        "lmd": LandmarkDistance(),
        "lmv": LandmarkDistance(motion=True, norm="l1"),
        "csim": CSIM(Colour()),
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
        metrics["csim"].update(pred, true, guess, points)
        metrics["silence"].update(points[:, 0, 0] / 3, points[:, 0, 1])
    values = {}
    for name, metric in metrics.items():
        result = metric.compute()
        values |= {f"{name} {key}": x for key, x in result.items()} if isinstance(result, dict) else {name: result}
    return values


def evaluate_share(rank: int) -> dict[str, torch.Tensor]:
    return evaluate(range(CLIPS)[rank::2])


def test_two_processes_are_one(pair: Pair):
    expected, half = evaluate(range(CLIPS)), evaluate(range(CLIPS)[::2])
    for values in pair(evaluate_share):
        assert values.keys() == expected.keys()
        for name, value in expected.items():
            if not name.endswith("normalised"):
                assert values[name].item() == pytest.approx(value.item(), rel=1e-5), name
                assert half[name].item() != values[name].item(), name
