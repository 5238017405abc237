"""Heatmaps drawn through keypoints, in PyTorch: what `face.heatmaps` draws, differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stsa_lightning.face.topology import KEYPOINT_POSITIONS, LINES

_POINTS = 16  # that a line is made of: closer than a pixel, at 128 px
_NUMBER = {int(position): number for number, position in enumerate(KEYPOINT_POSITIONS)}
_UPPER_LIP = ((91, 102), (111, 122))  # landmarks of its outer and its inner edge


class HeatmapRenderer(nn.Module):
    """Keypoints to heatmaps of the lips and of the jaw: about `exp(-d^2 / 2 sigma^2)`, d to the nearest contour.

    A row of Gaussians closer than sigma adds up to a line, and a Gaussian is a product of its row and its column: so
    all of a contour is one matrix product. Contours that may lie on one another, as the edges of closed lips do, are
    drawn apart, and the largest value stays. Lines are not rounded to pixels, so that keypoints get a gradient; but for
    that they are those of `face.heatmaps.draw_heatmap`. `size` and `heatmap_sigma` are in pixels.
    """

    ends: Tensor

    def __init__(self, size: int, heatmap_sigma: float) -> None:
        super().__init__()
        self.size, self.heatmap_sigma = size, heatmap_sigma
        contours: dict[tuple[bool, bool], list[tuple[int, int]]] = {}  # of the lips, by inner, upper
        for a, b in LINES["lip"].tolist():
            upper = any(first <= point < last for first, last in _UPPER_LIP for point in (a, b))
            contours.setdefault((max(a, b) >= _UPPER_LIP[1][0], upper), []).append((_NUMBER[a], _NUMBER[b]))
        jaw = [(_NUMBER[a], _NUMBER[b]) for a, b in LINES["jaw"].tolist()]
        self.counts = [len(lines) for lines in (*contours.values(), jaw)]
        # (2, lines of all contours); a buffer, so that a GPU need not wait for it.
        ends = torch.tensor([line for lines in (*contours.values(), jaw) for line in lines])
        self.register_buffer("ends", ends.T.contiguous(), persistent=False)

    def forward(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 2, 57) in the face box, 17 jaw points then 40 lip points -> lip and jaw, each (n, 1, S, S) in [0, 1]."""
        with torch.autocast(keypoints.device.type, enabled=False):
            points = keypoints.float() * self.size
            *lip, jaw = (self._draw(points, lines) for lines in self.ends.split(self.counts, dim=1))
        return torch.stack(lip).amax(0).unsqueeze(1), jaw.unsqueeze(1)

    def _draw(self, points: Tensor, lines: Tensor) -> Tensor:
        """(n, 2, 57) in pixels, and which of them each of L lines (2, L) joins -> (n, S, S)."""
        starts, ends = (points[:, :, side] for side in lines)  # (n, 2, L)
        share = (torch.arange(_POINTS, dtype=points.dtype, device=points.device) + 0.5) / _POINTS
        places = (starts[..., None] + (ends - starts)[..., None] * share).flatten(2)  # (n, 2, lines * points)
        spacing = ((ends - starts).square().sum(1) + 1e-12).sqrt() / _POINTS  # (n, lines)
        weight = (spacing / (self.heatmap_sigma * math.sqrt(2 * math.pi))).repeat_interleave(_POINTS, dim=1)
        centres = torch.arange(self.size, dtype=points.dtype, device=points.device) + 0.5
        exponents = (places[..., None] - centres).square() * (-0.5 / self.heatmap_sigma**2)
        x, y = torch.exp(exponents.clamp(min=-40)).unbind(1)  # numbers too small to be normal are slow
        return ((y * weight[..., None]).transpose(1, 2) @ x).clamp(max=1)
