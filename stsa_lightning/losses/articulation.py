"""Losses on what speech decides: how far the lips are open, outside and inside, and how wide the mouth is.

Most of a keypoint's error is where the face lies in its box and whose mouth it is; both are told by contours and
references. What sound explains is a few hundredths of the L1, too little for a network to learn to listen from
minutes of speech. Measured in units of how much the clip's mouth moves, it is all there is. Ours, not the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stsa_lightning.face.topology import ARTICULATION, KEYPOINT_POSITIONS

MEASURES = len(ARTICULATION)
_ENDS = torch.tensor([[KEYPOINT_POSITIONS.tolist().index(end) for end in pair] for pair in ARTICULATION.tolist()])


def articulation(keypoints: Tensor) -> Tensor:
    """Outer and inner opening of the lips and width of the mouth: keypoints (..., 2, 57) -> (..., 3), same unit."""
    first, second = keypoints[..., _ENDS[:, 0]], keypoints[..., _ENDS[:, 1]]  # (..., 2, 3)
    return ((first - second).square().sum(-2) + 1e-8).sqrt()  # of a closed mouth, too, the root has a gradient


def articulation_loss(pred: Tensor, target: Tensor, standard: Tensor, spread: Tensor) -> Tensor:
    """Smooth L1 of the articulation in units of its spread, plus half of what lacks to full concordance over the batch.

    A smooth L1 alone is smallest for a mouth that moves as little as the network is unsure; Lin's concordance
    coefficient (1989) wants it to move as far as the true one.

    Args:
        pred, target: keypoints (B, T, 2, 57).
        standard: (B, T, 3) true articulation, less the clip's mean, in units of the clip's spread.
        spread: (B, 3) standard deviation of the articulation over the clip, in the unit of keypoints.
    """
    error = (articulation(pred) - articulation(target)) / spread[:, None]
    return F.smooth_l1_loss(error, torch.zeros_like(error)) + (1 - concordance(standard + error, standard)).mean() / 2


def concordance(pred: Tensor, target: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient over all but the last dimension: (..., K) -> (K,) in [-1, 1]."""
    pred, target = pred.flatten(0, -2), target.flatten(0, -2)
    apart = pred.mean(0) - target.mean(0)
    covariance = ((pred - pred.mean(0)) * (target - target.mean(0))).mean(0)
    total = pred.var(0, correction=0) + target.var(0, correction=0) + apart.square()
    return 2 * covariance / total.clamp(min=1e-8)


class Listening(nn.Module):
    """What the tokens of the sound alone say of the articulation, read off by one linear layer that learns along.

    Args:
        width: size C of the guidance network's tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, MEASURES)

    def forward(self, tokens: Tensor, standard: Tensor) -> Tensor:
        """Tokens (B, T, C) and standardised articulation (B, T, 3) -> smooth L1."""
        return F.smooth_l1_loss(self.read(tokens), standard)
