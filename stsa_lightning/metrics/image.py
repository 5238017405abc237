"""Picture metrics, one value per frame: PSNR, SSIM and sharpness on RGB in [0, 1].

The mean over a set is the mean of the frames' values, as papers report it; PSNR of the pooled error is another
number, by many dB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from stsa_lightning.face.box import mouth_region
from stsa_lightning.metrics.base import FrameMean, Region, checked_pair, checked_region

__all__ = ["PSNR", "SSIM", "Region", "Sharpness", "mouth_region", "psnr", "sharpness", "ssim"]

WINDOW = 11
_FLAT = 1e-5  # below it a Laplacian is rounding


def psnr(pred: Tensor, target: Tensor, region: Region = "face") -> Tensor:
    """Peak signal-to-noise ratio of each frame, dB, data range 1; equal frames give infinity.

    Args:
        pred, target: RGB (..., 3, H, W), floating point in [0, 1].
        region: `face` (crops) and `frame` (whole pictures), all pixels as they are given; `mouth`, the lower half
            of a crop.

    Returns:
        (N,), leading dimensions joined.

    Raises:
        TypeError, ValueError: integers, another range, shapes that differ.
    """
    pred, target = checked_pair(pred, target, region)
    return peak_signal_noise_ratio(pred, target, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(pred: Tensor, target: Tensor, region: Region = "face") -> Tensor:
    """Structural similarity of each frame, Gaussian window 11, sigma 1.5, data range 1, windows inside the picture.

    Arguments and result as `psnr`.

    Raises:
        ValueError: as `psnr`, and pictures smaller than the window.
    """
    pred, target = checked_pair(pred, target, region)
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


def sharpness(pred: Tensor, target: Tensor, region: Region = "face") -> Tensor:
    """Mean absolute Laplacian (4 neighbours) of the grey picture, generated over true, of each frame.

    Below 1 it is softer than the truth, above 1 sharper or noisier; it says nothing of whether detail is in its place.
    Arguments and result as `psnr`; NaN where the truth is flat.
    """
    pred, target = checked_pair(pred, target, region)
    kernel = pred.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]) / 3  # of three colours the mean
    generated, true = (F.conv2d(faces, kernel.expand(1, 3, 3, 3)).abs().mean(dim=(1, 2, 3)) for faces in (pred, target))
    return torch.where(true > _FLAT, generated / true, torch.nan)


class _PictureMean(FrameMean):
    higher_is_better: bool | None = True
    of_frames: Callable[[Tensor, Tensor, Region], Tensor]

    def __init__(self, region: Region = "face", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.region = checked_region(region)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """RGB (..., 3, H, W) in [0, 1]."""
        self._add(self.of_frames(pred, target, self.region))


class PSNR(_PictureMean):
    """Mean `psnr` of the frames, dB."""

    of_frames = staticmethod(psnr)


class Sharpness(_PictureMean):
    """Mean `sharpness` of the frames."""

    higher_is_better = None
    of_frames = staticmethod(sharpness)


class SSIM(_PictureMean):
    """Mean `ssim` of the frames."""

    of_frames = staticmethod(ssim)
