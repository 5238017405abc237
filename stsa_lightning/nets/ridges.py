"""Heatmaps drawn through keypoints, in PyTorch: what :mod:`stsa_lightning.face.heatmaps` draws, differentiable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stsa_lightning.face.topology import KEYPOINT_POSITIONS, LINES, HeatmapKind

_NUMBER = {int(position): number for number, position in enumerate(KEYPOINT_POSITIONS)}


class Ridges(nn.Module):
    """Keypoints to heatmaps of the lips and of the jaw: ``exp(-d^2 / 2 sigma^2)``, d to the nearest contour.

    Lines are not rounded to pixels, so that keypoints get a gradient; but for that they are those of
    :func:`stsa_lightning.face.heatmaps.draw_heatmap`.

    Args:
        size: side of the heatmaps in pixels.
        sigma: width of the ridges in pixels.
    """

    def __init__(self, size: int, sigma: float) -> None:
        super().__init__()
        self.size, self.sigma = size, sigma
        self.lip, self.jaw = _ends("lip"), _ends("jaw")

    def forward(self, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 2, 57) in the face box, 17 jaw points then 40 lip points -> lip and jaw, each (n, 1, S, S) in [0, 1]."""
        points = keypoints.float() * self.size
        return self._along(points, self.lip), self._along(points, self.jaw)

    def _along(self, points: Tensor, ends: list[tuple[int, int]]) -> Tensor:
        nearest: Tensor | None = None
        for a, b in ends:  # one after the other: a map stays in the cache
            squared = self._squared_distance(points[:, :, a], points[:, :, b])
            nearest = squared if nearest is None else torch.minimum(nearest, squared)
        assert nearest is not None
        return torch.exp(nearest * (-0.5 / self.sigma**2)).unsqueeze(1)

    def _squared_distance(self, start: Tensor, end: Tensor) -> Tensor:
        """Of every pixel to lines from ``start`` to ``end`` (n, 2): (n, S, S)."""
        step = end - start
        centres = torch.arange(self.size, dtype=start.dtype, device=start.device) + 0.5
        x, y = centres - start[:, 0, None, None], centres[:, None] - start[:, 1, None, None]
        step_x, step_y = step[:, 0, None, None], step[:, 1, None, None]
        share = ((x * step_x + y * step_y) / (step_x**2 + step_y**2 + 1e-6)).clamp(0, 1)
        return (x - share * step_x) ** 2 + (y - share * step_y) ** 2


def _ends(kind: HeatmapKind) -> list[tuple[int, int]]:
    """The lines of a kind of heatmap, by the numbers of the keypoints at their ends."""
    return [(_NUMBER[a], _NUMBER[b]) for a, b in np.asarray(LINES[kind]).tolist()]
