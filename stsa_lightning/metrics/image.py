"""Picture metrics, one value per frame: PSNR and SSIM on RGB in [0, 1].

The mean over a set is the mean of the frames' values, as papers report it; PSNR of the pooled error is another
number, by many dB.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

Region = Literal["face", "mouth"]
WINDOW = 11


def mouth_region(faces: Tensor) -> Tensor:
    """The lower half of face crops, (..., S, S) -> (..., S / 2, S): the half that was generated."""
    return faces[..., faces.shape[-2] // 2 :, :]


def _frames(pred: Tensor, target: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    if region not in ("face", "mouth"):
        raise ValueError(f'region must be "face" or "mouth", got {region!r}')
    if pred.shape != target.shape or pred.dim() < 3 or pred.shape[-3] != 3:
        shapes = f"{tuple(pred.shape)} and {tuple(target.shape)}"
        raise ValueError(f"pred and target must both be RGB (..., 3, H, W), got {shapes}")
    pair = []
    for name, images in (("pred", pred), ("target", target)):
        if not images.is_floating_point():
            raise TypeError(f"{name} must be floating point in [0, 1], got {images.dtype}: divide bytes by 255")
        if images.numel() and (images.min() < -1e-3 or images.max() > 1 + 1e-3):
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"{name} must lie in [0, 1], got [{low:.3g}, {high:.3g}]: divide bytes by 255")
        images = images.float().reshape(-1, *images.shape[-3:])
        pair.append(mouth_region(images) if region == "mouth" else images)
    return pair[0], pair[1]


def psnr(pred: Tensor, target: Tensor, region: Region = "face") -> Tensor:
    """Peak signal-to-noise ratio of each frame, dB, data range 1; equal frames give infinity.

    Args:
        pred, target: RGB (..., 3, H, W), floating point in [0, 1].
        region: ``face``, the picture as it is (give whole frames for a ``frame`` score); ``mouth``, its lower half.

    Returns:
        (N,), leading dimensions joined.

    Raises:
        TypeError, ValueError: integers, another range, shapes that differ.
    """
    pred, target = _frames(pred, target, region)
    return peak_signal_noise_ratio(pred, target, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(pred: Tensor, target: Tensor, region: Region = "face") -> Tensor:
    """Structural similarity of each frame, Gaussian window 11, sigma 1.5, data range 1, windows inside the picture.

    Arguments and result as :func:`psnr`.

    Raises:
        ValueError: as :func:`psnr`, and pictures smaller than the window.
    """
    pred, target = _frames(pred, target, region)
    if min(pred.shape[-2:]) < WINDOW:
        raise ValueError(
            f"SSIM needs at least {WINDOW} x {WINDOW} pixels, got {tuple(pred.shape[-2:])} in region {region!r}"
        )
    _, similarity = structural_similarity_index_measure(
        pred, target, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    # Where the window reaches over the edge, torchmetrics mirrors the picture; the original (Wang et al. 2004) and
    # scikit-image count only windows that lie inside.
    edge = WINDOW // 2
    return similarity[..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


class _FrameMean(Metric):
    """Mean of a value per frame over all frames of all batches and ranks."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, region: Region = "face", **kwargs) -> None:
        super().__init__(**kwargs)
        if region not in ("face", "mouth"):
            raise ValueError(f'region must be "face" or "mouth", got {region!r}')
        self.region: Region = region
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _values(self, pred: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def update(self, pred: Tensor, target: Tensor) -> None:
        """RGB (..., 3, H, W) in [0, 1]."""
        values = self._values(pred, target)
        self.total += values.sum(dtype=torch.float64)
        self.count += values.numel()

    def compute(self) -> Tensor:
        """Scalar; NaN before the first frame."""
        return (self.total / self.count).float()


class PSNR(_FrameMean):
    """Mean :func:`psnr` of the frames, dB."""

    def _values(self, pred: Tensor, target: Tensor) -> Tensor:
        return psnr(pred, target, self.region)


class SSIM(_FrameMean):
    """Mean :func:`ssim` of the frames."""

    def _values(self, pred: Tensor, target: Tensor) -> Tensor:
        return ssim(pred, target, self.region)
