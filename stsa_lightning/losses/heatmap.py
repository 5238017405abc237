"""Losses of the guidance network: what it says in each frame (L_semantic) and how that moves (L_temporal).

Both are named in the paper without formulas beyond "heatmap regression", "keypoint L1" and "velocity"; the choices
made here are written at each function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _same_shape(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one shape, got {tuple(pred.shape)} and {tuple(target.shape)}")


def heatmap_regression(pred: Tensor, target: Tensor, foreground_weight: float = 1.0) -> Tensor:
    """Squared error of heatmaps, a weighted mean over pixels.

    A pixel weighs `1 + (foreground_weight - 1) * target`: lines cover a few per cent of the picture, and an
    unweighted mean is close to its minimum for an empty map. The sum of the weights normalises, so a constant error e
    costs e^2 at any weight.

    Args:
        pred, target: one shape, usually (B, T, 1, S, S), in [0, 1].
        foreground_weight: weight of a pixel on a line (target 1) against one far from it (target 0); 1 is the plain
            mean.

    Raises:
        ValueError: shapes differ, or the weight is not positive.
    """
    _same_shape(pred, target)
    if foreground_weight <= 0:
        raise ValueError(f"foreground_weight must be positive, got {foreground_weight}")
    if foreground_weight == 1.0:
        return F.mse_loss(pred, target)
    weight = 1.0 + (foreground_weight - 1.0) * target
    return (weight * (pred - target) ** 2).sum() / weight.sum()


def keypoint_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of coordinates, (B, T, 2, K) in [0, 1] of the face box."""
    _same_shape(pred, target)
    return F.l1_loss(pred, target)


def velocity_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of frame-to-frame differences; keypoints or heatmaps, (B, T, ...).

    A constant offset costs nothing: position is the business of the semantic loss. A single frame has no velocity: 0,
    with a graph.
    """
    _same_shape(pred, target)
    if pred.dim() < 2:
        raise ValueError(f"velocity_l1 expects (B, T, ...), got {tuple(pred.shape)}")
    error = pred - target
    if error.shape[1] < 2:
        return error.sum() * 0.0
    return error.diff(dim=1).abs().mean()


class SemanticLoss(nn.Module):
    """The terms of L_semantic, unweighted: `lip_heatmap`, `jaw_heatmap`, `keypoints`."""

    def __init__(self, foreground_weight: float = 1.0) -> None:
        super().__init__()
        self.foreground_weight = foreground_weight

    def forward(
        self, lip: Tensor, jaw: Tensor, keypoints: Tensor, true_lip: Tensor, true_jaw: Tensor, true_keypoints: Tensor
    ) -> dict[str, Tensor]:
        """Heatmaps (B, T, 1, S, S) in [0, 1], keypoints (B, T, 2, 57); predicted first, then true."""
        return {
            "lip_heatmap": heatmap_regression(lip, true_lip, self.foreground_weight),
            "jaw_heatmap": heatmap_regression(jaw, true_jaw, self.foreground_weight),
            "keypoints": keypoint_l1(keypoints, true_keypoints),
        }


class TemporalLoss(nn.Module):
    """The terms of L_temporal, unweighted: `keypoint_velocity`, `heatmap_velocity` (mean of lip and jaw)."""

    def forward(
        self, lip: Tensor, jaw: Tensor, keypoints: Tensor, true_lip: Tensor, true_jaw: Tensor, true_keypoints: Tensor
    ) -> dict[str, Tensor]:
        """As `SemanticLoss`."""
        heatmaps = torch.stack([velocity_l1(lip, true_lip), velocity_l1(jaw, true_jaw)]).mean()
        return {"keypoint_velocity": velocity_l1(keypoints, true_keypoints), "heatmap_velocity": heatmaps}
