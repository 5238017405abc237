"""Steadiness: landmark jitter, flow-warped error, and whether the mouth rests while nobody speaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from stsa_lightning.metrics.base import FrameMean, Summed, checked_pair
from stsa_lightning.metrics.landmarks import Points, pick

# Forward-backward check of Sundaram et al. 2010, equation 5: a flow is trusted where it leads back to its start.
_RELATIVE, _ABSOLUTE_PX2 = 0.01, 0.5
# The range of the lip aperture: between these quantiles, since a single misjudged frame would set the extremes.
RANGE = (0.05, 0.95)


def acceleration_energy(landmarks: Tensor, points: Points | None = None) -> Tensor:
    """Mean over the points of the squared second difference, (F, L, 2) -> (F - 2,), pixels^2 per frame^4; NaN stays."""
    if landmarks.dim() != 3:
        raise ValueError(f"landmarks must be (F, L, 2), got {tuple(landmarks.shape)}")
    return pick(landmarks, points).double().diff(n=2, dim=0).square().sum(dim=-1).mean(dim=-1)


def _energies(pred: Tensor, true: Tensor, points: Points | None) -> tuple[Tensor, Tensor, Tensor]:
    if pred.shape != true.shape:
        raise ValueError(f"pred and true must have one shape, got {tuple(pred.shape)} and {tuple(true.shape)}")
    a, b = acceleration_energy(pred, points), acceleration_energy(true, points)
    return a, b, a.isfinite() & b.isfinite()


def landmark_jitter(pred: Tensor, true: Tensor, points: Points | None = None) -> Tensor:
    """Energy of the landmark acceleration, generated relative to true, of one clip: 1 as steady as the truth.

    Above 1 the generated face shakes; below 1 it is smoother than people are. Both sides need one detector in one mode:
    its own noise is in either energy.

    Args:
        pred, true: (F, L, 2), frames in order, pixels of one crop size; NaN where nothing was found.
        points: positions among the L to measure; None: all.

    Returns:
        Scalar; NaN when no three frames in a row were measured on both sides, infinite when the truth never moves.
    """
    a, b, found = _energies(pred, true, points)
    return (a[found].sum() / b[found].sum()).float()


class Jitter(Summed):
    """`landmark_jitter` over clips: the sum of the generated energies over the sum of the true ones.

    `measured` and `unmeasured` count the accelerations (three frames in a row) that entered and that were NaN.
    """

    pred_energy: Tensor
    true_energy: Tensor
    measured: Tensor
    unmeasured: Tensor

    def __init__(self, points: Points | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points = points
        self._add_sums(["pred_energy", "true_energy"], ["measured", "unmeasured"])

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Landmarks (F, L, 2) of one clip, frames in order, NaN where nothing was found; pixels."""
        a, b, found = _energies(pred, true, self.points)
        self.pred_energy += a[found].sum()
        self.true_energy += b[found].sum()
        self.measured += found.sum()
        self.unmeasured += (~found).sum()

    def compute(self) -> Tensor:
        """Scalar; NaN when nothing was measured."""
        return (self.pred_energy / self.true_energy).float()


def flow_warped_error(pred: Tensor, true: Tensor) -> Tensor:
    """How much more generated frames (F, 3, H, W) in [0, 1] change along the true motion than true ones do.

    For each pair of neighbours, frame t + 1 is warped back to t by the optical flow of the true video (DIS); the mean
    absolute error to frame t is taken outside of occlusions (where the flow forth and back does not return, or leaves
    the picture), and that of the true video, which the flow's own errors and true changes make, is taken off.

    Returns:
        (F - 1,), in units of the pixel range; 0 for the truth itself, below 0 for what is smoother than it (a blur);
        NaN for a pair with no pixel that can be trusted.
    """
    pred, true = checked_pair(pred, true)
    errors = [_pair_error(a, b) for a, b in zip(_neighbours(pred), _neighbours(true), strict=True)]
    return torch.tensor(errors, dtype=torch.float32, device=pred.device)


def _neighbours(frames: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of pictures (H, W, 3) float32."""
    pictures = (frame.permute(1, 2, 0).contiguous().cpu().numpy() for frame in frames)
    before = next(pictures, None)
    for picture in pictures:
        yield before, picture  # type: ignore[misc]
        before = picture


def _pair_error(pred: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]) -> float:
    first, second = (cv2.cvtColor((frame * 255).round().astype(np.uint8), cv2.COLOR_RGB2GRAY) for frame in true)
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth, back = (flow.calc(*pair, None) for pair in ((first, second), (second, first)))  # type: ignore[call-overload]
    height, width = first.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + forth[..., 0], y + forth[..., 1]
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR)
    lengths = np.square(forth).sum(-1) + np.square(returned).sum(-1)
    visible = np.square(forth + returned).sum(-1) < _RELATIVE * lengths + _ABSOLUTE_PX2
    visible &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    if not visible.any():
        return float("nan")
    generated, truth = (
        np.abs(cv2.remap(after, x, y, cv2.INTER_LINEAR) - before)[visible].mean() for before, after in (pred, true)
    )
    return float(generated - truth)


class FlowWarpedError(FrameMean):
    """Mean `flow_warped_error` over all pairs of neighbours; every `update` is one clip's frames in order."""

    higher_is_better = False

    def update(self, pred: Tensor, true: Tensor) -> None:
        """RGB (F, 3, H, W) in [0, 1]."""
        self._add(flow_warped_error(pred, true))


def lip_aperture_range(lip_aperture: Tensor) -> Tensor:
    """How far a mouth opens and closes in a clip: (F,) -> scalar, 5 % to 95 % quantile; NaN frames are left out."""
    if lip_aperture.dim() != 1:
        raise ValueError(f"lip_aperture must be (F,), got {tuple(lip_aperture.shape)}")
    found = lip_aperture[lip_aperture.isfinite()].double()
    if not len(found):
        return torch.tensor(torch.nan, dtype=torch.float64, device=lip_aperture.device)
    low, high = found.quantile(torch.tensor(RANGE, dtype=torch.float64, device=lip_aperture.device))
    return high - low


def silence_leak(silent: Tensor, speech: Tensor) -> Tensor:
    """Range of the lip aperture driven by silence, relative to that driven by speech: 0 is ideal.

    Args:
        silent, speech: (F,) lip apertures of one clip dubbed with digital silence and with speech, in one unit; NaN
            where nothing was found. Lengths may differ.

    Returns:
        Scalar; NaN when either was never measured, or when the mouth does not move to speech either.
    """
    rest, talk = lip_aperture_range(silent), lip_aperture_range(speech)
    return torch.where(talk > 0, rest / talk, torch.nan).float()


class SilenceLeak(FrameMean):
    """Mean `silence_leak` of clips; `count` and `unmeasured` count clips."""

    higher_is_better = False

    def update(self, silent: Tensor, speech: Tensor) -> None:
        """Lip apertures (F,) of one clip."""
        self._add(silence_leak(silent, speech)[None])
