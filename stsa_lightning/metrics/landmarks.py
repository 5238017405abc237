"""Landmark metrics: where the mouth is (LMD), how it moves (LMV), and whether it opens when it should.

A score means something only with its detector, points, norm and crop size; a frame in which landmarks could not be
found is NaN, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stsa_lightning.metrics.base import Summed

Points = Sequence[int] | Tensor
Norm = Literal["l2", "l1"]


def pick(landmarks: Tensor, points: Points | None) -> Tensor:
    """The landmarks at these positions, (..., L, 2) -> (..., P, 2), floating point; None: all."""
    if landmarks.dim() < 2 or landmarks.shape[-1] != 2:
        raise ValueError(f"landmarks must be (..., L, 2), got {tuple(landmarks.shape)}")
    landmarks = landmarks if landmarks.is_floating_point() else landmarks.float()
    if points is None:
        return landmarks
    return landmarks[..., torch.as_tensor(points, dtype=torch.long, device=landmarks.device), :]


def _errors(pred: Tensor, true: Tensor, points: Points | None) -> Tensor:
    if pred.shape != true.shape:
        raise ValueError(f"pred and true must have one shape, got {tuple(pred.shape)} and {tuple(true.shape)}")
    return pick(pred, points) - pick(true, points)


def lmd(pred: Tensor, true: Tensor, points: Points | None = None, inter_ocular: Tensor | None = None) -> Tensor:
    """Landmark distance of each frame: mean Euclidean distance over the points.

    Args:
        pred, true: (..., L, 2), pixels of one crop size; NaN where nothing was found.
        points: positions among the L to measure, usually the mouth's; None: all.
        inter_ocular: (...), true distance of the eyes, pixels; the result is divided by it.

    Returns:
        (...), pixels, or a fraction of the inter-ocular distance; NaN for a frame with NaN on either side.
    """
    distance = _errors(pred, true, points).norm(dim=-1).mean(dim=-1)
    return distance if inter_ocular is None else distance / inter_ocular


def vico(pred: Tensor, true: Tensor, points: Points | None = None, inter_ocular: Tensor | None = None) -> Tensor:
    """The L1 variant of the ViCo baseline: mean of |dx| and |dy| over the points; as `lmd`."""
    distance = _errors(pred, true, points).abs().mean(dim=(-2, -1))
    return distance if inter_ocular is None else distance / inter_ocular


def velocity(landmarks: Tensor) -> Tensor:
    """Frame-to-frame differences, (..., F, L, 2) -> (..., F - 1, L, 2); `lmd` of two of them is LMV."""
    if landmarks.dim() < 3:
        raise ValueError(f"velocity expects (..., F, L, 2), got {tuple(landmarks.shape)}")
    return landmarks.diff(dim=-3)


def inter_ocular_distance(landmarks: Tensor, left: Points, right: Points) -> Tensor:
    """Distance between the centres of both eyes, (..., L, 2) and the positions of either eye's points -> (...)."""
    return (pick(landmarks, left).mean(dim=-2) - pick(landmarks, right).mean(dim=-2)).norm(dim=-1)


def lip_aperture_correlation(pred_aperture: Tensor, true_aperture: Tensor) -> Tensor:
    """Pearson correlation over frames of the generated and the true lip aperture, (F,) each -> scalar in [-1, 1].

    Frames with NaN on either side are left out. NaN when fewer than two remain or one side never moves.
    """
    centred = _centred_apertures(pred_aperture, true_aperture)
    return ((centred[0] * centred[1]).sum() / centred.norm(dim=1).prod()).to(torch.float32)


def lip_aperture_amplitude(pred_aperture: Tensor, true_aperture: Tensor) -> Tensor:
    """Standard deviation over frames of the generated lip aperture over that of the true one, (F,) each -> scalar.

    Frames with NaN on either side are left out. Not finite when none remains or the true lips never move.
    """
    generated, true = _centred_apertures(pred_aperture, true_aperture).norm(dim=1)
    return (generated / true).to(torch.float32)


def _centred_apertures(pred_aperture: Tensor, true_aperture: Tensor) -> Tensor:
    """Both, (F,) each, in the frames that both have, less their means: (2, frames) float64."""
    if pred_aperture.shape != true_aperture.shape or pred_aperture.dim() != 1:
        raise ValueError(
            f"lip apertures must both be (F,), got {tuple(pred_aperture.shape)} and {tuple(true_aperture.shape)}"
        )
    measured = pred_aperture.isfinite() & true_aperture.isfinite()
    pair = torch.stack([pred_aperture[measured], true_aperture[measured]]).double()
    return pair - pair.mean(dim=1, keepdim=True)


class LandmarkDistance(Summed):
    """LMD (or LMV) over frames of any number of clips, batches and ranks.

    Args:
        points: positions of the landmarks to measure; None: all.
        norm: `l2`, Euclidean; `l1`, the ViCo variant.
        motion: measure frame-to-frame differences (LMV); every `update` is then one clip's frames in order.

    `compute` gives `pixels`, `normalised` (NaN unless inter-ocular distances came with every update), and the
    counts `measured` and `unmeasured`: frames (of differences, with `motion`) that entered, and those that were
    NaN.
    """

    higher_is_better = False
    total: Tensor
    total_normalised: Tensor
    measured: Tensor
    unmeasured: Tensor

    def __init__(self, points: Points | None = None, norm: Norm = "l2", motion: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        if norm not in ("l2", "l1"):
            raise ValueError(f'norm must be "l2" or "l1", got {norm!r}')
        self.points, self.norm, self.motion = points, norm, motion
        self._add_sums(["total", "total_normalised"], ["measured", "unmeasured"])

    def update(self, pred: Tensor, true: Tensor, inter_ocular: Tensor | None = None) -> None:
        """Landmarks (F, L, 2), NaN where nothing was found; true inter-ocular distances (F,); all in pixels."""
        if pred.dim() != 3:
            raise ValueError(f"landmarks must be (F, L, 2), got {tuple(pred.shape)}")
        scale = torch.full(pred.shape[:1], torch.nan, device=pred.device) if inter_ocular is None else inter_ocular
        if scale.shape != pred.shape[:1]:
            raise ValueError(f"inter_ocular must be ({len(pred)},), one per frame, got {tuple(scale.shape)}")
        if self.motion:
            pred, true, scale = velocity(pred), velocity(true), scale[1:]
        distance = (lmd if self.norm == "l2" else vico)(pred.double(), true.double(), self.points)
        found = distance.isfinite()
        self.total += distance[found].sum()
        self.total_normalised += (distance / scale)[found].sum()
        self.measured += found.sum()
        self.unmeasured += (~found).sum()

    def compute(self) -> dict[str, Tensor]:
        """Means over the measured frames; NaN when there are none."""
        return {
            "pixels": (self.total / self.measured).float(),
            "normalised": (self.total_normalised / self.measured).float(),
            "measured": self.measured.clone(),
            "unmeasured": self.unmeasured.clone(),
        }
