"""Losses on what speech decides: the lips' outer and inner aperture and the width of the mouth.

Most of a keypoint's error is where the face lies in its box and whose mouth it is; both are known from contours and
references. What sound explains is a few hundredths of the L1, too little for a network to learn to use audio from
minutes of speech. Measured in units of how much the clip's mouth moves, it is all there is. Ours, not the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.face.topology import LIP_MEASURE_KEYPOINTS, LIP_MEASURES

SHUT = 0.6  # of the spread of a clip's inner aperture, about a fifth of how wide it opens: lips that are taken for shut

_ENDS = torch.from_numpy(LIP_MEASURE_KEYPOINTS)


def lip_measures(keypoints: Tensor) -> Tensor:
    """Outer and inner aperture of the lips and width of the mouth: keypoints (..., 2, 57) -> (..., 3), same unit."""
    first, second = keypoints[..., _ENDS[:, 0]], keypoints[..., _ENDS[:, 1]]  # (..., 2, 3)
    return ((first - second).square().sum(-2) + 1e-8).sqrt()  # of a closed mouth, too, the root has a gradient


def lip_aperture_loss(
    pred: Tensor, target: Tensor, standard: Tensor, spread: Tensor, closure_weight: float = 1.0
) -> Tensor:
    """Smooth L1 of the lip measures in units of its spread, plus half of what lacks to full concordance over the batch.

    A smooth L1 alone is smallest for a mouth that moves as little as the network is unsure; Lin's concordance
    coefficient (1989) wants it to move as far as the true one. Both leave lips ajar where speech says that they may be
    shut: an m with open lips is seen at once, a vowel that is not wide enough is not, so closures may weigh more.

    Args:
        pred, target: keypoints (B, T, 2, 57).
        standard: (B, T, 3) true measures, less the clip's mean, in units of the clip's spread.
        spread: (B, 3) standard deviation of the measures over the clip, in the unit of keypoints.
        closure_weight: of frames whose true lips are shut, in the smooth L1, against the others.
    """
    true = lip_measures(target) / spread[:, None]
    error = lip_measures(pred) / spread[:, None] - true
    weight = torch.where(true[..., 1] < SHUT, closure_weight, 1.0)  # (B, T)
    distance = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").mean(-1)
    return (weight * distance).sum() / weight.sum() + (1 - concordance(standard + error, standard)).mean() / 2


def concordance(pred: Tensor, target: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient over all but the last dimension: (..., K) -> (K,) in [-1, 1]."""
    pred, target = pred.flatten(0, -2), target.flatten(0, -2)
    apart = pred.mean(0) - target.mean(0)
    covariance = ((pred - pred.mean(0)) * (target - target.mean(0))).mean(0)
    total = pred.var(0, correction=0) + target.var(0, correction=0) + apart.square()
    return 2 * covariance / total.clamp(min=1e-8)


class LipApertureProbe(nn.Module):
    """A linear probe: the lip measures read off the audio embeddings alone, by one layer that learns along."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(LIP_MEASURES))

    def forward(self, embeddings: Tensor, standard: Tensor) -> Tensor:
        """Audio embeddings (B, T, C) and standardised measures (B, T, 3) -> smooth L1."""
        return F.smooth_l1_loss(self.linear(embeddings), standard)
