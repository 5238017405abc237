"""What the metrics share: checked pairs of frames, means over frames, networks that stay out of every state dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from stsa_lightning.face.box import mouth_region
from stsa_lightning.utils.errors import check_choice

Region = Literal["face", "mouth", "frame"]


def checked_region(region: Region) -> Region:
    check_choice("region", region, get_args(Region))
    return region


def checked_frames(name: str, images: Tensor) -> Tensor:
    """RGB (..., 3, H, W) in [0, 1] as float32 (N, 3, H, W), leading dimensions joined.

    Raises:
        TypeError, ValueError: integers, another range, another shape.
    """
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ValueError(f"{name} must be RGB (..., 3, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], got {images.dtype}: divide bytes by 255")
    if images.numel() and not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"{name} must lie in [0, 1], got [{low:.3g}, {high:.3g}]: divide bytes by 255")
    return images.float().reshape(-1, *images.shape[-3:])


def checked_pair(pred: Tensor, target: Tensor, region: Region = "face") -> tuple[Tensor, Tensor]:
    """Both as `checked_frames`, of one shape, cut to the region; errors as there."""
    checked_region(region)
    if pred.shape != target.shape or pred.dim() < 3 or pred.shape[-3] != 3:
        shapes = f"{tuple(pred.shape)} and {tuple(target.shape)}"
        raise ValueError(f"pred and target must both be RGB (..., 3, H, W), got {shapes}")
    pred, target = checked_frames("pred", pred), checked_frames("target", target)
    return (mouth_region(pred), mouth_region(target)) if region == "mouth" else (pred, target)


class Summed(Metric):
    """A metric whose states are sums, so that batches and ranks join exactly."""

    is_differentiable = False
    full_state_update = False

    def _add_sums(self, reals: Sequence[str], counts: Sequence[str]) -> None:
        for name in reals:
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        for name in counts:
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")


class FrameMean(Summed):
    """Mean of a value per frame over all frames of all batches and ranks.

    `count` frames entered; `unmeasured` had no value (NaN) and are left out of the mean.
    """

    total: Tensor
    count: Tensor
    unmeasured: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_sums(["total"], ["count", "unmeasured"])

    def _add(self, values: Tensor) -> None:
        missing = values.isnan()
        self.total += values[~missing].sum(dtype=torch.float64)
        self.count += (~missing).sum()
        self.unmeasured += missing.sum()

    def compute(self) -> Tensor:
        """Scalar; NaN when no frame was measured."""
        return (self.total / self.count).float()


@contextmanager
def frozen(device: torch.device) -> Iterator[None]:
    """No gradient, and full precision whatever the training around it uses."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
